"""Verdicts to automatic decisions, by a rule that can be read off the options.

In: candidates and verdicts. Out: one `Decision` a candidate with its reason in words. The decision a reader would
question: a direction without a valid score is never selected and never counts as a low score; it is a reason of its
own in the counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autocaft.errors import DataError, NothingSelectedError
from autocaft.records import Decision, Direction, Verdict
from autocaft.select.options import SelectOptions

NO_VERDICT = "no verdict"
AUTO_RULE = "auto:threshold"
CHANCE = 0.5
"""Balanced accuracy of a description that says nothing."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the candidates; `n_unscored_by_reason` sums to `n_candidates - n_scored`."""

    n_candidates: int
    n_scored: int
    n_selected: int
    n_unscored_by_reason: dict[str, int]
    n_candidates_by_layer: dict[str, int]
    n_selected_by_layer: dict[str, int]


def verdict_by_id(directions: Sequence[Direction], verdicts: Iterable[Verdict]) -> dict[str, Verdict]:
    """The last verdict on each direction.

    Raises:
        DataError: a verdict on a direction that is no candidate (the files are of different runs).
    """
    known = {direction.id for direction in directions}
    latest = {verdict.direction_id: verdict for verdict in verdicts}
    strangers = sorted(set(latest) - known)
    if strangers:
        raise DataError(
            f"verdicts.jsonl judges {strangers[0]!r}, which is none of the {len(known)} candidates: it was made for "
            f"another decompose step. Run `--redo judge`."
        )
    return latest


def unscored_reason(verdict: Verdict | None) -> str | None:
    """Why a direction has no relevance, or None if it has one."""
    if verdict is None:
        return NO_VERDICT
    if verdict.unscored_reason is not None:
        return verdict.unscored_reason
    return "no relevance given" if verdict.relevance is None else None


def in_doubt(directions: Sequence[Direction], verdicts: Iterable[Verdict]) -> set[str]:
    """Candidates that the judge is not sure of: it gave no score, or abstains. These a person should read first."""
    verdict_of = verdict_by_id(directions, verdicts)
    return {direction.id for direction in directions if is_in_doubt(verdict_of.get(direction.id))}


def is_in_doubt(verdict: Verdict | None) -> bool:
    """Whether the judge is not sure of a direction."""
    return unscored_reason(verdict) is not None or (verdict is not None and verdict.abstains)


def decide(
    directions: Sequence[Direction], verdicts: Iterable[Verdict], options: SelectOptions, at: str
) -> list[Decision]:
    """One automatic decision a candidate, in the order of the candidates."""
    verdict_of = verdict_by_id(directions, verdicts)
    refusal_by_id = {d.id: _refusal(verdict_of.get(d.id), options) for d in directions}
    passed = [direction for direction in directions if refusal_by_id[direction.id] is None]
    within_cap = _within_cap(passed, verdict_of, options.per_layer_cap)
    decisions = []
    for direction in directions:
        reason, is_selected = refusal_by_id[direction.id], direction.id in within_cap
        if reason is None:
            relevance = verdict_of[direction.id].relevance
            reason = f"relevance {relevance:.1f} is at least {options.threshold:g}"
            if not is_selected:
                reason += f", but {options.per_layer_cap} of layer {direction.layer} are more relevant"
        verdict = verdict_of.get(direction.id)
        # whichever way it was decided
        reason += "; the judge is not sure, look at it" if verdict is not None and verdict.abstains else ""
        decisions.append(Decision(direction.id, is_selected, AUTO_RULE, reason, at))
    return decisions


def count(directions: Sequence[Direction], verdicts: Iterable[Verdict], selected: Iterable[str]) -> Counts:
    """How many candidates were scored, selected, and unscored by reason."""
    verdict_of = verdict_by_id(directions, verdicts)
    chosen = set(selected)
    reasons = Counter(r for d in directions if (r := unscored_reason(verdict_of.get(d.id))) is not None)
    by_layer = Counter(direction.layer for direction in directions)
    chosen_by_layer = Counter(direction.layer for direction in directions if direction.id in chosen)
    return Counts(
        n_candidates=len(directions),
        n_scored=len(directions) - sum(reasons.values()),
        n_selected=sum(chosen_by_layer.values()),
        n_unscored_by_reason=dict(sorted(reasons.items())),
        n_candidates_by_layer={str(layer): by_layer[layer] for layer in sorted(by_layer)},
        n_selected_by_layer={str(layer): chosen_by_layer[layer] for layer in sorted(by_layer)},
    )


