"""Ablation for any script that trains through `transformers.Trainer`, in two lines.

    callback = AblationCallback(subspaces, mode="mean")
    Trainer(model, args, train_dataset=rows, callbacks=[callback]).train()

In: subspaces. Out: an ablation that is in place from `on_train_begin` to `on_train_end`, evaluations in between
included.

The decision a reader would question: Trainer calls nothing when training raises, so the hooks then stay until
`close()`, or until the callback's next `on_train_begin`. Where a script goes on after such an error, wrap the
training instead: `with ablate(model, subspaces): trainer.train()`, which closes on every exit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from autocaft.model.directions import Subspace
from autocaft.model.hooks import Mode, ablate


class AblationCallback(TrainerCallback):
    """Opens `ablate` on the model that is trained, and closes it when training ends."""

    def __init__(
        self, subspaces: Sequence[Subspace], *, mode: Mode = "mean", strength: float = 1.0, exempt_first: bool = True
    ) -> None:
        """The arguments are those of `ablate`; faults in them are told when training begins."""
        self.subspaces = tuple(subspaces)
        self.mode = mode
        self.strength = strength
        self.exempt_first = exempt_first
        self._open = ExitStack()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the ablation in place; one left over by a training that raised is removed first."""
        self.close()
        model: nn.Module = kwargs["model"]
        context = ablate(model, self.subspaces, mode=self.mode, strength=self.strength, exempt_first=self.exempt_first)
        self._open.enter_context(context)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remove the ablation."""
        self.close()

    def close(self) -> None:
        """Remove the ablation if it is in place."""
        self._open.close()
