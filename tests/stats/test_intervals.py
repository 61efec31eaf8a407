"""Intervals: planted truth, coverage by simulation, and no false zero width."""

from __future__ import annotations

import numpy as np
import pytest

from autocaft.stats import (
    Interval,
    cluster_bootstrap,
    paired_cluster_bootstrap,
    seed_cluster_bootstrap,
    wilson,
)


def _clustered(rng: np.random.Generator, n_clusters: int, n_rows: int) -> tuple[list[float], list[int], float]:
    """0/1 rows whose chance of 1 differs from cluster to cluster; the true mean is .6."""
    chances = rng.beta(1.2, 0.8, size=n_clusters)
    values = (rng.random((n_clusters, n_rows)) < chances[:, None]).astype(float)
    return values.ravel().tolist(), np.repeat(np.arange(n_clusters), n_rows).tolist(), 0.6


def _holds(interval: Interval, truth: float) -> bool:
    return interval.low is not None and interval.high is not None and interval.low <= truth <= interval.high


def test_cluster_interval_covers_the_truth_and_a_row_interval_does_not() -> None:
    rng = np.random.default_rng(0)
    covered, covered_by_rows = 0, 0
    for trial in range(200):
        values, clusters, truth = _clustered(rng, 40, 8)
        covered += _holds(cluster_bootstrap(values, clusters, n=400, seed=trial), truth)
        covered_by_rows += _holds(cluster_bootstrap(values, list(range(len(values))), n=400, seed=trial), truth)
    assert 0.90 <= covered / 200 <= 0.99
    assert covered_by_rows / 200 < 0.85


def test_clusters_make_the_interval_wider_than_rows() -> None:
    values, clusters, _ = _clustered(np.random.default_rng(1), 30, 8)
    by_cluster = cluster_bootstrap(values, clusters)
    by_row = cluster_bootstrap(values, list(range(len(values))))
    assert by_cluster.low is not None and by_cluster.high is not None
    assert by_row.low is not None and by_row.high is not None
    assert by_cluster.high - by_cluster.low > 1.2 * (by_row.high - by_row.low)
    assert by_cluster.value == by_row.value


def test_all_right_is_bounded_by_the_number_of_clusters_not_of_rows() -> None:
    interval = cluster_bootstrap([1.0] * 240, [row // 4 for row in range(240)])
    assert interval.method == "wilson" and interval.n_clusters == 60
    assert interval.high == 1.0 and interval.low == pytest.approx(1 - 0.060, abs=0.002)


def test_equal_cluster_means_get_no_false_zero_width() -> None:
    # a model that always takes the first option scores .5 on every template
    interval = cluster_bootstrap([1.0, 0.0] * 30, [row // 2 for row in range(60)])
    assert interval.method == "wilson"
    assert interval.low is not None and interval.low < 0.4 and interval.value == 0.5


def test_one_cluster_of_values_that_are_no_shares_has_no_interval() -> None:
    interval = cluster_bootstrap([12.0, 14.0], ["a", "a"])
    assert (interval.low, interval.high, interval.method) == (None, None, "none")
    assert interval.overlaps(wilson(1, 2))


def test_custom_statistic_and_mean_agree() -> None:
    values, clusters, _ = _clustered(np.random.default_rng(2), 20, 4)
    fast = cluster_bootstrap(values, clusters, n=3000)
    slow = cluster_bootstrap(values, clusters, statistic=lambda rows: float(rows.mean()), n=3000)
    assert fast.low == pytest.approx(slow.low, abs=0.02) and fast.high == pytest.approx(slow.high, abs=0.02)


def test_same_seed_gives_the_same_interval() -> None:
    values, clusters, _ = _clustered(np.random.default_rng(3), 20, 4)
    assert cluster_bootstrap(values, clusters, seed=7) == cluster_bootstrap(values, clusters, seed=7)


def test_paired_difference_is_narrower_than_two_arms_apart_and_keeps_its_sign() -> None:
    rng = np.random.default_rng(4)
    values, clusters, _ = _clustered(rng, 60, 4)
    better = [1.0 if rng.random() < 0.2 else value for value in values]
    difference = paired_cluster_bootstrap(better, values, clusters)
    assert difference.low is not None and difference.high is not None
    assert 0 < difference.low < difference.value < difference.high
    assert difference.high - difference.low < 0.1
    assert paired_cluster_bootstrap(values, better, clusters).value == pytest.approx(-difference.value)


def test_paired_difference_of_equal_arms_is_bounded_by_clusters() -> None:
    difference = paired_cluster_bootstrap([1.0] * 40, [1.0] * 40, [row // 4 for row in range(40)])
    assert difference.value == 0.0 and difference.method == "wilson"
    assert difference.low == pytest.approx(-0.278, abs=0.01)


def test_seed_interval_sees_the_spread_between_seeds() -> None:
    rng = np.random.default_rng(5)
    clusters = np.repeat(np.arange(30), 4)
    values, seeds, labels = [], [], []
    for seed, chance in enumerate([0.3, 0.5, 0.7, 0.8, 0.9]):
        values += (rng.random(120) < chance).astype(float).tolist()
        seeds += [seed] * 120
        labels += clusters.tolist()
    both = seed_cluster_bootstrap(values, seeds, labels)
    clusters_only = cluster_bootstrap(values, labels)
    assert both.low is not None and both.high is not None
    assert clusters_only.low is not None and clusters_only.high is not None
    assert both.high - both.low > 2 * (clusters_only.high - clusters_only.low)
    one_seed = seed_cluster_bootstrap(values[:120], seeds[:120], labels[:120])
    assert one_seed == cluster_bootstrap(values[:120], labels[:120])


def test_seeds_weigh_the_same_however_many_rows_they_have() -> None:
    interval = seed_cluster_bootstrap([1.0] * 30 + [0.0] * 10, [0] * 30 + [1] * 10, [i % 10 for i in range(40)])
    assert interval.value == 0.5


@pytest.mark.parametrize("n", [1, 3, 20, 400])
def test_wilson_is_that_of_statsmodels(n: int) -> None:
    from statsmodels.stats.proportion import proportion_confint

    for k in {0, 1, n // 3, n - 1, n, n / 7, n - 0.25}:  # a mean share of clusters need be no whole number of them
        found = wilson(k, n)
        assert (found.low, found.high) == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-12)


@pytest.mark.parametrize(("k", "n", "low", "high"), [(0, 20, 0.0, 0.161), (10, 20, 0.299, 0.701), (20, 20, 0.839, 1.0)])
def test_wilson_matches_published_values(k: int, n: int, low: float, high: float) -> None:
    interval = wilson(k, n)
    assert interval.low == pytest.approx(low, abs=1e-3) and interval.high == pytest.approx(high, abs=1e-3)


@pytest.mark.parametrize("values", [[], [float("nan")], [None]])
def test_unscored_rows_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError):
        cluster_bootstrap(values, ["a"] * len(values))
