"""report.json as Markdown: what one pastes into a draft or an issue.

In: the report dict. Out: text. The decision a reader would question: whatever a judge or a data set wrote stands in
code spans, where no reader of Markdown links, mentions or fetches anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autocaft.report.arms import split_order
from autocaft.report.plain import code_span, markdown, visible
from autocaft.report.words import interval_text, percent, points_text

N_DIRECTIONS = 20


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
        "## Directions",
        _funnel(report),
        *_directions(report["cards"]),
        *_comparison(report["comparison"]),
        "## Method",
        _listed(report["method"]),
        "## What this does not show",
        _listed(report["limits"]),
        "## Reproduce",
        _reproduce(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A pipe table: the first row is its head, all columns but the first to the right."""
    head, *body = rows
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


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
    return text


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
    rows = [["judge against person", "n", "shared", "precision", "recall", "F1", "kappa"]]
    for pair in found["auto_against_human"]:
        whole = pair["agreement"][0]
        name = f"{code_span(pair['auto'])} against {code_span(pair['human'])}"
        figures = [_interval(whole[key]) for key in ("precision", "recall", "f1", "kappa")]
        rows.append([name, str(whole["n"]), str(whole["n_shared"]), *figures])
    return ["## Comparison with a person", table(rows)]


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
