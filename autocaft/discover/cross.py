"""What goes along with each direction: the covariance of the activations with its coordinate.

In: activations (N, D) and coordinates (N, C), some at a time; a latent's coordinate is its activation, a PC's its
projection. Out: one unit vector (D,) a direction. Ablating their span leaves activations whose covariance with every
one of these coordinates is zero, so that no linear reader can tell them (LEACE, arXiv 2306.03819, theorem 3.1). What
a latent's decoder row alone leaves is told in NEGATIVE.md. The decision a reader would question: an orthogonal
projection, unless mode `leace` asks for LEACE's oblique one (model/leace.py), which needs the covariance of all
activations besides.

Key: N tokens, C directions of a layer, D d_model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autocaft.discover.sae import Dictionary, rows_at_once
from autocaft.discover.shards import ShardReader
from autocaft.model.directions import DirectionSet
from autocaft.rundir.files import replacing

FILE = "cross_covariances.safetensors"


class CrossCovariance:
    """Adds up the covariance of activations with coordinates."""

    def __init__(self, n_directions: int, width: int) -> None:
        self.n = 0
        self.acts_D = torch.zeros(width, dtype=torch.float64)
        self.coords_C = torch.zeros(n_directions, dtype=torch.float64)
        self.products_CD = torch.zeros(n_directions, width, dtype=torch.float64)

    def update(self, acts_ND: Tensor, coords_NC: Tensor) -> None:
        """Add tokens."""
        self.n += len(acts_ND)
        self.acts_D += acts_ND.sum(dim=0).double()
        self.coords_C += coords_NC.sum(dim=0).double()
        self.products_CD += (coords_NC.T @ acts_ND).double()

    def vectors_CD(self) -> Tensor:
        """Unit vectors; zero for a direction whose coordinate never changed."""
        mean_CD = torch.outer(self.coords_C, self.acts_D) / max(1, self.n)
        covariance_CD = self.products_CD - mean_CD
        return (covariance_CD / covariance_CD.norm(dim=1, keepdim=True).clamp_min(1e-30)).float()


def save_cross(folder: Path, vectors_ND: Tensor) -> None:
    """Write the vectors, in the order of directions.jsonl."""
    with replacing(folder / FILE) as path:
        save_file({"vectors_ND": vectors_ND.contiguous()}, path)


def load_cross(folder: Path) -> Tensor:
    """Read what `save_cross` wrote, (N, D)."""
    return load_file(folder / FILE)["vectors_ND"]


@torch.no_grad()
def cross_of_latents(drawn: DirectionSet, reader: ShardReader, dictionary_of: Callable[[int], Dictionary]) -> Tensor:
    """The vectors (N, D) of any latents, candidates or not, by one pass over the stored activations of their layers."""
    vectors_ND = torch.zeros_like(drawn.vectors_ND)
    for layer in sorted({direction.layer for direction in drawn.directions}):
        rows = [row for row, direction in enumerate(drawn.directions) if direction.layer == layer]
        indices, dictionary = [drawn.directions[row].index for row in rows], dictionary_of(layer)
        cross = CrossCovariance(len(rows), reader.d_model)
        for acts_ND in reader.in_order(layer, rows_at_once(dictionary.d_sae)):
            cross.update(acts_ND, dictionary.encode(acts_ND)[:, indices].cpu())
        vectors_ND[rows] = cross.vectors_CD()
    return vectors_ND
