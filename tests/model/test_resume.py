"""The blocks above a layer go on from what they are handed, and the model is as before when the context closes."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from autocaft.errors import ConfigError
from autocaft.model.blocks import decoder_blocks, final_norm
from autocaft.model.hooks import Recorder
from autocaft.model.resume import Upper

IDS = torch.tensor([[1, 7, 8, 9, 10], [1, 20, 21, 22, 23]])


@torch.no_grad()
def test_on_its_own_activations_a_model_says_the_same(family_model: PreTrainedModel) -> None:
    plain = family_model(input_ids=IDS, use_cache=False).logits
    acts_BTD = Recorder(family_model, [1]).run(input_ids=IDS)[1]
    with Upper(family_model, 1).on(acts_BTD):
        assert torch.equal(family_model(input_ids=IDS, use_cache=False).logits, plain)


@torch.no_grad()
def test_other_activations_reach_the_head_and_the_lower_blocks_do_not_run(family_model: PreTrainedModel) -> None:
    acts_BTD = Recorder(family_model, [1]).run(input_ids=IDS)[1]
    plain = family_model(input_ids=IDS, use_cache=False).logits
    lowest_weight = next(decoder_blocks(family_model)[0].parameters())
    with Upper(family_model, 1).on(acts_BTD + 0.5 * torch.randn_like(acts_BTD)):
        changed = family_model(input_ids=IDS, use_cache=False).logits
        lowest_weight.fill_(torch.nan)
        assert torch.equal(family_model(input_ids=IDS, use_cache=False).logits, changed)
    assert not torch.allclose(changed, plain, atol=1e-3)


@torch.no_grad()
def test_after_an_exception_the_blocks_are_as_before(family_model: PreTrainedModel) -> None:
    plain = family_model(input_ids=IDS, use_cache=False).logits
    with pytest.raises(KeyboardInterrupt), Upper(family_model, 0).on(torch.zeros(2, 5, 32)):
        raise KeyboardInterrupt
    assert torch.equal(family_model(input_ids=IDS, use_cache=False).logits, plain)


def test_a_layer_that_is_not_there_is_refused(family_model: PreTrainedModel) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        Upper(family_model, 99)


@torch.no_grad()
def test_the_final_norm_is_what_stands_before_the_head(family_model: PreTrainedModel) -> None:
    seen: list[torch.Tensor] = []
    handle = final_norm(family_model).register_forward_hook(lambda module, args, output: seen.append(output))
    logits = family_model(input_ids=IDS).logits
    handle.remove()
    head = family_model.get_output_embeddings()
    assert len(seen) == 1 and head is not None
    torch.testing.assert_close(head(seen[0]), logits)
