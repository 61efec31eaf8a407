"""report.json as Markdown: what one pastes into a draft or an issue.

In: the report dict. Out: text. The decision a reader would question: whatever a judge or a data set wrote stands in
code spans, where no reader of Markdown links, mentions or fetches anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autocaft.report.arms import split_order
from autocaft.report.contrasts import NOTE, gap_text, p_text
from autocaft.report.free_form import figure_text
from autocaft.report.plain import code_span, markdown, visible
from autocaft.report.reading import is_simulated, read_in_part, reading_points, sized, timing
from autocaft.report.search import SEARCH_FIGURES, SEARCH_NOTE, search_reasons, search_rows
from autocaft.report.words import agreement_text, costs, duration, interval_text, percent, points_text

N_DIRECTIONS = 20
MEASURES = {"precision": "precision", "recall": "recall", "f1": "F1", "kappa": "kappa", "alpha": "alpha"}


def render_markdown(report: Mapping[str, Any]) -> str:
    """The whole report but the windows of text."""
    parts = [
        f"# {markdown(report['name'])}",
        f"**{markdown(report['headline'])}**",
        *(markdown(sentence) for sentence in report["summary"]),
        "## Arms",
        _arms(report["arms"]),
        "Accuracy with its 95% interval over templates. `perplexity` is on generic text, as a multiple of the base "
        "model's; `KL` is to the base model, in nats a token.",
        *_searches(report.get("searches", ())),
        *_free_form(report.get("free_form")),
        *_contrasts(report["contrasts"]),
        *(part for sweep in report["matched"] for part in _matched(sweep)),
        "## Directions",
        _funnel(report),
        *_directions(report["cards"]),
        *_calibration(report["calibration"]),
        *_behind(report["behind"]),
        *_causes(report["behind"].get("causes")),
        *_comparison(report["comparison"]),
        "## Method",
        _listed(report["method"]),
        "## What this does not show",
        _listed(report["limits"]),
        "## Cost",
        _cost(report),
        "## Reproduce",
        _reproduce(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A pipe table: the first row is its head, all columns but the first to the right."""
    head, *body = rows
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def _free_form(asked: Mapping[str, Any] | None) -> list[str]:
    if asked is None:
        return []
    metrics = asked["metrics"]
    rows = [["arm", *(metric.replace("_", " ") for metric in metrics)]]
    for line in asked["arms"]:
        cells = [line["cells"][metric] for metric in metrics]
        told = [f"{figure_text(metric, c)} ({c['n']})" for metric, c in zip(metrics, cells, strict=True)]
        rows.append([code_span(line["arm"]), *told])
    by_question: list[str] = []
    for rate, questions in ((asked["by_question"], asked["questions"]), (asked["task"], asked["tasks"])):
        if questions:
            by_question += [f"By question, {rate.replace('_', ' ')}:", _by_question(asked, rate, questions)]
    return [
        "## Free-form answers",
        table(rows),
        f"Graded by {code_span(asked['grader'])} ({asked['caution']}), 95% intervals over base questions "
        f"({markdown(asked['rests_on'])}); in brackets the answers behind a figure, those without a grade left out.",
        *by_question,
    ]


def _by_question(asked: Mapping[str, Any], rate: str, questions: Sequence[Mapping[str, Any]]) -> str:
    """One rate of every arm, a line a question."""
    rows = [["question", *(code_span(line["arm"]) for line in asked["arms"])]]
    for row in questions:
        cells = [row["cells"][line["arm"]] for line in asked["arms"]]
        rows.append([code_span(row["question"]), *(figure_text(rate, cell).partition(" ")[0] for cell in cells)])
    return table(rows)


