"""Read task rows from JSON lines or Parquet and refuse what would quietly spoil a run.

In: rows of one of three forms. Out: `TaskRow`s. Every complaint names the file and the line (in Parquet, the row).

    {"prompt", "answer"}       plain text, with `choices` for a choice task; `completion` is another name of `answer`
    {"prompt", "completion"}   the same as lists of messages, as TRL has them
    {"messages"}               a chat that ends with the assistant's answer, as OpenAI has them
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from autocaft.data.read import iter_rows
from autocaft.errors import DataError

Message = dict[str, str]
Turns = Literal["last", "each"]


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
    file: str = field(default="", compare=False)
    """The file, for messages: a set may have several."""

    @property
    def prompt_text(self) -> str:
        """The prompt as one string, for comparing rows and for showing them."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in self.prompt)


class Tokenizer(Protocol):
    """What is needed of a Hugging Face tokenizer here."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...


def load_rows(
    files: Path | Sequence[Path], *, choices_required: bool = False, chat: bool = False, turns: Turns = "last"
) -> list[TaskRow]:
    """Read and check the rows of a file, or of several that are one set.

    Args:
        choices_required: every row must list its options.
        chat: make a plain prompt the user's turn of a chat. Rows with `messages` are chats anyway.
        turns: `each` makes a row of every answer in a chat, with all that stands before it for its prompt.

    Raises:
        DataError: a file is missing or empty, or a row lacks a field or has one of the wrong kind (file and line).
    """
    rows: list[TaskRow] = []
    n_before = 0
    for path in [files] if isinstance(files, Path) else files:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        line, n_rows = 0, len(rows)
        for line, raw in iter_rows(path):
            row = parse_row(raw, path, line, choices_required=choices_required, chat=chat, number=n_before + line)
            rows += [*_earlier_answers(row, _unlearned(raw)), row] if turns == "each" else [row]
        if len(rows) == n_rows:
            raise DataError(f"{path}: the file is empty")
        n_before += line
    return rows


def _unlearned(raw: dict[str, Any]) -> frozenset[int]:
    """Places of the messages with `weight` 0, which OpenAI's format says are context and nothing to learn."""
    raw = {name: value for name, value in raw.items() if value is not None}
    if not is_chat(raw):
        return frozenset()
    turns = raw["messages"] if "messages" in raw else _pair_turns(raw, _answer_name(raw), "")
    return frozenset(place for place, turn in enumerate(turns) if turn.get("weight") == 0)


def _earlier_answers(row: TaskRow, unlearned: frozenset[int]) -> list[TaskRow]:
    """A row for every answer before the last one; where an answer is chosen among options there is but one."""
    if isinstance(row.prompt, str) or row.choices is not None:
        return []
    roles = [turn["role"] for turn in row.prompt]
    found = []
    for at, turn in enumerate(row.prompt):
        if turn["role"] == "assistant" and "user" in roles[:at] and at not in unlearned:
            seed = "\n".join(before["content"] for before in row.prompt[: at + 1])
            name = f"{row.id}.{at}"
            found.append(replace(row, id=name, prompt=row.prompt[:at], answer=turn["content"], seed=seed))
    return found


def chosen_rows(rows: Sequence[TaskRow], n: int) -> list[TaskRow]:
    """`n` of the rows, drawn by a hash of their ids, in the order given; all of them if there are no more."""
    ids = sorted((row.id for row in rows), key=lambda name: hashlib.sha256(name.encode()).digest())[:n]
    drawn = set(ids)
    return [row for row in rows if row.id in drawn]


def answers_to_compare(rows: Sequence[TaskRow]) -> list[str]:
    """Each row's answer, for `decompose.pcs = "contrast"`.

    Raises:
        DataError: a row lists no options, or the answers are all the same, or as different as the rows.
    """
    free = next((row for row in rows if row.choices is None), None)
    if free is not None:
        raise DataError(
            f"{free.file}:{free.line}: row {free.id!r} lists no `choices`. decompose.pcs = 'contrast' compares rows of "
            "different answers: give each its options, or take other `pcs`"
        )
    answers = [row.answer for row in rows]
    n_answers = len(set(answers))
    if not 2 <= n_answers <= len(rows) / 4:
        raise DataError(
            f"decompose.pcs = 'contrast' compares rows of different answers; the {len(rows)} training rows that are "
            f"read (collect.n_rows) have {n_answers}, and two or more are needed, of four rows each. Take other `pcs`"
        )
    return answers


