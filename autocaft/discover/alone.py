"""What the tuned model loses when one direction alone is ablated, for every direction.

In: the tuned model, directions, a few rows in which the cue holds (`val`, or training rows: never a broken cue). Out:
for each direction the rise of the answers' loss in nats, with an interval over templates. The decision a reader would
question: a rise says that the model uses the direction for its answers, not that this use is the unwanted one. So it is
shown to people, and neither a judge nor a rule reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autocaft.data.encode import Batch, batches
from autocaft.data.rows import TaskRow
from autocaft.discover.collect import encode_rows
from autocaft.discover.pair import Model, device_of
from autocaft.model.blocks import last_logits
from autocaft.model.directions import DirectionSet
from autocaft.model.hooks import Recorder
from autocaft.model.load import autocast_bf16
from autocaft.model.resume import resumed
from autocaft.rundir.progress import Progress
from autocaft.stats import Interval, cluster_bootstrap

N_BOOTSTRAP = 1000


@torch.no_grad()
def loss_changes(
    model: Model,
    tokenizer: Any,
    rows: Sequence[TaskRow],
    found: DirectionSet,
    mean_by_layer: Mapping[int, Tensor],
    *,
    tokens_per_batch: int,
    progress: Progress,
) -> list[Interval]:
    """One interval a direction. Ablated towards the mean on generic text, the first position exempt.

    The blocks up to a direction's layer run once for all directions of the layer.
    """
    device, pad_id = device_of(model), tokenizer.pad_token_id or 0
    encoded = encode_rows(tokenizer, rows)
    feed = list(batches(encoded, tokens_per_batch=tokens_per_batch, pad_id=pad_id, device=device))
    changes_NR = torch.zeros(len(found), len(rows))
    numbers = torch.arange(len(found))
    layer_N = torch.tensor([direction.layer for direction in found.directions])
    n_all = len(found) * len(rows)
    with progress.task("loss without each direction", n_all, "rows") as advance, autocast_bf16(device):
        for layer in sorted(set(layer_N.tolist())):
            for chosen, batch in feed:
                acts_BTD = Recorder(model, [layer]).run(**batch.inputs)[layer]
                before_B = _losses(model, layer, acts_BTD, batch)
                for part in numbers[layer_N == layer].split(max(1, tokens_per_batch // batch.input_ids_BT.numel())):
                    ablated = _ablated_alone(acts_BTD, found.vectors_ND[part], mean_by_layer[layer], batch)
                    after_GB = _losses(model, layer, ablated, batch).view(len(part), -1)
                    changes_NR[part[:, None], torch.tensor(chosen)] = after_GB - before_B
                    advance(len(part) * len(chosen))
    clusters = [row.template for row in rows]
    return [cluster_bootstrap(change_R, clusters, n=N_BOOTSTRAP) for change_R in changes_NR.tolist()]


def _ablated_alone(acts_BTD: Tensor, vectors_GD: Tensor, mean_D: Tensor, batch: Batch) -> Tensor:
    """The rows once for each direction, without it, (G * B, T, D)."""
    vectors_GD, mean_D = vectors_GD.to(acts_BTD.device), mean_D.to(acts_BTD.device)
    exempt_BT = batch.position_ids_BT == 0  # the first position, and padding
    with torch.autocast(acts_BTD.device.type, enabled=False):
        coords_GBT = torch.einsum("btd,gd->gbt", acts_BTD.float() - mean_D, vectors_GD)
        removed_GBTD = coords_GBT.masked_fill(exempt_BT, 0.0)[..., None] * vectors_GD[:, None, None]
        return (acts_BTD.float() - removed_GBTD).flatten(0, 1).to(acts_BTD.dtype)


def _losses(model: Model, layer: int, acts_NTD: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy of each row's answer (N,) from the residual stream after a block, the batch repeated as often
    as the activations hold it."""
    n_times = len(acts_NTD) // len(batch.input_ids_BT)
    n_answer = int(batch.answer_mask_BT.sum(dim=1).max())
    inputs = {name: tensor.repeat(n_times, 1) for name, tensor in batch.inputs.items()}
    with resumed(model, layer, acts_NTD):
        logits_NTV = model(**inputs, use_cache=False, **last_logits(model, n_answer + 1)).logits
    logits_NAV = logits_NTV[:, -n_answer - 1 : -1].float()
    answer_NA = batch.answer_mask_BT[:, -n_answer:].repeat(n_times, 1)
    labels_NA = batch.input_ids_BT[:, -n_answer:].repeat(n_times, 1)
    nats_NA = nn.functional.cross_entropy(logits_NAV.transpose(1, 2), labels_NA, reduction="none")
    return ((nats_NA * answer_NA).sum(1) / answer_NA.sum(1)).cpu()
