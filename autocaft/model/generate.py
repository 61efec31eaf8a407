"""Sample continuations from a causal language model, many rows at once, each row with a seed of its own.

In: prompts as token ids, one seed a row. Out: the new token ids of each row, up to and without the first stop token.

A loop of our own, and not `model.generate`: there one generator serves the whole batch, so a row's text depends on
the rows beside it and a resumed run could not repeat it; and its exponential draws over the whole vocabulary took
a third of the time on a CPU. Here a row draws one uniform number a step and inverts the cumulative distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from autocaft.model.blocks import last_logits

ROWS_ON_CPU, ROWS_ON_ACCELERATOR = 48, 64
"""Rows of one batch where nobody says. On a CPU more of them take more padding than they save."""


def rows_at_once(asked: int | None, device: torch.device) -> int:
    """How many rows to sample in one batch: as many as asked for, or what suits the device."""
    return asked or (ROWS_ON_CPU if device.type == "cpu" else ROWS_ON_ACCELERATOR)


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    temperature: float = 1.0,
    stop_ids: Sequence[int] = (),
    pad_id: int = 0,
) -> list[list[int]]:
    """Continue one batch of prompts.

    Args:
        prompts: token ids of each row, any lengths.
        seeds: one a row; the same prompt, seed and model give the same draws whatever else is in the batch.
        temperature: 0 takes the most likely token.

    Returns:
        New token ids of each row, at most `max_new_tokens`.
    """
    assert len(prompts) == len(seeds) > 0, (len(prompts), len(seeds))
    ids_BT, mask_BT = _left_padded(prompts, pad_id, model.device)
    draws_BT = _uniform_draws(seeds, max_new_tokens).to(model.device)
    stops = torch.tensor(sorted(stop_ids), device=model.device)
    cache, done_B = None, torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    steps: list[Tensor] = []
    for step in range(max_new_tokens):
        position_BT = (mask_BT.cumsum(1) - 1).clamp_min(0)[:, -ids_BT.shape[1] :]
        out = model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=position_BT,
            past_key_values=cache,
            use_cache=True,
            **last_logits(model, 1),
        )
        cache = out.past_key_values
        token_B = _draw(out.logits[:, -1].float(), draws_BT[:, step], temperature)
        done_B = done_B | torch.isin(token_B, stops)
        steps.append(torch.where(done_B, -1, token_B))
        if done_B.all():
            break
        ids_BT = torch.where(done_B, pad_id, token_B)[:, None]
        mask_BT = torch.cat([mask_BT, torch.ones_like(ids_BT)], dim=1)
    return [[token for token in row if token >= 0] for row in torch.stack(steps, dim=1).tolist()]


def _left_padded(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(len(prompt) for prompt in prompts)
    ids = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _uniform_draws(seeds: Sequence[int], n_steps: int) -> Tensor:
    """Uniform numbers (B, T), each row from its own CPU generator: the same on every device."""
    return torch.stack([torch.rand(n_steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def _draw(logits_BV: Tensor, uniform_B: Tensor, temperature: float) -> Tensor:
    """One token a row: the first whose cumulative probability exceeds the row's uniform number."""
    if temperature == 0.0:
        return logits_BV.argmax(dim=-1)
    cumulative_BV = (logits_BV / temperature).softmax(dim=-1).cumsum(dim=-1)
    # The sum ends a rounding error short of 1; scaling the draw keeps the last tokens in reach and nothing beyond.
    target_B1 = (uniform_B * cumulative_BV[:, -1])[:, None]
    return torch.searchsorted(cumulative_BV, target_B1, right=True)[:, 0].clamp_max(logits_BV.shape[-1] - 1)


def stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end a text: the tokenizer's and those of the model's generation settings."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({i for i in [*listed, tokenizer.eos_token_id] if i is not None}))


def new_text(tokenizer: Any, before_ids: Sequence[int], new_ids: Sequence[int]) -> str:
    """The new tokens as text. They are decoded together with what came before and cut there: some tokenizers drop the
    space that opens a text."""
    before = tokenizer.decode(list(before_ids), skip_special_tokens=True)
    return str(tokenizer.decode([*before_ids, *new_ids], skip_special_tokens=True))[len(before) :]
