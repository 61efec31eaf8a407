"""The naive way to the components of what tuning changed: both models run whole, all activations kept, `svd_lowrank`.

In: a `ModelPair`, encoded rows, layers. Out: components (K, D) of tuned minus base by layer, as `own_components` of
`collect.py` gives them. It is what one writes in a notebook; only the products are in bf16, as ours are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autocaft.data.encode import Encoded, batches
from autocaft.discover.pair import Model, ModelPair
from autocaft.model.load import autocast_bf16

N_COMPONENTS = 20
TOKENS_PER_BATCH = 4096


@torch.no_grad()
def naive_components(pair: ModelPair, rows: list[Encoded], layers: list[int]) -> dict[int, Tensor]:
    """Two full passes, everything in memory, then a randomized SVD of each layer's centred differences."""
    with pair.base() as base:
        base_acts = _all_activations(base, rows, layers)
    with pair.tuned() as tuned:
        tuned_acts = _all_activations(tuned, rows, layers)
    differences = {layer: tuned_acts[layer] - base_acts[layer] for layer in layers}
    found = {}
    for layer, difference_ND in differences.items():
        centred_ND = difference_ND - difference_ND.mean(dim=0)
        found[layer] = torch.svd_lowrank(centred_ND, q=N_COMPONENTS)[2].T
    return found


def _all_activations(model: Model, rows: list[Encoded], layers: list[int]) -> dict[int, Tensor]:
    """Activations (N, D) after each block at every token but the first of a row."""
    kept: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for _, batch in batches(rows, tokens_per_batch=TOKENS_PER_BATCH, pad_id=0):
        with autocast_bf16(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
            states = model(**batch.inputs, output_hidden_states=True).hidden_states
        read_BT = batch.attention_mask_BT.bool() & (batch.position_ids_BT >= 1)
        for layer in layers:
            kept[layer].append(states[layer + 1][read_BT].float())
    return {layer: torch.cat(parts) for layer, parts in kept.items()}
