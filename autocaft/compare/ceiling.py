"""How far do two people agree? A judge can hardly agree with people further than they do with each other.

In: raters. Out: a row for each two people who read the same cards blind, with the judge's agreement with each of them
on those same cards; and why there is no row where there is none. The decision a reader would question: a list of what
to ablate (`select.file`) and answers taken over from another person's sheet give no ceiling. Nobody knows what the
author of a list read, and a copy agrees with its original.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from autocaft.compare.agreement import agreement_rows, alpha_of_all
from autocaft.compare.raters import Rater
from autocaft.records import Direction


def ceiling(humans: Sequence[Rater], rules: Sequence[Rater], directions: Sequence[Direction]) -> dict[str, Any]:
    """`human_against_human`, `alpha_of_humans` and `no_ceiling` (a reason, or None) of compare.json."""
    candidates = {direction.id for direction in directions}
    readers = [_within(human, human.read_blind & candidates) for human in humans if human.read_blind & candidates]
    found = (_pair(a, b, rules, directions) for a, b in combinations(readers, 2))
    pairs = [pair for pair in found if pair["agreement"][0]["n"]]
    return {
        "human_against_human": pairs,
        "alpha_of_humans": alpha_of_all(readers, directions) if pairs else None,
        "no_ceiling": None if pairs else _why_not(humans, readers),
    }


def _pair(a: Rater, b: Rater, rules: Sequence[Rater], directions: Sequence[Direction]) -> dict[str, Any]:
    """Two people, and the judge against each of them, on what both decided."""
    both = set(a.ablates) & set(b.ablates)
    return {
        "first": a.by,
        "second": b.by,
        "n_read_both": len(a.read_blind & b.read_blind),
        "agreement": agreement_rows(a, b, directions),
        "auto_on_the_same": [
            {"auto": rule.by, "human": human.by, **agreement_rows(human, _within(rule, both), directions)[0]}
            for rule in rules
            for human in (a, b)
        ],
    }


def _within(rater: Rater, ids: Collection[str]) -> Rater:
    """The rater as if only these directions had been rated."""
    ablates = {direction_id: said for direction_id, said in rater.ablates.items() if direction_id in ids}
    return replace(rater, ablates=ablates, read_blind=rater.read_blind & frozenset(ids))


def _why_not(humans: Sequence[Rater], readers: Sequence[Rater]) -> str:
    if len(readers) > 1:
        return "no two people decided on the same direction"
    copied = sum(human.n_copied for human in humans)
    notes = [f"{copied} of the answers were copied from another person"] if copied else []
    lists = [human.by for human in humans if not human.read_blind and human.ablates]
    notes += [f"{', '.join(lists)} gave a list, which does not tell what was read"] if lists else []
    found = "nobody" if not readers else f"only {readers[0].by}"
    return f"{found} read the cards blind" + "".join(f"; {note}" for note in notes)
