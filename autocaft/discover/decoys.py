"""Decoys: random directions for the review page, mined like candidates, so that nobody can tell them by their cards.

In: a collect and a decompose folder. Out, in `out`: `directions.jsonl` and `vectors.safetensors`, `examples.jsonl`,
`evidence.jsonl`. A step of its own of which no other step needs anything: only review and compare read it.

The decision a reader would question: beside latents a decoy is a live latent that is no candidate, not a random vector.
A random vector has two poles and a latent one, so a person would know it at a glance. A live latent may carry the
concept by chance; as an upper bound on how often a person sees it in nothing it will do.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autocaft.data.rows import TaskRow, chosen_rows
from autocaft.discover.decompose import linear_extents, live_latents, open_dictionary
from autocaft.discover.mine import MiningTexts, mine_directions, write_mined
from autocaft.discover.options import DecomposeOptions, DecoyOptions, MineOptions
from autocaft.discover.pair import ModelPair
from autocaft.discover.sae import Dictionary, rows_at_once
from autocaft.discover.shards import ShardReader
from autocaft.model.directions import DirectionSet
from autocaft.records import Direction
from autocaft.rundir.files import read_records, write_records
from autocaft.rundir.progress import Progress


def mine_decoys(
    *,
    tokenizer: Any,
    rows: Sequence[TaskRow],
    collected: Path,
    decomposed: Path,
    decompose_options: DecomposeOptions,
    mine_options: MineOptions,
    options: DecoyOptions,
    out: Path,
    progress: Progress,
    models: ModelPair | None = None,
    loss_rows: Sequence[TaskRow] = (),
) -> DirectionSet:
    """Run the step; arguments as of `mine`."""
    texts = MiningTexts.of(tokenizer, collected, rows)
    open_at = functools.partial(open_dictionary, decomposed, decompose_options, width=texts.reader.d_model)
    drawn = [_Drawn.at(layer, decomposed, texts, open_at, options) for layer in texts.reader.layers]
    found = DirectionSet(tuple(d for part in drawn for d in part.directions), torch.cat([p.vectors_ND for p in drawn]))
    low_N, high_N = torch.cat([part.low_N for part in drawn]), torch.cat([part.high_N for part in drawn])
    found.save(out)
    if not len(found):
        write_records(out / "examples.jsonl", [])
        write_records(out / "evidence.jsonl", [])
        return found
    mined = mine_directions(found, low_N, high_N, texts, open_at, mine_options, progress)
    loss_rows = chosen_rows(loss_rows, mine_options.n_loss_rows)
    write_mined(found, mined, texts, mine_options, models, loss_rows, out, progress)
    return found


@dataclass(frozen=True)
class _Drawn:
    """The decoys of one layer with their vectors and extents."""

    directions: tuple[Direction, ...]
    vectors_ND: Tensor
    low_N: Tensor
    high_N: Tensor

    @classmethod
    def at(cls, layer: int, decomposed: Path, texts: MiningTexts, open_at: Any, options: DecoyOptions) -> _Drawn:
        candidates = [d for d in read_records(decomposed / "directions.jsonl", Direction) if d.layer == layer]
        generator = torch.Generator().manual_seed(options.seed * 1000 + layer)
        is_taken = {direction.index for direction in candidates if direction.source == "sae"}
        live = [index for index in live_latents(decomposed).get(layer, []) if index not in is_taken] if is_taken else []
        index_L = [live[i] for i in torch.randperm(len(live), generator=generator)[: options.n_random].tolist()]
        has_components = any(direction.source == "pca" for direction in candidates)
        vectors_ND = torch.randn(options.n_random if has_components else 0, texts.reader.d_model, generator=generator)
        vectors_ND = torch.nn.functional.normalize(vectors_ND, dim=1)
        low_N, high_N, _ = linear_extents(texts.reader, layer, vectors_ND, texts.stats.generic_mean[layer])
        if index_L:
            dictionary = open_at(layer)
            vectors_ND = torch.cat([dictionary.directions_SD[index_L].cpu(), vectors_ND])
            low_N = torch.cat([torch.zeros(len(index_L)), low_N])
            high_N = torch.cat([_peaks(dictionary, index_L, texts.reader, layer), high_N])
        indices = [*index_L, *range(len(vectors_ND) - len(index_L))]
        directions = tuple(
            Direction(f"L{layer}.decoy{n}", layer, "sae" if n < len(index_L) else "random", index, 0.0, "drawn")
            for n, index in enumerate(indices)
        )
        return cls(directions, vectors_ND, low_N, high_N)


@torch.no_grad()
def _peaks(dictionary: Dictionary, index_L: Sequence[int], reader: ShardReader, layer: int) -> Tensor:
    """Highest activation (L,) of some latents on the stored texts."""
    peak_L = torch.zeros(len(index_L))
    for acts_ND in reader.in_order(layer, rows_at_once(dictionary.d_sae)):
        peak_L = torch.maximum(peak_L, dictionary.encode(acts_ND)[:, list(index_L)].amax(dim=0).cpu())
    return peak_L
