"""How far a model moved from its base along directions, each with a weight: one number a text and layer.

In: a `ModelPair`, encoded texts, directions with their vectors, a weight for each. Out: by layer the weighted squared
length of the difference along the layer's directions, summed over each text's tokens, texts in the order given. The
decision a reader would question: directions need not be orthogonal, so what two of them share is counted twice. Trials
that are compared share directions and weights, and only ratios of these sums are read.

Key: N tokens of a batch, C directions of a layer, D d_model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from autocaft.data.encode import Encoded, batches
from autocaft.discover.options import CollectOptions
from autocaft.discover.pair import ModelPair
from autocaft.discover.paired import paired_batches, read_positions
from autocaft.model.directions import DirectionSet
from autocaft.rundir.progress import Progress


def weighed_moves(
    models: ModelPair,
    encoded: Sequence[Encoded],
    found: DirectionSet,
    weight_by_id: Mapping[str, float],
    options: CollectOptions,
    *,
    pad_id: int,
    scratch: Path,
    label: str,
    progress: Progress,
) -> dict[int, list[float]]:
    """Compare the pair's models on these texts.

    Args:
        models: `tuned` of the pair is the model that is looked at.
        weight_by_id: a direction without a weight is left out.
        scratch: see `paired_batches`.
    """
    rows_by_layer: dict[int, list[int]] = {}
    for row, direction in enumerate(found.directions):
        if direction.id in weight_by_id:
            rows_by_layer.setdefault(direction.layer, []).append(row)
    layers = sorted(rows_by_layer)
    weights_by_layer = {
        i: torch.tensor([weight_by_id[found.directions[r].id] for r in rows_by_layer[i]]) for i in layers
    }
    sums = {layer: [0.0] * len(encoded) for layer in layers}
    feed: dict[str, Any] = {"tokens_per_batch": options.tokens_per_batch, "pad_id": pad_id}
    pairs = paired_batches(models, encoded, layers, positions=options.positions, scratch=scratch, **feed)
    with progress.task(f"{label} minus base", len(encoded), "rows") as advance:
        # the same batches once more, for whose tokens they are
        for (n_rows, paired), (chosen, batch) in zip(pairs, batches(encoded, **feed), strict=True):
            n_by_text = read_positions(batch, options.positions).sum(dim=1).tolist()
            for layer, (base_ND, own_ND) in paired.items():
                vectors_CD = found.vectors_ND[rows_by_layer[layer]].to(own_ND.device)
                squares_NC = ((own_ND.float() - base_ND.float()) @ vectors_CD.T).square()
                weighed_N = squares_NC.cpu().double() @ weights_by_layer[layer].double()
                for text, part_N in zip(chosen, weighed_N.split(n_by_text), strict=True):
                    sums[layer][text] = float(part_N.sum())
            advance(n_rows)
    return sums
