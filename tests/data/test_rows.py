"""Rows that would quietly spoil a run are refused, each by file and line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

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
    check_first_tokens(load_rows(make_jsonl("good.jsonl", good)), tokenizer)
    shared = tokenizer.encode(" she")[0]
    with pytest.raises(DataError, match=re.escape(f"{path}:2: ") + f".*share their first token.*{shared}"):
        check_first_tokens(load_rows(path), tokenizer)


def test_a_choice_without_a_token_is_refused(make_jsonl: MakeJsonl) -> None:
    class Empty:
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return []

    path = make_jsonl("rows.jsonl", {**GOOD, "choices": [" he", " she"]})
    with pytest.raises(DataError, match=re.escape(f"{path}:1")):
        check_first_tokens(load_rows(path), Empty())


def test_a_row_that_is_also_in_training_is_refused(make_jsonl: MakeJsonl) -> None:
    train = load_rows(make_jsonl("train.jsonl", {**GOOD, "id": "t1"}))
    other = {**GOOD, "prompt": "The nurse said that"}
    path = make_jsonl("val.jsonl", other, {**GOOD, "prompt": "The  doctor said\nthat", "answer": " she"})
    check_no_leak(train, load_rows(path)[:1])
    with pytest.raises(DataError, match=re.escape(f"{path}:2: ") + ".*also in training.*'t1'"):
        check_no_leak(train, load_rows(path))


def test_the_line_is_right_after_blank_lines(make_jsonl: MakeJsonl, tokenizer: PreTrainedTokenizerFast) -> None:
    path = make_jsonl("rows.jsonl", "", GOOD, "", {**GOOD, "choices": [" she saw", " he", " she went"]})
    with pytest.raises(DataError, match=re.escape(f"{path}:4: ")):
        check_first_tokens(load_rows(path), tokenizer)
    with pytest.raises(DataError, match=re.escape(f"{path}:2: ")):
        check_no_leak(load_rows(path), load_rows(path))


def test_completion_is_another_name_of_answer(make_jsonl: MakeJsonl) -> None:
    both = {"prompt": "p", "answer": "a", "completion": "c"}
    rows = load_rows(make_jsonl("rows.jsonl", {"prompt": "p", "completion": "c"}, both))
    assert [row.answer for row in rows] == ["c", "a"]


def test_prompt_and_completion_may_be_messages(make_jsonl: MakeJsonl) -> None:
    user, reply = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}
    path = make_jsonl(
        "rows.jsonl",
        {"prompt": [user], "completion": [reply]},
        {"prompt": [{"role": "system", "content": "s"}, user], "answer": "a"},
        {"prompt": "u", "completion": [reply]},
        {"messages": [user, reply], "prompt": None},
    )
    first, with_system, from_text, as_chat = load_rows(path)
    assert first.prompt == from_text.prompt == as_chat.prompt == ({"role": "user", "content": "u"},)
    assert with_system.prompt_text == "system: s\nuser: u"
    assert {row.answer for row in (first, with_system, from_text, as_chat)} == {"a"}
    with pytest.raises(DataError, match=re.escape(":1: the last message must be the assistant's, found role 'user'")):
        load_rows(make_jsonl("bad.jsonl", {"prompt": [user], "completion": [user]}))
    with pytest.raises(DataError, match=re.escape(":1: 'prompt' must be a non-empty string, found {'role'")):
        load_rows(make_jsonl("bad.jsonl", {"prompt": user, "completion": "a"}))


def test_each_answer_of_a_chat_is_a_row_if_asked_for(make_jsonl: MakeJsonl) -> None:
    turns = [("assistant", "hello"), ("user", "u1"), ("assistant", "a1"), ("user", "u2"), ("assistant", "a2")]
    path = make_jsonl("rows.jsonl", chat(*turns), GOOD, {**chat(*turns[1:]), "choices": ["a2", "b"]})
    last, each = load_rows(path), load_rows(path, turns="each")
    assert [row.answer for row in last] == ["a2", " he", "a2"]
    assert [(row.id, row.answer, row.seed) for row in each] == [
        ("1.2", "a1", "hello\nu1\na1"),
        *((row.id, row.answer, row.seed) for row in last),
    ]
    assert each[0].prompt == last[0].prompt[:2] and each[0].template == each[1].template
    assert each[1:] == last, "the last answer has the row it always had"


def test_an_answer_of_weight_0_is_context_and_never_learned(make_jsonl: MakeJsonl) -> None:
    turns = chat(*((role, f"{role[0]}{n}") for n in (1, 2, 3) for role in ("user", "assistant")))["messages"]

    def weighed(**weights: int) -> Path:
        of = {content: {"weight": weight} for content, weight in weights.items()}
        return make_jsonl("weights.jsonl", {"messages": [turn | of.get(turn["content"], {}) for turn in turns]})

    def answers(path: Path, how: Literal["last", "each"]) -> list[str]:
        return [row.answer for row in load_rows(path, turns=how)]

    assert answers(weighed(), "each") == ["a1", "a2", "a3"]
    assert answers(weighed(a1=0, a2=1), "each") == ["a2", "a3"] and answers(weighed(a1=0), "last") == ["a3"]
    (cut,) = load_rows(weighed(a3=0))
    assert cut.answer == "a2" and [turn["content"] for turn in cut.prompt] == ["u1", "a1", "u2"]
    assert answers(weighed(a3=0, a2=0), "each") == ["a1"]
    with pytest.raises(DataError, match=re.escape(":1: every answer has 'weight' 0")):
        load_rows(weighed(a1=0, a2=0, a3=0))
    with pytest.raises(DataError, match=re.escape(":1: 'weight' of a message must be 0 or 1, found 2")):
        load_rows(weighed(a1=2))


@pytest.mark.parametrize("last", ["completion", "answer"])
def test_weight_0_counts_in_a_prompt_of_messages_too(make_jsonl: MakeJsonl, last: str) -> None:
    turns: list[dict[str, Any]] = chat(*((r, f"{r[0]}{n}") for n in (1, 2, 3) for r in ("user", "assistant")))[
        "messages"
    ]
    for place, learned in ((1, ["a2", "a3"]), (3, ["a1", "a3"])):
        weighed = [turn | {"weight": 0} if at == place else turn for at, turn in enumerate(turns)]
        for cut in (2, 5):  # the message is in the prompt, or in what follows it
            row = {"prompt": weighed[:cut], last: weighed[cut:], "messages": None}
            assert [r.answer for r in load_rows(make_jsonl("pair.jsonl", row), turns="each")] == learned
    text = {"prompt": "u1", last: [{"role": "assistant", "content": "a1"}]}
    assert [r.answer for r in load_rows(make_jsonl("text.jsonl", text), turns="each")] == ["a1"]


@pytest.mark.parametrize("name", ["tools", "functions"])
def test_tools_are_not_left_out_silently(make_jsonl: MakeJsonl, name: str) -> None:
    row = chat(("user", "u"), ("assistant", "a"))
    assert len(load_rows(make_jsonl("none.jsonl", row | {name: []}))) == 1
    with pytest.raises(DataError, match=re.escape(f":1: {name!r} would be part of the prompt")):
        load_rows(make_jsonl("tools.jsonl", row | {name: [{"name": "search"}]}))


def test_several_files_are_one_set_and_each_complaint_names_its_own(
    make_jsonl: MakeJsonl, tokenizer: PreTrainedTokenizerFast
) -> None:
    one = make_jsonl("one.jsonl", GOOD, "", {**GOOD, "prompt": "A"})
    two = make_jsonl("two.jsonl", {**GOOD, "choices": [" she saw", " he", " she went"]})
    rows = load_rows([one, two])
    assert [row.id for row in rows] == ["1", "3", "4"]
    with pytest.raises(DataError, match=re.escape(f"{two}:1: ")):
        check_first_tokens(rows, tokenizer)
    with pytest.raises(DataError, match=re.escape(f"{one}:1: ")):
        check_no_leak(rows, rows)
