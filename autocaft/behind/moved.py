"""Discover again, on the model that CAFT made: where did it move instead?

In: an arm's model beside the base on the texts that `decompose` compared, the run's own dictionaries, the subspaces the
arm was trained without, and the same look at `tuned`. Out, by layer: the share of the mean-square difference (arm minus
base) that lies inside the ablated subspace, beside tuned's and that of a random subspace of the same size; the
latents whose mean activation changed most, and the PCs of the run along which the arm moved; each with what the judge
said of it, if it was a candidate.

The decision a reader would question: no new dictionary is trained. One fitted to the new model would find new names
for the same change, and nothing could be compared with tuned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autocaft.data.encode import Encoded
from autocaft.discover.options import CollectOptions
from autocaft.discover.pair import ModelPair
from autocaft.discover.paired import paired_batches
from autocaft.discover.pca import CovarianceFitter
from autocaft.discover.rank import LatentChange
from autocaft.discover.sae import Dictionary
from autocaft.model.directions import DirectionSet
from autocaft.records import Verdict
from autocaft.rundir.files import replacing
from autocaft.rundir.progress import Progress


@dataclass(frozen=True)
class Moves:
    """How one model differs from the base after one layer."""

    square_DD: Tensor
    """Mean over tokens of the difference times its transpose."""
    change_S: Tensor | None
    """Change of each latent's mean activation; None without a dictionary."""

    @property
    def mean_square(self) -> float:
        """Mean squared length of the difference."""
        return float(self.square_DD.trace())

    def share_in(self, basis_DK: Tensor) -> float:
        """Share of the mean-square difference that lies in the span of orthonormal columns."""
        inside = ((self.square_DD @ basis_DK) * basis_DK).sum()
        return float(inside) / max(self.mean_square, 1e-30)


def measure_moves(
    models: ModelPair,
    encoded: Sequence[Encoded],
    layers: Sequence[int],
    dictionaries: Mapping[int, Dictionary],
    options: CollectOptions,
    *,
    tokens_per_batch: int,
    pad_id: int,
    scratch: Path,
    label: str,
    progress: Progress,
) -> dict[int, Moves]:
    """Compare the pair's models on these texts.

    Args:
        models: `tuned` of the pair is the model that is looked at.
        scratch: see `paired_batches`.
    """
    fitters: dict[int, CovarianceFitter] = {}
    changes = {layer: LatentChange(dictionary) for layer, dictionary in dictionaries.items()}
    with progress.task(f"{label} minus base", len(encoded), "rows") as advance:
        for n_rows, paired in paired_batches(
            models,
            encoded,
            layers,
            positions=options.positions,
            tokens_per_batch=tokens_per_batch,
            pad_id=pad_id,
            scratch=scratch,
        ):
            for layer, (base_ND, own_ND) in paired.items():
                fitter = fitters.setdefault(layer, CovarianceFitter(base_ND.shape[1], base_ND.device))
                fitter.update(own_ND.float() - base_ND.float())
                if layer in changes:
                    changes[layer].update(base_ND, own_ND)
            advance(n_rows)
    return {
        layer: Moves(_mean_square(fitter), changes[layer].mean_S() if layer in changes else None)
        for layer, fitter in fitters.items()
    }


def _mean_square(fitter: CovarianceFitter) -> Tensor:
    square_DD = fitter.scatter_DD / fitter.n + torch.outer(fitter.mean_D, fitter.mean_D)
    return square_DD.float().cpu()


def save_moves(path: Path, moves_by_layer: Mapping[int, Moves]) -> None:
    """Write them as one safetensors file (`L14.square_DD`, `L14.change_S`)."""
    tensors: dict[str, Tensor] = {}
    for layer, moves in moves_by_layer.items():
        tensors[f"L{layer}.square_DD"] = moves.square_DD.contiguous()
        if moves.change_S is not None:
            tensors[f"L{layer}.change_S"] = moves.change_S.contiguous()
    with replacing(path) as tmp:
        save_file(tensors, tmp)


