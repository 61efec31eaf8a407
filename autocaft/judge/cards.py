"""Cards from mined examples: which windows are shown, which are held out, what is marked.

In: directions and their examples. Out: one `Card` each, the same for the same input (the shuffle is seeded by the
direction's id). The decision a reader would question: a held-out window counts as a negative only when its own
projection is under half of the weakest positive's. A window that merely was not mined for a pole may still belong to
it, and a right answer would be marked wrong.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence

from autocaft.judge.base import Card, VerifyItem, Window
from autocaft.records import Direction, Example

SIGN_BY_POLE = {"top": 1.0, "bottom": -1.0}
MARK_SHARE = 0.4
"""A token is marked from this share of the pole's peak: between the 0.2 (latents) and 0.5 (PCs) of the CAFT authors."""
NEGATIVE_SHARE = 0.5
"""A negative's strongest projection must stay under this share of the weakest positive's."""


def build_cards(
    directions: Sequence[Direction], examples: Iterable[Example], *, n_describe: int, n_verify: int
) -> list[Card]:
    """One card per direction, in the order of `directions`; a direction without examples gets an empty card.

    Args:
        n_describe: windows shown per pole.
        n_verify: held-out windows in all.
    """
    by_direction: dict[str, list[Example]] = {direction.id: [] for direction in directions}
    for example in examples:
        if example.direction_id in by_direction:
            by_direction[example.direction_id].append(example)
    return [_card(direction, by_direction[direction.id], n_describe, n_verify) for direction in directions]


def peak(example: Example, pole: str) -> float:
    """The strongest projection towards a pole, in the pole's own sign (so larger is always stronger)."""
    return max((SIGN_BY_POLE[pole] * value for value in example.projections), default=0.0)


def _card(direction: Direction, examples: Sequence[Example], n_describe: int, n_verify: int) -> Card:
    shown = {pole: _strongest(examples, pole, n_describe) for pole in ("top", "bottom")}
    shown["middle"] = [e for e in examples if e.split == "describe" and e.pole == "middle"][: n_describe // 3]
    shown["random"] = [e for e in examples if e.split == "describe" and e.pole == "random"][: max(1, n_describe // 2)]
    poles = [pole for pole in ("top", "bottom") if shown[pole]]
    held_out = _disjoint([e for e in examples if e.split == "verify"], [e for group in shown.values() for e in group])
    chosen, truths = _verify_set(held_out, poles, n_verify)
    order = list(range(len(chosen)))
    random.Random(hashlib.sha256(direction.id.encode()).digest()).shuffle(order)
    ids = [f"i{position + 1:02d}" for position in range(len(order))]
    return Card(
        direction_id=direction.id,
        source=direction.source,
        layer=direction.layer,
        top=_windows("top", shown["top"]),
        bottom=_windows("bottom", shown["bottom"]),
        middle=_windows("middle", shown["middle"]),
        random=_windows("random", shown["random"]),
        verify=tuple(VerifyItem(item_id, chosen[i].tokens) for item_id, i in zip(ids, order, strict=True)),
        answer_key={item_id: truths[i] for item_id, i in zip(ids, order, strict=True)},
    )


def _strongest(examples: Sequence[Example], pole: str, n: int, split: str = "describe") -> list[Example]:
    """The n windows of a pole with the largest peaks; ties keep their order."""
    mined = [e for e in examples if e.split == split and e.pole == pole]
    return sorted(mined, key=lambda e: -peak(e, pole))[:n]


def _windows(group: str, examples: Sequence[Example]) -> tuple[Window, ...]:
    """Windows with marks. The bar is the pole's peak over all its windows, so that a weak window has fewer marks, not
    the same."""
    bar = MARK_SHARE * max((peak(e, group) for e in examples), default=0.0) if group in SIGN_BY_POLE else 0.0
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
    held_out: Sequence[Example], poles: Sequence[str], n_verify: int
) -> tuple[list[Example], list[dict[str, bool | None]]]:
    """Positives of each pole and checked negatives, with the truth of each item for each pole.

    With one pole 2 in 5 items are positives; with two, 3 in 10 for each (and each pole's are negatives of the other).
    """
    n_positive = max(1, round(n_verify * (0.4 if len(poles) == 1 else 0.3)))
    positives = {pole: _strongest(held_out, pole, n_positive, split="verify") for pole in poles}
    bars = {pole: NEGATIVE_SHARE * min((peak(e, pole) for e in positives[pole]), default=0.0) for pole in poles}

    def truth(example: Example) -> dict[str, bool | None]:
        return {
            pole: True if example.pole == pole else (False if peak(example, pole) < bars[pole] else None)
            for pole in poles
        }

    chosen = [e for pole in poles for e in positives[pole]]
    n_left = n_verify - len(chosen)
    clean = [e for e in held_out if e.pole not in SIGN_BY_POLE and not any(t is None for t in truth(e).values())]
    near = [e for e in clean if e.pole == "near"][: n_left // 2]
    other = [e for e in clean if e.pole != "near"][: n_left - len(near)]
    chosen += near + other
    return chosen, [truth(e) for e in chosen]
