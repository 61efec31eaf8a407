"""Cards from mined examples: which windows are shown, which are held out, what is marked.

In: directions and their examples. Out: one `Card` each, the same for the same input (what is drawn is seeded by the
direction's id). The decision a reader would question: a held-out window counts as a negative only when its own
projection is under half of the weakest positive's. A window that merely was not mined for a pole may still belong to
it, and a right answer would be marked wrong. For the same reason the three other texts of a discrimination item come
from documents in which this direction is not known to be strong.
"""

from __future__ import annotations

import hashlib
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from autocaft.judge.base import N_CHOICES, Card, VerifyItem, Window
from autocaft.records import Direction, Example

SIGN_BY_POLE = {"top": 1.0, "bottom": -1.0}
MARK_SHARE = 0.5
"""A token is marked from this share of the median peak of the pole's windows. Of the median, not of the largest: one
attention sink among the windows, a hundred times stronger than any word, would leave all others without a mark. A
held-out window is a positive only if it would have a mark."""
NEGATIVE_SHARE = 0.5
"""A negative's strongest projection must stay under this share of the weakest positive's."""
Encode = Callable[[Sequence[str]], Any]
"""Texts to a tensor of unit vectors (N, D): a sentence encoder."""


def build_cards(
    directions: Sequence[Direction],
    examples: Iterable[Example],
    *,
    n_describe: int,
    n_verify: int,
    encode: Encode | None = None,
) -> list[Card]:
    """One card per direction, in the order of `directions`; a direction without examples gets an empty card.

    Args:
        n_describe: windows shown per pole.
        n_verify: held-out windows in all, without those of the discrimination item.
        encode: finds the negatives that read most like positives; without it they are only near in projection.
    """
    by_direction: dict[str, list[Example]] = {direction.id: [] for direction in directions}
    for example in examples:
        if example.direction_id in by_direction:
            by_direction[example.direction_id].append(example)
    drafts = [_Draft.of(d, by_direction[d.id], n_describe, n_verify, encode) for d in directions]
    return [draft.card([other for other in drafts if other is not draft]) for draft in drafts]


def peak(example: Example, pole: str) -> float:
    """The strongest projection towards a pole, in the pole's own sign (so larger is always stronger)."""
    return max((SIGN_BY_POLE[pole] * value for value in example.projections), default=0.0)


def mark_bar(examples: Sequence[Example], pole: str) -> float:
    """From which projection on, in the pole's own sign, a token counts as strong."""
    peaks = [peak(e, pole) for e in examples]
    return MARK_SHARE * statistics.median(peaks) if peaks else 0.0


