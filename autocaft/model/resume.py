"""Run a language model from the middle: the blocks above a layer alone, on activations that are handed over.

    upper = Upper(model, layer=14)
    with upper.on(acts_BTD):
        logits = model(**batch.inputs).logits        # blocks 0 to 14 cost nothing

In: the residual stream after a block. Out: what the model makes of it, with its own masks, positions and head. The
decision a reader would question: the lower blocks' `forward` is replaced while the context is open, because a hook can
change what a block says but not spare its work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autocaft.model.blocks import check_layers, decoder_blocks


class Upper:
    """The part of a model above block `layer`."""

    def __init__(self, model: nn.Module, layer: int) -> None:
        """Runs the model once on one token, to see what its blocks return: a tensor, or a tuple that opens with it.

        Raises:
            ConfigError: a layer the model does not have.
        """
        check_layers(model, (layer,))
        self._lower = list(decoder_blocks(model)[: layer + 1])
        self._outputs = _outputs_on_one_token(model, self._lower)

    @contextmanager
    def on(self, acts_BTD: Tensor) -> Iterator[None]:
        """Every forward pass inside has `acts_BTD` as the residual stream after the block."""
        try:
            for block, output in zip(self._lower, self._outputs, strict=True):
                block.forward = _constant((acts_BTD, *output[1:]) if isinstance(output, tuple) else acts_BTD)
            yield
        finally:
            for block in self._lower:
                block.__dict__.pop("forward", None)  # what the class says shows again


def _constant(output: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: output


@torch.no_grad()
def _outputs_on_one_token(model: nn.Module, blocks: list[nn.Module]) -> list[Any]:
    seen: list[Any] = []
    handles = [block.register_forward_hook(lambda module, args, output: seen.append(output)) for block in blocks]
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    assert len(seen) == len(blocks), (len(seen), len(blocks))
    return seen
