"""Agreement: equal to a hand computation, to statsmodels and to nltk; intervals cover; what does not exist is None."""

from __future__ import annotations

import numpy as np
import pytest
from nltk.metrics.agreement import AnnotationTask
from statsmodels.stats.inter_rater import cohens_kappa

from autocaft.stats import Cells, Interval, krippendorff_alpha, pair_agreement, seed_cluster_ratio, wilson


def _value(interval: Interval | None) -> float:
    assert interval is not None
    return interval.value


def test_figures_equal_a_hand_computation() -> None:
    # 40 directions; the person ablates 10, the judge 8, both 6
    found = pair_agreement(Cells(both=6, truth_only=4, other_only=2, neither=28))
    assert _value(found.precision) == pytest.approx(6 / 8)
    assert _value(found.recall) == pytest.approx(6 / 10)
    assert _value(found.f1) == pytest.approx(12 / 18)
    observed, by_chance = 34 / 40, (10 / 40) * (8 / 40) + (30 / 40) * (32 / 40)
    assert _value(found.kappa) == pytest.approx((observed - by_chance) / (1 - by_chance))
    # alpha: 80 ratings, 18 of them yes; 6 units disagree, each with both orders of a pair
    expected_disagreement = 2 * 18 * 62 / (80 * 79)
    assert _value(found.alpha) == pytest.approx(1 - (12 / 80) / expected_disagreement)


def test_kappa_equals_statsmodels_on_random_tables() -> None:
    rng = np.random.default_rng(0)
    for counts in rng.integers(1, 60, size=(25, 4)):
        both, truth_only, other_only, neither = (int(count) for count in counts)
        theirs = cohens_kappa(np.array([[both, truth_only], [other_only, neither]])).kappa
        assert _value(pair_agreement(Cells(both, truth_only, other_only, neither), n=1).kappa) == pytest.approx(theirs)


def test_alpha_equals_nltk_with_three_raters_and_gaps() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(60) < 0.3
    ratings: list[list[bool | None]] = []
    for value in truth:
        unit: list[bool | None] = [bool(value ^ (rng.random() < 0.2)) for _ in range(3)]
        if rng.random() < 0.4:
            unit[int(rng.integers(3))] = None
        ratings.append(unit)
    data = [
        (f"r{r}", f"u{u}", said) for u, unit in enumerate(ratings) for r, said in enumerate(unit) if said is not None
    ]
    assert _value(krippendorff_alpha(ratings)) == pytest.approx(AnnotationTask(data).alpha())


def test_a_unit_with_one_rating_tells_nothing() -> None:
    ratings: list[list[bool | None]] = [[True, True], [False, False], [True, False], [False, False]]
    assert krippendorff_alpha(ratings) == krippendorff_alpha([*ratings, [True, None], [None, None]])
    assert krippendorff_alpha([[True, None], [None, False]]) is None


def test_a_measure_that_does_not_exist_is_none_and_not_chance() -> None:
    nothing_chosen = pair_agreement(Cells(0, 0, 0, 30))
    assert nothing_chosen.precision is nothing_chosen.recall is nothing_chosen.f1 is None
    assert nothing_chosen.kappa is nothing_chosen.alpha is None
    judge_chose_nothing = pair_agreement(Cells(0, 5, 0, 30))
    assert judge_chose_nothing.precision is None and _value(judge_chose_nothing.recall) == 0
    assert pair_agreement(Cells(0, 0, 0, 0)).kappa is None


def test_a_perfect_small_selection_is_not_certain() -> None:
    found = pair_agreement(Cells(both=3, truth_only=0, other_only=0, neither=40))
    assert found.precision is not None and found.precision.low is not None
    assert found.precision.value == 1 and found.precision.low == pytest.approx(0.438, abs=0.01)


def test_perfect_agreement_has_a_lower_bound_that_shrinks_with_n_and_is_near_the_rule_of_three() -> None:
    lows = []
    for n in (20, 200, 2000):
        found = pair_agreement(Cells(both=n // 10, truth_only=0, other_only=0, neither=n - n // 10))
        assert found.kappa is not None and found.alpha is not None and found.f1 is not None
        assert found.kappa.value == found.alpha.value == found.f1.value == found.kappa.high == 1
        assert found.kappa.low is not None and found.alpha.low is not None and found.f1.low is not None
        divided = wilson(0, n).high or 0
        assert found.kappa.low == pytest.approx(1 - divided / (2 * 0.1 * 0.9)), "that share of units, over chance"
        assert found.alpha.low == pytest.approx(found.kappa.low, abs=3 / n)
        assert 3 / n < divided < 4 / n + 0.01
        both = krippendorff_alpha([[True, True]] * (n // 10) + [[False, False]] * (n - n // 10))
        assert both == found.alpha
        lows.append(found.kappa.low)
    assert lows == sorted(lows) and lows[-1] > 0.98
    three = krippendorff_alpha([[True] * 3] * 20 + [[False] * 3] * 180)
    assert three is not None and three.low is not None and 0.9 < three.low < 1
    nothing_shared = pair_agreement(Cells(both=0, truth_only=5, other_only=5, neither=30)).f1
    assert nothing_shared is not None and nothing_shared.low == 0 and 0.3 < (nothing_shared.high or 0) < 0.6


def test_intervals_over_directions_cover_the_truth() -> None:
    rng = np.random.default_rng(3)
    rates = np.array([0.15, 0.05, 0.05, 0.75])
    kappa = (0.9 - (0.2 * 0.2 + 0.8 * 0.8)) / (1 - (0.2 * 0.2 + 0.8 * 0.8))
    precision = 0.75
    covered = {"kappa": 0, "precision": 0}
    for trial in range(200):
        cells = Cells(*(int(count) for count in rng.multinomial(150, rates)))
        found = pair_agreement(cells, n=400, seed=trial)
        for name, truth in (("kappa", kappa), ("precision", precision)):
            interval = getattr(found, name)
            covered[name] += interval.low <= truth <= interval.high
    assert all(0.88 <= count / 200 <= 0.99 for count in covered.values()), covered


def test_share_of_a_gain_is_the_ratio_of_sums_with_a_fair_interval() -> None:
    rng = np.random.default_rng(4)
    seeds = np.repeat(np.arange(4), 100)
    clusters = np.tile(np.arange(100) // 5, 4)
    covered = 0
    for trial in range(60):
        whole = (rng.random(400) < 0.6).astype(float)
        part = whole * (rng.random(400) < 0.7)
        found = seed_cluster_ratio(part.tolist(), whole.tolist(), seeds.tolist(), clusters.tolist(), n=400, seed=trial)
        assert found is not None and found.low is not None and found.high is not None
        assert found.value == pytest.approx(part.sum() / whole.sum())
        covered += found.low <= 0.7 <= found.high
    assert covered / 60 >= 0.9
    assert seed_cluster_ratio([1.0, 0.0], [1.0, -1.0], [0, 0], ["a", "b"]) is None
