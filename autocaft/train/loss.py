"""The loss of a batch of task rows: cross-entropy of the answers, or of the right option among a row's options.

In: encoded rows; a model. Out: left-padded batches with labels; the loss, or the logits it is taken of.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autocaft.data.encode import collate
from autocaft.model.blocks import last_logits
from autocaft.train.group import EncodedRow

IGNORED = -100
"""Label of a token that bears no loss."""


class Collator:
    """Left-padded batch with labels on the answer tokens only; among options, on the first of them, with `rivals`."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: list[EncodedRow]) -> dict[str, Tensor]:
        batch = collate(rows, self.pad_id)
        labels_BT = batch.input_ids_BT.masked_fill(~batch.answer_mask_BT, IGNORED)
        n_rivals = max(len(row.rivals) for row in rows)
        if not n_rivals:
            return {**batch.inputs, "labels": labels_BT}
        labels_BT = labels_BT.masked_fill(batch.answer_mask_BT.cumsum(dim=1) > 1, IGNORED)
        rivals_BR = torch.tensor([[*row.rivals] + [IGNORED] * (n_rivals - len(row.rivals)) for row in rows])
        return {**batch.inputs, "labels": labels_BT, "rivals": rivals_BR}


def answer_loss(
    model: nn.Module,
    inputs: dict[str, Tensor],
    labels_BT: Tensor,
    n_items: Tensor | int | None = None,
    rivals_BR: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the labelled tokens, mean over them, or their sum over `n_items`.

    Args:
        inputs: left-padded `input_ids`, `attention_mask`, `position_ids`.
        labels_BT: token ids where the loss is taken, -100 elsewhere; the answers end the rows.
        n_items: labelled tokens of the whole optimizer step, so that accumulated batches weigh by their tokens.
        rivals_BR: the only tokens that compete with the label, one label a row; -100 where a row has fewer. None: the
            whole vocabulary competes.
    """
    return cross_entropy(label_logits(model, inputs, labels_BT), labels_BT, n_items, rivals_BR)


def label_logits(model: nn.Module, inputs: dict[str, Tensor], labels_BT: Tensor) -> Tensor:
    """The logits (N, V) that predict the labelled tokens, in fp32; the head runs on the last positions only."""
    labelled_T = (labels_BT != IGNORED).any(dim=0).long().flip(0).nonzero()
    n_kept = int(labelled_T.max()) + 2 if len(labelled_T) else 2
    logits_BTV = model(**inputs, **last_logits(model, n_kept)).logits[:, -n_kept:]
    kept_N = labels_BT[:, -n_kept:][:, 1:].flatten() != IGNORED
    return logits_BTV[:, :-1].flatten(0, 1)[kept_N].float()


def cross_entropy(
    logits_NV: Tensor, labels_BT: Tensor, n_items: Tensor | int | None, rivals_BR: Tensor | None
) -> Tensor:
    """`answer_loss` of the `label_logits`."""
    targets_N = labels_BT[:, 1:][labels_BT[:, 1:] != IGNORED]
    if rivals_BR is not None:
        options_NO = torch.cat([targets_N[:, None], rivals_BR], dim=1)
        logits_NV = logits_NV.gather(1, options_NO.clamp_min(0)).masked_fill(options_NO == IGNORED, -torch.inf)
        targets_N = torch.zeros_like(targets_N)
    losses_N = nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")
    return losses_N.mean() if n_items is None else losses_N.sum() / n_items
