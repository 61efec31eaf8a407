"""Agreement of two raters of a run: in all, by layer and source, as a list of disagreements, and at every threshold.

In: raters, candidates, verdicts. Out: plain dicts for compare.json. The decision a reader would question: an unscored
direction counts as not selected by the judge, because that is what happens to it; how many there are stands beside.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from autocaft.compare.raters import Rater
from autocaft.records import Direction, Verdict
from autocaft.report.arms import interval_row
from autocaft.select.options import SelectOptions
from autocaft.select.verdicts import decide, unscored_reason, verdict_by_id
from autocaft.stats import Cells, krippendorff_alpha, pair_agreement, wilson

MEASURES = ("precision", "recall", "f1", "kappa", "alpha")


def agreement_rows(truth: Rater, other: Rater, directions: Sequence[Direction]) -> list[dict[str, Any]]:
    """One row for all candidates that both decided on, then one a source, one a layer of it."""
    shared = [d for d in directions if d.id in truth.ablates and d.id in other.ablates]
    rows = [_agreement_row(truth, other, shared, None, None)]
    for source in sorted({direction.source for direction in shared}):
        own = [direction for direction in shared if direction.source == source]
        rows.append(_agreement_row(truth, other, own, source, None))
        for layer in sorted({direction.layer for direction in own}):
            rows.append(_agreement_row(truth, other, [d for d in own if d.layer == layer], source, layer))
    return rows


def _agreement_row(
    truth: Rater, other: Rater, directions: Sequence[Direction], source: str | None, layer: int | None
) -> dict[str, Any]:
    cells = Cells.of([truth.ablates[d.id] for d in directions], [other.ablates[d.id] for d in directions])
    found = pair_agreement(cells)
    return {
        "source": source,
        "layer": layer,
        "n": cells.n,
        "n_shared": cells.both,
        "n_only_first": cells.truth_only,
        "n_only_second": cells.other_only,
        "n_neither": cells.neither,
        **{name: interval_row(getattr(found, name)) for name in MEASURES},
    }


def alpha_of_all(raters: Sequence[Rater], directions: Sequence[Direction]) -> dict[str, float | None] | None:
    """Krippendorff's alpha of all these raters together."""
    return interval_row(krippendorff_alpha([[rater.ablates.get(d.id) for rater in raters] for d in directions]))


def disagreements(
    human: Rater, auto: Rater, directions: Sequence[Direction], verdicts: Mapping[str, Verdict]
) -> list[dict[str, Any]]:
    """Each direction on which the two differ, with both reasons: what the judge missed first, then what it added.

    The person's is the note, the judge's the rule's reason and the verdict behind it: rationale and quotes.
    """
    rows = []
    for direction in directions:
        if direction.id not in human.ablates or direction.id not in auto.ablates:
            continue
        if human.ablates[direction.id] == auto.ablates[direction.id]:
            continue
        verdict = verdicts.get(direction.id)
        rows.append(
            {
                "direction_id": direction.id,
                "human": "ablate" if human.ablates[direction.id] else "keep",
                "auto": "ablate" if auto.ablates[direction.id] else "keep",
                "human_reason": human.reason_by_id.get(direction.id, "not in the person's list"),
                "auto_reason": auto.reason_by_id.get(direction.id, ""),
                "description": "" if verdict is None else verdict.description,
                "rationale": "" if verdict is None else verdict.rationale,
                "quotes": [] if verdict is None else list(verdict.quotes),
                "relevance": None if verdict is None else verdict.relevance,
            }
        )
    return sorted(rows, key=lambda row: row["human"] == "keep")


def threshold_curve(
    human: Rater, directions: Sequence[Direction], verdicts: Sequence[Verdict], options: SelectOptions
) -> list[dict[str, Any]]:
    """What the rule would select at every threshold that changes anything, margin and cap as in the run."""
    scored = (verdict for verdict in verdict_by_id(directions, verdicts).values() if unscored_reason(verdict) is None)
    rated = [direction.id for direction in directions if direction.id in human.ablates]
    rows = []
    for threshold in sorted({verdict.relevance for verdict in scored if verdict.relevance is not None}):
        at_threshold = options.model_copy(update={"threshold": threshold})
        selected = {d.direction_id for d in decide(directions, verdicts, at_threshold, at="") if d.ablate}
        cells = Cells.of([human.ablates[i] for i in rated], [i in selected for i in rated])
        rows.append({"threshold": threshold, "n_selected": len(selected), **plain_measures(cells)})
    return rows


def plain_measures(cells: Cells) -> dict[str, float | None]:
    """Precision, recall and F1 without intervals."""
    found = pair_agreement(cells, n=1)
    named = {name: getattr(found, name) for name in ("precision", "recall", "f1")}
    return {name: None if interval is None else interval.value for name, interval in named.items()}


def self_agreement(rater: Rater) -> dict[str, Any] | None:
    """How often a person answers the same when a direction is shown again; None if none was."""
    if not rater.repeats:
        return None
    n_same = sum(first == second for first, second in rater.repeats)
    return {"n": len(rater.repeats), "n_same": n_same, "share": interval_row(wilson(n_same, len(rater.repeats)))}


def controls_ablated(rater: Rater, decoys: Collection[str]) -> dict[str, Any] | None:
    """How many random directions the rater would ablate; None if none was rated."""
    said = [ablates for direction_id, ablates in rater.ablates.items() if direction_id in decoys]
    if not said:
        return None
    return {"n": len(said), "n_ablated": sum(said), "share": interval_row(wilson(sum(said), len(said)))}
