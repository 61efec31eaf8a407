"""Read a data set that nobody has checked: what can be read is kept, what cannot is named with file and line or row.

In: an `AuditSet` and a tokenizer. Out, in the step's folder: `rows.jsonl.gz` (the rows that are looked at),
`faults.jsonl` (file, line, what is wrong) and `summary.json`. Nothing of a data file stops an audit.

The decision a reader would question: a set larger than `screen.n_rows` is sampled by the smallest hashes of its rows'
text. So memory does not grow with the file, the same file gives the same rows, and a row that is there twice has one
hash and is looked at once: copies would make the intervals too narrow.
"""

from __future__ import annotations

import gzip
import hashlib
import heapq
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autocaft.audit.options import AuditSet, ScreenOptions
from autocaft.data.encode import encode_prompt
from autocaft.data.read import is_parquet, iter_parquet
from autocaft.data.rows import Message, TaskRow, is_chat, parse_row
from autocaft.errors import DataError
from autocaft.rundir.files import iter_jsonl, read_json, write_json, write_jsonl

ROWS, FAULTS, SUMMARY = "rows.jsonl.gz", "faults.jsonl", "summary.json"
MAX_LINE_BYTES = 1 << 20
"""A longer line is no row of a chat; it is passed over without being held in memory."""
MAX_FAULTS = 1000
"""Faults that are listed; all are counted."""


@dataclass(frozen=True)
class AuditRow:
    """One row that is looked at."""

    number: int
    """Its place among these rows."""
    id: str
    file: str
    line: int
    prompt: str | tuple[Message, ...]
    answer: str

    @property
    def prompt_text(self) -> str:
        """The prompt as one string, to be shown."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in self.prompt)


@dataclass(frozen=True)
class Fault:
    """What cannot be read, and where."""

    file: str
    line: int
    """0: the file as a whole."""
    what: str


class Faults:
    """Counts all, keeps the first."""

    def __init__(self) -> None:
        self.n = 0
        self.kept: list[Fault] = []

    def add(self, path: Path, line: int, what: str) -> None:
        self.n += 1
        if len(self.kept) < MAX_FAULTS:
            self.kept.append(Fault(str(path), line, what))


def read_set(chosen: AuditSet, tokenizer: Any, options: ScreenOptions, out: Path) -> dict[str, Any]:
    """Read one set; gives the summary, whose `unread` says why a set cannot be audited (None: it can)."""
    faults = Faults()
    drawn, n_rows, n_repeated = _draw(chosen, options, options.chat and tokenizer.chat_template is not None, faults)
    rows: list[AuditRow] = []
    for file, line, row in drawn:
        if what := _unfit(tokenizer, row, options):
            faults.add(Path(file), line, what)
        else:
            rows.append(AuditRow(len(rows), row.id, file, line, row.prompt, row.answer))
    unread = None
    if len(rows) < options.min_rows:
        unread = f"only {len(rows)} different rows can be read, and screen.min_rows is {options.min_rows}"
    write_jsonl(out / ROWS, (asdict(row) for row in rows))
    write_jsonl(out / FAULTS, (asdict(fault) for fault in sorted(faults.kept, key=lambda f: (f.file, f.line))))
    summary = {
        "set": chosen.name,
        "n_rows": n_rows,
        "n_repeated": n_repeated,
        "n_looked_at": len(rows),
        "n_faults": faults.n,
        "unread": unread,
    }
    write_json(out / SUMMARY, summary)
    return summary


def load_rows(folder: Path) -> list[AuditRow]:
    """The rows of a set that can be audited; none of one that cannot."""
    if read_json(folder / SUMMARY)["unread"] is not None:
        return []
    rows = [row for _, row in iter_jsonl(folder / ROWS)]
    for row in rows:
        row["prompt"] = row["prompt"] if isinstance(row["prompt"], str) else tuple(row["prompt"])
    return [AuditRow(**row) for row in rows]


def _draw(
    chosen: AuditSet, options: ScreenOptions, chat: bool, faults: Faults
) -> tuple[list[tuple[str, int, TaskRow]], int, int]:
    """(file, line, row) of the `n_rows` smallest hashes in order of the files; rows that can be read; repetitions."""
    heap: list[tuple[int, int, str, int, TaskRow]] = []
    held: set[int] = set()
    n_rows = n_repeated = 0
    for n_rows, (path, line, row) in enumerate(readable_rows(chosen, chat, faults), 1):
        key = _hash(row)
        if key in held:
            n_repeated += 1
            continue
        item = (-key, -n_rows, str(path), line, row)
        held.add(key)
        if len(heap) < options.n_rows:
            heapq.heappush(heap, item)
        else:
            held.discard(-heapq.heappushpop(heap, item)[0])
    in_order = sorted(heap, key=lambda item: -item[1])
    return [(file, line, row) for _, _, file, line, row in in_order], n_rows, n_repeated


def readable_rows(chosen: AuditSet, chat: bool, faults: Faults) -> Iterator[tuple[Path, int, TaskRow]]:
    """(file, line, row) of every row of a set that can be read and has the form of the first one, one at a time."""
    is_chat: bool | None = None
    for path in chosen.files:
        if why := chosen.why_missing.get(path):
            faults.add(path, 0, why)
            continue
        for line, row, has_messages in _rows_of(path, chat, faults):
            is_chat = has_messages if is_chat is None else is_chat
            if has_messages == is_chat:
                yield path, line, row
                continue
            kinds = ("messages", "prompt and answer") if has_messages else ("prompt and answer", "messages")
            faults.add(path, line, f"the row has {kinds[0]}, the set's first row {kinds[1]}: one form a set")


def _hash(row: TaskRow) -> int:
    text = json.dumps([row.prompt, row.answer], ensure_ascii=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _rows_of(path: Path, chat: bool, faults: Faults) -> Iterator[tuple[int, TaskRow, bool]]:
    """(line, row, whether it is given as messages) of every line of a file, or row of a Parquet file, that is one."""
    for line, raw in _parquet_of(path, faults) if is_parquet(path) else _lines_of(path, faults):
        try:
            value = json.loads(raw.decode("utf-8-sig")) if isinstance(raw, bytes) else raw
            row = parse_row(value, path, line, chat=chat)
            f"{row.id}{row.prompt_text}{row.answer}".encode()  # half a character, written as an escape, is no text
        except (UnicodeDecodeError, UnicodeEncodeError) as error:
            faults.add(path, line, f"the text is not UTF-8 ({error.reason})")
        except json.JSONDecodeError as error:
            faults.add(path, line, f"not JSON: {error.msg} (column {error.colno})")
        except (ValueError, RecursionError) as error:
            faults.add(path, line, f"not JSON that can be read: {error}")
        except DataError as error:
            faults.add(path, line, str(error).removeprefix(f"{path}:{line}").lstrip(": ")[:300])
        else:
            yield line, row, is_chat(value)


def _parquet_of(path: Path, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of each row of a Parquet file that is not too long."""
    number, n_before = 0, faults.n
    try:
        for number, row in iter_parquet(path, max_bytes=MAX_LINE_BYTES):
            if isinstance(row, str):
                faults.add(path, number, row)
            else:
                yield number, row
    except DataError as error:
        faults.add(path, number, str(error).removeprefix(f"{path}").lstrip(": "))
    if number == 0 and faults.n == n_before:
        faults.add(path, 0, "the file is empty")


