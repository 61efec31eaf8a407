"""Activations of base and tuned at the same tokens, streamed.

In: a `ModelPair`, encoded texts, layers. Out: for each batch, `{layer: (base_ND, tuned_ND)}` at the chosen tokens.
Each model stops after the deepest layer and runs no LM head; nothing is kept from one batch to the next.

The first unpadded token of each row is always left out: it is an attention sink whose norm is a hundred times that of
any other token, and the differences there would be all that a PCA sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from autocaft.data.encode import Batch, Encoded, batches
from autocaft.discover.pair import Model, ModelPair, device_of
from autocaft.discover.shards import ShardReader, ShardWriter, is_finished, shard_rows
from autocaft.model.blocks import d_model
from autocaft.model.hooks import Recorder
from autocaft.model.load import autocast_bf16

Positions = Literal["answer", "all"]
Paired = dict[int, tuple[Tensor, Tensor]]


def read_positions(batch: Batch, positions: Positions, n_skip: int = 1) -> Tensor:
    """True at the tokens that are read, (B, T): no padding, not the first `n_skip`, the answer only if so asked."""
    read_BT = batch.attention_mask_BT.bool() & (batch.position_ids_BT >= n_skip)
    return read_BT & batch.answer_mask_BT if positions == "answer" else read_BT


@torch.no_grad()
def record_batch(model: Model, layers: Sequence[int], batch: Batch) -> dict[int, Tensor]:
    """Activations (B, T, D) by layer, in bf16 products where the hardware has them."""
    with autocast_bf16(device_of(model), keeps_casts=False):
        return Recorder(model, layers).run(**batch.inputs)


def paired_batches(
    pair: ModelPair,
    encoded: Sequence[Encoded],
    layers: Sequence[int],
    *,
    positions: Positions,
    tokens_per_batch: int,
    pad_id: int,
    scratch: Path,
) -> Iterator[tuple[int, Paired]]:
    """Yield (rows in the batch, activations by layer).

    Args:
        scratch: folder for the base's activations where two models do not fit at once; otherwise not touched.
    """
    if pair.find_way() == "in turn":
        yield from _in_turn(pair, encoded, layers, positions, tokens_per_batch, pad_id, scratch)
        return
    with pair.tuned() as tuned:
        device = device_of(tuned)
        for chosen, batch in batches(encoded, tokens_per_batch=tokens_per_batch, pad_id=pad_id, device=device):
            with pair.base() as base:
                base_acts = record_batch(base, layers, batch)
            tuned_acts = record_batch(tuned, layers, batch)
            read_BT = read_positions(batch, positions)
            # taken out one by one, so that no layer but one is held twice
            yield len(chosen), {i: (base_acts.pop(i)[read_BT], tuned_acts.pop(i)[read_BT]) for i in layers}


def _in_turn(
    pair: ModelPair,
    encoded: Sequence[Encoded],
    layers: Sequence[int],
    positions: Positions,
    tokens_per_batch: int,
    pad_id: int,
    scratch: Path,
) -> Iterator[tuple[int, Paired]]:
    """Base first, to disk as fp32 (a difference of rounded values would be mostly rounding), then tuned beside it."""
    if not is_finished(scratch):
        with pair.base() as base:
            width = d_model(base)
            rows_per_shard = shard_rows(width, torch.float32, 64)
            writer = ShardWriter(scratch, layers, d_model=width, dtype=torch.float32, rows_per_shard=rows_per_shard)
            device = device_of(base)
            feed = batches(encoded, tokens_per_batch=tokens_per_batch, pad_id=pad_id, device=device)
            for number, (_, batch) in enumerate(feed):
                acts, read_BT = record_batch(base, layers, batch), read_positions(batch, positions)
                ids_N = batch.input_ids_BT[read_BT]
                writer.append(number, ids_N, {layer: acts[layer][read_BT] for layer in layers})
            writer.close()
    with pair.tuned() as tuned:
        stored = _documents(ShardReader(scratch), layers)
        device = device_of(tuned)
        for chosen, batch in batches(encoded, tokens_per_batch=tokens_per_batch, pad_id=pad_id, device=device):
            acts, read_BT = record_batch(tuned, layers, batch), read_positions(batch, positions)
            base_acts = next(stored)
            paired = {i: (base_acts[i].to(acts[i].device), acts[i][read_BT]) for i in layers}
            assert all(len(base_ND) == len(tuned_ND) for base_ND, tuned_ND in paired.values()), scratch
            yield len(chosen), paired


def _documents(reader: ShardReader, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Activations of each stored entry (here: each batch), in the order they were written."""
    for number in range(len(reader.rows_by_shard)):
        shards = {layer: reader.shard(number, layer) for layer in layers}
        starts = shards[layers[0]].starts_M1.tolist()
        for start, stop in pairwise(starts):
            yield {layer: shard.rows(start, stop) for layer, shard in shards.items()}
