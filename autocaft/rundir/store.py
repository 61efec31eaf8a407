"""The record of a run: which steps are done, every paid answer, and the money that is held for answers on their way.
One SQLite file, `run.sqlite`.

In: what the runner and the judges tell. Out: the same after a kill at any moment: WAL with synchronous=FULL means
that what was told is on the disk when the call returns.

The decision a reader would question: the answers live beside the steps, not in the judge's folder. `--redo judge`
empties that folder, and an answer that was paid for must not be paid for twice.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from autocaft.errors import DataError
from autocaft.rundir.files import disk_errors

STORE_NAME = "run.sqlite"
VERSION = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS steps (
    name TEXT PRIMARY KEY, stage TEXT NOT NULL, fingerprint TEXT NOT NULL, status TEXT NOT NULL,
    started_at TEXT NOT NULL, seconds REAL NOT NULL, n_attempts INTEGER NOT NULL,
    process_peak_rss_mb REAL NOT NULL, message TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, judge TEXT NOT NULL, request TEXT NOT NULL, response TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, at TEXT NOT NULL, nano_usd INTEGER);
CREATE TABLE IF NOT EXISTS holds (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, judge TEXT NOT NULL,
    tokens INTEGER NOT NULL, nano_usd INTEGER, at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, keys TEXT NOT NULL, vendor_id TEXT,
    started_at REAL NOT NULL);
"""
NEW_IN_2 = "ALTER TABLE answers ADD COLUMN nano_usd INTEGER"

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
    nano_usd: int | None
    """What it cost, in billionths of a dollar (whole numbers add up exactly); None where no price was known."""


@dataclass(frozen=True, slots=True)
class Charge:
    """The cost of one answer, or what is held for one."""

    key: str
    judge: str
    input_tokens: int
    output_tokens: int
    """A hold puts all its tokens here."""
    nano_usd: int | None
    is_held: bool
    """The answer never came, or has not come yet: this is the most it can have cost."""


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One batch of questions that was handed to a vendor, or was about to be."""

    id: int
    endpoint: str
    keys: tuple[str, ...]
    vendor_id: str | None
    """The vendor's name for it; None if the process ended while handing it over."""
    started_at: float
    """Unix time just before it was handed over."""


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
        if version not in (0, 1, VERSION):
            raise DataError(f"{self.path} was made by another version of autocaft (record {version}, here {VERSION}).")
        self._connection.executescript(SCHEMA)
        if version == 1:
            self._connection.execute(NEW_IN_2)
        if version != VERSION:
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

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block, or nothing."""
        with self._turn, disk_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has rolled back by itself
                    self._connection.execute("ROLLBACK")
                raise

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

    def add_done_step(self, row: StepRow) -> None:
        """Record a step as another run has finished it."""
        values = {**asdict(row), "fingerprint": json.dumps(row.fingerprint)}
        self._query(
            "INSERT OR REPLACE INTO steps VALUES (:name, :stage, :fingerprint, :status, :started_at, :seconds,"
            " :n_attempts, :process_peak_rss_mb, :message)",
            values,
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
        self,
        key: str,
        judge: str,
        request: Any,
        response: Any,
        input_tokens: int,
        output_tokens: int,
        *,
        nano_usd: int | None = None,
        hold: int | None = None,
    ) -> None:
        """Keep an answer and let go of what was held for it, in one transaction; it is on the disk when this returns.

        A second answer to the same key is not kept, and its hold stays: it was paid for as well.
        """
        answer = {
            "key": key, "judge": judge, "request": json.dumps(request), "response": json.dumps(response),
            "n_in": input_tokens, "n_out": output_tokens, "at": _now(), "nano_usd": nano_usd, "hold": hold,
        }  # fmt: skip
        with self._transaction() as connection:
            added = connection.execute(
                "INSERT OR IGNORE INTO answers VALUES"
                " (:key, :judge, :request, :response, :n_in, :n_out, :at, :nano_usd)",
                answer,
            )
            if added.rowcount:
                connection.execute("DELETE FROM holds WHERE id = :hold", answer)

    def add_answers_of(self, other: RunStore) -> None:
        """Keep another run's answers too. That run has paid for them: here they count no tokens and no money."""
        rows = [dict(row) for row in other._query("SELECT * FROM answers")]
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO answers VALUES (:key, :judge, :request, :response, 0, 0, :at, 0)", rows
            )

    # Money

    def hold(self, key: str, judge: str, tokens: int, nano_usd: int | None) -> int:
        """Hold the most that a question can cost, before it is sent. Gives the hold's id."""
        rows = self._query(
            "INSERT INTO holds (key, judge, tokens, nano_usd, at) VALUES (:key, :judge, :tokens, :nano_usd, :at)"
            " RETURNING id",
            {"key": key, "judge": judge, "tokens": tokens, "nano_usd": nano_usd, "at": _now()},
        )
        return int(rows[0]["id"])

    def release(self, hold: int) -> None:
        """Let go of a hold: the question was not answered and cost nothing."""
        self._query("DELETE FROM holds WHERE id = :hold", {"hold": hold})

    def holds_of(self, key: str) -> list[int]:
        """Holds for one question, oldest first."""
        return [row["id"] for row in self._query("SELECT id FROM holds WHERE key = :key ORDER BY id", {"key": key})]

    def charges(self) -> list[Charge]:
        """All that this run has cost or may have cost."""
        rows = self._query(
            "SELECT key, judge, input_tokens, output_tokens, nano_usd, 0 AS is_held FROM answers"
            " UNION ALL SELECT key, judge, 0, tokens, nano_usd, 1 FROM holds"
        )
        return [Charge(**{**dict(row), "is_held": bool(row["is_held"])}) for row in rows]

    # Batches

    def start_batch(self, endpoint: str, keys: Sequence[str], started_at: float) -> int:
        """Say that a batch is about to be handed over; gives its id here."""
        rows = self._query(
            "INSERT INTO batches (endpoint, keys, started_at) VALUES (:endpoint, :keys, :at) RETURNING id",
            {"endpoint": endpoint, "keys": json.dumps(list(keys)), "at": started_at},
        )
        return int(rows[0]["id"])

    def name_batch(self, batch: int, vendor_id: str) -> None:
        """Keep the vendor's name for a batch, before anybody asks how it is."""
        self._query("UPDATE batches SET vendor_id = :name WHERE id = :id", {"name": vendor_id, "id": batch})

    def end_batch(self, batch: int) -> None:
        """Forget a batch: its answers are kept, or it never came to be."""
        self._query("DELETE FROM batches WHERE id = :id", {"id": batch})

    def batches(self, endpoint: str) -> list[BatchRow]:
        """Batches that have not ended, oldest first."""
        rows = self._query("SELECT * FROM batches WHERE endpoint = :endpoint ORDER BY id", {"endpoint": endpoint})
        return [BatchRow(**{**dict(row), "keys": tuple(json.loads(row["keys"]))}) for row in rows]


def _step_row(row: sqlite3.Row) -> StepRow:
    return StepRow(**{**dict(row), "fingerprint": json.loads(row["fingerprint"])})


def _answer_row(row: sqlite3.Row) -> AnswerRow:
    values = {**dict(row), "request": json.loads(row["request"]), "response": json.loads(row["response"])}
    return AnswerRow(**values)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
