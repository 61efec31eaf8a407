"""The ablation of least change: LEACE's own formula, nothing left to read, and less changed than by any other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from autocaft.model.directions import Subspace, load_subspaces, orthonormal_basis, save_subspaces
from autocaft.model.leace import LeastChange

N, D = 4000, 24


def planted(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Activations (N, D), correlated and far from zero, in which a label's two coordinates (N, 2) are written."""
    gen = torch.Generator().manual_seed(seed)
    label_N = torch.rand(N, generator=gen) < 0.5
    coords_NC = torch.stack([label_N.double(), label_N.double() + torch.randn(N, generator=gen).double()], dim=1)
    mixed_ND = torch.randn(N, D, generator=gen).double() @ torch.randn(D, D, generator=gen).double()
    return mixed_ND + 3 + coords_NC @ (2 * torch.randn(2, D, generator=gen).double()), coords_NC


def covariance(one_NI: Tensor, other_NJ: Tensor) -> Tensor:
    return (one_NI - one_NI.mean(0)).T @ (other_NJ - other_NJ.mean(0)) / (len(one_NI) - 1)


def least(acts_ND: Tensor, vectors_CD: Tensor, spans: Any = "covariance") -> Subspace:
    covariance_DD = covariance(acts_ND, acts_ND)
    subspace = Subspace(3, orthonormal_basis(vectors_CD), acts_ND.mean(0).float())
    return LeastChange({3: covariance_DD.float()}, spans=spans)(subspace)


def erased(acts_ND: Tensor, subspace: Subspace) -> Tensor:
    assert subspace.read_DK is not None and subspace.mean_D is not None
    return acts_ND - (acts_ND - subspace.mean_D) @ subspace.read_DK.double() @ subspace.basis_DK.double().T


def by_definition(acts_ND: np.ndarray, coords_NC: np.ndarray) -> np.ndarray:
    """x - W^+ P W (x - mean), W whitening, P on the column space of W Cov(x, z): as published, in numpy."""
    x_ND, z_NC = acts_ND - acts_ND.mean(0), coords_NC - coords_NC.mean(0)
    eigen_D, vectors_DD = np.linalg.eigh(x_ND.T @ x_ND / (len(x_ND) - 1))
    white_DD = vectors_DD @ np.diag(eigen_D**-0.5) @ vectors_DD.T
    along_DC = white_DD @ (x_ND.T @ z_NC / (len(x_ND) - 1))
    left_DK = np.linalg.svd(along_DC, full_matrices=False)[0]
    projector_DD = np.linalg.pinv(white_DD) @ left_DK @ left_DK.T @ white_DD
    return acts_ND - x_ND @ projector_DD.T


def test_it_is_what_concept_erasure_defines() -> None:
    acts_ND, coords_NC = planted()
    found = erased(acts_ND, least(acts_ND, covariance(coords_NC, acts_ND)))
    assert np.abs(found.numpy() - by_definition(acts_ND.numpy(), coords_NC.numpy())).max() < 1e-4


def test_a_direction_as_coordinate_goes_along_with_its_covariance() -> None:
    acts_ND, _ = planted(1)
    directions_CD = torch.randn(3, D, generator=torch.Generator().manual_seed(2)).double()
    found = erased(acts_ND, least(acts_ND, directions_CD, spans="direction"))
    expected = by_definition(acts_ND.numpy(), (acts_ND @ directions_CD.T).numpy())
    assert np.abs(found.numpy() - expected).max() < 1e-4
    assert float(((found @ directions_CD.T).std(0) / (acts_ND @ directions_CD.T).std(0)).max()) < 1e-5, "a constant now"


def test_a_linear_classifier_learns_nothing_afterwards() -> None:
    acts_ND, coords_NC = planted(3)
    label_N = coords_NC[:, 0].numpy() > 0.5
    after_ND = erased(acts_ND, least(acts_ND, covariance(coords_NC, acts_ND)))
    half = N // 2
    scores = [
        LogisticRegression(max_iter=2000).fit(x_ND[:half], label_N[:half]).score(x_ND[half:], label_N[half:])
        for x_ND in (acts_ND.numpy(), after_ND.numpy())
    ]
    assert scores[0] > 0.85 and abs(scores[1] - 0.5) < 0.04, scores


def test_less_changes_than_by_the_orthogonal_projection() -> None:
    acts_ND, coords_NC = planted(4)
    subspace = least(acts_ND, covariance(coords_NC, acts_ND))
    centred_ND = acts_ND - acts_ND.mean(0)
    orthogonal_ND = acts_ND - centred_ND @ subspace.basis_DK.double() @ subspace.basis_DK.double().T
    own_ND = erased(acts_ND, subspace)
    precision_DD = torch.linalg.inv(covariance(acts_ND, acts_ND))
    for weight_DD in (torch.eye(D).double(), precision_DD):
        sizes = [float((((x_ND - acts_ND) @ weight_DD) * (x_ND - acts_ND)).sum()) for x_ND in (own_ND, orthogonal_ND)]
        assert sizes[0] < 0.9 * sizes[1], sizes
    for x_ND in (own_ND, orthogonal_ND):
        assert float(covariance(x_ND, coords_NC).abs().max()) < 1e-4, "neither leaves a covariance"


def test_twice_is_once() -> None:
    acts_ND, coords_NC = planted(5)
    subspace = least(acts_ND, covariance(coords_NC, acts_ND))
    once_ND = erased(acts_ND, subspace)
    torch.testing.assert_close(erased(once_ND, subspace), once_ND, atol=1e-4, rtol=0)


def test_dimensions_without_variance_are_left_as_they_are() -> None:
    acts_ND, coords_NC = planted(6)
    acts_ND = torch.cat([acts_ND, torch.full((N, 4), 7.0).double()], dim=1)
    subspace = least(acts_ND, covariance(coords_NC, acts_ND))
    after_ND = erased(acts_ND, subspace)
    torch.testing.assert_close(after_ND[:, D:], acts_ND[:, D:], atol=1e-5, rtol=0)
    assert float(covariance(after_ND, coords_NC).abs().max()) < 1e-4


def test_readers_are_kept_on_the_disk(tmp_path: Any) -> None:
    acts_ND, coords_NC = planted(7)
    subspace = least(acts_ND, covariance(coords_NC, acts_ND))
    path = tmp_path / "subspaces.safetensors"
    save_subspaces(path, [subspace, Subspace(1, torch.eye(D)[:, :2])])
    plain, read = load_subspaces(path)
    assert plain.read_DK is None and read.read_DK is not None and subspace.read_DK is not None
    assert torch.equal(read.read_DK, subspace.read_DK)


def test_a_reader_that_is_not_dual_to_the_basis_is_refused() -> None:
    basis_DK = torch.eye(16)[:, :2]
    with pytest.raises(AssertionError, match="not dual"):
        Subspace(0, basis_DK, None, 2 * basis_DK)
