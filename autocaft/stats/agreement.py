"""Agreement of raters who each said yes, no or nothing about the same units, with intervals over the units.

In: yes and no, unit by unit. Out: intervals of precision, recall, F1, Cohen's kappa and Krippendorff's alpha; None
where a measure does not exist (nothing chosen, all raters said one and the same), never a number that reads like
chance.

The decision a reader would question: kappa and alpha are written out here though statsmodels and nltk have them. A
bootstrap needs each some thousand times a table, at 2 ms a call there; here all resamples are one array. The tests
hold both equal to those libraries. Where no unit divides the raters, every resample is the same and would say that they
always agree. There the lower bound is the measure at the largest share of divided units that none of n leaves open
(Wilson's, near the rule of three).

Key: P patterns (units that were rated alike are counted, not listed), R resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autocaft.stats.intervals import Interval, wilson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

N_RESAMPLES = 2000
TWO_RATERS = ((2, 2), (1, 2), (1, 2), (0, 2))
"""The four cells as patterns (number of yes, number of ratings)."""
Measure = Callable[["Array"], "Array"]
"""Counts RP to values R; NaN where the measure does not exist."""


@dataclass(frozen=True, slots=True)
class Cells:
    """The four cells of two raters' table; `truth` is the rater that precision and recall are measured against."""

    both: int
    truth_only: int
    other_only: int
    neither: int

    @classmethod
    def of(cls, truth: Sequence[bool], other: Sequence[bool]) -> Cells:
        """Count units that both rated."""
        counts = Counter(zip(truth, other, strict=True))
        return cls(counts[True, True], counts[True, False], counts[False, True], counts[False, False])

    @property
    def n(self) -> int:
        """Units in all."""
        return self.both + self.truth_only + self.other_only + self.neither


@dataclass(frozen=True, slots=True)
class PairAgreement:
    """How far one rater's choice is another's."""

    cells: Cells
    precision: Interval | None
    """Share of the other's choice that `truth` chose too."""
    recall: Interval | None
    f1: Interval | None
    kappa: Interval | None
    """Cohen (1960): agreement beyond what two raters with these rates reach by chance."""
    alpha: Interval | None
    """Krippendorff (1970), nominal: the same with one common rate, and defined for several raters and gaps."""


def pair_agreement(cells: Cells, *, n: int = N_RESAMPLES, seed: int = 0) -> PairAgreement:
    """All measures of one table, each with its interval from resampled units."""
    counts = [cells.both, cells.truth_only, cells.other_only, cells.neither]
    chosen_by_other, chosen_by_truth = cells.both + cells.other_only, cells.both + cells.truth_only
    return PairAgreement(
        cells,
        precision=_bounded(_bootstrap(counts, _precision, n, seed), cells.both, chosen_by_other),
        recall=_bounded(_bootstrap(counts, _recall, n, seed), cells.both, chosen_by_truth),
        f1=_f1_bounded(_bootstrap(counts, _f1, n, seed), cells),
        kappa=_perfect_bounded(_bootstrap(counts, _kappa, n, seed), cells.n, _kappa_at(cells)),
        alpha=_perfect_bounded(
            _bootstrap(counts, _alpha_of(TWO_RATERS), n, seed), cells.n, _alpha_at(counts, TWO_RATERS)
        ),
    )


def krippendorff_alpha(
    ratings: Sequence[Sequence[bool | None]], *, n: int = N_RESAMPLES, seed: int = 0
) -> Interval | None:
    """Alpha of any number of raters; one sequence a unit, None where a rater said nothing.

    A unit that fewer than two raters rated tells nothing and is left out, as Krippendorff has it.
    """
    said = [[rating for rating in unit if rating is not None] for unit in ratings]
    patterns = Counter((sum(unit), len(unit)) for unit in said if len(unit) > 1)
    if not patterns:
        return None
    counts, kinds = list(patterns.values()), list(patterns)
    found = _bootstrap(counts, _alpha_of(kinds), n, seed)
    return _perfect_bounded(found, sum(counts), _alpha_at(counts, kinds))


def cell_measures(truth_N: Any, other_RN: Any) -> dict[str, Array]:
    """F1 and kappa (R,) of R choices among N units against one; NaN where a measure does not exist."""
    import numpy as np

    both_R, other_R = (other_RN & truth_N).sum(axis=1), other_RN.sum(axis=1)
    truth_only_R, other_only_R = truth_N.sum() - both_R, other_R - both_R
    neither_R = len(truth_N) - both_R - truth_only_R - other_only_R
    counts_RP = np.stack([both_R, truth_only_R, other_only_R, neither_R], axis=1).astype(np.float64)
    return {"f1": _f1(counts_RP), "kappa": _kappa(counts_RP)}


