"""The `transformers.Trainer` of task rows: its loss, what rivals add to it, and what several processes do alike.

In: a model, `EncodedRow`s, options. Out: a trainer that stops at the first loss or gradient that is not a number.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from autocaft.errors import TrainingError
from autocaft.train.baselines import Departure, kl_penalty, l2sp_penalty
from autocaft.train.group import WholeSteps, keep_weight_types
from autocaft.train.loss import cross_entropy, label_logits
from autocaft.train.options import TuneOptions


class Penalties:
    """What is added to the loss of each batch."""

    def __init__(self, model: Any, departure: Departure) -> None:
        self.kl = kl_penalty(model, departure.kl_weight, label_logits) if departure.kl_weight else None
        self.l2sp = l2sp_penalty(model, departure.l2sp_weight) if departure.l2sp_weight else None

    def of(
        self, inputs: dict[str, Tensor], labels_BT: Tensor, logits_NV: Tensor, n_items: Any, n_batches: int
    ) -> Tensor | float:
        """Their sum for one of the `n_batches` batches of an optimizer step."""
        total: Tensor | float = 0.0
        if self.kl is not None:
            total = total + self.kl(inputs, labels_BT, logits_NV) / (len(logits_NV) if n_items is None else n_items)
        if self.l2sp is not None:
            total = total + self.l2sp().to(logits_NV.device) / (1 if n_items is None else n_batches)
        return total


class AnswerTrainer(Trainer):
    """Trainer whose loss is the mean cross-entropy of the answer tokens, or of the right option, and the penalties."""

    def __init__(self, *, penalties: Penalties, n_scheduled: int, options: TuneOptions, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.penalties, self.n_scheduled = penalties, n_scheduled
        self.n_per_step = options.batch_size * options.grad_accumulation
        self.n_processes = self.args.world_size
        if self.n_processes > 1:
            self.model_accepts_loss_kwargs = True  # else the answer tokens of the others were not counted
        if self.is_fsdp_enabled:
            keep_weight_types(self.accelerator)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate of the whole training, also where it is stopped early."""
        return super().create_scheduler(self.n_scheduled, optimizer)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The order of one process; for several, with blank rows behind it that fill up the last step."""
        if self.n_processes == 1:
            return super()._get_train_sampler(train_dataset)
        return WholeSteps(self.train_dataset, self.args.seed, self.n_per_step)

    def _save_rng_state(self, output_dir: str) -> None:
        """Wait for all: the file that marks a whole checkpoint comes next."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        labels_BT, rivals_BR = inputs.pop("labels"), inputs.pop("rivals", None)
        # a sharded model's own forward is not wrapped in mixed precision
        with self.accelerator.autocast() if self.is_fsdp_enabled else nullcontext():
            logits_NV = label_logits(model, inputs, labels_BT)
            if self.n_processes > 1 and num_items_in_batch is not None:
                # gradients are averaged over the processes, and each counts the answer tokens of all
                num_items_in_batch = num_items_in_batch / self.n_processes
            loss = cross_entropy(logits_NV, labels_BT, num_items_in_batch, rivals_BR)
            n_batches = self.current_gradient_accumulation_steps  # fewer in the last step of a pass
            loss = loss + self.penalties.of(inputs, labels_BT, logits_NV, num_items_in_batch, n_batches)
        told = loss.detach() if self.n_processes == 1 else self.accelerator.reduce(loss.detach(), "mean")
        if not torch.isfinite(told):  # in all processes: none waits for one that has stopped
            raise TrainingError(_not_a_number("loss", told.item(), self.state.global_step))
        return (loss, None) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Keep the history; print nothing (the progress bar and `losses.jsonl` tell).

        Called before a checkpoint is written: a gradient that is not a number has just spoilt the weights, and must
        not replace the last good checkpoint.
        """
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            raise TrainingError(_not_a_number("gradient", logs["grad_norm"], self.state.global_step))
        self.state.log_history.append({**logs, "step": self.state.global_step})


def _not_a_number(what: str, value: float, step: int) -> str:
    return (
        f"the {what} is {value} at step {step}; the last checkpoint is kept. Lower tune.lr, raise tune.warmup_share or "
        "set tune.autocast = 'fp32', then run with --redo of this stage"
    )
