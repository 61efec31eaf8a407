"""What `autocaft compare` prints: the dicts of the other modules as aligned plain text.

In: what `--json` would print. Out: text. The decision a reader would question: curves are thinned to a dozen lines
here; `--json` has every point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autocaft.report.plain import one_line, visible
from autocaft.report.reading import is_simulated, read_in_part, reading_points, sized, timing

MEASURES = ("precision", "recall", "f1", "kappa", "alpha")
N_CURVE, N_DISAGREEMENTS, WIDTH = 12, 20, 56


def selections_table(row: Mapping[str, Any]) -> str:
    """Two selection files."""
    lines = [["", "chosen", "shared"], ["human", str(row["n_human"]), str(row["n_shared"])]]
    lines.append(["auto", str(row["n_auto"]), str(row["n_shared"])])
    measures = [["precision", "recall", "f1"], [_plain(row[name]) for name in ("precision", "recall", "f1")]]
    if "kappa" in row:
        measures = [[*measures[0], "kappa"], [*measures[1], _plain(row["kappa"])]]
    parts = [_aligned(lines), _aligned(measures)]
    for key, title in (("only_human", "only human"), ("only_auto", "only auto")):
        if row[key]:
            parts.append(f"{title}: {', '.join(row[key])}")
    return visible("\n\n".join(parts))


def run_table(found: Mapping[str, Any]) -> str:
    """A whole run."""
    parts = [f"{found['run']}: {found['n_candidates']} candidates", _raters(found["raters"])]
    for pair in found["auto_against_human"]:
        parts += _pair_parts(pair)
    parts += [_ceiling(pair) for pair in found["human_against_human"]]
    if found["no_ceiling"]:
        parts.append(f"no ceiling (two people who read the same cards blind): {found['no_ceiling']}")
    if found["alpha_of_humans"] is not None:
        parts.append(f"Krippendorff's alpha of all people: {_with_interval(found['alpha_of_humans'])}")
    parts += [_outcome(row) for row in found["outcome"]] + [_matched(sweep) for sweep in found["matched"]]
    return visible("\n\n".join(parts))


def _raters(raters: Sequence[Mapping[str, Any]]) -> str:
    counted = ["rated", "ablate", "unsure", "copied", "not blind"]
    rows = [["rater", *counted, "s each", "minutes", "same when repeated", "random ablated"]]
    for rater in raters:
        rows.append(
            [
                rater["by"] + (" (a list)" if rater["from_list"] else ""),
                str(rater["n_rated"]),
                str(rater["n_ablate"]),
                str(rater["n_unsure"]),
                str(rater["n_copied"]),
                str(rater["n_not_blind"]),
                _plain(rater["seconds_a_direction"], 0),
                _plain(rater["minutes"], 1),
                _counted(rater["self_agreement"], "n_same"),
                _counted(rater["random_controls"], "n_ablated"),
            ]
        )
    return _aligned(rows)


def _counted(row: Mapping[str, Any] | None, count: str) -> str:
    """How many of how many, with the interval of the share."""
    if row is None:
        return "-"
    return f"{row[count]}/{row['n']}{_bounds(row['share'])}"


def _pair_parts(pair: Mapping[str, Any]) -> list[str]:
    """The judge against one person: measures, spans, thresholds, help, disagreements."""
    note = f"; {pair['n_unscored']} unscored count as not selected" if pair["n_unscored"] else ""
    parts = [f"{pair['auto']} against {pair['human']}{note}\n{_agreement(pair['agreement'])}"]
    parts += [part] if (part := read_in_part(pair)) else []
    if pair["subspaces"]:
        parts.append(
            f"the same in span (share of the variance in one's span that the other removes too)\n{_spans(pair)}"
        )
    if pair["thresholds"]:
        rows = [["threshold", "selected", "precision", "recall", "f1"]]
        for point in _thinned(pair["thresholds"]):
            figures = [_plain(point[name]) for name in ("precision", "recall", "f1")]
            rows.append([f"{point['threshold']:.1f}", str(point["n_selected"]), *figures])
        parts.append(f"at other thresholds\n{_aligned(rows)}")
    hybrid = pair["hybrid"]
    rows = [["read", "minutes", "f1", "kappa", ""]]
    for p in hybrid["points"]:
        mark = "all that is unscored or abstained on" if p["is_all_in_doubt"] else ""
        rows.append(
            [str(p["n_read"]), f"{p['minutes']:.1f}", _with_interval(p["f1"]), _with_interval(p["kappa"]), mark]
        )
    parts.append(
        "SIMULATED reviewer of what the judge is least sure of (keeps {misses:.0%} of what the person ablates, ablates "
        "{takes:.0%} of what the person keeps, {seconds:g} s each)\n".format(**hybrid["reviewer"])
        + _aligned(rows)
    )
    parts += [_gain(hybrid["gain"])] if hybrid["gain"] else []
    return [*parts, _disagreements(pair["disagreements"])]


def _gain(gain: Mapping[str, Any]) -> str:
    """The gain of the models that were trained, by how much the person read."""
    rows = [["read", "minutes", "gain over tuned", "of the gain where all is read", "seeds"]]
    for point in reading_points(gain):
        figures = [_with_interval(point["gain"]), _with_interval(point["share"])]
        rows.append([point["who"], f"{point['minutes']:.1f}", *figures, ", ".join(map(str, point["seeds"]))])
    notes = [f"gain of trained models on {gain['split']}, measured; {timing(gain)}", _aligned(rows)]
    return "\n".join([*notes, *([] if gain["hybrid"] else ["of what lies between nothing was trained"])])


def _ceiling(pair: Mapping[str, Any]) -> str:
    """Two people, and the judge against each of them on the same directions."""
    title = f"{pair['second']} against {pair['first']} (the ceiling: two people, who both read {pair['n_read_both']})"
    rows = [["on these", "n", "shared", *MEASURES]]
    rows += [
        [f"{row['auto']} against {row['human']}", str(row["n"]), str(row["n_shared"]), *_measures(row)]
        for row in pair["auto_on_the_same"]
    ]
    return f"{title}\n{_agreement(pair['agreement'])}\n{_aligned(rows)}"


def _measures(row: Mapping[str, Any]) -> list[str]:
    return [_with_interval(row[name]) for name in MEASURES]


def _agreement(rows: Sequence[Mapping[str, Any]]) -> str:
    table = [["", "n", "shared", *MEASURES]]
    for row in rows:
        where = "all" if row["source"] is None else row["source"]
        where = where if row["layer"] is None else f"  layer {row['layer']}"
        table.append([where, str(row["n"]), str(row["n_shared"]), *_measures(row)])
    return _aligned(table)


def _spans(pair: Mapping[str, Any]) -> str:
    rows = [["", "human", "auto", "of human's", "of auto's", "by chance", "smallest and largest angle"]]
    for row in pair["subspaces"]:
        angles = row["angles_degrees"]
        rows.append(
            [
                f"{row['source']} layer {row['layer']}",
                str(row["n_human"]),
                str(row["n_auto"]),
                _plain(row["covered_human"]),
                _plain(row["covered_auto"]),
                _plain(row["chance"]),
                f"{angles[0]:.0f}° to {angles[-1]:.0f}°" if angles else "-",
            ]
        )
    return _aligned(rows)


def _disagreements(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "no disagreement"
    lines = [f"{len(rows)} disagreements"]
    for row in rows[:N_DISAGREEMENTS]:
        indent = " " * len(row["direction_id"])
        lines.append(f"  {row['direction_id']}  human: {row['human']:<6}  {_short(row['human_reason'])}".rstrip())
        lines.append(f"  {indent}  auto:  {row['auto']:<6}  {_short(row['auto_reason'])}")
        quotes = "; ".join(f'"{quote}"' for quote in row["quotes"])
        for name, text in (("is:", row["description"]), ("why:", row["rationale"]), ("reads:", quotes)):
            lines += [f"  {indent}  {name:<7}{_short(text)}"] if text else []
    if len(rows) > N_DISAGREEMENTS:
        lines.append(f"  and {len(rows) - N_DISAGREEMENTS} more: --json has all")
    return "\n".join(lines)


def _outcome(row: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, row["seeds"]))
    n = row["n_ablated"]
    arms = f"{sized(row['auto'], n['auto'])} against {sized(row['human'], n['human'])}"
    head = f"{arms}, gain over tuned on {row['split']}, seeds {seeds}"
    head += " (all sources pooled)" if row["pooled"] else ""
    head += f"; the person's choice is SIMULATED ({row['choice_by']})" if is_simulated(row) else ""
    if row["share"] is None:
        return f"{head}\n  no share: {row['why']}"
    lines = [head, f"  gain of the person's choice  {_with_interval(row['gain_human'])}"]
    lines.append(f"  gain of the judge's choice   {_with_interval(row['gain_auto'])}")
    lines.append(f"  share recovered              {_with_interval(row['share'])}")
    lines += _task(row["task"], "judge's")
    helped = row["hybrid"]
    if helped is not None:
        arm = sized(helped["arm"], helped["n_ablated"]["hybrid"])
        lines.append(f"  gain with the person's help  {_with_interval(helped['gain_hybrid'])}  ({arm})")
        lines.append(f"  share recovered              {_with_interval(helped['share'])}")
        lines += _task(helped["task"], "that one's")
    return "\n".join(lines)


def _task(task: Mapping[str, Any] | None, whose: str) -> list[str]:
    if task is None:
        return []
    return [f"  task score ({task['split']}), {whose} minus person's: {_with_interval(task['difference'])}"]


def _matched(sweep: Mapping[str, Any]) -> str:
    """The sweeps of one source, and the unwanted rates at the same task score."""
    name = sweep["source"] if sweep["mode"] is None else f"{sweep['source']}, {sweep['mode']}"
    if sweep["why"] is not None:
        return f"at matched task score ({name}): {sweep['why']}"
    rows = [["step", "directions", f"task ({sweep['task_split']})", f"unwanted ({sweep['unwanted_split']})"]]
    for steps in sweep["steps"].values():
        rows += [
            [
                s["arm"],
                "-" if s["n_directions"] is None else str(s["n_directions"]),
                *map(_plain, (s["task"], s["unwanted"])),
            ]
            for s in steps
        ]
    others = [selector for selector in sweep["steps"] if selector != "auto"]
    heads = [head for o in others for head in (o, f"auto minus {o}", f"of {o}'s gain")]
    levels = [["of tuned's task score", "auto", *heads]]
    for level in sweep["levels"]:
        cells = [f"{level['level']:.0%} ({level['task_score']:.2f})", _rate(level, "auto")]
        for other in others:
            against = level["against"][other]
            gap = "not comparable" if against["difference"] is None else _with_interval(against["difference"])
            cells += [_rate(level, other), gap, _with_interval(against["share_of_gain"])]
        levels.append(cells)
    seeds = ", ".join(map(str, sweep["seeds"]))
    return f"at matched task score ({name}, seeds {seeds})\n{_aligned(rows)}\n{_aligned(levels)}"


def _rate(level: Mapping[str, Any], selector: str) -> str:
    """The unwanted rate of a sweep, or that its steps do not reach the task score."""
    return "not reached" if selector in level["outside"] else _with_interval(level["rates"][selector])


def _thinned(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A dozen points, evenly spaced, with both ends, of those that select differently."""
    different = [p for i, p in enumerate(points) if i == 0 or p["n_selected"] != points[i - 1]["n_selected"]]
    if len(different) <= N_CURVE:
        return different
    return [different[round(i * (len(different) - 1) / (N_CURVE - 1))] for i in range(N_CURVE)]


def _short(text: str) -> str:
    """One line of text from a judge or a person, cut; nothing in it can move the cursor."""
    line = one_line(text)
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def _plain(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _with_interval(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    return f"{row['value']:.2f}{_bounds(row)}"


def _bounds(row: Mapping[str, Any]) -> str:
    return "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
