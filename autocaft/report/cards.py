"""Each direction's card: what fires it, what the judge says, what was decided.

In: candidates, verdicts, decisions, windows, evidence. Out: plain dicts: first what the judge is not sure of, then the
selected, the near misses and the rest. The decision a reader would question: the rest shows fewer windows, so that the
report stays small enough to mail; mine/examples.jsonl has them all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from autocaft.records import Decision, Direction, Evidence, Example, Verdict
from autocaft.report.words import evidence_lines

N_NEAR_MISSES = 8
N_WINDOWS = {"selected": 6, "near": 5, "rest": 2, "unscored": 2}
N_WINDOWS_ABSTAINED = 6
"""Whatever became of it: a person is to decide from them."""
N_TOKENS = 32


def build_cards(
    directions: Sequence[Direction],
    verdicts: Iterable[Verdict],
    decisions: Iterable[Decision],
    examples: Iterable[Example],
    evidence: Iterable[Evidence] = (),
    n_loss_rows: int = 0,
) -> list[dict[str, Any]]:
    """One card a candidate, in the order of the report."""
    evidence_of = {item.direction_id: item for item in evidence}
    place_of = _places(directions)
    verdict_of = {verdict.direction_id: verdict for verdict in verdicts}
    decisions_of: dict[str, dict[str, Decision]] = defaultdict(dict)
    for decision in decisions:
        decisions_of[decision.direction_id][decision.by] = decision
    windows_of: dict[str, dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
    for example in examples:
        if example.pole in ("top", "bottom") and example.split == "describe" and example.tokens:
            windows_of[example.direction_id][example.pole].append(example)
    state_of = _states(directions, verdict_of, decisions_of)
    rank = {"selected": 0, "near": 1, "rest": 2, "unscored": 3}

    def order(direction: Direction) -> tuple[bool, int, float, int, int, str]:
        verdict = verdict_of.get(direction.id)
        relevance = 0.0 if verdict is None or verdict.relevance is None else verdict.relevance
        is_sure = verdict is None or not verdict.abstains
        return is_sure, rank[state_of[direction.id]], -relevance, direction.layer, direction.index, direction.id

    return [
        _card(d, state_of[d.id], verdict_of.get(d.id), decisions_of[d.id], windows_of[d.id])
        | {"evidence": [*place_of[d.id], *evidence_lines(evidence_of.get(d.id), n_loss_rows)]}
        for d in sorted(directions, key=order)
    ]


def _places(directions: Sequence[Direction]) -> dict[str, list[tuple[str, str]]]:
    """Each direction's place among those of its layer and source, by strength."""
    found: dict[str, list[tuple[str, str]]] = {}
    groups: dict[tuple[int, str], list[Direction]] = defaultdict(list)
    for direction in directions:
        groups[direction.layer, direction.source].append(direction)
    for group in groups.values():
        for place, direction in enumerate(sorted(group, key=lambda d: (-d.strength, d.index)), start=1):
            by = direction.rank_by.replace("+", ", ")
            found[direction.id] = [("ranked", f"{place} of {len(group)} at its layer, by {by}")]
    return found


def _states(
    directions: Sequence[Direction],
    verdict_of: dict[str, Verdict],
    decisions_of: dict[str, dict[str, Decision]],
) -> dict[str, str]:
    """`selected`, `near` (the most relevant that were not), `rest` or `unscored`."""
    states: dict[str, str] = {}
    missed: list[tuple[float, str]] = []
    for direction in directions:
        verdict = verdict_of.get(direction.id)
        scored = verdict is not None and verdict.unscored_reason is None and verdict.relevance is not None
        if any(d.ablate for d in decisions_of[direction.id].values() if d.by.startswith(("auto:", "human:"))):
            states[direction.id] = "selected"
        elif not scored:
            states[direction.id] = "unscored"
        else:
            assert verdict is not None and verdict.relevance is not None, direction.id
            states[direction.id] = "rest"
            missed.append((-verdict.relevance, direction.id))
    for _, direction_id in sorted(missed)[:N_NEAR_MISSES]:
        states[direction_id] = "near"
    return states


def _card(
    direction: Direction,
    state: str,
    verdict: Verdict | None,
    decision_by: dict[str, Decision],
    windows: dict[str, list[Example]],
) -> dict[str, Any]:
    n = N_WINDOWS_ABSTAINED if verdict is not None and verdict.abstains else N_WINDOWS[state]
    shown = {pole: _strongest(windows[pole], n) for pole in ("top", "bottom") if windows.get(pole)}
    return {
        "id": direction.id,
        "layer": direction.layer,
        "source": direction.source,
        "strength": _rounded(direction.strength),
        "rank_by": direction.rank_by,
        "state": state,
        "verdict": None if verdict is None else verdict.to_row(),
        "decisions": [
            {"by": decision.by, "ablate": decision.ablate, "reason": decision.reason}
            for decision in decision_by.values()
        ],
        "poles": [{"pole": pole, "windows": [_window(example) for example in group]} for pole, group in shown.items()],
    }


def _strongest(examples: Sequence[Example], n: int) -> list[Example]:
    return sorted(examples, key=lambda e: (-max(abs(p) for p in e.projections), e.doc_id))[:n]


def _window(example: Example) -> dict[str, Any]:
    """At most `N_TOKENS` tokens around the strongest one."""
    n = len(example.tokens)
    peak = max(range(n), key=lambda i: abs(example.projections[i]))
    start = max(0, min(peak - N_TOKENS * 2 // 3, n - N_TOKENS))
    stop = start + N_TOKENS
    return {
        "tokens": list(example.tokens[start:stop]),
        "projections": [_rounded(p) for p in example.projections[start:stop]],
        "peak": peak - start,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
