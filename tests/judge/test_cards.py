"""Cards: what is shown, what is marked, what is held out."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from planted import direction, example, planted
from torch import Tensor

from autocaft.judge.base import MARK_OPEN, Card, marked_line
from autocaft.judge.cards import build_cards
from autocaft.judge.schema import verbatim_quotes
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
    others = [e for e in many()[1] if e.direction_id != "L14.pc0"]
    there, back = (build_cards(many()[0], [*r, *others], n_describe=10, n_verify=20)[0] for r in (rows, swapped))
    assert [w.shown() for w in there.top] == [w.shown() for w in back.bottom]
    assert [w.shown() for w in there.random] == [w.shown() for w in back.random]
    truth = {item.text: there.answer_key[item.id] for item in there.verify}
    for item in back.verify:
        assert back.answer_key[item.id] == {swap[pole]: value for pole, value in truth[item.text].items()}
    assert there.choices and back.choices
    for pole in ("top", "bottom"):
        assert [item.text for item in there.choices[pole]] == [item.text for item in back.choices[swap[pole]]]


def strengths(*peaks: float) -> list[Example]:
    """Top windows to be shown, with these peaks."""
    rows = [example("d", "top", "describe", number, "she") for number in range(len(peaks))]
    return [
        dataclasses.replace(row, projections=tuple(peak if i == 2 else 0.01 * peak for i in range(8)))
        for row, peak in zip(rows, peaks, strict=True)
    ]


def test_a_weak_window_is_marked_by_the_poles_typical_peak_not_by_its_own() -> None:
    (card,) = build_cards([direction("d")], strengths(9, 8, 8, 2), n_describe=10, n_verify=20)
    assert [any(window.marked) for window in card.top] == [True, True, True, False]


def test_one_attention_sink_does_not_take_the_marks_of_all_other_windows() -> None:
    (card,) = build_cards([direction("d")], strengths(2000, 9, 8, 8), n_describe=10, n_verify=20)
    assert all(sum(window.marked) == 1 for window in card.top[1:])


def test_positives_stand_at_even_ranks_and_would_have_a_mark() -> None:
    rows = [e for e in planted("d", "gender", n=20) if not (e.split == "verify" and e.pole == "top")]
    held_out = [
        dataclasses.replace(example("d", "top", "verify", n, "she"), projections=(0.1, 0.1, 10.0 - 0.4 * n, *[0.1] * 5))
        for n in range(20)
    ]
    (card,) = build_cards([direction("d")], [*rows, *held_out], n_describe=10, n_verify=20)
    positives = {item.text for item in card.verify if card.answer_key[item.id]["top"]}
    peaks = sorted(max(e.projections) for e in held_out if "".join(e.tokens) in positives)
    assert len(peaks) == 8 and peaks[-1] == 10.0
    assert 4.2 <= peaks[0] < 6.0, "the weakest is near the bar for a mark, half of the shown windows' median"


def test_negatives_that_read_like_positives_are_taken_first() -> None:
    """The encoder says that windows with the number 7 are like the positives."""
    rows = planted("d", "gender", n=20)

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[1.0 if "top" in text or "n7random" in text else 0.0] for text in texts])

    with_encoder, without = (
        build_cards([direction("d")], rows, n_describe=10, n_verify=14, encode=chosen)[0] for chosen in (encode, None)
    )
    assert any("n7random" in item.text for item in with_encoder.verify)
    assert not any("n7random" in item.text for item in without.verify)


def many() -> Planted:
    """Eight directions whose documents are their own."""
    directions = [direction(f"L14.pc{n}", "pca") for n in range(8)]
    rows = [e for d in directions for e in planted(d.id, "number", "gender")]
    return directions, [dataclasses.replace(e, doc_id=e.direction_id + e.doc_id) for e in rows]


def test_a_discrimination_item_has_one_text_of_the_pole_and_three_of_other_directions() -> None:
    directions, rows = many()
    tagged = [dataclasses.replace(e, tokens=(*e.tokens, f" from {e.direction_id} {e.pole}")) for e in rows]
    for card in cards((directions, tagged)):
        for pole, items in card.choices.items():
            own = [item for item in items if f"from {card.direction_id} " in item.text]
            assert len(items) == 4 and [item.id for item in own] == [card.choice_key[pole]]
            assert own[0].text.endswith(pole) and own[0].text not in {item.text for item in card.verify}


def test_a_text_in_which_the_direction_is_strong_is_no_wrong_choice() -> None:
    """All directions are strong in the same documents: there is no wrong text, so nothing is asked."""
    directions, rows = many()
    shared = [dataclasses.replace(e, doc_id=e.doc_id.removeprefix(e.direction_id)) for e in rows]
    assert all(not card.choices and not card.choice_key for card in cards((directions, shared)))


def test_what_is_shown_of_a_choice_does_not_tell_the_answer() -> None:
    places = Counter(card.choice_key[pole] for card in cards(many()) for pole in card.poles)
    assert len(places) > 3, "the right text always stands in the same place"
    assert "choice_key" not in json.dumps([card.shown() for card in cards(many())])


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


def test_a_direction_that_fires_on_white_space_alone_is_marked_all_the_same() -> None:
    line = marked_line(["end.", "\n\n", "New", "  ", "x"], [False, True, False, True, False])
    assert line == "end.\u27e6\u21b5\u27e7New\u27e6\u2423\u27e7x"
    rows = [dataclasses.replace(e, tokens=(*e.tokens[:2], "\n", *e.tokens[3:])) for e in strengths(9, 8, 8)]
    (card,) = build_cards([direction("d")], rows, n_describe=10, n_verify=20)
    word = rows[0].tokens[1].strip()
    assert verbatim_quotes([f"{word}\u27e6\u21b5\u27e7", word], card, "top") == (f"{word}\u21b5",)


def test_a_direction_without_examples_gets_an_empty_card() -> None:
    (card,) = build_cards([direction("d")], [], n_describe=10, n_verify=20)
    assert card.poles == () and card.verify == ()


def test_half_a_character_does_not_break_the_line() -> None:
    assert marked_line(["a\ud83d", "b"], [False, False]).encode() == b"a?b"
