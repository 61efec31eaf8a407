"""The record of a run: which steps are done, and every paid answer. One SQLite file, `run.sqlite`.

In: what the runner and the judges tell. Out: the same after a kill at any moment: WAL with synchronous=FULL means
that what was told is on the disk when the call returns.

The decision a reader would question: the answers live beside the steps, not in the judge's folder. `--redo judge`
empties that folder, and an answer that was paid for must not be paid for twice.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from autocaft.errors import DataError
from autocaft.rundir.files import disk_errors

STORE_NAME = "run.sqlite"
VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS steps (
    name TEXT PRIMARY KEY, stage TEXT NOT NULL, fingerprint TEXT NOT NULL, status TEXT NOT NULL,
    started_at TEXT NOT NULL, seconds REAL NOT NULL, n_attempts INTEGER NOT NULL,
    process_peak_rss_mb REAL NOT NULL, message TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, judge TEXT NOT NULL, request TEXT NOT NULL, response TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, at TEXT NOT NULL);
"""

Status = Literal["started", "done", "failed", "emptying"]


@dataclass(frozen=True, slots=True)
class StepRow:
    """What is known of one step."""

    name: str
    stage: str
    fingerprint: dict[str, Any]
    status: Status
    """`emptying`: chosen for a redo; its folder is to be emptied before anything else."""
    started_at: str
    """UTC start of the last attempt."""
    seconds: float
    """Summed over attempts that ended by themselves; a killed attempt leaves no time."""
    n_attempts: int
    process_peak_rss_mb: float
    """Peak memory of the whole process when the step ended: steps before it in the same process count too."""
    message: str
    """Why it failed; else empty."""


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """One paid answer."""

    key: str
    judge: str
    request: Any
    response: Any
    input_tokens: int
    output_tokens: int
    at: str


class RunStore:
    """The open `run.sqlite`. Threads may share it: calls take turns. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open or make the file.

        Raises:
            DataError: the file is no SQLite file, or of another version of autocaft.
        """
        self.path = path
        self._turn = threading.Lock()
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
            self._connection.row_factory = sqlite3.Row
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                raise DataError(f"{self.path} is not a run record (SQLite). Use another run name.") from error
            raise
        self._connection.execute("PRAGMA synchronous=FULL")
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise DataError(f"{self.path} was made by another version of autocaft (record {version}, here {VERSION}).")
        self._connection.executescript(SCHEMA)
        if version == 0:
            self._connection.execute(f"PRAGMA user_version={VERSION}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the write-ahead log is folded into it."""
        with self._turn:
            self._connection.close()

    def _query(self, sql: str, values: Mapping[str, Any] | None = None) -> list[sqlite3.Row]:
        with self._turn, disk_errors(self.path):
            return self._connection.execute(sql, values or {}).fetchall()

    # Steps

    def step(self, name: str) -> StepRow | None:
        """What is known of the step, None if it never started."""
        rows = self._query("SELECT * FROM steps WHERE name = :name", {"name": name})
        return _step_row(rows[0]) if rows else None

    def steps(self) -> list[StepRow]:
        """All steps that ever started and were not emptied, in the order of their first start."""
        return [_step_row(row) for row in self._query("SELECT * FROM steps ORDER BY rowid")]

    def start_step(self, name: str, stage: str, fingerprint: Mapping[str, Any]) -> None:
        """Record the start of an attempt; time and attempts of earlier ones are kept."""
        self._query(
            "INSERT INTO steps VALUES (:name, :stage, :fingerprint, 'started', :at, 0, 1, 0, '')"
            " ON CONFLICT (name) DO UPDATE SET stage = :stage, fingerprint = :fingerprint, status = 'started',"
            " started_at = :at, n_attempts = n_attempts + 1, message = ''",
            {"name": name, "stage": stage, "fingerprint": json.dumps(fingerprint), "at": _now()},
        )

    def end_attempt(
        self, name: str, status: Status, seconds: float, process_peak_rss_mb: float, message: str = ""
    ) -> None:
        """Record how an attempt ended (`done` is written here, and last of all)."""
        self._query(
            "UPDATE steps SET status = :status, seconds = seconds + :seconds, message = :message,"
            " process_peak_rss_mb = max(process_peak_rss_mb, :peak) WHERE name = :name",
            {"name": name, "status": status, "seconds": seconds, "peak": process_peak_rss_mb, "message": message},
        )

    def mark_emptying(self, names: Iterable[str]) -> None:
        """Say in one transaction that these steps will be emptied: a kill while emptying leaves none half valid."""
        self._query(
            "UPDATE steps SET status = 'emptying' WHERE name IN (SELECT value FROM json_each(:names))",
            {"names": json.dumps(list(names))},
        )

    def forget_step(self, name: str) -> None:
        """Remove the step's record, after its folder was emptied."""
        self._query("DELETE FROM steps WHERE name = :name", {"name": name})

    # Answers

    def answer(self, key: str) -> AnswerRow | None:
        """The paid answer under this key, None if it was never asked."""
        rows = self._query("SELECT * FROM answers WHERE key = :key", {"key": key})
        return _answer_row(rows[0]) if rows else None

    def answers(self) -> list[AnswerRow]:
        """All paid answers, oldest first (for the report's cost)."""
        return [_answer_row(row) for row in self._query("SELECT * FROM answers ORDER BY rowid")]

    def add_answer(
        self, key: str, judge: str, request: Any, response: Any, input_tokens: int, output_tokens: int
    ) -> None:
        """Keep an answer; it is on the disk when this returns. A second answer to the same key is not kept."""
        self._query(
            "INSERT OR IGNORE INTO answers VALUES (:key, :judge, :request, :response, :n_in, :n_out, :at)",
            {
                "key": key, "judge": judge, "request": json.dumps(request), "response": json.dumps(response),
                "n_in": input_tokens, "n_out": output_tokens, "at": _now(),
            },
        )  # fmt: skip


def _step_row(row: sqlite3.Row) -> StepRow:
    return StepRow(**{**dict(row), "fingerprint": json.loads(row["fingerprint"])})


def _answer_row(row: sqlite3.Row) -> AnswerRow:
    values = {**dict(row), "request": json.loads(row["request"]), "response": json.loads(row["response"])}
    return AnswerRow(**values)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