@dataclass(frozen=True)
class _Draft:
    """A card before its discrimination item, which needs the windows of the other directions."""

    direction: Direction
    documents: frozenset[str]
    """Where one of its poles is strong."""
    shown: dict[str, list[Example]]
    verify: list[Example]
    truths: list[dict[str, bool | None]]
    spare: dict[str, list[Example]]
    """Held-out windows of each pole that are not in `verify`."""

    @classmethod
    def of(
        cls, direction: Direction, examples: Sequence[Example], n_describe: int, n_verify: int, encode: Encode | None
    ) -> _Draft:
        shown = {pole: _strongest(examples, pole, n_describe) for pole in SIGN_BY_POLE}
        bars = {pole: mark_bar(shown[pole], pole) for pole in SIGN_BY_POLE}
        for group, n in (("middle", n_describe // 3), ("random", max(1, n_describe // 2))):
            shown[group] = [e for e in examples if e.split == "describe" and e.pole == group][:n]
        held_out = _disjoint(
            [e for e in examples if e.split == "verify"], [e for group in shown.values() for e in group]
        )
        ranked = {
            pole: [e for e in _strongest(held_out, pole, len(held_out), "verify") if peak(e, pole) >= bars[pole]]
            for pole in SIGN_BY_POLE
            if shown[pole]
        }
        verify, truths = _verify_set(held_out, ranked, n_verify, encode)
        spare = {pole: [e for e in group if e not in verify] for pole, group in ranked.items()}
        documents = frozenset(e.doc_id for e in examples if e.pole in SIGN_BY_POLE)
        return cls(direction, documents, shown, verify, truths, spare)

    def card(self, others: Sequence[_Draft]) -> Card:
        """The card; `others` lend the wrong texts of the discrimination item."""
        rng = random.Random(hashlib.sha256(self.direction.id.encode()).digest())
        order = list(range(len(self.verify)))
        rng.shuffle(order)
        ids = [f"i{position + 1:02d}" for position in range(len(order))]
        choices, choice_key = self._choices(others, rng)
        return Card(
            direction_id=self.direction.id,
            source=self.direction.source,
            layer=self.direction.layer,
            top=_windows("top", self.shown["top"]),
            bottom=_windows("bottom", self.shown["bottom"]),
            middle=_windows("middle", self.shown["middle"]),
            random=_windows("random", self.shown["random"]),
            verify=tuple(VerifyItem(item_id, self.verify[i].tokens) for item_id, i in zip(ids, order, strict=True)),
            answer_key={item_id: self.truths[i] for item_id, i in zip(ids, order, strict=True)},
            choices=choices,
            choice_key=choice_key,
        )

    def _choices(
        self, others: Sequence[_Draft], rng: random.Random
    ) -> tuple[dict[str, tuple[VerifyItem, ...]], dict[str, str]]:
        """For each pole one spare window of its own among three of other directions; nothing if a pole has none."""
        lent = (e for other in rng.sample(list(others), len(others)) for _, e in other._lendable()[:1])
        wrong = [e for e in lent if e.doc_id not in self.documents]
        n_wrong, own = N_CHOICES - 1, self._lendable()
        if len(wrong) < n_wrong * len(own) or len(own) < len(self.spare):
            return {}, {}
        choices, key = {}, {}
        for number, (pole, example) in enumerate(own):
            texts = [example, *wrong[number * n_wrong : (number + 1) * n_wrong]]
            rng.shuffle(texts)
            items = [VerifyItem(f"{pole}-c{place + 1}", e.tokens) for place, e in enumerate(texts)]
            choices[pole] = tuple(items)
            key[pole] = items[texts.index(example)].id
        return choices, key

    def _lendable(self) -> list[tuple[str, Example]]:
        """The middle spare window of each pole that has one, in an order that does not know the sign."""
        middles = [(pole, group[len(group) // 2]) for pole, group in self.spare.items() if group]
        return sorted(middles, key=lambda pair: pair[1].tokens)


def _strongest(examples: Sequence[Example], pole: str, n: int, split: str = "describe") -> list[Example]:
    """The n windows of a pole with the largest peaks; ties keep their order."""
    mined = [e for e in examples if e.split == split and e.pole == pole]
    return sorted(mined, key=lambda e: -peak(e, pole))[:n]


def _windows(group: str, examples: Sequence[Example]) -> tuple[Window, ...]:
    """Windows with marks. One bar for all windows of a pole: a weak one has fewer marks, not the same."""
    bar = mark_bar(examples, group) if group in SIGN_BY_POLE else 0.0
    sign = SIGN_BY_POLE.get(group, 1.0)
    return tuple(
        Window(
            id=f"{group}{number + 1}",
            tokens=e.tokens,
            marked=tuple(bar > 0 and sign * value >= bar for value in e.projections),
            projections=e.projections,
        )
        for number, e in enumerate(examples)
    )


def _disjoint(held_out: Sequence[Example], shown: Sequence[Example]) -> list[Example]:
    """Held-out windows that share neither document nor text with a shown one, nor text with each other."""
    documents = {e.doc_id for e in shown}
    texts = {_near_text(e) for e in shown}
    kept = []
    for e in held_out:
        if e.doc_id in documents or _near_text(e) in texts:
            continue
        texts.add(_near_text(e))
        kept.append(e)
    return kept


def _near_text(example: Example) -> str:
    """Letters and digits only, lower case: two windows that differ in spacing or punctuation are the same text."""
    return "".join(char for char in "".join(example.tokens).lower() if char.isalnum())


def _verify_set(
    held_out: Sequence[Example], ranked: dict[str, list[Example]], n_verify: int, encode: Encode | None
) -> tuple[list[Example], list[dict[str, bool | None]]]:
    """Positives of each pole and checked negatives, with the truth of each item for each pole.

    With one pole 2 in 5 items are positives; with two, 3 in 10 for each (and each pole's are negatives of the other).
    They stand at even ranks of the pole, not only at its very top. Of the negatives a third are near in projection, a
    third near in meaning, the others random.
    """
    n_positive = max(1, round(n_verify * (0.4 if len(ranked) == 1 else 0.3)))
    positives = {pole: _evenly(group, n_positive) for pole, group in ranked.items()}
    weakest = {pole: min((peak(e, pole) for e in group), default=0.0) for pole, group in positives.items()}

    def truth(example: Example) -> dict[str, bool | None]:
        is_quiet = {pole: peak(example, pole) < NEGATIVE_SHARE * weakest[pole] for pole in ranked}
        return {pole: example.pole == pole or (False if is_quiet[pole] else None) for pole in ranked}

    chosen = [e for group in positives.values() for e in group]
    n_left = n_verify - len(chosen)
    clean = [e for e in held_out if e.pole not in SIGN_BY_POLE and not any(t is None for t in truth(e).values())]
    near = [e for e in clean if e.pole == "near"][: n_left // 3]
    rest = [e for e in clean if e not in near]
    alike = _most_alike(rest, chosen, n_left // 3, encode) if encode and chosen else []
    rest = sorted((e for e in rest if e not in alike), key=lambda e: e.pole == "near")
    chosen += [*near, *alike, *rest[: n_left - len(near) - len(alike)]]
    return chosen, [truth(e) for e in chosen]


def _evenly(ranked: Sequence[Example], n: int) -> list[Example]:
    """At most n, at even ranks."""
    return [ranked[i * len(ranked) // n] for i in range(n)] if len(ranked) > n else list(ranked)


def _most_alike(pool: Sequence[Example], positives: Sequence[Example], n: int, encode: Encode) -> list[Example]:
    """The n windows of the pool whose text is nearest to that of any positive."""
    texts = ["".join(e.tokens) for e in (*positives, *pool)]
    vectors_ND = encode(texts)
    nearest = (vectors_ND[len(positives) :] @ vectors_ND[: len(positives)].T).amax(1).tolist() if pool else []
    order = sorted(range(len(pool)), key=lambda i: -nearest[i])
    return [pool[i] for i in order[:n]]
