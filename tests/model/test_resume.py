"""A forward pass that starts at a recorded layer ends where the whole one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from autocaft.errors import ConfigError
from autocaft.model.blocks import decoder_blocks, final_norm
from autocaft.model.directions import Subspace, orthonormal_basis
from autocaft.model.hooks import Recorder, ablate
from autocaft.model.resume import resumed

MakeModel = Callable[..., PreTrainedModel]
INPUTS = {
    "input_ids": torch.tensor([[0, 0, 1, 7, 8, 9], [1, 11, 12, 13, 14, 15]]),
    "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]),
}


def logits_of(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(**INPUTS, use_cache=False).logits
    return found


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_upper_half_alone_gives_the_same_logits(family_model: PreTrainedModel, layer: int) -> None:
    subspace = Subspace(layer, orthonormal_basis(torch.randn(2, 32)))
    plain = logits_of(family_model)
    with ablate(family_model, [subspace], mode="zero"):
        ablated = logits_of(family_model)
    acts_BTD = Recorder(family_model, [layer]).run(**INPUTS)[layer]
    with resumed(family_model, layer, acts_BTD):
        assert torch.equal(logits_of(family_model), plain)
        with ablate(family_model, [subspace], mode="zero"):
            assert torch.equal(logits_of(family_model), ablated)
    assert not torch.equal(plain, ablated)


@torch.no_grad()
def test_the_blocks_below_do_not_run_and_run_again_afterwards(make_model: MakeModel) -> None:
    model, called = make_model("llama"), []
    decoder_blocks(model)[0].self_attn.register_forward_hook(lambda *_: called.append(0))  # type: ignore[union-attr]
    acts_BTD = Recorder(model, [1]).run(**INPUTS)[1]
    called.clear()
    with pytest.raises(KeyError), resumed(model, 1, acts_BTD):
        logits_of(model)
        assert not called
        raise KeyError
    logits_of(model)
    assert called == [0]


def test_a_layer_the_model_lacks_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        resumed(make_model("llama"), 5, torch.zeros(1, 1, 32)).__enter__()


@torch.no_grad()
def test_the_final_norm_is_what_stands_before_the_head(family_model: PreTrainedModel) -> None:
    seen: list[torch.Tensor] = []
    handle = final_norm(family_model).register_forward_hook(lambda module, args, output: seen.append(output))
    logits = logits_of(family_model)
    handle.remove()
    head = family_model.get_output_embeddings()
    assert len(seen) == 1 and head is not None
    torch.testing.assert_close(head(seen[0]), logits)
