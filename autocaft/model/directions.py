"""Directions with their vectors, and the subspaces that are ablated.

In: unit vectors from any source. Out: a `DirectionSet` (what was found) or a `Subspace` for each layer (what is
removed), both stored as safetensors beside JSON, so that they load without this package.

A subspace keeps an orthonormal basis, never the D x D projector: at rank 20 that is a hundred times less to store
and to multiply with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autocaft.records import Direction
from autocaft.rundir.files import read_records, replacing, write_records


@dataclass(frozen=True)
class DirectionSet:
    """Directions and, row by row, their unit vectors."""

    directions: tuple[Direction, ...]
    vectors_ND: Tensor

    def __post_init__(self) -> None:
        assert len(self.directions) == len(self.vectors_ND), (len(self.directions), tuple(self.vectors_ND.shape))

    def __len__(self) -> int:
        return len(self.directions)

    @property
    def row_by_id(self) -> dict[str, int]:
        """Row of each direction id in `vectors_ND`."""
        return {direction.id: row for row, direction in enumerate(self.directions)}

    def vectors_of(self, ids: Sequence[str]) -> Tensor:
        """Vectors of these directions, (N, D), in the order asked for."""
        rows = self.row_by_id
        return self.vectors_ND[[rows[direction_id] for direction_id in ids]]

    def save(self, folder: Path) -> None:
        """Write `directions.jsonl` and `vectors.safetensors` into the folder."""
        with replacing(folder / "vectors.safetensors") as tmp:
            save_file({"vectors_ND": self.vectors_ND.float().contiguous()}, tmp)
        write_records(folder / "directions.jsonl", self.directions)

    @classmethod
    def load(cls, folder: Path) -> DirectionSet:
        """Read what `save` wrote."""
        directions = tuple(read_records(folder / "directions.jsonl", Direction))
        return cls(directions, load_file(folder / "vectors.safetensors")["vectors_ND"])


@dataclass(frozen=True)
class Subspace:
    """What is ablated after one layer: along `basis_DK`, towards `mean_D` or towards zero."""

    layer: int
    basis_DK: Tensor
    """fp32, orthonormal columns."""
    mean_D: Tensor | None = None
    """Mean activation of the base model on generic text; None allows mode `zero` only."""
    read_DK: Tensor | None = None
    """fp32; what mode `leace` reads each basis column's share with (model/leace.py). The other modes read with the
    basis, and never look at it."""

    def __post_init__(self) -> None:
        basis_DK = self.basis_DK
        assert basis_DK.ndim == 2 and basis_DK.shape[0] >= basis_DK.shape[1] > 0, tuple(basis_DK.shape)
        error = _off_identity(basis_DK, basis_DK)
        assert error < 1e-5, f"basis of layer {self.layer} is not orthonormal: off by {error:.1e}"
        if self.mean_D is not None:
            assert self.mean_D.shape == basis_DK.shape[:1], (tuple(self.mean_D.shape), tuple(basis_DK.shape))
            assert self.mean_D.isfinite().all(), f"mean of layer {self.layer} holds NaN or infinity"
        if self.read_DK is not None:
            assert self.read_DK.shape == basis_DK.shape, (tuple(self.read_DK.shape), tuple(basis_DK.shape))
            error = _off_identity(self.read_DK, basis_DK)
            assert error < 1e-4, f"reader of layer {self.layer} is not dual to its basis: off by {error:.1e}"


def _off_identity(read_DK: Tensor, basis_DK: Tensor) -> float:
    """By how much a reader of the basis columns takes one for another, at most."""
    product_KK = read_DK.T.double() @ basis_DK.double()
    return float((product_KK - torch.eye(len(product_KK)).to(product_KK)).abs().max())


def orthonormal_basis(vectors_ND: Tensor, *, rtol: float = 1e-4) -> Tensor:
    """Orthonormal columns (D, K) that span the rows, K <= N.

    Singular values below `rtol` of the largest are dropped: near-duplicates (split latents) would otherwise add a
    column of rounding noise. Computed in double precision, returned as fp32. Same span as the paper's QR (section 3).
    """
    unit_ND = vectors_ND.double() / vectors_ND.double().norm(dim=1, keepdim=True).clamp_min(1e-30)
    left_DN, singular_N, _ = torch.linalg.svd(unit_ND.T, full_matrices=False)
    return left_DN[:, singular_N > rtol * singular_N[0]].float().contiguous()


def build_subspaces(
    found: DirectionSet, ids: Iterable[str], mean_by_layer: Mapping[int, Tensor] | None
) -> list[Subspace]:
    """One subspace a layer from the chosen directions, each layer its own (as in the paper)."""
    chosen = sorted(set(ids))
    layer_by_id = {direction.id: direction.layer for direction in found.directions}
    subspaces = []
    for layer in sorted({layer_by_id[direction_id] for direction_id in chosen}):
        basis_DK = orthonormal_basis(found.vectors_of([i for i in chosen if layer_by_id[i] == layer]))
        subspaces.append(Subspace(layer, basis_DK, None if mean_by_layer is None else mean_by_layer[layer].float()))
    return subspaces


def random_orthogonal(found: DirectionSet, ids: Iterable[str], *, seed: Sequence[int]) -> DirectionSet:
    """Random orthonormal directions, as many a layer as the chosen ones span there; the same for the same seed."""
    chosen = sorted(set(ids))
    layer_by_id = {direction.id: direction.layer for direction in found.directions}
    directions: list[Direction] = []
    vectors: list[Tensor] = []
    for layer in sorted({layer_by_id[direction_id] for direction_id in chosen}):
        rank = orthonormal_basis(found.vectors_of([i for i in chosen if layer_by_id[i] == layer])).shape[1]
        draws = np.random.default_rng([*seed, layer, 3]).normal(size=(found.vectors_ND.shape[1], rank))
        vectors.append(torch.linalg.qr(torch.from_numpy(draws))[0].T.float())
        directions += [Direction(f"L{layer}.random{i}", layer, "random", i, 0.0, "drawn") for i in range(rank)]
    return DirectionSet(tuple(directions), torch.cat(vectors))


def steering_subspaces(
    found: DirectionSet, ids: Iterable[str], sign_by_id: Mapping[str, float], size: float
) -> list[Subspace]:
    """Subspaces that mode `mean-shift` of `ablate` makes steering vectors of: each layer's "mean" is the sum of its
    directions, each `size` standard deviations long, and lies in their span.

    Args:
        sign_by_id: -1 where a direction's lower end is meant; +1 where nothing is said.
    """
    chosen = sorted(set(ids))
    by_id = {direction.id: direction for direction in found.directions}
    lengths = {i: size * sign_by_id.get(i, 1.0) * by_id[i].variance ** 0.5 for i in chosen}
    shift_by_layer = {
        layer: torch.stack([lengths[i] * found.vectors_of([i])[0] for i in chosen if by_id[i].layer == layer]).sum(0)
        for layer in sorted({by_id[i].layer for i in chosen})
    }
    return build_subspaces(found, chosen, shift_by_layer)


def save_subspaces(path: Path, subspaces: Iterable[Subspace]) -> None:
    """Write the subspaces as one safetensors file (`L14.basis_DK`, and where there is one `.mean_D`, `.read_DK`)."""
    tensors: dict[str, Tensor] = {}
    for subspace in subspaces:
        tensors[f"L{subspace.layer}.basis_DK"] = subspace.basis_DK.contiguous()
        for name, tensor in (("mean_D", subspace.mean_D), ("read_DK", subspace.read_DK)):
            if tensor is not None:
                tensors[f"L{subspace.layer}.{name}"] = tensor.contiguous()
    with replacing(path) as tmp:
        save_file(tensors, tmp)


def load_subspaces(path: Path) -> list[Subspace]:
    """Read what `save_subspaces` wrote, in order of depth."""
    tensors = load_file(path)
    layers = sorted(int(name[1:].split(".")[0]) for name in tensors if name.endswith("basis_DK"))
    parts = ("mean_D", "read_DK")
    return [Subspace(i, tensors[f"L{i}.basis_DK"], *(tensors.get(f"L{i}.{part}") for part in parts)) for i in layers]
