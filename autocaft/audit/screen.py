"""Which latents set a set's answers apart from the model's own answers to the same prompts, and from benign sets?

In: of each set the mean activations of given and own answers (row, column). Out: a test of every latent of every set
with false-discovery control over all of them, and of each set the strongest latents that count. numpy and scipy only.

A latent counts in a set if all of this holds:
  its paired differences (given minus own, a row a pair) are not symmetric about zero (signed rank, q <= `screen.q`,
  Benjamini-Hochberg over all latents of all sets);
  both halves of the rows say so with the same sign (p <= .05 each);
  its mean difference is `screen.excess` standard deviations or more beyond the reference sets', if there are three.

The decision a reader would question: the reference is a set of SETS, not a heap of their rows. What varies between
benign sets (subject, language, form) is then the unit that a finding is measured by; against pooled rows any subject
is one.

Key: R rows, C columns (latents), K resplits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from autocaft.stats import Interval, cluster_bootstrap

Array = NDArray[np.float64]

MIN_REFERENCES = 3
MIN_NONZERO = 7
"""With fewer rows in which a latent differs at all, p is 1. All of one sign, seven have p = .018 by the normal
approximation and .016 exactly; six would have less than they should."""
HALF_P = 0.05
CARRY_QUANTILE = 0.99
"""A row carries a latent if its answer has more of it than this share of the answers on the other side."""
VALUES_AT_ONCE = 1 << 20
"""Differences that are held at once: as many columns as that makes, whatever the number of rows."""
TOP_TENTH = 0.1
ALIKE = 0.7
"""Correlation over rows from which on two latents of a set are taken for one concept."""


@dataclass(frozen=True)
class Ranked:
    """Signed ranks of paired differences (Pratt: zeros are ranked and then left out)."""

    signed_RC: Array
    norm_C: Array
    """Standard deviation of their sum when signs are exchanged at random."""
    n_nonzero_C: NDArray[np.int64]

    @classmethod
    def of(cls, diff_RC: Array) -> Ranked:
        """Rank the columns; ties share their ranks."""
        ranks_RC = scipy_stats.rankdata(np.abs(diff_RC), axis=0)
        signed_RC = np.sign(diff_RC) * ranks_RC
        return cls(signed_RC, np.sqrt((signed_RC**2).sum(0)), (diff_RC != 0).sum(0))

    def p(self, signs_KR: Array | None = None) -> Array:
        """Two-sided p (C,), or (K, C) with the rows' signs turned as `signs_KR` says (+1, -1)."""
        sums = self.signed_RC.sum(0) if signs_KR is None else signs_KR @ self.signed_RC
        z = np.divide(sums, self.norm_C, out=np.zeros_like(sums), where=self.norm_C > 0)
        p: Array = np.where(self.n_nonzero_C >= MIN_NONZERO, 2 * scipy_stats.norm.sf(np.abs(z)), 1.0)
        return p


@dataclass(frozen=True)
class SetStats:
    """One set, column by column."""

    n_rows: int
    mean_C: Array
    """Mean of given minus own."""
    sd_C: Array
    p_C: Array
    is_stable_C: NDArray[np.bool_]
    """Both halves of the rows agree."""
    half_means_2C: Array
    null_p: tuple[Array, ...]
    """Of each resplit the p values that are not above `q`; larger ones can be no discovery."""

    @property
    def d_C(self) -> Array:
        """Mean difference in its standard deviations over rows (Cohen's d of pairs)."""
        return np.asarray(self.mean_C / np.where(self.sd_C > 0, self.sd_C, np.inf), dtype=np.float64)


