"""What goes along with a direction: once it is ablated, no linear reader can tell the direction's coordinate."""

from __future__ import annotations

from pathlib import Path

import torch

from autocaft.discover.cross import CrossCovariance, load_cross, save_cross
from autocaft.model.directions import orthonormal_basis

N, D = 4000, 24


def planted(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Activations (N, D) in which two one-sided coordinates (N, 2) are written along two vectors (2, D), and each of
    them also moves other dimensions: what a decoder row does not say."""
    gen = torch.Generator().manual_seed(seed)
    coords_NC = torch.relu(torch.randn(N, 2, generator=gen) - 0.5)
    vectors_CD = torch.nn.functional.normalize(torch.randn(2, D, generator=gen), dim=1)
    along_CD = torch.randn(2, D, generator=gen)
    acts_ND = torch.randn(N, D, generator=gen) + 3 + coords_NC @ (4 * vectors_CD + along_CD)
    return acts_ND, coords_NC, vectors_CD


def share_told(acts_ND: torch.Tensor, coords_NC: torch.Tensor) -> float:
    """Largest share of a coordinate's variance that a linear reader tells (R^2), rounding of the ablation aside."""
    x_ND = torch.cat([acts_ND, torch.ones(len(acts_ND), 1)], dim=1).double()
    fitted_NC = x_ND @ torch.linalg.lstsq(x_ND, coords_NC.double(), rcond=1e-5, driver="gelsd").solution
    return float((fitted_NC.var(dim=0) / coords_NC.double().var(dim=0)).max())


def without(acts_ND: torch.Tensor, vectors_CD: torch.Tensor) -> torch.Tensor:
    basis_DK = orthonormal_basis(vectors_CD)
    return acts_ND - acts_ND @ basis_DK @ basis_DK.T


def test_no_linear_reader_tells_the_coordinate_afterwards() -> None:
    acts_ND, coords_NC, vectors_CD = planted()
    cross = CrossCovariance(2, D)
    for start in range(0, N, 700):
        cross.update(acts_ND[start : start + 700], coords_NC[start : start + 700])
    assert share_told(acts_ND, coords_NC) > 0.8
    assert share_told(without(acts_ND, vectors_CD), coords_NC) > 0.3, "what the decoder rows leave"
    assert share_told(without(acts_ND, cross.vectors_CD()), coords_NC) < 1e-6


def test_in_parts_as_at_once_and_from_the_disk(tmp_path: Path) -> None:
    acts_ND, coords_NC, _ = planted(1)
    parts, whole = CrossCovariance(2, D), CrossCovariance(2, D)
    whole.update(acts_ND, coords_NC)
    for acts, coords in zip(acts_ND.split(333), coords_NC.split(333), strict=True):
        parts.update(acts, coords)
    save_cross(tmp_path, parts.vectors_CD())
    torch.testing.assert_close(load_cross(tmp_path), whole.vectors_CD(), atol=1e-5, rtol=1e-5)


def test_a_coordinate_that_never_changes_removes_nothing() -> None:
    acts_ND, coords_NC, _ = planted(2)
    cross = CrossCovariance(3, D)
    cross.update(acts_ND, torch.cat([coords_NC, torch.full((N, 1), 0.0)], dim=1))
    assert float(cross.vectors_CD()[2].norm()) == 0.0
    assert orthonormal_basis(cross.vectors_CD()).shape == (D, 2)
