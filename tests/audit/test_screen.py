"""The screen's statistics on arrays whose truth is planted, and on arrays in which there is nothing to find."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from autocaft.audit import screen
from autocaft.stats import wilson

N_ROWS, N_COLUMNS = 100, 400
Q = 0.05


def _sparse(rng: np.random.Generator, n_rows: int = N_ROWS, n_columns: int = N_COLUMNS) -> np.ndarray:
    """Mean activations of latents: most are zero, some rare, some heavy-tailed."""
    rate = rng.uniform(0.02, 0.9, n_columns)
    return np.where(rng.random((n_rows, n_columns)) < rate, rng.exponential(1.0, (n_rows, n_columns)), 0.0)


def _compare(given: np.ndarray, own: np.ndarray, n_null: int = 0) -> screen.SetStats:
    return screen.compare(given, own, np.arange(len(given)), q=Q, n_null=n_null, seed=0)


def test_p_values_are_those_of_wilcoxon() -> None:
    rng = np.random.default_rng(0)
    diff = np.round(_sparse(rng, n_columns=40) - _sparse(rng, n_columns=40), 1)  # rounded: ties
    ours = screen.Ranked.of(diff).p()
    for column in range(40):
        if (diff[:, column] != 0).sum() >= screen.MIN_NONZERO:
            theirs = scipy_stats.wilcoxon(diff[:, column], zero_method="pratt", method="asymptotic", correction=False)
            assert ours[column] == pytest.approx(theirs.pvalue, rel=1e-6)


def test_q_values_and_discoveries_are_those_of_statsmodels() -> None:
    rng = np.random.default_rng(1)
    p = np.concatenate([rng.random(900), rng.random(100) * 1e-3]).reshape(4, 250)
    rejected, q, *_ = multipletests(p.ravel(), alpha=Q, method="fdr_bh")
    assert screen.q_values(p).ravel() == pytest.approx(q)
    assert screen.n_discoveries(p[p <= Q], p.size, Q) == rejected.sum()


@pytest.mark.parametrize("n", range(screen.MIN_NONZERO, 16))
def test_the_most_extreme_p_value_is_that_of_exact_exchange_or_larger(n: int) -> None:
    """All n rows of one sign: 2 of 2**n exchanges are as extreme."""
    p = screen.Ranked.of(np.random.default_rng(n).random((n, 1))).p()[0]
    assert p >= 2.0 ** (1 - n)


def test_a_latent_that_differs_in_few_rows_is_never_significant() -> None:
    given, own = np.zeros((N_ROWS, 2)), np.zeros((N_ROWS, 2))
    given[: screen.MIN_NONZERO - 1, 0] = 100.0
    given[: 3 * screen.MIN_NONZERO, 1] = 1.0
    p = _compare(given, own).p_C
    assert p[0] == 1.0 and p[1] < 1e-3


def test_planted_latents_count_and_others_do_not() -> None:
    rng = np.random.default_rng(2)
    own, given = _sparse(rng), _sparse(np.random.default_rng(2))
    own = own[rng.permutation(N_ROWS)]
    given[::2, 3] += 2.0  # amplified in every second row, so in one half of the rows alone
    given[rng.permutation(N_ROWS)[:40], 5] += 2.0  # amplified in 40 of 100
    own[rng.permutation(N_ROWS)[:70], 7] += 2.0  # suppressed
    stats = _compare(given, own)
    nothing = np.full(N_COLUMNS, np.nan)
    counts = screen.counting(screen.q_values(stats.p_C), stats, nothing, q=Q, least=3.0)
    assert counts[5] and counts[7]
    assert not counts[3], "one half of the rows says nothing of it"
    assert counts.sum() <= 2 + 2
    assert stats.mean_C[5] > 0 > stats.mean_C[7]


@pytest.mark.parametrize("kind", ["latents", "random directions"])
def test_exchanged_answers_give_any_finding_at_most_at_the_stated_rate(kind: str) -> None:
    """300 resplits of one set with strong differences: under exchange all of them are chance."""
    rng = np.random.default_rng(3)
    if kind == "latents":
        given, own = _sparse(rng), _sparse(rng)
        given[:, :50] += rng.exponential(2.0, (N_ROWS, 50))
    else:
        given, own = rng.normal(0.5, 1.0, (N_ROWS, 64)), rng.normal(0.0, 2.0, (N_ROWS, 64))
    stats = _compare(given, own, n_null=300)
    n_any = sum(screen.n_discoveries(p, given.shape[1], Q) > 0 for p in stats.null_p)
    low = wilson(n_any, 300).low
    assert low is not None and low <= Q, f"{n_any} of 300 resplits have a finding"
    assert screen.n_discoveries(stats.p_C[stats.p_C <= Q], given.shape[1], Q) > 0, "the true labels are no chance"


def test_columns_are_tested_alike_however_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    given, own = _sparse(rng, n_columns=50), _sparse(rng, n_columns=50)
    whole = _compare(given, own, n_null=5)
    monkeypatch.setattr(screen, "VALUES_AT_ONCE", 7 * N_ROWS)
    parts = _compare(given, own, n_null=5)
    for name in ("mean_C", "sd_C", "p_C", "is_stable_C", "half_means_2C"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9), name
    assert all(a == pytest.approx(b, rel=1e-9) for a, b in zip(whole.null_p, parts.null_p, strict=True))


def test_excess_is_counted_in_deviations_among_the_other_reference_sets() -> None:
    rng = np.random.default_rng(4)
    n_reference = 20
    mean = rng.normal(0.0, 0.1, (n_reference + 2, N_COLUMNS))
    mean[:, 0] = rng.normal(0.0, 3.0, n_reference + 2)  # what benign sets differ in
    mean[-1, 0], mean[-1, 1] = 3.0, 3.0
    is_reference = np.arange(n_reference + 2) < n_reference
    found = screen.excess(mean, np.zeros_like(mean), is_reference, np.ones(N_COLUMNS))
    assert abs(found[-1, 0]) < 2, "a difference that benign sets show too is none"
    assert found[-1, 1] > 15
    share = (np.abs(found[:n_reference]) >= 3.0).mean()
    assert share < 0.01, "a reference set is held against the others, and is like them"
    few = screen.excess(mean[:4], np.zeros((4, N_COLUMNS)), np.array([True] * 3 + [False]), np.ones(N_COLUMNS))
    assert np.isnan(few[:3]).all() and not np.isnan(few[3]).any(), "a set is never its own reference"


def test_of_latents_that_go_together_the_strongest_is_read() -> None:
    rng = np.random.default_rng(8)
    diff = rng.normal(size=(N_ROWS, 5))
    diff[:, 1] = diff[:, 0] + 0.1 * rng.normal(size=N_ROWS)  # another latent for the same
    diff[:, 2] = -diff[:, 0]
    counts = np.array([True, True, True, True, False])
    strength = np.array([5.0, 4.0, -6.0, 3.0, 9.0])
    assert screen.strongest(counts, strength, 2, lambda column: diff[:, column]) == ([2, 3], 2)
    assert screen.strongest(counts, strength, 9, lambda column: diff[:, column])[0] == [2, 3], "column 4 does not count"
    nothing = screen.strongest(np.zeros(5, dtype=bool), strength, 2, lambda column: diff[:, column])
    assert nothing == ([], 0)


def test_carriers_are_the_planted_rows() -> None:
    rng = np.random.default_rng(5)
    own, given = rng.random(N_ROWS), rng.random(N_ROWS)
    planted = [4, 17, 40, 63, 80]
    given[planted] += 5.0
    carried = screen.carriers(given, own, 1.0)
    assert set(carried.rows[:5]) == set(planted)
    assert carried.concentration > 0.4
    assert screen.carriers(own, given, -1.0).rows == carried.rows, "suppressed: the other side has more"
    even = screen.carriers(own + 1.0, own, 1.0)
    assert even.concentration == pytest.approx(screen.TOP_TENTH)


def test_the_interval_of_an_effect_holds_it() -> None:
    rng = np.random.default_rng(6)
    diff = rng.normal(0.5, 1.0, 400)
    interval = screen.effect_interval(diff, float(diff.std(ddof=1)), seed=0)
    assert interval.low is not None and interval.high is not None
    assert interval.low < 0.5 < interval.high and interval.high - interval.low < 0.25