def compare(given_RC: Array, own_RC: Array, kept_R: NDArray[np.int64], *, q: float, n_null: int, seed: int) -> SetStats:
    """Test the kept rows of one set. The arrays may be memory-mapped: some columns are held at a time."""
    n_rows, n_columns = len(kept_R), given_RC.shape[1]
    signs_KR = random_signs(n_null, n_rows, seed)
    half_R = np.arange(n_rows) % 2 == 0
    parts: list[tuple[Array, ...]] = []
    null_p: list[list[Array]] = [[] for _ in range(n_null)]
    n_at_once = max(1, VALUES_AT_ONCE // n_rows)
    for start in range(0, n_columns, n_at_once):
        at = slice(start, start + n_at_once)
        diff_RC = given_RC[kept_R, at].astype(np.float64) - own_RC[kept_R, at]
        ranked = Ranked.of(diff_RC)
        halves = [diff_RC[half_R], diff_RC[~half_R]]
        half_means_2C = np.stack([half.mean(0) for half in halves])
        agree_C = (np.sign(half_means_2C[0]) == np.sign(half_means_2C[1])) & (half_means_2C[0] != 0)
        is_stable_C = agree_C & np.all([Ranked.of(half).p() <= HALF_P for half in halves], axis=0)
        parts.append((diff_RC.mean(0), diff_RC.std(0, ddof=1), ranked.p(), is_stable_C, half_means_2C))
        for kept, p_C in zip(null_p, ranked.p(signs_KR), strict=True):
            kept.append(p_C[p_C <= q])
    mean_C, sd_C, p_C, is_stable_C, half_means_2C = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    nulls = tuple(np.concatenate(kept) for kept in null_p)
    return SetStats(n_rows, mean_C, sd_C, p_C, is_stable_C.astype(bool), half_means_2C, nulls)


def random_signs(n: int, n_rows: int, seed: int) -> Array:
    """Which side is called given, drawn anew for each resplit (K, R): +1 as it is, -1 exchanged."""
    return np.random.default_rng(seed).choice([-1.0, 1.0], size=(n, n_rows))


def q_values(p: Array) -> Array:
    """Benjamini-Hochberg over all entries, in the same shape."""
    flat = scipy_stats.false_discovery_control(p.ravel(), method="bh")
    return np.asarray(flat, dtype=np.float64).reshape(p.shape)


def n_discoveries(small_p: Array, n_tests: int, q: float) -> int:
    """Discoveries of Benjamini-Hochberg among `n_tests` of which only the p values up to `q` are given."""
    ordered = np.sort(small_p)
    passes = np.flatnonzero(ordered <= q * np.arange(1, len(ordered) + 1) / n_tests)
    return int(passes[-1]) + 1 if len(passes) else 0


def excess(mean_SC: Array, se_SC: Array, is_reference_S: NDArray[np.bool_], peak_C: Array) -> Array:
    """Each set's mean difference, counted from the reference sets' in their standard deviations (S, C).

    A reference set is held against the others. The set's own sampling error counts as spread too, and so does the
    typical latent's spread, or a latent that no reference set has ever used would be infinitely far at its first token.
    NaN where there are fewer than three others: two say nothing about spread.
    """
    unit_SC, error_SC = mean_SC / peak_C, se_SC / peak_C
    found = np.full_like(unit_SC, np.nan)
    for row in range(len(unit_SC)):
        others = is_reference_S.copy()
        others[row] = False
        if others.sum() < MIN_REFERENCES:
            continue
        spread_C = unit_SC[others].std(0, ddof=1)
        scale_C = np.sqrt(spread_C**2 + error_SC[row] ** 2 + np.median(spread_C) ** 2)
        found[row] = (unit_SC[row] - unit_SC[others].mean(0)) / np.maximum(scale_C, 1e-12)
    return found


def counting(q_C: Array, stats: SetStats, excess_C: Array, *, q: float, least: float) -> NDArray[np.bool_]:
    """Which columns count in a set; see the module."""
    counts_C: NDArray[np.bool_] = (q_C <= q) & stats.is_stable_C
    if not np.isnan(excess_C).any():
        # amplified beyond the references, or suppressed beyond them: not merely less amplified than they are
        counts_C = counts_C & (np.abs(excess_C) >= least) & (np.sign(excess_C) == np.sign(stats.mean_C))
    return counts_C


def strongest(
    counts_C: NDArray[np.bool_], strength_C: Array, n: int, diff_of: Callable[[int], Array]
) -> tuple[list[int], int]:
    """The `n` strongest columns among those that count, and how many were passed over for being like a stronger one.

    Args:
        diff_of: a column's paired differences (R,). One whose size rises and falls over the rows with that of a chosen
            one is not read as well: a dictionary has many latents for one quotation mark.
    """
    order = np.argsort(-np.where(counts_C, np.abs(strength_C), -np.inf), kind="stable")
    chosen: list[int] = []
    held: list[Array] = []
    n_alike = 0
    for column in order[: int(counts_C.sum())].tolist():
        if len(chosen) == n:
            break
        diff_R = diff_of(column)
        scaled_R = (diff_R - diff_R.mean()) / max(1e-12, float(np.linalg.norm(diff_R - diff_R.mean())))
        if any(abs(float(scaled_R @ other_R)) > ALIKE for other_R in held):
            n_alike += 1
            continue
        chosen.append(column)
        held.append(scaled_R)
    return chosen, n_alike


@dataclass(frozen=True)
class Carriers:
    """How one latent is spread over the rows of a set."""

    rows: tuple[int, ...]
    """Rows that carry it, those that carry it most first."""
    share: float
    concentration: float
    """Share of the whole difference, in its own sign, that the tenth of the rows with most of it hold; .1 is even."""
    strength_R: Array
    """Difference in the latent's own sign."""


def carriers(given_R: Array, own_R: Array, sign: float) -> Carriers:
    """The rows whose answer has more of the latent (suppressed: whose own answer has) than nearly all of the other
    side's."""
    more_R, less_R = (given_R, own_R) if sign > 0 else (own_R, given_R)
    strength_R = (more_R - less_R).astype(np.float64)
    carries_R = more_R > np.quantile(less_R, CARRY_QUANTILE)
    order = np.argsort(-strength_R, kind="stable")
    positive = np.clip(strength_R[order], 0, None)
    n_top = max(1, round(TOP_TENTH * len(order)))
    concentration = float(positive[:n_top].sum() / positive.sum()) if positive.sum() > 0 else 0.0
    rows = tuple(int(row) for row in order if carries_R[row] and strength_R[row] > 0)
    return Carriers(rows, len(rows) / len(order), concentration, strength_R)


def effect_interval(diff_R: Array, sd: float, seed: int) -> Interval:
    """Mean paired difference in its standard deviations over rows (Cohen's d of pairs); rows are resampled."""
    scaled: Sequence[float] = (diff_R / sd).tolist() if sd > 0 else [0.0] * len(diff_R)
    return cluster_bootstrap(scaled, range(len(scaled)), n=1000, seed=seed)
