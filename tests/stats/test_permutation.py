"""Sign-flip tests: exact where they can be, fair under a null, and blind to how many rows a unit has."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test

from autocaft.stats import holm, sign_flip_test


def _by_hand(sums: list[float]) -> float:
    """Share of all patterns of signs whose sum is as far from zero."""
    observed = abs(sum(sums))
    patterns = list(product((1, -1), repeat=len(sums)))
    far = [abs(sum(s * v for s, v in zip(signs, sums, strict=True))) >= observed - 1e-9 for signs in patterns]
    return sum(far) / len(patterns)


def test_few_units_give_the_p_of_counting_by_hand() -> None:
    rng = np.random.default_rng(0)
    for n_units in range(2, 9):
        units = rng.integers(0, n_units, 40).tolist() + list(range(n_units))
        differences = rng.integers(-1, 2, len(units)).astype(float).tolist()
        sums = [sum(d for d, u in zip(differences, units, strict=True) if u == unit) for unit in range(n_units)]
        found = sign_flip_test(differences, units)
        assert found.is_exact and found.n_units == n_units
        assert found.p == pytest.approx(_by_hand(sums)), (n_units, sums)


def test_units_that_all_say_the_same_give_the_smallest_p_and_no_smaller_one() -> None:
    eight = sign_flip_test([1.0] * 800, [i % 8 for i in range(800)])
    assert eight.p == eight.smallest_p == 2 / 256
    many = sign_flip_test([1.0] * 60, list(range(60)))
    assert not many.is_exact and many.p == many.smallest_p == 2 / 10_000
    alone = sign_flip_test([1.0, 1.0], ["one", "one"])
    assert (alone.p, alone.smallest_p) == (1.0, 1.0)


def test_one_pair_a_unit_is_the_test_of_scipy_and_equal_sizes_are_the_binomial_test() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.6, 1, 10), rng.normal(0, 1, 10)
    theirs = permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_test((a - b).tolist(), list(range(10))).p == pytest.approx(theirs.pvalue)
    signs = [1.0] * 9 + [-1.0] * 3
    assert sign_flip_test(signs, list(range(12))).p == pytest.approx(binomtest(9, 12).pvalue)


@pytest.mark.parametrize("n_units", [8, 40])
def test_p_is_uniform_under_a_null_with_clusters_and_not_if_rows_were_the_units(n_units: int) -> None:
    """Arms that differ from template to template by chance alone, 6 rows each that rise and fall together."""
    rng = np.random.default_rng(2)
    by_unit, by_row = [], []
    for _ in range(300):
        effects = rng.normal(0, 0.5, n_units).repeat(6) + rng.normal(0, 0.3, 6 * n_units)
        units = np.arange(n_units).repeat(6).tolist()
        by_unit.append(sign_flip_test(effects.tolist(), units, n=999).p)
        by_row.append(sign_flip_test(effects.tolist(), list(range(len(units))), n=199).p)
    for level in (0.05, 0.2, 0.5, 0.8):
        share = np.mean(np.array(by_unit) <= level)
        assert abs(share - level) < 3.3 * np.sqrt(level * (1 - level) / 300), (level, share)
    assert np.mean(np.array(by_row) <= 0.05) > 0.2


def test_holm_is_that_of_the_paper() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.02]) == [0.02] and holm([]) == []


def test_nothing_to_test_is_an_error() -> None:
    for differences, units in (([], []), ([1.0], ["a", "b"])):
        with pytest.raises(ValueError, match="at least one"):
            sign_flip_test(differences, units)