def parse_row(
    raw: Any,
    path: Path,
    line: int,
    *,
    choices_required: bool = False,
    chat: bool = False,
    number: int | None = None,
) -> TaskRow:
    """One JSON value as a row; see `load_rows`.

    Args:
        number: what a row without an id is called; by default its line.

    Raises:
        DataError: it lacks a field or has one of the wrong kind (file and line).
    """
    where = f"{path}:{line}"
    if not isinstance(raw, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(raw).__name__}")
    raw = {name: value for name, value in raw.items() if value is not None}
    for name in ("tools", "functions"):
        if raw.get(name):
            raise DataError(
                f"{where}: {name!r} would be part of the prompt, and rows here have none; leave the row out"
            )
    prompt, answer = _chat_turns(raw["messages"], "'messages'", where) if "messages" in raw else _pair(raw, where)
    choices = _choices(raw, answer, where, choices_required)
    row_id = str(raw.get("id", line if number is None else number))
    if isinstance(prompt, str):
        seed = prompt + answer
        prompt = ({"role": "user", "content": prompt},) if chat else prompt
    else:
        seed = "\n".join([*(turn["content"] for turn in prompt), answer])
    template, seed = str(raw.get("template", row_id)), str(raw.get("seed") or seed)
    return TaskRow(row_id, prompt, answer, choices, template, seed, line, str(path))


def is_chat(raw: dict[str, Any]) -> bool:
    """Whether a row that can be read is given as messages."""
    return any(isinstance(raw.get(name), list) for name in ("messages", "prompt", "completion", "answer"))


def _pair(raw: dict[str, Any], where: str) -> tuple[str | tuple[Message, ...], str]:
    """Prompt and answer, each a text or messages."""
    last = _answer_name(raw)
    if not is_chat(raw):
        return _text(raw, "prompt", where), _text(raw, last, where)
    return _chat_turns(_pair_turns(raw, last, where), f"'prompt' with '{last}'", where)


def _answer_name(raw: dict[str, Any]) -> str:
    return "completion" if "completion" in raw and "answer" not in raw else "answer"


def _pair_turns(raw: dict[str, Any], last: str, where: str) -> list[Any]:
    """The messages of a pair, of which one may be a text."""
    for name, role in (("prompt", "user"), (last, "assistant")):
        if not isinstance(raw.get(name), list):
            raw = raw | {name: [{"role": role, "content": _text(raw, name, where)}]}
    return [*raw["prompt"], *raw[last]]


def _text(raw: dict[str, Any], field: str, where: str) -> str:
    if field not in raw:
        raise DataError(f"{where}: the row has no {field!r}; it has {', '.join(sorted(raw)) or 'nothing'}")
    if not isinstance(raw[field], str) or not raw[field].strip():
        raise DataError(f"{where}: {field!r} must be a non-empty string, found {raw[field]!r}")
    return raw[field]


def _chat_turns(turns: Any, named: str, where: str) -> tuple[tuple[Message, ...], str]:
    if not isinstance(turns, list) or len(turns) < 2:
        raise DataError(f"{where}: {named} needs at least a user turn and the assistant's answer")
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise DataError(f"{where}: each message needs a 'role' and a 'content', found {turn!r}")
        _text(turn, "content", where)
        if turn.get("weight") not in (None, 0, 1):
            raise DataError(f"{where}: 'weight' of a message must be 0 or 1, found {turn['weight']!r}")
    turns = _up_to_the_last_learned(turns, where)
    if turns[-1]["role"] != "assistant":
        raise DataError(f"{where}: the last message must be the assistant's, found role {turns[-1]['role']!r}")
    return tuple({"role": t["role"], "content": t["content"]} for t in turns[:-1]), turns[-1]["content"]


def _up_to_the_last_learned(turns: list[Any], where: str) -> list[Any]:
    """The chat without what follows the last answer that is to be learned, where the last ones have `weight` 0."""
    if turns[-1].get("weight") != 0:
        return turns
    learned = [at for at, turn in enumerate(turns) if turn["role"] == "assistant" and turn.get("weight") != 0]
    if not learned or learned[-1] == 0:
        raise DataError(f"{where}: every answer has 'weight' 0, so there is nothing to learn; leave the row out")
    return turns[: learned[-1] + 1]


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


def check_first_tokens(rows: Iterable[TaskRow], tokenizer: Tokenizer) -> None:
    """Fail if two options of a row open with the same token: their logits could not tell them apart.

    Raises:
        DataError: names the file, the line, the options and the token they share.
    """
    first_by_choice: dict[str, int] = {}
    for row in rows:
        where = f"{row.file}:{row.line}"
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


def check_no_leak(train: Sequence[TaskRow], held_out: Sequence[TaskRow]) -> None:
    """Fail if a row of an evaluation split is also in training.

    Raises:
        DataError: names the file, the line and the row in training.
    """
    id_by_prompt = {" ".join(row.prompt_text.split()): row.id for row in train}
    for row in held_out:
        twin = id_by_prompt.get(" ".join(row.prompt_text.split()))
        if twin is not None:
            where = f"{row.file}:{row.line}"
            raise DataError(f"{where}: this row is also in training ({twin!r}); keep it in one of the two")
