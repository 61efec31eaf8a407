"""What a person did on the review page, act by act, in one append-only file a reviewer: `review/<name>.jsonl`.

In: acts. Out: the same, and the answers that stand. `append` returns when the line is on the disk, so a `kill -9` costs
nothing that was confirmed; a line cut off by the kill was not confirmed and is dropped.

The decision a reader would question: JSON lines and no database. Each reviewer has one file and one process writing it
(a lock says so), and a file that can be read, compared and mailed without us is worth more than queries.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

from filelock import FileLock, Timeout

from autocaft.errors import ConfigError, DataError, RunLockedError
from autocaft.records import Record
from autocaft.rundir.files import disk_errors, sync

REVIEW_DIR = "review"
Choice = Literal["ablate", "keep", "unsure"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
ActKind = Literal["ablate", "keep", "unsure", "withdraw", "see judge"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@dataclass(frozen=True, slots=True)
class Act(Record):
    """One thing a reviewer did about one direction."""

    direction_id: str
    act: ActKind
    by: str
    """`human:<name>`."""
    note: str
    seconds: float | None
    """How long the card was in view; None if that was not measured, as for an answer that came from a file."""
    at: str
    """UTC, ISO 8601."""
    showing: int
    """0: the first time the direction was shown; 1: shown again, to see whether the person agrees with themselves."""
    card: str
    """Hash of the card that was read: an answer to another card does not count."""
    copied_from: str = ""
    """`human:<name>` if a file brought in what that person had answered; empty for an answer of the reviewer's own."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An act that stands as the answer to one showing of a direction."""

    direction_id: str
    choice: Choice
    by: str
    note: str
    seconds: float | None
    at: str
    copied_from: str = ""


def answers(acts: Iterable[Act], *, blind: bool = False) -> dict[tuple[str, int], Answer]:
    """The answers that stand, by direction and showing: the last counts, a withdrawn one does not.

    Args:
        blind: leave out what another person answered, and whatever was said about a direction after that person's
            answer or its judge's words had been seen.
    """
    standing: dict[tuple[str, int], Answer] = {}
    seen: set[str] = set()
    for act in acts:
        if act.act == "see judge" or (blind and act.copied_from):
            seen.add(act.direction_id)
        elif not (blind and act.direction_id in seen):
            stand(standing, act)
    return standing


def stand(standing: dict[tuple[str, int], Answer], act: Act) -> None:
    """Let one more act count among the answers that stand."""
    if act.act == "see judge":
        return
    key = act.direction_id, act.showing
    standing.pop(key, None)  # so that the order is that of the last answers
    if act.act != "withdraw":
        standing[key] = Answer(act.direction_id, act.act, act.by, act.note, act.seconds, act.at, act.copied_from)


def first_answers(standing: Mapping[tuple[str, int], Answer]) -> dict[str, Answer]:
    """The answer to the first showing of each direction: the one that counts."""
    return {direction_id: answer for (direction_id, showing), answer in standing.items() if showing == 0}


def acts_on_cards(acts: Iterable[Act], hashes: Collection[str]) -> list[Act]:
    """Acts that are about cards as they are now."""
    return [act for act in acts if act.card in hashes]


def now() -> str:
    """The time of an act."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def own_acts(acts: Iterable[Act], by: str) -> list[Act]:
    """The acts of one reviewer's file, with what another person did marked as copied: a file can be copied too."""
    return [act if act.by == by else replace(act, copied_from=act.copied_from or act.by) for act in acts]


def log_path(run_dir: Path, name: str) -> Path:
    """Where a reviewer's acts lie.

    Raises:
        ConfigError: the name cannot be one of a file.
    """
    if NAME.fullmatch(name) is None:
        raise ConfigError(
            f"--name {name!r}: a reviewer's name is 1 to 40 letters, digits, dots, dashes or underlines (it names a "
            "file)"
        )
    return run_dir / REVIEW_DIR / f"{name}.jsonl"


def reviewers(run_dir: Path) -> list[str]:
    """Names of all who have reviewed the run."""
    return sorted(path.stem for path in (run_dir / REVIEW_DIR).glob("*.jsonl") if NAME.fullmatch(path.stem))


def read_acts(path: Path) -> list[Act]:
    """All confirmed acts; none if there is no file. A last line without its end was not confirmed.

    Raises:
        DataError: a line is not an act; names file:line.
    """
    if not path.is_file():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    acts = []
    for number, line in enumerate(whole.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            acts.append(Act.from_row(json.loads(line)))
        except (ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{path}:{number} is no act of a reviewer: {error}. Mend or remove that line.") from error
    return acts


class ActLog:
    """A reviewer's file, open for appending; a context, in which no other process may write it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.acts: list[Act] = []
        self._lock = FileLock(path.with_name(f".{path.stem}.lock"))
        self._handle = -1

    def __enter__(self) -> Self:
        """Read what is there, cut off what a kill left unfinished.

        Raises:
            RunLockedError: another process has the file.
        """
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise RunLockedError(
                    f"another `autocaft review` writes {self.path}. Stop it, or review under another --name."
                ) from None
            self.acts = read_acts(self.path)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            os.ftruncate(self._handle, self.path.read_bytes().rfind(b"\n") + 1)
            sync(self.path.parent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._handle)
        self._lock.release()

    def append(self, *acts: Act) -> None:
        """Add acts; they are on the disk when this returns."""
        lines = "".join(json.dumps(act.to_row(), ensure_ascii=False) + "\n" for act in acts)
        with disk_errors(self.path):
            _write_all(self._handle, lines.encode("utf-8", "replace"))
            os.fsync(self._handle)
        self.acts.extend(acts)


def _write_all(handle: int, content: bytes) -> None:
    """Write every byte. A write that fails half way is taken back, so that the next line starts a line."""
    size = os.fstat(handle).st_size
    try:
        left = content
        while left:
            left = left[os.write(handle, left) :]
    except OSError:
        os.ftruncate(handle, size)
        raise


def repeats_of(standing: Mapping[tuple[str, int], Answer]) -> Sequence[tuple[Answer, Answer]]:
    """First and second answer on each direction that was shown twice."""
    pairs = ((standing.get((direction_id, 0)), second) for (direction_id, n), second in standing.items() if n == 1)
    return [(first, second) for first, second in pairs if first is not None]
