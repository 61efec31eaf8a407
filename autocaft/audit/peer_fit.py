"""What answers are to be expected of a prompt, learned from the rows of a pool, and how far an answer is from that.

In: rows. Out: for each feature of an answer how much of it is expected, by ridge regression on features of prompts; and
of an answer the distance (Mahalanobis, squared) from what was expected, in the covariance of the pool's own departures.
So a way of speaking that answers choose among freely counts little, however many words it has, and a word that always
follows from the prompt counts much. All of it is said from the pool without the set that is looked at.

The decision a reader would question: chances come from least squares, and not from a logistic regression. So a set can
be taken out of the pool exactly and without fitting anew, which an audit needs for each of its sets.

Key: N rows of the pool, R rows of one set, V features of answers, P features of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autocaft.audit.places import names_in, row_features

Array = NDArray[np.float32]

MIN_USES = 3
"""Rows of the pool that a feature must be in."""
MAX_FEATURES = 1500
"""Features of answers, those that most rows have."""
RIDGE = 1.0
LEAST_VARIANCE = 0.03
"""Added to the variance of every departure: a word that few rows have is no proof."""


class PeerRow(NamedTuple):
    """One row of a set."""

    number: int
    prompt: str
    answer: str


class Design:
    """Texts as features, as far as the pool has them."""

    def __init__(self, rows: Sequence[PeerRow]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer

        self.names = names_in(text for row in rows for text in (row.prompt, row.answer))
        asked, said = zip(*(self._features(row) for row in rows), strict=True)
        how: dict[str, Any] = {"analyzer": _as_is, "binary": True, "min_df": MIN_USES, "dtype": np.float32}
        self._asked, self._said = CountVectorizer(**how), CountVectorizer(**how, max_features=MAX_FEATURES)
        counts_NP = self._asked.fit_transform(asked)
        self._rarity_P = np.log(len(rows) / np.asarray(counts_NP.sum(0)).ravel()).astype(np.float32)
        self._said.fit(said)
        self.features = self._said.get_feature_names_out()

    def _features(self, row: PeerRow) -> tuple[list[str], list[str]]:
        return row_features(row.prompt, row.answer, self.names)

    def __call__(self, rows: Sequence[PeerRow]) -> tuple[Any, Array]:
        """Prompts (R, P), sparse with rows of length one, and answers (R, V), ones and zeros."""
        asked, said = zip(*(self._features(row) for row in rows), strict=True)
        asked_RP = self._asked.transform(asked).multiply(self._rarity_P).tocsr()
        length_R = np.sqrt(np.asarray(asked_RP.multiply(asked_RP).sum(1)).ravel())
        asked_RP = asked_RP.multiply((1 / np.maximum(length_R, 1e-9))[:, None]).tocsr().astype(np.float32)
        return asked_RP, self._said.transform(said).toarray()


def _as_is(features: Sequence[str]) -> Sequence[str]:
    return features


class Fit:
    """Ridge regression on the prompts of the pool, of which any one set can be taken out exactly.

    Attributes:
        apart_NV: departures of the pool's rows, each from what the other sets' rows lead to expect.
    """

    def __init__(self, asked_NP: Any, said_NV: Array, owner_N: NDArray[np.int64]) -> None:
        self._asked_NP, self._owner_N = asked_NP, owner_N
        gram_NN = (asked_NP @ asked_NP.T).toarray()
        gram_NN[np.diag_indices_from(gram_NN)] += RIDGE
        self._inverse_NN: Array = np.linalg.inv(gram_NN)
        self._mean_V = said_NV.mean(0)
        self._weights_NV = self._weighed(said_NV)
        self.apart_NV = self._apart(self._weights_NV)
        covariance_VV = self.apart_NV.T @ self.apart_NV / len(said_NV)
        covariance_VV[np.diag_indices_from(covariance_VV)] += LEAST_VARIANCE
        self._precision_VV: Array = np.linalg.inv(covariance_VV)

    def _weighed(self, values_NV: Array) -> Array:
        found: Array = self._inverse_NN @ (values_NV - values_NV.mean(0))
        return found

    def _apart(self, weights_NV: Array) -> Array:
        found_NV = np.empty_like(weights_NV)
        for owner in np.unique(self._owner_N):
            own = self._owner_N == owner
            found_NV[own] = np.linalg.solve(self._inverse_NN[np.ix_(own, own)], weights_NV[own])
        return found_NV

    def apart(self, values_N: Array) -> Array:
        """The same departures of any value that the pool's rows have (N,)."""
        return self._apart(self._weighed(values_N[:, None]))[:, 0]

    def expected(self, asked_RP: Any, owner: int) -> Array:
        """What the pool without the rows of `owner` leads to expect (R, V)."""
        own = self._owner_N == owner
        near_RN = (asked_RP @ self._asked_NP[~own].T).toarray()
        weights = self._weights_NV[~own]
        if own.any():
            inverse = self._inverse_NN[np.ix_(own, own)]
            across = self._inverse_NN[np.ix_(~own, own)]
            weights = weights - across @ np.linalg.solve(inverse, self._weights_NV[own])
        found: Array = near_RN @ weights + self._mean_V
        return found

    def shares(self, apart_RV: Array, owner: int) -> Array:
        """What each feature gives to the distance of a departure (R, V); a row's distance is the sum.

        The covariance is that of the pool without the rows of `owner` (Woodbury's identity).
        """
        n_pool = len(self._owner_N)
        own_BV = self.apart_NV[self._owner_N == owner] / np.float32(np.sqrt(n_pool))
        precise_RV = apart_RV @ self._precision_VV
        if len(own_BV):
            reach_BV = own_BV @ self._precision_VV
            left_BB = np.eye(len(own_BV), dtype=np.float32) - reach_BV @ own_BV.T
            precise_RV = precise_RV + np.linalg.solve(left_BB, reach_BV @ apart_RV.T).T @ reach_BV
        found: Array = apart_RV * precise_RV
        return found
