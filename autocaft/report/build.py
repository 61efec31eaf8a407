"""report.json from the artifacts of a run, and the files written from it.

In: records and small dicts. Out: one dict that holds all that report.html and the terminal show. The decision a reader
would question: figures are rounded to six significant digits and keys keep a fixed order, so the same run gives the
same bytes; nothing here reads the clock or the machine (versions, threads and timing are handed over).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autocaft.records import Decision, Direction, Evidence, Example, Metric, Verdict
from autocaft.report.arms import RowScore, split_order, summarize_arms
from autocaft.report.behind import build_behind
from autocaft.report.cards import build_cards
from autocaft.report.contrasts import build_contrasts, unwanted_answers, unwanted_choices
from autocaft.report.free_form import build_free_form
from autocaft.report.free_form import headline as free_form_headline
from autocaft.report.html import render_html
from autocaft.report.matched import build_matched
from autocaft.report.method import method
from autocaft.report.plain import visible
from autocaft.report.search import search_limits
from autocaft.report.words import against_control, interval_text, limits, percent, tell
from autocaft.rundir.files import read_json, write_text

Report = dict[str, Any]
FORMAT = 5
"""Counted up when report.json gets another shape: an older one is made anew, not misread."""


def build_report(
    *,
    name: str,
    metrics: Sequence[Metric],
    directions: Sequence[Direction],
    verdicts: Sequence[Verdict],
    decisions: Sequence[Decision],
    examples: Iterable[Example],
    sets: Mapping[str, Any],
    discovery: Mapping[str, Any],
    judge: Mapping[str, Any],
    cost: Mapping[str, Any],
    timing: Mapping[str, float],
    versions: Mapping[str, str],
    threads: int,
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    config: Mapping[str, Any],
    config_toml: str,
    command: str,
    rows: Sequence[RowScore] = (),
    behind: Mapping[str, Any] | None = None,
    evidence: Sequence[Evidence] = (),
    n_loss_rows: int = 0,
    calibration: Mapping[str, Any] | None = None,
    comparison: Mapping[str, Any] | None = None,
    free_form: Mapping[str, Any] | None = None,
    searches: Sequence[Mapping[str, Any]] = (),
) -> Report:
    """Everything the report shows, as plain JSON types.

    Args:
        sets: `sets.json` of the select stage (`arms`, `counts`, `matching`).
        discovery: `live_by_layer`, `dead_by_layer`, `always_on_by_layer` (layer -> count), as far as known.
        judge: at least `name` (`offline`, `openai:MODEL`, ...); `undesired`, `wanted`, `threshold`, `self_checked` (who
            checks what it described itself) and `agreement` (of a panel) are shown.
        cost: `input_tokens`, `output_tokens`, `usd`, `usd_held` (for answers that never came), as far as known.
        timing: seconds by stage or step, in the order of the run.
        model: `spec`; `provenance` says in words what the weights are, if they are not the original ones.
        data: `splits`: split -> `{"n": ..., "sha256": ..., "path": ...}`.
        config_toml: the same configuration as the text of a file that `autocaft run` takes.
        command: what makes this report again, given that file or a recipe of that name.
        rows: answered rows, for intervals over seeds and paired differences.
        behind: what the steps behind and causes found, if they were asked for (`probes`, `moved`, `causes`).
        evidence: what is known of each direction without a judge; `n_loss_rows`: rows behind its losses.
        calibration: how the judge did on planted concepts (`calibration_card`).
        comparison: what `autocaft compare` found, where a person has decided too; `is_stale` in it says that somebody
            has decided something since.
        free_form: scores of free-form answers and who graded them, if any were asked for.
        searches: `search.json` of each source whose dials were searched for.
    """
    lines = summarize_arms(metrics, rows)
    for line in lines:
        line["against_control"] = against_control(lines, rows, line)
    counts = _counts(directions, verdicts, sets, discovery)
    judge_name = str(judge.get("name", "unknown"))
    spoken = "offline" if judge_name.startswith("offline:") else judge_name  # the long name stands at the top
    simulated = list(dict.fromkeys(d.by for d in decisions if d.by.startswith("simulated:")))
    headline, sentences = tell(lines, rows, _set_sizes(sets), spoken, simulated)
    answered = None if free_form is None else build_free_form(free_form)
    if answered is not None and not sentences:
        headline = free_form_headline(answered) or headline
    scores = free_form["scores"] if free_form else []
    n_rows = data.get("splits", {}).get("train", {}).get("n")
    report = {
        "format": FORMAT,
        "name": name,
        "headline": headline,
        "summary": sentences,
        "metrics": [metric.to_row() for metric in metrics],
        "arms": lines,
        "contrasts": [
            *build_contrasts(unwanted_choices(rows, metrics)),
            *build_contrasts(unwanted_answers(scores)),
        ],
        "matched": build_matched(rows, scores, _set_sizes(sets)),
        "directions": counts,
        "matching": dict(sets.get("matching", {})),
        "cards": build_cards(directions, verdicts, decisions, examples, evidence, n_loss_rows),
        "behind": build_behind(behind or {}),
        "comparison": None if comparison is None else dict(comparison),
        "method": method(config, n_rows, judge_name),
        "judge": dict(judge),
        "calibration": None if calibration is None else dict(calibration),
        "cost": dict(cost),
        "timing": dict(timing),
        "versions": dict(versions),
        "threads": threads,
        "model": dict(model),
        "data": dict(data),
        "config": dict(config),
        "config_toml": config_toml,
        "command": command,
        "limits": [
            *(search_limits(searches) if searches else []),
            *limits(lines, judge, model.get("provenance"), sum(counts["unscored_by_reason"].values()), simulated),
        ],
    }
    if answered is not None:
        report["free_form"] = answered
    if searches:
        report["searches"] = [dict(found) for found in searches]
    plain: Report = json.loads(json.dumps(_rounded(report), allow_nan=False))
    return plain


def write_report(report: Report, out: Path) -> None:
    """Write report.json and report.html into the folder, the JSON last: its presence means both are there."""
    write_text(out / "report.html", render_html(report))
    write_text(out / "report.json", dump_report(report))


def add_comparison(comparison: Mapping[str, Any], run_dir: Path) -> bool:
    """Put what `autocaft compare` found into the report of a run; False if it has none of today's shape."""
    path = run_dir / "report.json"
    report = read_json(path) if path.is_file() else {}
    if report.get("format") != FORMAT:
        return False
    write_report({**report, "comparison": _rounded(comparison)}, run_dir)
    return True


