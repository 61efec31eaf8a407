"""The ablation of least change: what else must move so that a subspace's readings tell nothing, and no more.

In: subspaces with an orthonormal basis Q and the activations' covariance C by layer. Out: the same subspaces with
readers R = C⁺Q (Qᵀ C⁺ Q)⁻¹. Mode `leace` of `ablate` removes Q Rᵀ (x - mean): LEACE (arXiv 2306.03819, section 4; there
it is W⁺ (WQ)(WQ)⁺ W with W = C^(-1/2)). Of all affine maps that leave the activations without covariance with the
coordinates behind Q it changes them least, in squared distance as in the norm of any other scalar product.

Q spans covariances of the activations with coordinates, not directions: with a direction v as coordinate, that is C v.

The decision a reader would question: C is not shrunk. Whatever C is, no covariance is left (Q Rᵀ maps Q to itself); C
only decides how little else changes, and there are a hundred tokens to a dimension where directions are sought.

Key: D d_model, K basis columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from autocaft.model.directions import Subspace, orthonormal_basis

RTOL = 1e-7
"""Eigenvalues of the covariance below this share of the largest are rounding of fp32, and count as zero."""


class LeastChange:
    """Gives subspaces their readers; a layer's covariance is inverted once."""

    def __init__(self, covariance_by_layer: Mapping[int, Tensor], *, spans: Literal["direction", "covariance"]) -> None:
        """Args:
        covariance_by_layer: (D, D) of the activations that are ablated.
        spans: what the subspaces handed over are spanned by: `covariance` of activations with coordinates, or
            `direction`s whose projections are the coordinates.
        """
        self.covariance_by_layer, self.spans = covariance_by_layer, spans
        self._inverse_of = cache(self._invert)

    def __call__(self, subspace: Subspace) -> Subspace:
        """The subspace that goes along with the coordinates, and its reader."""
        layer, basis_DK = subspace.layer, subspace.basis_DK
        if self.spans == "direction":
            basis_DK = orthonormal_basis(basis_DK.T.double() @ self.covariance_by_layer[layer].double())
        weighed_DK = self._inverse_of(layer) @ basis_DK.double()
        read_DK = weighed_DK @ torch.linalg.pinv(basis_DK.double().T @ weighed_DK, hermitian=True)
        return replace(subspace, basis_DK=basis_DK, read_DK=read_DK.float().contiguous())

    def _invert(self, layer: int) -> Tensor:
        return torch.linalg.pinv(self.covariance_by_layer[layer].double(), rtol=RTOL, hermitian=True)
