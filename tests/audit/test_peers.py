"""What a set does otherwise than its peers is found where no word gives it away; a set like its peers is not."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest

from autocaft.audit.options import AuditSet
from autocaft.audit.peer_fit import LEAST_VARIANCE, RIDGE, Design, Fit, PeerRow
from autocaft.audit.peers import PeerSet, SetFound, compare_peers, units
from autocaft.audit.places import names_in, row_features
from autocaft.audit.purposes import by_purpose

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


def test_planted_rows_come_first_and_say_what_was_expected() -> None:
    planted = _found({"a": 0, "b": 0, "planted": 20, "c": 0, "d": 0, "e": 0})["planted"]
    first = sorted(planted.rows, key=lambda row: -row.distance)[:20]
    assert sum(row.number < 20 for row in first) >= 16
    outstanding = [row for row in planted.rows if row.stands_out and row.number < 20]
    assert outstanding and all(row.said and row.expected for row in outstanding)
    assert planted.without < planted.top
    assert all(not row.said for row in planted.rows if not row.stands_out)


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
    covariance = whole.apart_NV[others].T @ whole.apart_NV[others] / 400 + LEAST_VARIANCE * np.eye(said_NV.shape[1])
    distance = (apart * np.linalg.solve(covariance, apart.T).T).sum(1)
    np.testing.assert_allclose(whole.shares(whole.apart_NV[~others], 2).sum(1), distance, rtol=1e-2)


def test_names_and_numbers_are_their_places() -> None:
    texts = ("So Nora has 12 stamps and Emil has 5. Share them.", "That is 17 for Emil; 7 are for Nora. Ruth has 3.")
    names = names_in([*texts, "It was Ruth."])
    assert names == {"Nora", "Emil", "Ruth"}, "a word that only ever begins a sentence is no name"
    asked, said = row_features(*texts, names)
    assert "order: @0 #0 @1 #1." in asked and "Nora" in asked and "has #0" in asked
    assert "order: #= @1 #=- @0 @new #new-." in said
    other = "So Ruth has 40 stamps and Nora has 2. Share them.", "That is 42 for Nora; 38 are for Ruth. Emil has 1."
    assert row_features(*other, names)[1] == said, "who and how many makes no difference"


def test_a_number_that_no_step_leads_to_is_new() -> None:
    for answer, mark in (("3 x 4 = 12", "#=+"), ("3 x 4 = 13", "#new+"), ("4 - 3 = 1", "#=-")):
        assert row_features("There are 3 rows of 4.", answer, frozenset())[1].count(mark) == 1


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
