"""Paired tests whose units are clusters or seeds: could the difference of two arms be one of signs alone?

In: one difference a pair (arm minus arm on the same item) and the unit of each pair. Out: a `SignTest`; and Holm's
correction for as many tests as there are arms. The decision a reader would question: all pairs of a unit change sign
together, since they rise and fall together. So 8 base questions give 256 patterns of signs and no p below 2/256,
however many answers there are; that smallest p stands beside every p.

Key: G units.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from autocaft.stats.intervals import label_numbers

N_SIGNS = 9999
"""Patterns of signs that are drawn where there are more than that; with fewer, all are counted."""


@dataclass(frozen=True, slots=True)
class SignTest:
    """A two-sided p for "the two arms are exchangeable in every unit"."""

    p: float
    smallest_p: float
    """What p would be if every unit said the same."""
    n_units: int
    is_exact: bool
    """All patterns of signs were counted, none drawn."""


def sign_flip_test(
    differences: Sequence[float], units: Sequence[Hashable], n: int = N_SIGNS, seed: int = 0
) -> SignTest:
    """Permutation test of the mean difference: each unit's pairs keep or change their sign together.

    With up to `n` patterns of signs all are counted, else `n` are drawn and the observed one counts as one more
    (Phipson and Smyth 2010), so p is never zero. The statistic is the sum over all pairs: a unit weighs as much as it
    has pairs, as in the mean.

    Raises:
        ValueError: no pair, or unequal lengths.
    """
    import numpy as np
    from scipy.stats import permutation_test

    if not len(differences) or len(differences) != len(units):
        raise ValueError(f"needs as many differences as units and at least one, got {len(differences)}, {len(units)}")
    unit_of_pair, n_units = label_numbers(units)
    sums_G = np.bincount(unit_of_pair, weights=np.asarray(differences, dtype=np.float64), minlength=n_units)
    is_exact = 2**n_units <= n
    smallest = 2.0 ** (1 - n_units) if is_exact else 2.0 / (n + 1)
    if n_units == 1:  # one unit has two patterns, and both are as far from zero
        return SignTest(1.0, smallest, n_units, is_exact)
    found = permutation_test(
        (sums_G,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=n,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return SignTest(float(found.pvalue), smallest, n_units, is_exact)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for being several (Holm 1979): the chance that any of them is this small by luck."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []
