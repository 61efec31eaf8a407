"""Independent components: principal components of the activations on task text, rotated until each says one thing.

In: activations of the base model on the training rows and on their continuations. Out: unit vectors to read by, the
least Gaussian first. A principal component of largest variance mixes what is frequent (template tokens, positions),
and its neighbours share the rest; a rotation to coordinates that are as far from Gaussian as can be finds the ones that
are silent almost everywhere and loud at few words, which is what a reader can name (ICA, Hyvarinen 1999; the paper's
own components, of tuned minus base, are in NEGATIVE.md).

The decision a reader would question: the vector of a component is the one its coordinate is read with, a row of the
unmixing matrix. What the component writes into the activations is their covariance with that coordinate, and
`train.basis = "covariance"` removes exactly that.

Key: N tokens, D d_model, C components.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from autocaft.discover.pca import CovarianceFitter, fix_signs
from autocaft.discover.shards import Shard, ShardReader

MAX_TOKENS = 20_000
"""Tokens that the rotation is found on: beyond, it costs time and changes little."""
MAX_ITERATIONS = 400
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Components:
    """Independent components, the least Gaussian first."""

    vectors_CD: Tensor
    """Unit rows; the coordinate of largest magnitude is positive."""
    kurtosis_C: Tensor
    """Excess kurtosis of each coordinate: 0 is Gaussian, more is rarer and louder."""
    n_tokens: int
    n_iterations: int
    converged: bool


def read_task_text(reader: ShardReader, layer: int, documents: Collection[int]) -> Tensor:
    """Activations (N, D) of these documents: every n-th token of them, so that at most `MAX_TOKENS` are held."""
    wanted = torch.tensor(sorted(documents))
    shards = list(reader.shards(layer))
    rows = [_rows_of(shard, wanted) for shard in shards]
    step = max(1, -(-sum(map(len, rows)) // MAX_TOKENS))
    kept: list[Tensor] = []
    skip = 0
    for shard, own in zip(shards, rows, strict=True):
        kept.append(shard.rows(0, len(shard))[own[skip::step]])
        skip = (skip - len(own)) % step
    return torch.cat(kept)


def _rows_of(shard: Shard, wanted: Tensor) -> Tensor:
    is_wanted_M = torch.isin(shard.docs_M, wanted)
    return is_wanted_M.repeat_interleave(shard.starts_M1.diff()).nonzero()[:, 0]


def independent_components(acts_ND: Tensor, n_components: int, *, seed: int) -> Components:
    """The components of these activations; fewer than asked for where there are not as many with any variance."""
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    fitter = CovarianceFitter(acts_ND.shape[1])
    fitter.update(acts_ND)
    pca = fitter.pca(n_components)
    deviation_C = pca.variance_N.double().sqrt()
    # coordinates of unit variance, so that nothing but a rotation is left to find
    whiten_CD = pca.vectors_ND.double() / deviation_C[:, None]
    scores_NC = (acts_ND.double() - fitter.mean_D) @ whiten_CD.T
    search = FastICA(whiten=False, max_iter=MAX_ITERATIONS, tol=TOLERANCE, random_state=seed)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ConvergenceWarning)
        search.fit(scores_NC.numpy())
    rotation_CC = torch.from_numpy(search.components_)
    coordinates_NC = scores_NC @ rotation_CC.T
    kurtosis_C = (coordinates_NC**4).mean(dim=0) / (coordinates_NC**2).mean(dim=0) ** 2 - 3
    order = kurtosis_C.argsort(descending=True, stable=True)
    vectors_CD = torch.nn.functional.normalize(rotation_CC @ whiten_CD, dim=1)[order]
    return Components(
        fix_signs(vectors_CD).float().contiguous(),
        kurtosis_C[order].float(),
        n_tokens=len(acts_ND),
        n_iterations=int(search.n_iter_),
        converged=not any(issubclass(warning.category, ConvergenceWarning) for warning in told),
    )
