"""Sampling: a row's text depends on its prompt and its own seed, and on nothing beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from autocaft.model.generate import _draw, sample

MakeModel = Callable[..., PreTrainedModel]
PROMPTS = [[1, 7, 9], [1, 8], [1, 30, 31, 32, 33, 34], [1]]


def test_the_same_seed_gives_the_same_text_whatever_the_batch(family_model: PreTrainedModel) -> None:
    together = sample(family_model, PROMPTS, seeds=[3, 4, 5, 6], max_new_tokens=8)
    backwards = sample(family_model, PROMPTS[::-1], seeds=[6, 5, 4, 3], max_new_tokens=8)[::-1]
    alone = [
        sample(family_model, [prompt], seeds=[seed], max_new_tokens=8)[0]
        for prompt, seed in zip(PROMPTS, [3, 4, 5, 6], strict=True)
    ]
    assert together == backwards == alone
    assert together != sample(family_model, PROMPTS, seeds=[13, 14, 15, 16], max_new_tokens=8)


def test_the_global_generator_is_neither_used_nor_moved(make_model: MakeModel) -> None:
    model = make_model("llama")
    torch.manual_seed(1)
    first = sample(model, PROMPTS, seeds=[3, 4, 5, 6], max_new_tokens=4)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(2)
    assert sample(model, PROMPTS, seeds=[3, 4, 5, 6], max_new_tokens=4) == first


def test_temperature_zero_is_greedy(family_model: PreTrainedModel) -> None:
    found = sample(family_model, PROMPTS, seeds=[0, 0, 0, 0], max_new_tokens=6, temperature=0.0, stop_ids=[2])
    for prompt, new in zip(PROMPTS, found, strict=True):
        ids_BT = torch.tensor([prompt])
        out_BT = family_model.generate(
            input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=6, do_sample=False, eos_token_id=2
        )
        wanted = out_BT[0, len(prompt) :].tolist()
        assert new == (wanted[: wanted.index(2)] if 2 in wanted else wanted)


def test_a_row_ends_before_its_first_stop_token_and_the_others_go_on(make_model: MakeModel) -> None:
    model = make_model("llama")
    free = sample(model, PROMPTS, seeds=[3, 4, 5, 6], max_new_tokens=8)
    stop = free[0][3]
    found = sample(model, PROMPTS, seeds=[3, 4, 5, 6], max_new_tokens=8, stop_ids=[stop])
    assert found == [row[: row.index(stop)] if stop in row else row for row in free]
    assert len(found[0]) <= 3 and max(map(len, found)) == 8


def test_draws_follow_the_distribution() -> None:
    logits_BV = torch.tensor([0.5, 0.3, 0.0, 0.2]).log().expand(4000, -1)
    uniform_B = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    counts = Counter(_draw(logits_BV, uniform_B, 1.0).tolist())
    assert counts[2] == 0, "a token of probability zero was drawn"
    for token, share in ((0, 0.5), (1, 0.3), (3, 0.2)):
        assert abs(counts[token] / 4000 - share) < 0.03
    cold = Counter(_draw(logits_BV, uniform_B, 0.25).tolist())
    assert cold[0] > 0.8 * 4000


def test_the_ends_of_the_unit_interval_draw_real_tokens() -> None:
    logits_BV = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(2, -1)
    drawn = _draw(logits_BV, torch.tensor([0.0, 1.0 - 2**-24]), 1.0)
    assert drawn.tolist() == [1, 2]
