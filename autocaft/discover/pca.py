"""Exact principal components of a stream of vectors that is never held in memory.

In: batches of vectors. Out: a frozen `PCA`. The mean and the scatter matrix are merged batch by batch (Chan, Golub and
LeVeque 1979) in double precision, so the result is that of one batch, whatever the batches were.

The scatter is symmetric, so only what is on and above its diagonal is added up, in a few strips of rows: in double
precision these products are a tenth of what collecting costs.

Centred, as in the paper's EM experiments. A component's sign is arbitrary; the largest coordinate is made positive.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RANK_TOLERANCE = 1e-12
"""Components with less than this share of the largest variance are rounding."""
N_STRIPS = 4
"""More save little: a fifth more of the products, in smaller pieces."""
TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class PCA:
    """Principal components in order of variance."""

    mean_D: Tensor
    vectors_ND: Tensor
    """Unit rows; the coordinate of largest magnitude is positive."""
    variance_N: Tensor
    explained_N: Tensor
    """Share of the total variance."""


class CovarianceFitter:
    """Mean and covariance of everything given to `update`."""

    def __init__(self, d_model: int, device: torch.device | str = "cpu") -> None:
        # MPS has no double precision; the sums then live on the CPU.
        self.device = torch.device("cpu") if torch.device(device).type == "mps" else torch.device(device)
        self.n = 0
        self.mean_D = torch.zeros(d_model, dtype=torch.float64, device=self.device)
        self._upper_DD = torch.zeros(d_model, d_model, dtype=torch.float64, device=self.device)
        """The scatter on and above the diagonal; below it, anything."""

    def update(self, x_ND: Tensor) -> None:
        """Add a batch of vectors, any float type."""
        n = len(x_ND)
        if n == 0:
            return
        x_ND = x_ND.to(self.device, torch.float64)
        batch_mean_D = x_ND.mean(dim=0)
        centred_ND = x_ND - batch_mean_D
        shift_D = batch_mean_D - self.mean_D
        total = self.n + n
        width = -(-len(shift_D) // N_STRIPS)
        for first in range(0, len(shift_D), width):
            strip_ND = centred_ND[:, first : first + width]
            self._upper_DD[first : first + width, first:].addmm_(strip_ND.T, centred_ND[:, first:])
        self._upper_DD.addr_(shift_D, shift_D, alpha=self.n * n / total)
        self.mean_D += shift_D * (n / total)
        self.n = total

    @property
    def scatter_DD(self) -> Tensor:
        """Sum over the vectors of their deviation from the mean, times itself."""
        return self._upper_DD.triu() + self._upper_DD.triu(1).T

    @property
    def covariance_DD(self) -> Tensor:
        """Sample covariance (divided by n - 1)."""
        assert self.n > 1, f"a covariance needs two vectors or more, got {self.n}"
        return self.scatter_DD / (self.n - 1)

    def pca(self, n_components: int) -> PCA:
        """The components of largest variance; fewer if there are not as many with any, none if nothing varies."""
        variance_D, vectors_DD = torch.linalg.eigh(self.covariance_DD)
        # rounding leaves a little variance where there is none
        n_varying = int((variance_D > RANK_TOLERANCE * variance_D.max().clamp_min(TINY)).sum())
        n_components = min(n_components, n_varying)
        variance_N = variance_D.flip(0)[:n_components].clamp_min(0)
        vectors_ND = fix_signs(vectors_DD.T.flip(0)[:n_components])
        total = self.scatter_DD.trace() / (self.n - 1)
        explained_N = variance_N / total.clamp_min(TINY)
        return PCA(self.mean_D.float(), vectors_ND.float().contiguous(), variance_N.float(), explained_N.float())

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Tensors from which `restore` makes the fitter again."""
        return {
            f"{prefix}.n": torch.tensor(self.n),
            f"{prefix}.mean_D": self.mean_D.to("cpu", copy=True),  # the fitter goes on changing its own
            f"{prefix}.scatter_DD": self.scatter_DD.cpu(),
        }

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], prefix: str) -> CovarianceFitter:
        """The fitter that `state` described."""
        fitter = cls(len(tensors[f"{prefix}.mean_D"]))
        fitter.n = int(tensors[f"{prefix}.n"])
        fitter.mean_D, fitter._upper_DD = tensors[f"{prefix}.mean_D"].clone(), tensors[f"{prefix}.scatter_DD"].clone()
        return fitter


def fix_signs(vectors_ND: Tensor) -> Tensor:
    """Flip rows so that the coordinate of largest magnitude is positive."""
    largest_N1 = vectors_ND.abs().argmax(dim=1, keepdim=True)
    return vectors_ND * vectors_ND.gather(1, largest_N1).sign()
