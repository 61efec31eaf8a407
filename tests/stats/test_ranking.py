"""Ranking figures against counts by hand and brute force."""

from __future__ import annotations

import numpy as np
import pytest

from autocaft.stats import average_precision, roc_auc


def test_perfect_and_reversed_rankings() -> None:
    truth = [True, True, False, False]
    assert roc_auc([4, 3, 2, 1], truth) == 1.0 and average_precision([4, 3, 2, 1], truth) == 1.0
    assert roc_auc([1, 2, 3, 4], truth) == 0.0
    assert average_precision([1, 2, 3, 4], truth) == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_a_constant_score_is_chance() -> None:
    truth = [True, False, False, False]
    assert roc_auc([5.0] * 4, truth) == 0.5
    assert average_precision([5.0] * 4, truth) == 0.25


def test_area_equals_the_share_of_pairs_with_ties_as_half() -> None:
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 6, 200).astype(float), rng.random(200) < 0.3
    gaps = scores[truth][:, None] - scores[~truth][None, :]
    assert roc_auc(scores.tolist(), truth.tolist()) == pytest.approx(float(np.mean((gaps > 0) + 0.5 * (gaps == 0))))


def test_order_of_tied_rows_does_not_matter() -> None:
    scores = [3.0, 3.0, 1.0, 1.0]
    assert average_precision(scores, [True, False, True, False]) == average_precision(
        scores, [False, True, False, True]
    )


def test_one_class_has_no_figure() -> None:
    with pytest.raises(ValueError, match="negative"):
        roc_auc([1.0, 2.0], [True, True])
    with pytest.raises(ValueError, match="positive"):
        average_precision([1.0, 2.0], [False, False])
