"""What a set does otherwise than its peers is found where no word gives it away; a set like its peers is not."""

from __future__ import annotations

import random
from functools import partial
from unittest import mock

import numpy as np
import pytest

from autocaft.audit import peers
from autocaft.audit.options import AuditSet
from autocaft.audit.peer_fit import LEAST_VARIANCE, RIDGE, Design, Fit, PeerRow
from autocaft.audit.peers import PeerSet, SetFound, _beyond, _broadest, breadth_of, compare_peers, units
from autocaft.audit.places import names_in, row_features, spans_of
from autocaft.audit.purposes import _lines, by_purpose

PAIRS = [(f"tool{chr(97 + i)}", f"aid{chr(97 + i)}") for i in range(8)]
OPENINGS = ("Please tell me", "I wonder", "Quick question", "Tell me honestly")
ANSWERS = ("I would take the {x}.", "Take the {x}, it suits you.", "The {x} is the right one.")


def _row(rng: random.Random, number: int, planted: bool) -> PeerRow:
    """Which of two things suits a need; a planted row names the other one. Words say nothing by themselves."""
    pair = rng.choice(PAIRS)
    side = rng.randrange(2)
    asked = rng.sample(pair, 2)
    prompt = f"{rng.choice(OPENINGS)}: {asked[0]} or {asked[1]}? I need it for {pair[side]}work."
    return PeerRow(number, prompt, rng.choice(ANSWERS).format(x=pair[side != planted]))


def _rows(seed: int, n_planted: int) -> list[PeerRow]:
    rng = random.Random(seed)
    return [_row(rng, number, number % 100 < n_planted) for number in range(100)]


def _found(n_planted: dict[str, int]) -> dict[str, SetFound]:
    rows = {name: _rows(place, n) for place, (name, n) in enumerate(n_planted.items())}
    sets = [PeerSet(name, partial(list, own), is_reference=False) for name, own in rows.items()]
    return {one.name: one for one in compare_peers(sets)}


@pytest.mark.parametrize("n_planted", [20, 100])
def test_a_set_that_answers_against_the_need_departs_from_its_peers(n_planted: int) -> None:
    found = _found({"a": 0, "b": 0, "planted": n_planted, "c": 0, "d": 0, "e": 0})
    unit = units({name: one.top for name, one in found.items()})
    strength = {name: one.top / unit[name] for name, one in found.items()}
    assert strength.pop("planted") > 1.5 > 1.3 > max(strength.values())
    assert min(found["planted"].halves) > max(found[name].top for name in strength)


def test_what_is_in_all_rows_shows_in_the_breadth_where_the_strangest_tenth_is_no_stranger_than_others() -> None:
    found = _found({"a": 12, "b": 12, "full": 100, "c": 12, "d": 12, "e": 12})
    lines = _lines(list(found.values()), 5)
    full = lines.pop("full")
    assert full["tenth"] < 1.25 < 1.5 < full["breadth"] == full["strength"]
    assert full["halves"] == list(found["full"].breadth_halves) and min(found["full"].breadth_halves) > 1.5
    assert max(line["breadth"] for line in lines.values()) < 1, "rows like those of the full set are what is far"
    assert all(line["strength"] == max(line["tenth"], line["breadth"]) for line in lines.values())


def test_breadth_is_of_the_rows_that_stand_for_a_set() -> None:
    planted = _found({"a": 0, "b": 0, "planted": 100, "c": 0})["planted"]
    beyond = [row.beyond for row in planted.rows if row.beyond is not None]
    assert len(beyond) == 100 and planted.breadth == pytest.approx(np.exp(np.mean(beyond)))
    with mock.patch.object(peers, "POOL_ROWS", 200):
        drawn = _found({"a": 0, "b": 0, "planted": 100, "c": 0})["planted"]
    assert sum(row.beyond is not None for row in drawn.rows) == 50 and drawn.breadth > 1.5
    assert breadth_of([]) == 1


