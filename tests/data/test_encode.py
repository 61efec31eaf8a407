"""Prompts and answers as ids: what is answer, what is prompt, and batches that lose nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from autocaft.data.encode import Encoded, batches, collate, encode, encode_prompt
from autocaft.errors import DataError

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
PROMPT, ANSWER = "The doctor said that", " he came"


def answer_text(tokenizer: PreTrainedTokenizerFast, row: Encoded) -> str:
    return str(tokenizer.decode(row.input_ids[row.n_prompt :]))


def test_the_answer_is_what_follows_the_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    row = encode(tokenizer, PROMPT, ANSWER, chat=False)
    assert row.input_ids == tokenizer.encode(PROMPT) + tokenizer.encode(ANSWER)
    assert row.n_prompt == 4
    assert encode_prompt(tokenizer, PROMPT, chat=False).input_ids == row.input_ids[:4]


def test_bos_comes_once_and_first(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(bos=True)
    for row in (encode(tokenizer, PROMPT, ANSWER, chat=False), encode(tokenizer, None, ANSWER, chat=False)):
        assert row.input_ids[0] == 1 and row.input_ids.count(1) == 1
    assert encode(tokenizer, None, ANSWER, chat=False).n_prompt == 0


def test_a_chat_ends_its_turn_and_brings_its_own_special_tokens(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(chat=True, bos=True)
    row = encode(tokenizer, "The doctor", " he", chat=True)
    assert tokenizer.decode(row.input_ids[: row.n_prompt]).replace(" ", "") == "<turn>userThedoctor<eos><turn>assistant"
    assert row.input_ids[row.n_prompt :] == [*tokenizer.encode(" he", add_special_tokens=False), 2]
    assert 1 not in row.input_ids, "the template brings the special tokens, the tokenizer adds none"


def test_turns_go_through_the_template_even_if_chat_is_off(make_tokenizer: MakeTokenizer) -> None:
    tokenizer, turns = make_tokenizer(chat=True), ({"role": "user", "content": "The doctor"},)
    assert encode(tokenizer, turns, " he", chat=False) == encode(tokenizer, "The doctor", " he", chat=True)


def test_a_chat_without_a_template_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="no chat template"):
        encode(tokenizer, PROMPT, ANSWER, chat=True)


@pytest.mark.parametrize(("max_tokens", "n_ids", "n_prompt"), [(5, 5, 4), (4, 4, 4), (2, 2, 2), (None, 6, 4)])
def test_rows_are_cut_at_their_end(
    tokenizer: PreTrainedTokenizerFast, max_tokens: int | None, n_ids: int, n_prompt: int
) -> None:
    row = encode(tokenizer, PROMPT, ANSWER, chat=False, max_tokens=max_tokens)
    assert (len(row.input_ids), row.n_prompt) == (n_ids, n_prompt)


def test_padding_is_on_the_left_and_counts_for_nothing() -> None:
    batch = collate([Encoded([5, 6, 7], 2), Encoded([8, 9, 10, 11, 12], 1)], pad_id=0)
    assert batch.input_ids_BT.tolist() == [[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]]
    assert batch.attention_mask_BT.tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert batch.position_ids_BT.tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]
    assert batch.answer_mask_BT.tolist() == [[False] * 4 + [True], [False] + [True] * 4]
    assert batch.attention_mask_BT.dtype == torch.long and batch.answer_mask_BT.dtype == torch.bool


def test_the_pad_id_may_be_a_real_token() -> None:
    batch = collate([Encoded([2, 5], 1), Encoded([2, 5, 2], 1)], pad_id=2)
    assert batch.attention_mask_BT.tolist() == [[0, 1, 1], [1, 1, 1]]


def test_every_row_is_in_one_batch_and_none_is_too_large() -> None:
    rows = [Encoded(list(range(1, n + 2)), 1) for n in (3, 50, 1, 7, 7, 20, 4, 2)]
    found = list(batches(rows, tokens_per_batch=24, pad_id=0))
    numbers = list(itertools.chain.from_iterable(chosen for chosen, _ in found))
    assert sorted(numbers) == list(range(len(rows)))
    assert numbers[0] == 1, "longest first"
    for chosen, batch in found:
        assert batch.input_ids_BT.numel() <= 24 or len(chosen) == 1
        for row, number in enumerate(chosen):
            kept_T = batch.attention_mask_BT[row].bool()
            assert batch.input_ids_BT[row][kept_T].tolist() == rows[number].input_ids
    assert list(batches([], tokens_per_batch=24, pad_id=0)) == []
