"""Run a model from one layer up, from a residual stream that was recorded there.

    acts_BTD = Recorder(model, [14]).run(**batch.inputs)[14]
    with resumed(model, 14, acts_BTD), ablate(model, [subspace]):
        logits = model(**batch.inputs, use_cache=False).logits      # blocks 0 to 14 are not computed

Hundreds of ablations at one layer share everything below it. The decision a reader would question: the blocks are not
called one by one with masks and positions of our making; the model's own forward runs, in which the lower blocks hand
on the recorded value. So every family works that `ablate` works on, and hooks on the last of these blocks still fire.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from autocaft.model.blocks import check_layers, decoder_blocks


@contextmanager
def resumed(model: nn.Module, layer: int, acts_BTD: Tensor) -> Iterator[None]:
    """For as long as the context is open, the value after block `layer` is `acts_BTD`, and no block up to it runs.

    Only for the batch that was recorded, and without a cache.
    """
    check_layers(model, (layer,))

    def forward(*args: Any, **kwargs: Any) -> Any:
        return acts_BTD

    skipped = decoder_blocks(model)[: layer + 1]
    try:
        for block in skipped:
            block.forward = forward
        yield
    finally:
        for block in skipped:
            # without the instance's own attribute the class's method shows again
            block.__dict__.pop("forward", None)