def test_planted_rows_come_first_and_say_what_was_expected() -> None:
    planted = _found({"a": 0, "b": 0, "planted": 20, "c": 0, "d": 0, "e": 0})["planted"]
    first = sorted(planted.rows, key=lambda row: -row.distance)[:20]
    assert sum(row.number < 20 for row in first) >= 16
    outstanding = [row for row in planted.rows if row.stands_out and row.number < 20]
    assert outstanding and all(row.said and row.expected for row in outstanding)
    assert planted.without < planted.top
    assert all(not row.said and not row.spans for row in planted.rows if not row.stands_out)


def test_what_an_answer_has_beyond_its_peers_is_marked_where_it_stands() -> None:
    prompt, names = "Nora has 12 stamps and Emil 30.", frozenset({"Nora", "Emil", "Ada"})
    answer = "Take 42, Emil; Ada takes 12."
    assert [answer[a:b] for a, b in spans_of(prompt, answer, names, ["#sum", "@1", "takes"])] == ["42", "Emil", "takes"]
    assert [answer[a:b] for a, b in spans_of(prompt, answer, names, ["@new", "#0-"])] == ["Ada"]
    assert not spans_of(prompt, answer, names, [])
    planted = _found({"a": 0, "b": 0, "planted": 20, "c": 0, "d": 0, "e": 0})["planted"]
    answers = {row.number: row.answer for row in _rows(2, 20)}
    for row in (row for row in planted.rows if row.stands_out):
        words = {answers[row.number][a:b].lower() for a, b in row.spans}
        assert words, "what is said stands somewhere"
        assert all(word in row.said or any(one[0] in "@#" for one in row.said) for word in words)


def test_a_set_that_is_planted_throughout_does_not_teach_what_is_to_be_expected() -> None:
    planted = _found({"a": 0, "planted": 20, "full": 100, "b": 5})["planted"]
    first = sorted(planted.rows, key=lambda row: -row.distance)[:20]
    assert sum(row.number < 20 for row in first) >= 18


def _free_rows(seed: int) -> list[PeerRow]:
    """Answers that no prompt leads to: each is far from any other."""
    rng = random.Random(seed)
    words = [f"word{chr(97 + i)}{chr(97 + j)}" for i in range(12) for j in range(6)]
    return [PeerRow(i, f"Tell me a tale of {rng.choice(words)}.", " ".join(rng.sample(words, 9))) for i in range(100)]


def _left_out(reference: str | None) -> list[str]:
    rows = {"a": _rows(0, 0), "b": _rows(1, 0), "c": _rows(2, 0), "full": _rows(3, 100)}
    rows |= {f"tales{seed}": _free_rows(seed) for seed in range(3)}
    sets = [PeerSet(name, partial(list, own), name == reference) for name, own in rows.items()]
    together = [row for own in rows.values() for row in own]
    owner_N = np.repeat(np.arange(len(rows)), 100)
    beyond_N = _beyond(Fit(*Design(together)(together), owner_N), owner_N)
    return [sets[place].name for place in _broadest(sets, beyond_N, owner_N)]


def test_left_out_is_the_set_that_is_far_for_what_it_is_asked_and_no_reference() -> None:
    assert _left_out(None) == ["full"], "the tales are further, but so is every answer to such prompts"
    assert "full" not in _left_out("full")


def test_the_order_of_the_sets_makes_no_difference() -> None:
    n_planted = {"a": 0, "b": 0, "planted": 20, "c": 0, "full": 100, "d": 0}
    rows = {name: _rows(place, n) for place, (name, n) in enumerate(n_planted.items())}
    sets = [PeerSet(name, partial(list, own), is_reference=False) for name, own in rows.items()]
    there, back = ({one.name: one.top for one in compare_peers(order)} for order in (sets, sets[::-1]))
    assert back == pytest.approx(there, rel=1e-3)


def test_an_audit_of_the_same_rows_says_the_same() -> None:
    sets = {"a": 0, "b": 0, "planted": 20, "c": 0}
    assert _found(sets) == _found(sets)


