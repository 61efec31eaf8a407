"""Read task rows from JSONL and refuse what would quietly spoil a run.

In: one JSON object a line, either `{"prompt", "answer"}` (with `choices` for a choice task) or chat `{"messages"}`
whose last turn is the assistant's answer. Out: `TaskRow`s. Every complaint names the file and the line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from autocaft.errors import DataError
from autocaft.rundir.files import iter_jsonl

Message = dict[str, str]


@dataclass(frozen=True)
class TaskRow:
    """One row of a fine-tuning or evaluation set."""

    id: str
    prompt: str | tuple[Message, ...]
    """Plain text, or the chat turns before the answer."""
    answer: str
    """With its leading space, if the prompt ends without one."""
    choices: tuple[str, ...] | None
    """The options of a choice task, `answer` among them."""
    template: str
    """Rows of one template are one cluster: intervals resample templates, not rows."""
    seed: str
    """Plain text of the row, which task-seeded text continues; by default prompt and answer."""
    line: int = 0
    """Where the row stands in its file, for messages."""

    @property
    def prompt_text(self) -> str:
        """The prompt as one string, for comparing rows and for showing them."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in self.prompt)


class Tokenizer(Protocol):
    """What is needed of a Hugging Face tokenizer here."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...


def load_rows(path: Path, *, choices_required: bool = False, chat: bool = False) -> list[TaskRow]:
    """Read and check a JSONL file of rows.

    Args:
        choices_required: every row must list its options.
        chat: make a plain prompt the user's turn of a chat. Rows with `messages` are chats anyway.

    Raises:
        DataError: the file is missing or empty, or a row lacks a field or has one of the wrong kind (file and line).
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    rows = [parse_row(raw, path, line, choices_required=choices_required, chat=chat) for line, raw in iter_jsonl(path)]
    if not rows:
        raise DataError(f"{path}: the file is empty")
    return rows


def chosen_rows(rows: Sequence[TaskRow], n: int) -> list[TaskRow]:
    """`n` of the rows, drawn by a hash of their ids, in the order given; all of them if there are no more."""
    ids = sorted((row.id for row in rows), key=lambda name: hashlib.sha256(name.encode()).digest())[:n]
    drawn = set(ids)
    return [row for row in rows if row.id in drawn]


def parse_row(raw: Any, path: Path, line: int, *, choices_required: bool = False, chat: bool = False) -> TaskRow:
    """One JSON value as a row; see `load_rows`.

    Raises:
        DataError: it lacks a field or has one of the wrong kind (file and line).
    """
    where = f"{path}:{line}"
    if not isinstance(raw, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(raw).__name__}")
    prompt, answer = _chat_turns(raw, where) if "messages" in raw else _plain_text(raw, where)
    choices = _choices(raw, answer, where, choices_required)
    row_id = str(raw.get("id", line))
    if isinstance(prompt, str):
        seed = prompt + answer
        prompt = ({"role": "user", "content": prompt},) if chat else prompt
    else:
        seed = "\n".join([*(turn["content"] for turn in prompt), answer])
    return TaskRow(
        row_id, prompt, answer, choices, str(raw.get("template", row_id)), str(raw.get("seed") or seed), line
    )


def _plain_text(raw: dict[str, Any], where: str) -> tuple[str | tuple[Message, ...], str]:
    return _text(raw, "prompt", where), _text(raw, "answer", where)


def _text(raw: dict[str, Any], field: str, where: str) -> str:
    if field not in raw:
        raise DataError(f"{where}: the row has no {field!r}; it has {', '.join(sorted(raw)) or 'nothing'}")
    if not isinstance(raw[field], str) or not raw[field].strip():
        raise DataError(f"{where}: {field!r} must be a non-empty string, found {raw[field]!r}")
    return raw[field]


def _chat_turns(raw: dict[str, Any], where: str) -> tuple[str | tuple[Message, ...], str]:
    turns = raw["messages"]
    if not isinstance(turns, list) or len(turns) < 2:
        raise DataError(f"{where}: 'messages' needs at least a user turn and the assistant's answer")
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise DataError(f"{where}: each message needs a 'role' and a 'content', found {turn!r}")
        _text(turn, "content", where)
    if turns[-1]["role"] != "assistant":
        raise DataError(f"{where}: the last message must be the assistant's, found role {turns[-1]['role']!r}")
    return tuple({"role": t["role"], "content": t["content"]} for t in turns[:-1]), turns[-1]["content"]


def _choices(raw: dict[str, Any], answer: str, where: str, required: bool) -> tuple[str, ...] | None:
    choices = raw.get("choices")
    if choices is None:
        if required:
            raise DataError(f"{where}: the row has no 'choices'; a row of a choice task lists its options")
        return None
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        raise DataError(f"{where}: 'choices' must be a list of two or more strings, found {choices!r}")
    if answer not in choices:
        raise DataError(f"{where}: the answer {answer!r} is not among the choices {choices}")
    return tuple(choices)


def check_first_tokens(rows: Iterable[TaskRow], tokenizer: Tokenizer, path: Path) -> None:
    """Fail if two options of a row open with the same token: their logits could not tell them apart.

    Raises:
        DataError: names the file, the line, the options and the token they share.
    """
    first_by_choice: dict[str, int] = {}
    for row in rows:
        where = f"{path}:{row.line}"
        for choice in row.choices or ():
            if choice not in first_by_choice:
                ids = tokenizer.encode(choice, add_special_tokens=False)
                if not ids:
                    raise DataError(f"{where}: the choice {choice!r} is no token at all to this model's tokenizer")
                first_by_choice[choice] = ids[0]
        firsts = [first_by_choice[choice] for choice in row.choices or ()]
        shared = next((first for first in firsts if firsts.count(first) > 1), None)
        if shared is not None:
            raise DataError(
                f"{where}: the choices {list(row.choices or ())} share their first token (id {shared}); they "
                "are compared by it, so reword them until they differ there"
            )


def check_no_leak(train: Sequence[TaskRow], held_out: Sequence[TaskRow], path: Path) -> None:
    """Fail if a row of an evaluation split is also in training.

    Raises:
        DataError: names the file, the line and the row in training.
    """
    id_by_prompt = {" ".join(row.prompt_text.split()): row.id for row in train}
    for row in held_out:
        twin = id_by_prompt.get(" ".join(row.prompt_text.split()))
        if twin is not None:
            raise DataError(f"{path}:{row.line}: this row is also in training ({twin!r}); keep it in one of the two")
