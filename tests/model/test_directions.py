"""Directions and subspaces: the span is right, and what is written is what is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autocaft.model.directions import (
    DirectionSet,
    Subspace,
    build_subspaces,
    load_subspaces,
    orthonormal_basis,
    random_orthogonal,
    save_subspaces,
    steering_subspaces,
)
from autocaft.records import Direction


def found() -> DirectionSet:
    directions = tuple(
        Direction(f"L{layer}.latent{index}", layer, "sae", index, 1.0, "attribution", 0.5)
        for layer, index in [(2, 0), (5, 1), (2, 2), (5, 3)]
    )
    vectors_ND = torch.nn.functional.normalize(torch.randn(4, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    return DirectionSet(directions, vectors_ND)


def test_basis_is_orthonormal_and_spans_the_vectors() -> None:
    vectors_ND = torch.randn(5, 16) * torch.tensor([1e-3, 1.0, 10.0, 1.0, 1e3])[:, None]
    basis_DK = orthonormal_basis(vectors_ND)
    assert basis_DK.shape == (16, 5) and basis_DK.dtype == torch.float32
    torch.testing.assert_close(basis_DK.T @ basis_DK, torch.eye(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(vectors_ND @ basis_DK @ basis_DK.T, vectors_ND, rtol=1e-4, atol=1e-4)


def test_a_near_duplicate_adds_no_column() -> None:
    vectors_ND = torch.randn(3, 16)
    twins_ND = torch.cat([vectors_ND, vectors_ND[:1] + 1e-7 * torch.randn(1, 16), -vectors_ND[1:2]])
    assert orthonormal_basis(twins_ND).shape == (16, 3)


def test_directions_come_back_as_they_were_written(tmp_path: Path) -> None:
    found().save(tmp_path)
    loaded = DirectionSet.load(tmp_path)
    assert loaded.directions == found().directions
    assert torch.equal(loaded.vectors_ND, found().vectors_ND)


def test_vectors_come_in_the_order_asked_for() -> None:
    assert torch.equal(found().vectors_of(["L5.latent3", "L2.latent0"]), found().vectors_ND[[3, 0]])


def test_directions_and_vectors_must_match() -> None:
    with pytest.raises(AssertionError):
        DirectionSet(found().directions, found().vectors_ND[:2])


def test_each_layer_gets_its_own_subspace() -> None:
    means = {2: torch.full((16,), 2.0), 5: torch.full((16,), 5.0)}
    low, high = build_subspaces(found(), ["L5.latent1", "L2.latent2", "L2.latent0", "L2.latent0"], means)
    assert (low.layer, low.basis_DK.shape, high.layer, high.basis_DK.shape) == (2, (16, 2), 5, (16, 1))
    kept_ND = found().vectors_of(["L2.latent0", "L2.latent2"])
    torch.testing.assert_close(kept_ND @ low.basis_DK @ low.basis_DK.T, kept_ND, rtol=1e-5, atol=1e-5)
    assert low.mean_D is not None and torch.equal(low.mean_D, means[2])
    assert build_subspaces(found(), ["L2.latent0"], None)[0].mean_D is None


def test_subspaces_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = [Subspace(11, orthonormal_basis(torch.randn(2, 16))), Subspace(3, orthonormal_basis(torch.randn(4, 16)),
                                                                             torch.randn(16))]  # fmt: skip
    save_subspaces(tmp_path / "subspaces.safetensors", written)
    low, high = load_subspaces(tmp_path / "subspaces.safetensors")
    assert (low.layer, high.layer) == (3, 11)
    assert torch.equal(low.basis_DK, written[1].basis_DK) and torch.equal(high.basis_DK, written[0].basis_DK)
    assert low.mean_D is not None and written[1].mean_D is not None and torch.equal(low.mean_D, written[1].mean_D)
    assert high.mean_D is None


@pytest.mark.parametrize(
    ("basis_DK", "mean_D"),
    [
        (torch.randn(16, 3), None),  # not orthonormal
        (torch.full((16, 1), torch.nan), None),
        (torch.zeros(16, 0), None),  # empty: would ablate nothing
        (torch.eye(16)[:, :2], torch.zeros(8)),
        (torch.eye(16)[:, :2], torch.full((16,), torch.nan)),
    ],
)
def test_a_bad_subspace_is_refused(basis_DK: torch.Tensor, mean_D: torch.Tensor | None) -> None:
    with pytest.raises(AssertionError):
        Subspace(0, basis_DK, mean_D)


def test_steering_adds_the_chosen_directions_towards_their_unwanted_ends() -> None:
    vectors_ND = torch.eye(8)[:4]
    layers, variances = (1, 1, 3, 3), (4.0, 9.0, 1.0, 25.0)
    found = DirectionSet(
        tuple(Direction(f"d{n}", layers[n], "pca", n, 1.0, "", variances[n]) for n in range(4)), vectors_ND
    )
    low, high = steering_subspaces(found, ["d0", "d1", "d3"], {"d1": -1.0, "d3": 1.0}, 0.5)
    assert low.mean_D is not None and high.mean_D is not None
    assert low.mean_D.tolist() == [1.0, -1.5, *[0.0] * 6] and high.mean_D.tolist() == [0, 0, 0, 2.5, 0, 0, 0, 0]
    torch.testing.assert_close(low.basis_DK @ (low.basis_DK.T @ low.mean_D), low.mean_D)


def test_random_vectors_match_the_chosen_in_rank_and_know_nothing_of_them() -> None:
    vectors_ND = torch.nn.functional.normalize(torch.randn(7, 256, generator=torch.Generator().manual_seed(0)), dim=1)
    vectors_ND[3] = vectors_ND[2]  # a split latent: four directions that span three
    layers = (2, 2, 2, 2, 5, 5, 5)
    found = DirectionSet(tuple(Direction(f"L{i}.{n}", i, "sae", n, 1.0, "") for n, i in enumerate(layers)), vectors_ND)
    ids = [direction.id for direction in found.directions[:6]]
    drawn = random_orthogonal(found, ids, seed=(0, 1))
    assert [(d.id, d.layer) for d in drawn.directions] == [
        *((f"L2.random{i}", 2) for i in range(3)), *((f"L5.random{i}", 5) for i in range(2)),
    ]  # fmt: skip
    for space, chosen in zip(
        build_subspaces(drawn, [d.id for d in drawn.directions], None), build_subspaces(found, ids, None), strict=True
    ):
        assert space.basis_DK.shape == chosen.basis_DK.shape
        assert float((space.basis_DK.T @ chosen.basis_DK).abs().max()) < 0.3
    assert torch.equal(random_orthogonal(found, ids, seed=(0, 1)).vectors_ND, drawn.vectors_ND)
    assert not torch.allclose(random_orthogonal(found, ids, seed=(0, 2)).vectors_ND, drawn.vectors_ND)