def dump_report(report: Report) -> str:
    """The bytes of report.json."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def summary_table(report: Report) -> str:
    """The arms as aligned plain text for the terminal; nothing in a name can move the cursor."""
    lines = report["arms"]
    splits = [split for split in split_order(lines) if split in ("id", "ood", "neutral")]
    table = [["arm", "hooks", *splits, "ppl/base"]]
    for line in lines:
        cells = [visible(line["arm"]), line["hooks"]]
        for split in splits:
            score = line["scores"].get(split)
            cells.append(f"{percent(score['value'])} {interval_text(score)}".strip() if score else "-")
        ratio = line["perplexity_ratio"]
        table.append([*cells, "-" if ratio is None else f"{ratio:.2f}"])
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    rendered = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([rendered[0], rule, *rendered[1:]])


def _counts(
    directions: Sequence[Direction],
    verdicts: Sequence[Verdict],
    sets: Mapping[str, Any],
    discovery: Mapping[str, Any],
) -> dict[str, Any]:
    """The funnel: live, candidates, scored, selected; with the unscored by reason and everything by layer."""
    counts = sets.get("counts") or {}
    by_layer = Counter(direction.layer for direction in directions)
    live, dead, always_on = (_ints(discovery.get(f"{kind}_by_layer")) for kind in ("live", "dead", "always_on"))
    selected = _ints(counts.get("n_selected_by_layer"))
    layers = sorted(set(by_layer) | set(live) | set(dead) | set(always_on))
    reasons = dict(counts.get("n_unscored_by_reason") or {})
    return {
        "live": sum(live.values()) if live else None,
        "candidates": len(directions),
        "scored": counts.get("n_scored", len(directions) - sum(reasons.values())),
        "selected": counts.get("n_selected", 0),
        "unscored_by_reason": reasons,
        "by_source": dict(sorted(Counter(direction.source for direction in directions).items())),
        "by_layer": [
            {
                "layer": layer,
                "live": live.get(layer),
                "dead": dead.get(layer),
                "always_on": always_on.get(layer),
                "candidates": by_layer[layer],
                "selected": selected.get(layer, 0),
            }
            for layer in layers
        ],
    }


def _set_sizes(sets: Mapping[str, Any]) -> dict[str, int]:
    """How many directions each arm ablates (of its first seed; matched sets are of one size)."""
    return {arm: len(next(iter(by_seed.values()), [])) for arm, by_seed in sets.get("arms", {}).items()}


def _ints(by_layer: Mapping[Any, Any] | None) -> dict[int, int]:
    """Counts by layer number, whatever type JSON made of the keys."""
    return {int(layer): int(n) for layer, n in (by_layer or {}).items()}


def _rounded(value: Any) -> Any:
    """Floats at six significant digits, tuples as lists, mapping keys as text, all the way down."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