def load_moves(path: Path) -> dict[int, Moves]:
    """Read what `save_moves` wrote."""
    tensors = load_file(path)
    layers = sorted(int(name[1:].split(".")[0]) for name in tensors if name.endswith(".square_DD"))
    return {i: Moves(tensors[f"L{i}.square_DD"], tensors.get(f"L{i}.change_S")) for i in layers}


def compare_moves(
    own: Mapping[int, Moves],
    tuned: Mapping[int, Moves],
    bases: Mapping[int, Tensor],
    live_by_layer: Mapping[int, Sequence[int]],
    found: DirectionSet,
    verdicts: Sequence[Verdict],
    ablated_ids: Sequence[str],
    *,
    n_top: int,
) -> list[dict[str, Any]]:
    """What an arm's model did beside tuned, one dict a layer.

    Args:
        bases: orthonormal basis (D, K) of the ablated subspace, for the layers that have one.
        live_by_layer: latents that may be named; dead and always-on ones are not.
        n_top: directions named in each layer and of each source.
    """
    verdict_by_id = {verdict.direction_id: verdict for verdict in verdicts}
    lines = []
    for layer, moves in own.items():
        latents = _top_latents(layer, moves, tuned[layer], live_by_layer.get(layer, ()), n_top)
        pcs = _top_pcs(layer, moves, tuned[layer], found, n_top)
        for entry in [*latents, *pcs]:
            verdict = verdict_by_id.get(entry["id"])
            entry["description"] = verdict.description if verdict else None
            entry["relevance"] = verdict.relevance if verdict else None
            entry["is_ablated"] = entry["id"] in set(ablated_ids)
        lines.append(
            {
                "layer": layer,
                "mean_square": moves.mean_square,
                "mean_square_tuned": tuned[layer].mean_square,
                **_shares(moves, tuned[layer], bases.get(layer)),
                "latents": latents,
                "pcs": pcs,
            }
        )
    return lines


def _shares(own: Moves, tuned: Moves, basis_DK: Tensor | None) -> dict[str, Any]:
    """Shares inside the ablated subspace; a random one of K dimensions holds K/D on average. None without a subspace,
    or where nothing moved: blocks up to a layer may be untrained."""
    n_ablated = 0 if basis_DK is None else basis_DK.shape[1]
    if basis_DK is None or own.mean_square == 0:
        return {"n_ablated": n_ablated, "inside": None, "inside_tuned": None, "inside_random": None}
    return {
        "n_ablated": n_ablated,
        "inside": own.share_in(basis_DK),
        "inside_tuned": tuned.share_in(basis_DK),
        "inside_random": n_ablated / len(basis_DK),
    }


def _top_latents(layer: int, own: Moves, tuned: Moves, live: Sequence[int], n_top: int) -> list[dict[str, Any]]:
    """Live latents that changed, by absolute change, with tuned's change and its rank there (1 is the most changed)."""
    if own.change_S is None or tuned.change_S is None or not live:
        return []
    live_N = torch.tensor(live)
    change_N, tuned_N = own.change_S[live_N], tuned.change_S[live_N]
    rank_N = torch.argsort(torch.argsort(tuned_N.abs(), descending=True, stable=True)) + 1
    top = torch.argsort(change_N.abs(), descending=True, stable=True)[:n_top].tolist()
    return [
        {
            "id": f"L{layer}.latent{live[i]}",
            "change": float(change_N[i]),
            "change_tuned": float(tuned_N[i]),
            "rank_tuned": int(rank_N[i]),
        }
        for i in top
        if change_N[i] != 0
    ]


def _top_pcs(layer: int, own: Moves, tuned: Moves, found: DirectionSet, n_top: int) -> list[dict[str, Any]]:
    """The run's PCs by the share of the arm's mean-square difference along them."""
    entries: list[dict[str, Any]] = [
        {
            "id": direction.id,
            "share": own.share_in(vector_D[:, None]),
            "share_tuned": tuned.share_in(vector_D[:, None]),
        }
        for direction, vector_D in zip(found.directions, found.vectors_ND, strict=True)
        if direction.layer == layer and direction.source == "pca" and own.mean_square > 0
    ]
    return sorted(entries, key=lambda entry: -entry["share"])[:n_top]