def nothing_selected(
    directions: Sequence[Direction], verdicts: Iterable[Verdict], options: SelectOptions, what: str
) -> NothingSelectedError:
    """The error for an empty selection, with the five best directions and the setting that would take the first."""
    verdict_of = verdict_by_id(directions, verdicts)
    scored = [d for d in directions if unscored_reason(verdict_of.get(d.id)) is None]
    scored.sort(key=lambda d: (-_relevance(verdict_of[d.id]), d.layer, d.index))
    reasons = Counter(r for d in directions if (r := unscored_reason(verdict_of.get(d.id))) is not None)
    lines = [
        f"None of the {len(directions)} {what} candidates was selected ({len(scored)} were scored; threshold "
        f"{options.threshold:g}), so there is nothing to ablate."
    ]
    lines += [f"  {n} unscored: {reason}" for reason, n in reasons.most_common()]
    if not scored:
        return NothingSelectedError(
            "\n".join([*lines, "No candidate has a score: look at judge/verdicts.jsonl first."])
        )
    lines.append("The best five:")
    for direction in scored[:5]:
        verdict = verdict_of[direction.id]
        lines.append(
            f"  {direction.id}  relevance {_relevance(verdict):.1f}  wanted {_number(verdict.wanted_relevance)}  "
            f"detection {_number(verdict.detection, 2)}  {verdict.description[:70]}"
        )
    return NothingSelectedError("\n".join([*lines, _advice(scored, verdict_of, options)]))


def _advice(scored: Sequence[Direction], verdict_of: Mapping[str, Verdict], options: SelectOptions) -> str:
    """The change that selects something, if a threshold can do it."""
    at_zero = options.model_copy(update={"threshold": 0.0})
    takeable = [d for d in scored if _refusal(verdict_of[d.id], at_zero) is None]
    if not takeable:
        return (
            "No threshold would help: select.margin or select.min_detection refuses every one. Read the descriptions, "
            "then lower one of them (--set select.margin=0)."
        )
    # rounded down to a tenth, so that the printed number takes the direction it was computed from
    relevances = [_floor_tenth(_relevance(verdict_of[direction.id])) for direction in takeable]
    takes = {step: sum(value >= step for value in relevances) for step in (relevances[0], relevances[:5][-1])}
    settings = " or ".join(f"--set select.threshold={step:g} takes {n}" for step, n in takes.items())
    return (
        f"If they are the concept: {settings} (before the cap). If they are not, the candidates lack the concept: "
        f"collect more text near the task, or other layers."
    )


def _floor_tenth(value: float) -> float:
    return int(value * 10) / 10


def _refusal(verdict: Verdict | None, options: SelectOptions) -> str | None:
    """Why the rule refuses a direction, or None."""
    unscored = unscored_reason(verdict)
    if verdict is None or verdict.relevance is None or unscored is not None:
        return f"unscored: {unscored}"
    if verdict.relevance < options.threshold:
        return f"relevance {verdict.relevance:.1f} is below {options.threshold:g}"
    if verdict.wanted_relevance is None and options.margin > 0:
        return "it has no wanted relevance, which select.margin needs"
    lead = verdict.relevance - (verdict.wanted_relevance or 0.0)
    if verdict.wanted_relevance is not None and lead < options.margin:
        return f"relevance {verdict.relevance:.1f} leads the wanted concept by {lead:.1f}, less than {options.margin:g}"
    return _unverified(verdict, options.min_detection)


def _unverified(verdict: Verdict, min_detection: float | None) -> str | None:
    """Why a description must not be chosen by its words, or None: it does not tell held-out windows apart."""
    if verdict.detection is None:
        return "it has no detection: its description was not checked"
    if min_detection is not None:
        is_low = verdict.detection < min_detection
        return f"detection {verdict.detection:.2f} is below {min_detection:g}" if is_low else None
    if verdict.detection_low is None or verdict.detection_low <= CHANCE:
        low = _number(verdict.detection_low, 2)
        return f"detection {verdict.detection:.2f} is not above chance (its 95 % interval begins at {low})"
    return None


def _within_cap(passed: Sequence[Direction], verdict_of: Mapping[str, Verdict], cap: int) -> set[str]:
    """The most relevant `cap` of each layer and source; ties go to the stronger, then the lower index."""
    groups: dict[tuple[int, str], list[Direction]] = defaultdict(list)
    for direction in passed:
        groups[direction.layer, direction.source].append(direction)
    kept: set[str] = set()
    for group in groups.values():
        group.sort(key=lambda d: (-_relevance(verdict_of[d.id]), -d.strength, d.index))
        kept |= {direction.id for direction in group[:cap]}
    return kept


def _relevance(verdict: Verdict) -> float:
    assert verdict.relevance is not None, f"{verdict.direction_id} has no relevance"
    return verdict.relevance


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
