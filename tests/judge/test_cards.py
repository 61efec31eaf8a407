"""Cards: what is shown, what is marked, what is held out."""

from __future__ import annotations

import dataclasses
import json

import pytest
from planted import direction, example, planted

from autocaft.judge.base import MARK_OPEN, Card, marked_line
from autocaft.judge.cards import build_cards
from autocaft.records import Direction, Example

Planted = tuple[list[Direction], list[Example]]


def cards(data: Planted, n_verify: int = 20) -> list[Card]:
    return build_cards(*data, n_describe=10, n_verify=n_verify)


def test_a_latent_has_a_top_only_and_a_pc_both_poles(two_directions: Planted) -> None:
    assert [card.poles for card in cards(two_directions)] == [("top",), ("top", "bottom")]


def test_marks_are_of_the_poles_own_sign() -> None:
    """A bottom window with one strongly positive token must not get that token marked, and the reverse."""
    rows = planted("L14.pc0", "number", "gender")
    mixed = [
        dataclasses.replace(row, projections=(-20.0 if row.pole == "top" else 20.0, *row.projections[1:]))
        if row.pole in ("top", "bottom") else row
        for row in rows
    ]  # fmt: skip
    (card,) = build_cards([direction("L14.pc0", "pca")], mixed, n_describe=10, n_verify=20)
    for window in (*card.top, *card.bottom):
        assert window.marked == (False, False, True, *[False] * 5)


def test_swapping_the_sign_swaps_the_poles_and_nothing_else() -> None:
    rows = planted("L14.pc0", "number", "gender")
    swap = {"top": "bottom", "bottom": "top"}
    swapped = [
        dataclasses.replace(
            row, pole=swap.get(row.pole, row.pole), projections=tuple(-value for value in row.projections)
        )  # type: ignore[arg-type]
        for row in rows
    ]
    there, back = (
        build_cards([direction("L14.pc0", "pca")], r, n_describe=10, n_verify=20)[0] for r in (rows, swapped)
    )
    assert [w.shown() for w in there.top] == [w.shown() for w in back.bottom]
    assert [w.shown() for w in there.random] == [w.shown() for w in back.random]
    truth = {item.text: there.answer_key[item.id] for item in there.verify}
    for item in back.verify:
        assert back.answer_key[item.id] == {swap[pole]: value for pole, value in truth[item.text].items()}


def test_a_weak_window_is_marked_by_the_poles_peak_not_by_its_own() -> None:
    rows = [example("d", "top", "describe", 0, "she"), example("d", "top", "describe", 1, "he")]
    weak = dataclasses.replace(rows[1], projections=tuple(value / 10 for value in rows[1].projections))
    (card,) = build_cards([direction("d")], [rows[0], weak], n_describe=10, n_verify=20)
    assert any(card.top[0].marked) and not any(card.top[1].marked)


def test_no_held_out_window_shares_document_or_text_with_a_shown_one() -> None:
    rows = planted("d", "gender")
    shown = [row for row in rows if row.split == "describe"]
    same_document = dataclasses.replace(rows[-1], doc_id=shown[0].doc_id, tokens=(*rows[-1].tokens, " more"))
    same_text = dataclasses.replace(shown[0], split="verify", doc_id="other", tokens=(*shown[0].tokens, " !"))
    (card,) = build_cards([direction("d")], [same_document, same_text, *rows], n_describe=10, n_verify=60)
    texts = {item.text for item in card.verify}
    assert "".join(same_text.tokens) not in texts and "".join(same_document.tokens) not in texts
    assert len(texts) == len(card.verify)


def test_a_negative_that_fires_like_a_positive_is_not_used() -> None:
    rows = planted("d", "gender")
    hot = dataclasses.replace(example("d", "random", "verify", 77, "she"), projections=(8.0,) * 8)
    (card,) = build_cards([direction("d")], [hot, *rows], n_describe=10, n_verify=60)
    assert "".join(hot.tokens) not in {item.text for item in card.verify}


def test_items_are_shuffled_the_same_way_every_time_and_both_kinds_are_there(two_directions: Planted) -> None:
    first, second = cards(two_directions), cards(two_directions)
    assert first == second
    for card in first:
        truths = [card.answer_key[item.id][pole] for item in card.verify for pole in card.poles]
        assert len(card.verify) == 20 and truths.count(True) >= 6 and truths.count(False) >= 8
        assert truths != sorted(truths, reverse=True, key=bool)


def test_what_is_shown_has_neither_the_key_nor_numbers(two_directions: Planted) -> None:
    for card in cards(two_directions):
        shown = json.dumps(card.shown())
        assert "answer_key" not in shown and "projections" not in shown and "9.0" not in shown
        assert not any(MARK_OPEN in item["text"] for item in card.shown()["verify"])
        assert json.loads(json.dumps(card.to_row()))["hash"] == card.hash


@pytest.mark.parametrize("token", ["a\nb", "a\r\nb", "a\u2028b", "\n\n", "a\x0bb"])
def test_a_window_is_one_line_whatever_its_tokens_hold(token: str) -> None:
    assert len(marked_line(["x", token, "y"], [False, True, False]).splitlines()) == 1


def test_marks_in_the_text_itself_cannot_pretend() -> None:
    assert marked_line(["\u27e6fake\u27e7", " real"], [False, True]) == "[[fake]] \u27e6real\u27e7"


def test_a_direction_without_examples_gets_an_empty_card() -> None:
    (card,) = build_cards([direction("d")], [], n_describe=10, n_verify=20)
    assert card.poles == () and card.verify == ()


def test_half_a_character_does_not_break_the_line() -> None:
    assert marked_line(["a\ud83d", "b"], [False, False]).encode() == b"a?b"
