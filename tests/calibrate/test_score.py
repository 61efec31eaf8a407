"""Figures of a calibration, on verdicts whose right figures are known."""

from __future__ import annotations

import dataclasses
import random

import pytest

from autocaft.calibrate.score import (
    Rated,
    best_threshold,
    brier_skill,
    calibration_error,
    f1_by_question,
    figures,
    fit_probability,
    probabilities,
    random_selected,
    reliability,
    selected,
    tuned,
)
from autocaft.records import Direction, Verdict


def rated(
    number: int,
    relevance: float | None,
    truth: bool | None,
    question: str = "q1",
    kind: str = "concept",
    low: float = 0.7,
) -> Rated:
    direction = Direction(f"L1.d{number}", 1, "planted", number, 1.0, "planted")
    verdict = Verdict(
        direction.id, "top", "d", 50.0, "single", 0.9, low, 1.0, 1.0, relevance, 0.0, ("q",),
        None if relevance is not None else "refusal", "", "j", "h",
    )  # fmt: skip
    return Rated(question, "family", kind, truth, direction, verdict, 3, 2000, 200)


def perfect() -> list[Rated]:
    rows = [rated(n, 95.0, True) for n in range(4)] + [rated(10 + n, 4.0, False) for n in range(6)]
    return rows + [rated(20 + n, 30.0, False, kind="random") for n in range(4)]


def test_a_perfect_judge_has_perfect_figures() -> None:
    found = figures(perfect(), tuned(perfect()), seconds=14.0)
    assert (found["f1"], found["average_precision"], found["random_selected"]) == (1.0, 1.0, 0.0)
    assert found["brier_skill"] > 0.8 and found["ece"] < 0.16 and found["n_unscored"] == 0
    assert (found["calls_per_direction"], found["seconds_per_direction"]) == (3.0, 1.0)


def test_dollars_a_direction_are_known_only_if_every_price_is() -> None:
    priced = [dataclasses.replace(item, usd=0.02 * n) for n, item in enumerate(perfect())]
    usd = figures(priced, tuned(perfect()), 1.0)["usd_per_direction"]
    assert usd == pytest.approx(0.02 * (len(priced) - 1) / 2)
    assert figures([*priced[1:], perfect()[0]], tuned(perfect()), 1.0)["usd_per_direction"] is None


def test_an_unscored_direction_is_missed_and_counted_and_never_selected() -> None:
    rows = [rated(0, None, True), rated(1, 95.0, True), rated(2, 5.0, False)]
    picks = selected(rows, 50.0)
    assert picks == [False, True, False]
    assert f1_by_question(rows, picks)["q1"] == pytest.approx(2 / 3)
    assert figures(rows + perfect(), tuned(perfect()), 1.0)["n_unscored"] == 1


def test_a_description_that_does_not_verify_is_not_selected() -> None:
    assert selected([rated(0, 99.0, True, low=0.48), rated(1, 99.0, True)], 50.0) == [False, True]


def test_the_threshold_leaves_random_directions_alone() -> None:
    rows = [rated(n, 90.0, True) for n in range(4)] + [rated(20 + n, 60.0, False, kind="random") for n in range(4)]
    threshold = best_threshold(rows)
    assert 60 < threshold <= 90
    assert random_selected(rows, selected(rows, threshold)).value == 0.0


def test_figures_are_known_at_every_threshold_a_run_may_use() -> None:
    rows = [rated(n, 90.0, True) for n in range(4)] + [rated(20 + n, 60.0, False, kind="random") for n in range(4)]
    found = figures(rows, tuned(rows), 1.0)["by_threshold"]
    assert (found["50"]["f1"], found["50"]["random_selected"]) == (pytest.approx(2 / 3), 1.0)
    assert (found["80"]["f1"], found["80"]["random_selected"]) == (1.0, 0.0)


def test_mixtures_have_no_right_answer() -> None:
    rows = [*perfect(), rated(40, 99.0, None, kind="mixture"), rated(41, 1.0, None, kind="mixture")]
    with_mixtures, without = (figures(r, tuned(perfect()), 1.0) for r in (rows, perfect()))
    assert with_mixtures["f1"] == without["f1"] and with_mixtures["brier_skill"] == without["brier_skill"]
    assert with_mixtures["mixture_relevance"] == pytest.approx(50.0)


def test_macro_f1_is_the_mean_over_concepts_not_over_directions() -> None:
    rows = [rated(n, 90.0, True, "q1") for n in range(8)] + [rated(9, 1.0, True, "q2"), rated(10, 1.0, False, "q2")]
    assert f1_by_question(rows, selected(rows, 50.0)) == {"q1": 1.0, "q2": 0.0}


def test_a_judge_that_says_the_base_rate_has_no_skill_and_no_calibration_error() -> None:
    truths = [True, False, False, False] * 5
    assert brier_skill([0.25] * 20, truths) == pytest.approx(0.0)
    assert calibration_error([0.25] * 20, truths) == pytest.approx(0.0)


def test_reliability_bins_hold_every_verdict() -> None:
    rows = reliability([0.0, 0.05, 1.0, 0.95, 0.5], [False, False, True, True, False])
    assert sum(row["n"] for row in rows) == 5 and [row["from"] for row in rows] == [0.0, 0.5, 0.9]


def test_an_overconfident_judge_is_mapped_to_what_is_true() -> None:
    """It says .99 where 70 % are true; the map is fitted on one half and used on the other."""
    rng = random.Random(0)
    truths = [rng.random() < 0.7 for _ in range(400)] + [rng.random() < 0.1 for _ in range(400)]
    shares = [0.99] * 400 + [0.02] * 400
    weights = fit_probability(shares[::2], truths[::2])
    assert calibration_error(probabilities(shares[1::2], weights), truths[1::2]) < 0.06
    assert calibration_error(shares[1::2], truths[1::2]) > 0.15
