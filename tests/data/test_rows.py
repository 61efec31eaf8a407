"""Rows that would quietly spoil a run are refused, each by file and line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from autocaft.data.rows import TaskRow, check_first_tokens, check_no_leak, chosen_rows, load_rows
from autocaft.errors import DataError

MakeJsonl = Callable[..., Path]
GOOD = {"prompt": "The doctor said that", "answer": " he"}


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_a_row_is_read_with_its_defaults(make_jsonl: MakeJsonl) -> None:
    rows = load_rows(make_jsonl("rows.jsonl", GOOD, {**GOOD, "choices": [" he", " she"], "template": "t7", "id": "a"}))
    plain, full = rows
    assert (plain.id, plain.template, plain.choices) == ("1", "1", None)
    assert plain.seed == "The doctor said that he"
    assert (full.id, full.template, full.choices) == ("a", "t7", (" he", " she"))


def test_chat_rows_end_with_the_answer(make_jsonl: MakeJsonl) -> None:
    row = load_rows(make_jsonl("rows.jsonl", chat(("system", "s"), ("user", "u"), ("assistant", "a"))))[0]
    assert row.prompt == ({"role": "system", "content": "s"}, {"role": "user", "content": "u"})
    assert row.answer == "a" and row.prompt_text == "system: s\nuser: u"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"answer": " he"}, "has no 'prompt'; it has answer"),
        ({"prompt": "x"}, "has no 'answer'"),
        ({**GOOD, "answer": ""}, "'answer' must be a non-empty string"),
        ({**GOOD, "prompt": "  "}, "'prompt' must be a non-empty string"),
        ({**GOOD, "answer": 3}, "'answer' must be a non-empty string, found 3"),
        ({**GOOD, "choices": [" he"]}, "two or more"),
        ({**GOOD, "choices": "he she"}, "two or more"),
        ({**GOOD, "choices": [" he", ""]}, "two or more"),
        ({**GOOD, "choices": [" she", " it"]}, "not among the choices"),
        ({"messages": []}, "user turn"),
        (chat(("user", "u")), "user turn"),
        (chat(("user", "u"), ("user", "v")), "must be the assistant's, found role 'user'"),
        (chat(("user", "u"), ("assistant", "")), "'content' must be a non-empty string"),
        (chat(("user", None), ("assistant", "a")), "'content' must be a non-empty string"),
        ({"messages": ["hello", "you"]}, "needs a 'role'"),
        ("[1, 2]", "JSON object"),
        ('{"prompt": ', "not JSON"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(make_jsonl: MakeJsonl, bad: Any, says: str) -> None:
    path = make_jsonl("rows.jsonl", GOOD, "", bad)  # a blank line is no row, and counts as a line
    with pytest.raises(DataError, match=re.escape(f"{path}:3") + ".*" + re.escape(says)):
        load_rows(path)


def test_choices_are_asked_for_where_they_are_needed(make_jsonl: MakeJsonl) -> None:
    path = make_jsonl("rows.jsonl", GOOD)
    load_rows(path)
    with pytest.raises(DataError, match=re.escape(f"{path}:1: the row has no 'choices'")):
        load_rows(path, choices_required=True)


def test_rows_are_drawn_by_their_ids_and_keep_their_order() -> None:
    rows = [TaskRow(f"row-{i}", "The", " he", None, "t", "") for i in range(20)]
    drawn = chosen_rows(rows, 5)
    assert len(drawn) == 5 and drawn != rows[:5] and drawn == [row for row in rows if row in drawn]
    assert chosen_rows(rows[::-1], 5) == drawn[::-1]
    assert chosen_rows(rows, 20) == chosen_rows(rows, 99) == rows


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        load_rows(tmp_path / "none.jsonl")


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_is_named(make_jsonl: MakeJsonl, text: str) -> None:
    path = make_jsonl("rows.jsonl", *([text] if text else []))
    with pytest.raises(DataError, match="is empty"):
        load_rows(path)


def test_choices_that_share_their_first_token_are_refused(
    make_jsonl: MakeJsonl, tokenizer: PreTrainedTokenizerFast
) -> None:
    good = {**GOOD, "choices": [" he", " she"]}
    path = make_jsonl("rows.jsonl", good, {**GOOD, "choices": [" she saw", " he", " she went"]})
    check_first_tokens(load_rows(make_jsonl("good.jsonl", good)), tokenizer, path)
    shared = tokenizer.encode(" she")[0]
    with pytest.raises(DataError, match=re.escape(f"{path}:2: ") + f".*share their first token.*{shared}"):
        check_first_tokens(load_rows(path), tokenizer, path)


def test_a_choice_without_a_token_is_refused(make_jsonl: MakeJsonl) -> None:
    class Empty:
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return []

    path = make_jsonl("rows.jsonl", {**GOOD, "choices": [" he", " she"]})
    with pytest.raises(DataError, match=re.escape(f"{path}:1")):
        check_first_tokens(load_rows(path), Empty(), path)


def test_a_row_that_is_also_in_training_is_refused(make_jsonl: MakeJsonl) -> None:
    train = load_rows(make_jsonl("train.jsonl", {**GOOD, "id": "t1"}))
    other = {**GOOD, "prompt": "The nurse said that"}
    path = make_jsonl("val.jsonl", other, {**GOOD, "prompt": "The  doctor said\nthat", "answer": " she"})
    check_no_leak(train, load_rows(path)[:1], path)
    with pytest.raises(DataError, match=re.escape(f"{path}:2: ") + ".*also in training.*'t1'"):
        check_no_leak(train, load_rows(path), path)


def test_the_line_is_right_after_blank_lines(make_jsonl: MakeJsonl, tokenizer: PreTrainedTokenizerFast) -> None:
    path = make_jsonl("rows.jsonl", "", GOOD, "", {**GOOD, "choices": [" she saw", " he", " she went"]})
    with pytest.raises(DataError, match=re.escape(f"{path}:4: ")):
        check_first_tokens(load_rows(path), tokenizer, path)
    with pytest.raises(DataError, match=re.escape(f"{path}:2: ")):
        check_no_leak(load_rows(path), load_rows(path), path)
