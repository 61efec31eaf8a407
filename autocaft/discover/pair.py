"""The base model and the tuned one, in as little memory as they allow.

In: how to load each. Out: contexts in which a model behaves as base or as tuned. A LoRA model is both: its adapter is
switched off and on. Two full models are held side by side when they fit, and one after the other when not.

The decision a reader would question: whether two models fit is judged once, after the first is loaded, with a third
of its size to spare; a wrong yes ends in an out-of-memory error, a wrong no only costs disk (`plan` prints how much).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from autocaft.model.load import as_base, has_adapter

Model = Any
"""A Hugging Face causal language model, bare or inside a PEFT wrapper."""
Way = Literal["adapter", "side by side", "in turn"]


@dataclass
class ModelPair:
    """Base and tuned; hand over loaded models with `ModelPair.of`, or loaders to have them loaded when needed."""

    load_base: Callable[[], Model]
    load_tuned: Callable[[], Model]
    way: Way | None = None
    """How the two share memory; None finds out."""
    held: dict[str, Model] = field(default_factory=dict)

    @classmethod
    def of(cls, base: Model | None, tuned: Model) -> ModelPair:
        """A pair of loaded models; base may be None if `tuned` is a LoRA model."""
        assert base is not None or has_adapter(tuned), "a full tuned model needs its base beside it"
        held = {"tuned": tuned} if base is None else {"base": base, "tuned": tuned}
        return cls(lambda: base, lambda: tuned, "adapter" if base is None else "side by side", held)

    def find_way(self) -> Way:
        """Load what is needed to know how the two share memory."""
        if self.way is None:
            tuned = self._get("tuned")
            if has_adapter(tuned):
                self.way = "adapter"
            else:
                self.way = "side by side" if _fits_again(tuned) else "in turn"
        return self.way

    @contextmanager
    def base(self) -> Iterator[Model]:
        """A model that behaves as the base."""
        if self.find_way() == "adapter":
            with as_base(self._get("tuned")) as model:
                yield model
        else:
            yield self._get("base")

    @contextmanager
    def tuned(self) -> Iterator[Model]:
        """A model that behaves as tuned."""
        self.find_way()
        yield self._get("tuned")

    def release(self) -> None:
        """Let go of the loaded models."""
        self.held.clear()
        _collect_garbage()

    def _get(self, name: Literal["base", "tuned"]) -> Model:
        if name not in self.held:
            if self.way == "in turn":
                self.release()
            self.held[name] = self.load_base() if name == "base" else self.load_tuned()
        return self.held[name]


def device_of(model: Model) -> torch.device:
    """Device of the model's first weight."""
    return next(model.parameters()).device


def _fits_again(model: nn.Module) -> bool:
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return _free_bytes(device_of(model)) > size * 4 // 3


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def _collect_garbage() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
