"""The loss of a model on rows that it was not trained on, row by row: what training would ask of it, and no more.

In: a model, rows, the options it was trained with. Out: nats a labelled token for each row. The decision a reader would
question: one row at a time. These are a hundred rows, and a row's loss must not depend on its neighbours' padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from autocaft.data.rows import TaskRow
from autocaft.model.load import autocast_bf16
from autocaft.train.loss import Collator, answer_loss
from autocaft.train.options import TuneOptions
from autocaft.train.sft import encode_rows


@torch.no_grad()
def row_losses(model: Any, tokenizer: Any, rows: Sequence[TaskRow], options: TuneOptions) -> list[float]:
    """Cross-entropy of each row's answer, or of its right option, as `tune.loss` says."""
    collate = Collator(int(tokenizer.pad_token_id))
    losses = []
    with autocast_bf16(model.device, enabled=options.autocast == "bf16"):
        for row in encode_rows(tokenizer, rows, options):
            inputs = {name: tensor.to(model.device) for name, tensor in collate([row]).items()}
            labels_BT, rivals_BR = inputs.pop("labels"), inputs.pop("rivals", None)
            losses.append(float(answer_loss(model, inputs, labels_BT, rivals_BR=rivals_BR)))
    return losses
