from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import WIDTH, tiny_llama

from autocaft.data.encode import collate, encode
from autocaft.discover.rank import DifferenceRanker, attribution, loss_gradients
from autocaft.discover.sae import Dictionary
from autocaft.rundir.progress import NullProgress


class LinearSae:
    """The least that a dictionary needs: a decoder, and latents that are projections cut at zero."""

    def __init__(self, rows_SD: torch.Tensor) -> None:
        self.W_dec, self.dtype = rows_SD, torch.float32
        self.b_dec = torch.zeros(rows_SD.shape[1])
        self.cfg = SimpleNamespace(metadata=SimpleNamespace(hook_name=None))

    def encode(self, acts_ND: torch.Tensor) -> torch.Tensor:
        return (acts_ND @ self.W_dec.T).relu()

    def eval(self) -> LinearSae:
        return self

    def to(self, device: Any) -> LinearSae:
        return self


def _batch(tokenizer: Any) -> Any:
    texts = ["the doctor said", "a big red nurse asked the", "one two three"]
    return [encode(tokenizer, text, " him yes", chat=False) for text in texts]


def test_attribution_finds_the_latent_the_answer_depends_on(tokenizer: Any) -> None:
    # The blocks above the hookpoint and the last norm do nothing: the answer depends on what the head reads.
    model = tiny_llama()
    model.model.norm = torch.nn.Identity()
    for block in model.model.layers[1:]:
        block.self_attn.o_proj.weight.data.zero_()
        block.mlp.down_proj.weight.data.zero_()
    rows_SD = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(2)))[0].T
    read_D = rows_SD[5]
    model.lm_head.weight.data = 3.0 * torch.outer(torch.randn(model.config.vocab_size), read_D)
    dictionary = Dictionary.of(LinearSae(torch.cat([rows_SD, -rows_SD])))
    score_S = attribution(
        model, _batch(tokenizer), {1: dictionary}, tokens_per_batch=16, pad_id=0, progress=NullProgress()
    )[1]
    assert int(score_S.argmax()) in (5, WIDTH + 5)
    assert float((score_S[5] + score_S[WIDTH + 5]) / score_S.sum()) > 0.95


def test_gradients_are_those_of_a_plain_backward(tokenizer: Any) -> None:
    model = tiny_llama()
    batch = collate(_batch(tokenizer), 0)
    acts, grads = loss_gradients(model, batch, [0, 2])
    labels_BT = batch.input_ids_BT.masked_fill(~batch.answer_mask_BT, -100)
    out = model(**batch.inputs, output_hidden_states=True)
    out.hidden_states[1].retain_grad()
    loss = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), reduction="sum"
    )
    loss.backward()
    real_BT1 = batch.attention_mask_BT[..., None].bool()
    expected = out.hidden_states[1].grad * real_BT1
    cosine = torch.nn.functional.cosine_similarity((grads[0] * real_BT1).flatten(), expected.flatten(), dim=0)
    assert float(cosine) > 0.99
    assert set(acts) == {0, 2}


def test_nothing_below_the_shallowest_hookpoint_is_differentiated(tokenizer: Any) -> None:
    model = tiny_llama()
    model.model.layers[0].register_full_backward_hook(lambda *_: pytest.fail("block 0 was differentiated"))
    attribution(
        model,
        _batch(tokenizer),
        {1: Dictionary.of(LinearSae(torch.eye(WIDTH)))},
        tokens_per_batch=64,
        pad_id=0,
        progress=NullProgress(),
    )
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


def test_difference_rankings_find_the_latent_that_changed() -> None:
    generator = torch.Generator().manual_seed(0)
    base_ND = torch.randn(500, WIDTH, generator=generator)
    tuned_ND = base_ND.clone()
    tuned_ND[:, 7] += 1.0
    ranker = DifferenceRanker(Dictionary.of(LinearSae(torch.eye(WIDTH))), torch.zeros(WIDTH))
    for base, tuned in zip(base_ND.split(64), tuned_ND.split(64), strict=True):
        ranker.update(base, tuned)
    scores = ranker.scores()
    assert int(scores["difference"].argmax()) == 7 and int(scores["sae-of-difference"].argmax()) == 7
    torch.testing.assert_close(scores["sae-of-difference"][7], torch.tensor(1.0), rtol=1e-4, atol=1e-4)


def test_strength_is_a_length_along_the_unit_direction() -> None:
    dictionary = Dictionary.of(LinearSae(torch.tensor([[3.0, 0.0], [0.0, 0.5]])))
    assert torch.equal(dictionary.directions_SD, torch.eye(2))
    torch.testing.assert_close(dictionary.encode(torch.tensor([[1.0, 1.0]])), torch.tensor([[9.0, 0.25]]))