def _contrasts(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Differences of the unwanted rate with their p."""
    if not found:
        return []
    rows = [["arm", "against", "unwanted", "difference, points", "p", "Holm", "clusters", "p over seeds", "pairs"]]
    for row in found:
        rows.append(
            [
                code_span(row["arm"]),
                code_span(row["against"]),
                markdown(row["measure"]),
                gap_text(row),
                p_text(row["p"]),
                f"{p_text(row['p_holm'])} (of {row['n_family']})",
                f"{row['n_clusters']} (p from {p_text(row['smallest_p'])})",
                f"{p_text(row['p_seeds'])} (from {p_text(row['smallest_p_seeds'])})",
                f"{row['n_pairs']}" + (f", {row['n_left_out']} left out" if row["n_left_out"] else ""),
            ]
        )
    return ["## Differences", table(rows), markdown(NOTE)]


def _matched(sweep: Mapping[str, Any]) -> list[str]:
    """The unwanted rates of the sweeps at the same task score."""
    name = sweep["source"] if sweep["mode"] is None else f"{sweep['source']}, {sweep['mode']}"
    title = f"## At matched task score: {markdown(name)}"
    if sweep["why"] is not None:
        return [title, f"{markdown(sweep['why'])}."]
    others = [selector for selector in sweep["steps"] if selector != "auto"]
    rows = [["of tuned's task score", "auto", *(head for other in others for head in (other, f"auto minus {other}"))]]
    for level in sweep["levels"]:
        rates = {s: "not reached" if s in level["outside"] else _interval(level["rates"][s]) for s in sweep["steps"]}
        cells = [f"{level['level']:.0%} ({level['task_score']:.2f})", rates["auto"]]
        for other in others:
            gap = level["against"][other]["difference"]
            cells += [rates[other], "not comparable" if gap is None else _interval(gap)]
        rows.append(cells)
    seeds = ", ".join(map(str, sweep["seeds"]))
    task, unwanted = (markdown(sweep[key].replace("_", " ")) for key in ("task_split", "unwanted_split"))
    return [title, table(rows), f"Unwanted: {unwanted}; task: {task}; seeds {seeds}."]


def _searches(searches: Sequence[Mapping[str, Any]]) -> list[str]:
    if not searches:
        return []
    parts = ["## Search", SEARCH_NOTE]
    for found in searches:
        head = ["trial", "directions", *(name for name, _ in SEARCH_FIGURES), "within the guards"]
        rows = [
            [code_span(row["name"]), *(" ".join(cell).strip() for cell in row["cells"])] for row in search_rows(found)
        ]
        reasons = [f"{code_span(name)}: {markdown(reason)}." for name, reason in search_reasons(found)]
        parts += [markdown(found["why"]), table([head, *rows]), *reasons]
    return parts


def _arms(lines: Sequence[Mapping[str, Any]]) -> str:
    splits = split_order(lines)  # type: ignore[arg-type]
    several = any(len(line["seeds"]) > 1 for line in lines)
    head = ["arm", "hooks", *map(markdown, splits), "ood minus control", "perplexity", "KL"]
    rows = [[*head, "seeds", "worst seed (ood)"] if several else [*head, "seed"]]
    for line in lines:
        scores = [line["scores"].get(split) for split in splits]
        cells = [f"{percent(score['value'])} {interval_text(score)}".strip() if score else "–" for score in scores]
        gap = line["against_control"]
        cells += ["–" if gap is None else f"{points_text(gap)}"]
        cells += [_number(line["perplexity_ratio"], 2), _number(line["kl_to_base"], 3)]
        cells += [", ".join(str(seed) for seed in line["seeds"])]
        if several:
            worst = line["worst_seed"]
            value = None if worst is None else line["scores"]["ood"]["by_seed"][str(worst)]
            cells += ["–" if worst is None else f"{worst}: {percent(value)}"]
        rows.append([code_span(line["arm"]), line["hooks"], *cells])
    return table(rows)


def _funnel(report: Mapping[str, Any]) -> str:
    counts, judge = report["directions"], report["judge"]
    live = "" if counts["live"] is None else f"{counts['live']:,} live, "
    text = (
        f"{live}{counts['candidates']:,} candidates, {counts['scored']:,} scored, {counts['selected']:,} selected. "
        f"Judge: {code_span(judge['name'])}."
    )
    if judge.get("undesired"):
        text += f" Unwanted: {code_span(judge['undesired'])}."
    if judge.get("wanted"):
        text += f" Wanted: {code_span(judge['wanted'])}."
    return " ".join([text, agreement_text(judge.get("agreement"))]).strip()


def _directions(cards: Sequence[Mapping[str, Any]]) -> list[str]:
    chosen = [card for card in cards if card["state"] == "selected"]
    rows = [["selected", "relevance", "detection", "description"]]
    for card in chosen[:N_DIRECTIONS]:
        verdict = card["verdict"] or {"relevance": None, "detection": None, "description": ""}
        figures = [_number(verdict["relevance"], 0), _number(verdict["detection"], 2)]
        rows.append([code_span(card["id"]), *figures, code_span(verdict["description"]) or "–"])
    if len(rows) == 1:
        return []
    left = len(chosen) - N_DIRECTIONS
    return [table(rows), f"And {left} more: `directions.csv` has all."] if left > 0 else [table(rows)]


def _comparison(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    rows = [["who against whom", "n", "shared", *MEASURES.values()]]
    for pair in found["auto_against_human"]:
        rows.append(_agreement(pair["auto"], pair["human"], pair["agreement"][0]))
    parts = [markdown(part) for pair in found["auto_against_human"] if (part := read_in_part(pair))]
    gains = [_gain(gain) for pair in found["auto_against_human"] if (gain := pair["hybrid"]["gain"])]
    for pair in found["human_against_human"]:
        rows.append(_agreement(pair["second"], pair["first"], pair["agreement"][0]))
        rows += [_agreement(row["auto"], row["human"], row) for row in pair["auto_on_the_same"]]
    ceiling = (
        f"No ceiling of two people: {markdown(found['no_ceiling'])}."
        if found["no_ceiling"]
        else "Where two people stand against each other, both read the cards blind: the ceiling. The judge on the very "
        "directions that both decided on stands below them."
    )
    told = [ceiling, *map(_outcome, found["outcome"]), *gains[:1]]
    return ["## Comparison with a person", table(rows), *(f"{part}." for part in parts), *told]


def _gain(gain: Mapping[str, Any]) -> str:
    """What trained models gained by how much the person read."""
    gained = f"gain over tuned on {markdown(gain['split'])}"
    rows = [["read", "minutes", gained, "of the gain where all is read", "seeds"]]
    for point in reading_points(gain):
        figures = [_interval(point["gain"]), _interval(point["share"]), ", ".join(map(str, point["seeds"]))]
        rows.append([markdown(point["who"]), f"{point['minutes']:.1f}", *figures])
    lies_between = "" if gain["hybrid"] else " Of what lies between nothing was trained."
    return f"{table(rows)}\n\nMeasured; {markdown(timing(gain))}.{lies_between}"


def _agreement(who: str, whom: str, row: Mapping[str, Any]) -> list[str]:
    figures = [_interval(row[key]) for key in MEASURES]
    return [f"{code_span(who)} against {code_span(whom)}", str(row["n"]), str(row["n_shared"]), *figures]


def _outcome(row: Mapping[str, Any]) -> str:
    n = row["n_ablated"]
    arms = f"{sized(code_span(row['auto']), n['auto'])} against {sized(code_span(row['human']), n['human'])}"
    name = f"{arms}, gain over tuned on {markdown(row['split'])}"
    name += f" (the person's choice is SIMULATED: {code_span(row['choice_by'])})" if is_simulated(row) else ""
    seeds = ", ".join(map(str, row["seeds"]))
    if row["share"] is None:
        return f"{name}: {markdown(row['why'])}."
    told = f"{name}, seeds {seeds}: the judge's choice recovers {_interval(row['share'])} of what the person's gains"
    helped = row["hybrid"]
    if helped is None:
        return f"{told}."
    arm = sized(code_span(helped["arm"]), helped["n_ablated"]["hybrid"])
    return f"{told}, and {_interval(helped['share'])} with the person's help ({arm})."


def _calibration(card: Mapping[str, Any] | None) -> list[str]:
    """How the judge did on planted concepts, or that nobody knows."""
    if card is None:
        return []
    parts = ["## How far the judge can be trusted", markdown(card["note"])]
    parts += [f"    {visible(command)}" for command in card["commands"]]
    figures = [
        ["on planted concepts", "figure"],
        *([markdown(what), markdown(value)] for what, value in card["figures"]),
    ]
    return [*parts, table(figures)] if card["figures"] else parts


def _behind(look: Mapping[str, Any]) -> list[str]:
    """The probe at the prompt's last token, arm by arm."""
    if "probes" not in look:
        return []
    rows = [["arm", "layer", "hooks off", "hooks on, before the hook", "hooks on, behind it", "permuted"]]
    for line in look["probes"]:
        if line["position"] == "last":
            cells = [
                "–" if cell is None else f"{percent(cell['value'])} {interval_text(cell)}" for cell in line["cells"]
            ]
            last = [cell for cell in line["cells"] if cell is not None][-1]
            rows.append([code_span(line["arm"]), str(line["layer"]), *cells, percent(last["permuted"])])
    note = "Accuracy of a linear probe for the cue at the prompt's last token, and of the same with permuted labels."
    told = [markdown(arm["sentence"]) for arm in look["moved"] if arm["sentence"]]
    return ["## Behind the hook", markdown(look["sentence"] or ""), note, table(rows), *told]


def _causes(causes: Mapping[str, Any] | None) -> list[str]:
    """The judge's relevance against what each candidate does alone."""
    if causes is None:
        return []
    rows = [["candidates", "scored", "causes", "average precision of relevance", "by chance", "rank correlation"]]
    for line in causes["sources"]:
        figures = [
            _interval({"value": line[key], "low": line[f"{key}_low"], "high": line[f"{key}_high"]})
            if line[key] is not None
            else "–"
            for key in ("ap", "spearman")
        ]
        scored = f"{line['n'] - line['n_unscored']} of {line['n']}"
        chance = _number(line["chance"], 2)
        rows.append([code_span(line["source"]), scored, str(line["n_causes"]), figures[0], chance, figures[1]])
    note = (
        f"Validation only: this knows the cue. Each candidate ablated alone in the tuned model, {causes['n_rows']} "
        f"rows on {causes['n_templates']} templates."
    )
    return ["## The judge against causes", note, table(rows)]


def _cost(report: Mapping[str, Any]) -> str:
    """Time by stage, and what the judge took."""
    rows = [["stage", "time"], *([markdown(stage), duration(s)] for stage, s in report["timing"].items())]
    rows.append(["all", duration(sum(report["timing"].values()))])
    asked = costs(report["cost"])
    said = "; ".join(f"{label} {value}" for label, value in asked) if asked else "nothing was asked"
    return f"{table(rows)}\n\nJudge: {said}."


def _reproduce(report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    data = [["split", "rows", "sha256"]]
    data += [
        [markdown(split), str(info.get("n", "–")), code_span(str(info.get("sha256", "–"))[:12])]
        for split, info in report["data"].get("splits", {}).items()
    ]
    weights = report["model"].get("provenance")
    return "\n\n".join(
        [
            f"    {visible(report['command'])}",
            f"{markdown(versions)}; {report['threads']} threads."
            + (f" Weights: {code_span(weights)}." if weights else ""),
            table(data) if len(data) > 1 else "",
            f"<details><summary>config.toml</summary>\n\n{_fenced(report['config_toml'])}\n\n</details>",
        ]
    )


def _fenced(text: str) -> str:
    """A block of code whose end nothing in it can be."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}toml\n{visible(text).strip()}\n{fence}"


def _listed(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {markdown(sentence)}" for sentence in sentences)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _interval(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    return f"{found['value']:.2f}" + ("" if found["low"] is None else f" [{found['low']:.2f}, {found['high']:.2f}]")
