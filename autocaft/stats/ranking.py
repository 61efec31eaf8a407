"""How well scores rank positives above negatives. Ties count as they should: half for the area, as one step for AP.

In: one score and one truth value a row. Out: a number. Both raise where the figure does not exist (one class only)
instead of returning a value that reads like chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def roc_auc(scores: Sequence[float], is_positive: Sequence[bool]) -> float:
    """Chance that a random positive scores above a random negative; a tie counts one half (Mann-Whitney).

    Raises:
        ValueError: unequal lengths, a score that is not finite, or one class only.
    """
    import numpy as np

    score_array, truth = _checked(scores, is_positive)
    _, inverse, counts = np.unique(score_array, return_inverse=True, return_counts=True)
    mid_ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n_positive = int(truth.sum())
    n_negative = len(truth) - n_positive
    if n_negative == 0:
        raise ValueError("roc_auc needs at least one negative")
    rank_sum = float(mid_ranks[truth].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def average_precision(scores: Sequence[float], is_positive: Sequence[bool]) -> float:
    """Precision averaged over the recall gained at each distinct score, from the highest down. Chance: the prevalence.

    Raises:
        ValueError: unequal lengths, a score that is not finite, or no positive.
    """
    import numpy as np

    score_array, truth = _checked(scores, is_positive)
    order = np.argsort(-score_array, kind="stable")
    is_last_of_tie = np.append(np.diff(score_array[order]) != 0, True)
    hits = np.cumsum(truth[order])[is_last_of_tie]
    precision = hits / (np.flatnonzero(is_last_of_tie) + 1)
    gained = np.diff(hits, prepend=0) / truth.sum()
    return float((precision * gained).sum())


def _checked(scores: Sequence[float], is_positive: Sequence[bool]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    import numpy as np

    score_array, truth = np.asarray(scores, dtype=np.float64), np.asarray(is_positive, dtype=np.bool_)
    if score_array.shape != truth.shape or score_array.ndim != 1:
        raise ValueError(f"needs one truth value a score, got {score_array.shape} and {truth.shape}")
    if not np.isfinite(score_array).all():
        raise ValueError("a score is not a finite number: leave unscored rows out and count them as unscored")
    if not truth.any():
        raise ValueError("needs at least one positive")
    return score_array, truth
