"""Turn prompts and texts into token ids, and ids into left-padded batches.

In: a prompt (plain, or chat turns) and the text that follows it. Out: ids with the number of prompt tokens, so that
a loss or a statistic can be taken on the answer alone.

Batches are padded on the left: the answer then ends every row, so the language-model head runs on the last few
positions only. At a vocabulary of 49,000 the head is a quarter of a small model's forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from autocaft.data.rows import Message
from autocaft.errors import DataError


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and the text after it."""

    input_ids: list[int]
    n_prompt: int
    """The first `n_prompt` ids are the prompt."""


@dataclass(frozen=True)
class Batch:
    """Left-padded rows on one device."""

    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    position_ids_BT: Tensor
    answer_mask_BT: Tensor
    """True at the text's tokens, False at prompt and padding."""

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Keyword arguments of a model's forward."""
        return {
            "input_ids": self.input_ids_BT,
            "attention_mask": self.attention_mask_BT,
            "position_ids": self.position_ids_BT,
        }


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[Message] | None,
    text: str,
    *,
    chat: bool,
    max_tokens: int | None = None,
) -> Encoded:
    """Encode `text` as what follows `prompt`.

    Args:
        prompt: None for plain text with no prompt.
        chat: put the prompt through the tokenizer's chat template, and end the text with the end-of-turn token.
        max_tokens: cut the row there, from the end.
    """
    prompt_ids, is_chat = _prompt_ids(tokenizer, prompt, chat)
    text_ids = tokenizer.encode(text, add_special_tokens=not prompt_ids)
    if is_chat and tokenizer.eos_token_id is not None:
        text_ids = [*text_ids, tokenizer.eos_token_id]
    ids = (prompt_ids + text_ids)[:max_tokens]
    return Encoded(ids, min(len(prompt_ids), len(ids)))


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Message], *, chat: bool) -> Encoded:
    """Encode a prompt that waits for its answer."""
    ids, _ = _prompt_ids(tokenizer, prompt, chat)
    return Encoded(ids, len(ids))


def _prompt_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Message] | None, chat: bool
) -> tuple[list[int], bool]:
    """Ids of the prompt, and whether it went through the chat template (which brings its own special tokens)."""
    rendered, is_chat = _render(tokenizer, prompt, chat)
    return (tokenizer.encode(rendered, add_special_tokens=not is_chat) if rendered else []), is_chat


def _render(tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Message] | None, chat: bool) -> tuple[str, bool]:
    """The prompt as text, and whether a chat template made it (it then holds its own special tokens)."""
    if prompt is None:
        return "", False
    if isinstance(prompt, str) and not chat:
        return prompt, False
    if tokenizer.chat_template is None:
        raise DataError("the rows are chats, but this model's tokenizer has no chat template; use an instruct model")
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)), True


def collate(rows: Sequence[Encoded], pad_id: int, device: torch.device | None = None) -> Batch:
    """Pad rows on the left into one batch."""
    width = max(len(row.input_ids) for row in rows)
    pads = [width - len(row.input_ids) for row in rows]
    ids_BT = torch.tensor([[pad_id] * pad + row.input_ids for pad, row in zip(pads, rows, strict=True)])
    column_T = torch.arange(width)
    mask_BT = column_T >= torch.tensor(pads)[:, None]
    starts = torch.tensor([pad + row.n_prompt for pad, row in zip(pads, rows, strict=True)])
    positions_BT = (mask_BT.long().cumsum(1) - 1).clamp_min(0)
    parts = (ids_BT, mask_BT.long(), positions_BT, column_T >= starts[:, None])
    return Batch(*(part.to(device) for part in parts))


def batches(
    rows: Sequence[Encoded], *, tokens_per_batch: int, pad_id: int, device: torch.device | None = None
) -> Iterator[tuple[list[int], Batch]]:
    """Batches of at most `tokens_per_batch` padded tokens, longest rows first, each with its rows' numbers.

    Rows of like length share a batch, so little is padding; the longest first shows at once if memory suffices.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].input_ids), i))
    while order:
        width = max(1, len(rows[order[0]].input_ids))
        chosen, order = order[: max(1, tokens_per_batch // width)], order[max(1, tokens_per_batch // width) :]
        yield chosen, collate([rows[i] for i in chosen], pad_id, device)