def _lines_of(path: Path, faults: Faults) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of each line that is not blank and not too long. At most that length is held in memory."""
    line = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while part := file.readline(MAX_LINE_BYTES + 1):
                line += 1
                if len(part) > MAX_LINE_BYTES:
                    n_bytes = len(part) + _skip_rest(file, part)
                    faults.add(path, line, f"the line has {n_bytes:,} bytes; more than {MAX_LINE_BYTES:,} are not read")
                elif part.strip():
                    yield line, part
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        faults.add(path, line + 1, f"cut off or not gzip: {error}")
    except OSError as error:
        faults.add(path, line, f"cannot be opened or read ({error.strerror or error})")
    if line == 0 and not any(fault.file == str(path) for fault in faults.kept):
        faults.add(path, 0, "the file is empty")


def _skip_rest(file: Any, part: bytes) -> int:
    """Read on to the end of the line; gives the bytes passed over."""
    n_bytes = 0
    while part and not part.endswith(b"\n"):
        part = file.readline(MAX_LINE_BYTES)
        n_bytes += len(part)
    return n_bytes


def _unfit(tokenizer: Any, row: TaskRow, options: ScreenOptions) -> str | None:
    """Why this model cannot be asked the row's prompt; None if it can."""
    if not isinstance(row.prompt, str) and tokenizer.chat_template is None:
        return "the row is a chat, and the model's tokenizer has no chat template; give plain prompts and answers"
    n_tokens = len(encode_prompt(tokenizer, row.prompt, chat=False).input_ids)
    if n_tokens > options.max_prompt_tokens:
        return f"the prompt has {n_tokens} tokens, and screen.max_prompt_tokens is {options.max_prompt_tokens}"
    return None


def all_faults(folders: Sequence[Path]) -> list[Fault]:
    """The listed faults of several sets."""
    return [Fault(**row) for folder in folders for _, row in iter_jsonl(folder / FAULTS)]
