"""Intervals at 95 % whose units are clusters and seeds.

In: one value a row and the cluster (and seed) of each row. Out: an `Interval`. The decision a reader would question:
where resampling can give nothing but one value (all rows right, or one cluster only), a bootstrap would report a width
of zero. There the interval is Wilson's on the number of CLUSTERS, and `method` says so; values that are no shares
(outside 0-1) get no interval at all in that case.

Key: G clusters, S seeds, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Index = NDArray[np.int64]

Z_95 = 1.959963984540054
Method = Literal["bootstrap", "wilson", "none"]
Statistic = Callable[["Array"], float]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % interval; `low` and `high` are None when no interval can be had (`method` "none")."""

    value: float
    low: float | None
    high: float | None
    method: Method = "bootstrap"
    """`bootstrap`: percentiles over resampled clusters; `wilson`: a bound from the number of clusters alone."""
    n_clusters: int = 0

    def overlaps(self, other: Interval) -> bool:
        """Whether the two intervals share a point; True when either is unknown, since nothing then tells them apart."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return True
        return self.low <= other.high and other.low <= self.high


def wilson(k: float, n: int) -> Interval:
    """Wilson's score interval for `k` successes of `n` independent trials (Wilson 1927). `k` may be fractional."""
    if n < 1 or not 0 <= k <= n:
        raise ValueError(f"wilson needs 0 <= k <= n and n >= 1, got k={k}, n={n}")
    share, z2 = k / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # rounding may leave the value a hair outside its own interval at the ends
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)), "wilson", n)


