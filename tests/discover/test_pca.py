from __future__ import annotations

import torch

from autocaft.discover.pca import CovarianceFitter, fix_signs


def _planted(n: int = 4000, width: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    direction_D = torch.randn(width, generator=generator)
    direction_D /= direction_D.norm()
    x_ND = 0.3 * torch.randn(n, width, generator=generator) + 5.0
    return x_ND + 3.0 * torch.randn(n, 1, generator=generator) * direction_D, direction_D


def test_planted_direction_is_the_first_component() -> None:
    x_ND, direction_D = _planted()
    fitter = CovarianceFitter(24)
    fitter.update(x_ND)
    pca = fitter.pca(3)
    assert abs(float(pca.vectors_ND[0] @ direction_D)) > 0.99
    assert float(pca.explained_N[0]) > 0.7


def test_streaming_equals_batch_covariance() -> None:
    x_ND, _ = _planted()
    # Far from the origin, where a one-pass sum of squares would lose its digits.
    x_ND = x_ND.double() + 1e4
    fitter = CovarianceFitter(24)
    for part_ND in x_ND.split([1, 0, 7, 1000, 2992]):
        fitter.update(part_ND)
    torch.testing.assert_close(fitter.covariance_DD, torch.cov(x_ND.T), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fitter.mean_D, x_ND.mean(0), rtol=1e-12, atol=0)


def test_components_are_those_of_an_svd_of_all_rows() -> None:
    x_ND, _ = _planted()
    fitter = CovarianceFitter(24)
    for part_ND in x_ND.split(512):
        fitter.update(part_ND)
    _, singular_N, rows_ND = torch.linalg.svd(x_ND - x_ND.mean(0), full_matrices=False)
    pca = fitter.pca(1)
    assert abs(float(pca.vectors_ND[0] @ rows_ND[0])) > 0.9999
    torch.testing.assert_close(pca.variance_N[0], singular_N[0] ** 2 / (len(x_ND) - 1), rtol=1e-4, atol=0)


def test_sign_rule_makes_the_largest_coordinate_positive() -> None:
    vectors_ND = torch.tensor([[0.1, -0.9, 0.2], [0.5, 0.4, -0.1]])
    fixed_ND = fix_signs(vectors_ND)
    assert torch.equal(fixed_ND, torch.tensor([[-0.1, 0.9, -0.2], [0.5, 0.4, -0.1]]))
    assert torch.equal(fix_signs(-vectors_ND), fixed_ND)


def test_state_restores_the_same_fitter() -> None:
    x_ND, _ = _planted(100)
    fitter = CovarianceFitter(24)
    fitter.update(x_ND[:60])
    again = CovarianceFitter.restore(fitter.state("L3.difference"), "L3.difference")
    fitter.update(x_ND[60:])
    again.update(x_ND[60:])
    assert torch.equal(fitter.covariance_DD, again.covariance_DD)