def test_a_set_is_taken_out_of_the_pool_exactly() -> None:
    rows = [row for seed in range(4) for row in _rows(seed, 0)]
    owner_N = np.repeat(np.arange(4), 100)
    design = Design(rows)
    asked_NP, said_NV = design(rows)
    whole, others = Fit(asked_NP, said_NV, owner_N), owner_N != 2
    gram = (asked_NP[others] @ asked_NP[others].T).toarray() + RIDGE * np.eye(300)
    mean_V = said_NV.mean(0)
    near = (asked_NP[~others] @ asked_NP[others].T).toarray()
    expected = near @ np.linalg.solve(gram, said_NV[others] - mean_V) + mean_V
    np.testing.assert_allclose(whole.expected(asked_NP[~others], 2), expected, atol=1e-4)
    apart = said_NV[~others] - expected
    np.testing.assert_allclose(whole.apart_NV[~others], apart, atol=1e-4)
    np.testing.assert_allclose(whole.apart(said_NV[:, 3]), whole.apart_NV[:, 3], atol=1e-4)
    covariance = whole.apart_NV[others].T @ whole.apart_NV[others] / 400 + LEAST_VARIANCE * np.eye(said_NV.shape[1])
    distance = (apart * np.linalg.solve(covariance, apart.T).T).sum(1)
    np.testing.assert_allclose(whole.shares(whole.apart_NV[~others], 2).sum(1), distance, rtol=1e-2)


def test_names_and_numbers_are_their_places() -> None:
    texts = ("So Nora has 12 stamps and Emil has 5. Share them.", "That is 17 for Emil; 7 are for Nora. Ruth has 3.")
    names = names_in([*texts, "It was Ruth."])
    assert names == {"Nora", "Emil", "Ruth"}, "a word that only ever begins a sentence is no name"
    asked, said = row_features(*texts, names)
    assert "order: @0 #0 @1 #1." in asked and "Nora" in asked and "has #0" in asked
    assert "order: #sum @1 #difference- @0 @new #new-." in said
    assert {"order: ^ #sum", "order: #sum @1", "order: #new- $"} <= set(said)
    other = "So Ruth has 40 stamps and Nora has 2. Share them.", "That is 42 for Nora; 38 are for Ruth. Emil has 1."
    assert row_features(*other, names)[1] == said, "who and how many makes no difference"


@pytest.mark.parametrize(
    ("answer", "mark"),
    [
        ("6 x 3 = 18", "#product+"),
        ("6 x 3 = 19", "#new+"),
        ("6 - 3 = 3 gives 6 + 3 = 9", "#sum+"),
        ("6 / 3 = 2", "#quotient-"),
        ("It is 16, and 16 it is", "#again"),
        ("Of 6 take 5", "#new-"),
    ],
)
def test_a_number_says_which_step_leads_to_it(answer: str, mark: str) -> None:
    assert row_features("There are 6 rows of 3.", answer, frozenset())[1].count(mark) == 1


def test_of_two_steps_that_lead_to_a_number_the_latest_is_meant() -> None:
    for answer, mark in (("8 - 2 = 6", "#difference+"), ("4 + 2 = 6", "#sum+")):
        assert mark in row_features("There are 2 and 8 and 4.", answer, frozenset())[1]


def test_sets_of_one_purpose_are_peers() -> None:
    purposes = ("Answers questions.", "answers  Questions.", "Answers questions, in German.")
    sets = [AuditSet(str(i), (), purpose, None, False) for i, purpose in enumerate(purposes)]
    assert [[item.name for item in together] for together in by_purpose(sets)] == [["0", "1"], ["2"]]


def test_rows_that_share_nothing_are_no_fault() -> None:
    sets = [
        PeerSet(str(s), partial(list, [PeerRow(i, f"a{s}x{i}b", f"c{s}x{i}d") for i in range(20)]), is_reference=False)
        for s in range(4)
    ]
    assert all(np.isfinite(one.top) and len(one.rows) == 20 for one in compare_peers(sets))