def cluster_bootstrap(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    statistic: Statistic | None = None,
    n: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of `statistic` (default: the mean over rows) over `n` resamples of whole clusters.

    Args:
        values: one number a row; leave unscored rows out and count them elsewhere.
        clusters: the cluster of each row, for example its template.
        statistic: maps a 1-d array of values to a number.

    Raises:
        ValueError: no rows, unequal lengths, or a value that is not a finite number.
    """
    import numpy as np

    row_values, row_clusters, n_clusters = _checked(values, clusters)
    rng = np.random.default_rng(seed)
    value = float(row_values.mean()) if statistic is None else float(statistic(row_values))
    if statistic is None:
        weights_RG = resample_weights(rng, n, n_clusters)
        sums = np.bincount(row_clusters, weights=row_values, minlength=n_clusters)
        counts = np.bincount(row_clusters, minlength=n_clusters)
        draws = (weights_RG @ sums) / (weights_RG @ counts)
    else:
        rows_by_cluster = [row_values[row_clusters == cluster] for cluster in range(n_clusters)]
        picks = rng.integers(0, n_clusters, size=(n, n_clusters))
        draws = np.array([statistic(np.concatenate([rows_by_cluster[c] for c in pick])) for pick in picks])
    return _percentiles(value, draws, n_clusters, _in_unit_range(row_values))


def paired_cluster_bootstrap(
    values_a: Sequence[float],
    values_b: Sequence[float],
    clusters: Sequence[Hashable],
    n: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of mean(a) - mean(b) where row i of both arms is the same question; clusters are resampled for both.

    When every row differs by the same amount, at most the share `wilson(0, G).high` of clusters can behave otherwise,
    so the interval is the difference plus and minus that share (for values within 0-1).

    Raises:
        ValueError: no rows, unequal lengths, or a value that is not a finite number.
    """
    import numpy as np

    a, row_clusters, n_clusters = _checked(values_a, clusters)
    b, _, _ = _checked(values_b, clusters)
    difference = a - b
    weights_RG = resample_weights(np.random.default_rng(seed), n, n_clusters)
    sums = np.bincount(row_clusters, weights=difference, minlength=n_clusters)
    counts = np.bincount(row_clusters, minlength=n_clusters)
    value = float(difference.mean())
    interval = _percentiles(value, (weights_RG @ sums) / (weights_RG @ counts), n_clusters, False)
    if interval.method == "bootstrap" or not (_in_unit_range(a) and _in_unit_range(b)):
        return interval
    bound = wilson(0, n_clusters).high or 1.0
    return Interval(value, max(-1.0, value - bound), min(1.0, value + bound), "wilson", n_clusters)


def paired_seed_cluster_bootstrap(
    values_a: Sequence[float],
    values_b: Sequence[float],
    seeds: Sequence[int],
    clusters: Sequence[Hashable],
    n: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of mean(a) - mean(b) on the same questions and seeds, both resampled as in `seed_cluster_bootstrap`.

    With one seed, or where every pair differs by the same amount, this is `paired_cluster_bootstrap`.

    Raises:
        ValueError: no rows, unequal lengths, or a value that is not a finite number.
    """
    paired = paired_cluster_bootstrap(values_a, values_b, clusters, n=n, seed=seed)
    if len(set(seeds)) == 1 or paired.method != "bootstrap":
        return paired
    gaps = [a - b for a, b in zip(values_a, values_b, strict=True)]
    return seed_cluster_bootstrap(gaps, seeds, clusters, n=n, seed=seed)


def seed_cluster_bootstrap(
    values: Sequence[float],
    seeds: Sequence[int],
    clusters: Sequence[Hashable],
    n: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean when both seeds and clusters are samples: each is resampled, crossed with the other.

    Crossed, not nested, because every seed answers the same templates (Owen 2007, the pigeonhole bootstrap; slightly
    wide rather than narrow). The value is the mean over seeds of each seed's mean. With one seed this is
    `cluster_bootstrap`, and it then says nothing about other seeds. With fewer than about five seeds the percentiles
    over seeds are too narrow: list the seeds beside it.

    Raises:
        ValueError: no rows, unequal lengths, or a value that is not a finite number.
    """
    import numpy as np

    row_values, row_clusters, n_clusters = _checked(values, clusters)
    _, row_seeds, n_seeds = _checked(values, seeds)
    if n_seeds == 1:
        return cluster_bootstrap(values, clusters, n=n, seed=seed)
    shape = (n_seeds, n_clusters)
    sums_SG, counts_SG = np.zeros(shape), np.zeros(shape)
    np.add.at(sums_SG, (row_seeds, row_clusters), row_values)
    np.add.at(counts_SG, (row_seeds, row_clusters), 1.0)
    rng = np.random.default_rng(seed)
    seeds_RS, clusters_RG = resample_weights(rng, n, n_seeds), resample_weights(rng, n, n_clusters)
    counts_RS = clusters_RG @ counts_SG.T
    # a seed whose rows were all left out of a resample carries no weight in it
    means_RS = np.divide(clusters_RG @ sums_SG.T, counts_RS, out=np.zeros_like(counts_RS), where=counts_RS > 0)
    weights_RS = seeds_RS * (counts_RS > 0)
    totals = weights_RS.sum(axis=1)
    draws = (weights_RS * means_RS).sum(axis=1)[totals > 0] / totals[totals > 0]
    value = float((sums_SG.sum(axis=1) / counts_SG.sum(axis=1)).mean())
    return _percentiles(value, draws, n_clusters, _in_unit_range(row_values))


def _checked(values: Sequence[float], labels: Sequence[Any]) -> tuple[Array, Index, int]:
    """Values as an array, labels as numbers 0..G-1 in order of appearance, and G."""
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or len(array) != len(labels):
        raise ValueError(f"needs as many values as labels and at least one, got {array.shape} and {len(labels)}")
    if not np.isfinite(array).all():
        raise ValueError("a value is not a finite number: leave unscored rows out and count them as unscored")
    return array, *label_numbers(labels)


def label_numbers(labels: Sequence[Hashable]) -> tuple[Index, int]:
    """Labels as numbers 0..G-1 in order of appearance, and G."""
    import numpy as np

    numbers: dict[Hashable, int] = {}
    codes = np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)
    return codes, len(numbers)


def resample_weights(rng: np.random.Generator, n: int, n_units: int) -> Array:
    """How often each unit is drawn in each of `n` resamples with replacement, shape R x units."""
    import numpy as np

    weights = rng.multinomial(n_units, np.full(n_units, 1.0 / n_units), size=n)
    return weights.astype(np.float64)


def _in_unit_range(values: Array) -> bool:
    return bool(values.min() >= 0.0 and values.max() <= 1.0)


def _percentiles(value: float, draws: Array, n_clusters: int, is_share: bool) -> Interval:
    """The middle 95 % of `draws`, or the bound for draws that are all the same."""
    import numpy as np

    if float(np.ptp(draws)) > 1e-12:
        low, high = np.quantile(draws, [0.025, 0.975])
        return Interval(value, float(low), float(high), "bootstrap", n_clusters)
    if not is_share or not 0.0 <= value <= 1.0:
        return Interval(value, None, None, "none", n_clusters)
    bound = wilson(value * n_clusters, n_clusters)
    return Interval(value, bound.low, bound.high, "wilson", n_clusters)
