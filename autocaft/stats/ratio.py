"""The share of one gain that another gain is, over rows that both have.

In: two gains a row (paired), the row's seed and cluster. Out: an interval of their ratio. The decision a reader would
question: it is the ratio of the summed gains, not the mean of rows' ratios, which does not exist where a row gains
nothing; and it is only worth reading where the lower gain's own interval leaves zero out, which the caller checks.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from autocaft.stats.intervals import Interval, label_numbers, resample_weights


def seed_cluster_ratio(
    upper: Sequence[float],
    lower: Sequence[float],
    seeds: Sequence[int],
    clusters: Sequence[Hashable],
    n: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """Sum of `upper` over sum of `lower`; seeds and clusters are resampled, each crossed with the other.

    Returns:
        None if the lower gain sums to zero. Without bounds if every resample gives the same value.
    """
    import numpy as np

    seed_of_row, n_seeds = label_numbers(seeds)
    cluster_of_row, n_clusters = label_numbers(clusters)
    sums_2SG = np.zeros((2, n_seeds, n_clusters))
    for gains_SG, rows in zip(sums_2SG, (upper, lower), strict=True):
        np.add.at(gains_SG, (seed_of_row, cluster_of_row), np.asarray(rows, dtype=np.float64))
    total_upper, total_lower = sums_2SG.sum(axis=(1, 2))
    if total_lower == 0:
        return None
    rng = np.random.default_rng(seed)
    seeds_RS, clusters_RG = resample_weights(rng, n, n_seeds), resample_weights(rng, n, n_clusters)
    upper_R, lower_R = np.einsum("rs,ksg,rg->kr", seeds_RS, sums_2SG, clusters_RG, optimize=True)
    draws = upper_R[lower_R != 0] / lower_R[lower_R != 0]
    value = float(total_upper / total_lower)
    if len(draws) == 0 or float(np.ptp(draws)) < 1e-12:
        return Interval(value, None, None, "none", n_clusters)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(value, float(low), float(high), "bootstrap", n_clusters)