def _bootstrap(counts: Sequence[int], measure: Measure, n: int, seed: int) -> Interval | None:
    """The measure of the counts, and its middle 95 % over resampled units; resamples without a value are left out."""
    import numpy as np

    counts_P = np.asarray(counts, dtype=np.float64)
    total = int(counts_P.sum())
    if total == 0:
        return None
    value = float(measure(counts_P[None])[0])
    if np.isnan(value):
        return None
    draws_RP = np.random.default_rng(seed).multinomial(total, counts_P / total, size=n).astype(np.float64)
    draws = measure(draws_RP)
    draws = draws[~np.isnan(draws)]
    if len(draws) == 0 or float(np.ptp(draws)) < 1e-12:
        return Interval(value, None, None, "none", total)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(value, float(low), float(high), "bootstrap", total)


def _bounded(interval: Interval | None, k: int, n: int) -> Interval | None:
    """A share whose every resample is the same gets Wilson's interval on the units it is a share of."""
    return wilson(k, n) if interval is not None and interval.method == "none" else interval


def _f1_bounded(interval: Interval | None, cells: Cells) -> Interval | None:
    """F1 of two choices that are the same, or share nothing: by Wilson's bounds on the share that both chose."""
    n_named = cells.n - cells.neither
    if interval is None or interval.method != "none" or n_named == 0 or cells.both not in (0, n_named):
        return interval
    shared = wilson(cells.both, n_named)
    assert shared.low is not None and shared.high is not None
    low, high = (2 * share / (1 + share) for share in (shared.low, shared.high))
    return Interval(interval.value, low, high, "wilson", cells.n)


def _perfect_bounded(interval: Interval | None, n: int, at_divided: Callable[[float], float]) -> Interval | None:
    """A measure of perfect agreement on n units: down to what it is if Wilson's bound of them divide the raters."""
    if interval is None or interval.method != "none" or interval.value < 1:
        return interval
    return Interval(interval.value, max(-1.0, at_divided(wilson(0, n).high or 1.0)), 1.0, "wilson", n)


def _kappa_at(cells: Cells) -> Callable[[float], float]:
    """Kappa for a share of divided units, both raters' rates as they are."""
    chosen = (cells.both + cells.truth_only) / max(cells.n, 1), (cells.both + cells.other_only) / max(cells.n, 1)
    by_chance = chosen[0] * chosen[1] + (1 - chosen[0]) * (1 - chosen[1])
    return lambda divided: 1 - divided / (1 - by_chance)


def _alpha_at(counts: Sequence[int], patterns: Sequence[tuple[int, int]]) -> Callable[[float], float]:
    """Alpha for a share of units with one dissenter each, the rate of yes as it is."""
    n_yes = sum(count * yes for count, (yes, _) in zip(counts, patterns, strict=True))
    n_ratings = sum(count * ratings for count, (_, ratings) in zip(counts, patterns, strict=True))
    return lambda divided: 1 - (n_ratings - 1) * divided * sum(counts) / (n_yes * (n_ratings - n_yes))


def _divide(top: Array, bottom: Array) -> Array:
    """Quotient with NaN for nothing by nothing."""
    import numpy as np

    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom != 0)


def _precision(counts_RP: Array) -> Array:
    both, _, other_only, _ = counts_RP.T
    return _divide(both, both + other_only)


def _recall(counts_RP: Array) -> Array:
    both, truth_only, _, _ = counts_RP.T
    return _divide(both, both + truth_only)


def _f1(counts_RP: Array) -> Array:
    both, truth_only, other_only, _ = counts_RP.T
    return _divide(2 * both, 2 * both + truth_only + other_only)


def _kappa(counts_RP: Array) -> Array:
    both, truth_only, other_only, neither = counts_RP.T
    total = counts_RP.sum(axis=1)
    by_chance = (both + truth_only) * (both + other_only) + (neither + truth_only) * (neither + other_only)
    return _divide((both + neither) * total - by_chance, total**2 - by_chance)


def _alpha_of(patterns: Sequence[tuple[int, int]]) -> Measure:
    """Alpha for patterns (number of yes, number of ratings)."""
    import numpy as np

    yes_P, ratings_P = np.asarray(patterns, dtype=np.float64).T

    def measure(counts_RP: Array) -> Array:
        disagreeing = counts_RP @ (yes_P * (ratings_P - yes_P) / (ratings_P - 1))
        n_yes, n_ratings = counts_RP @ yes_P, counts_RP @ ratings_P
        return 1 - _divide((n_ratings - 1) * disagreeing, n_yes * (n_ratings - n_yes))

    return measure
