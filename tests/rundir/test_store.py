"""What was told to the store is there afterwards."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from autocaft.errors import DataError, DiskFullError
from autocaft.rundir.store import RunStore


def test_attempts_and_seconds_add_up(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run.sqlite") as store:
        store.start_step("tune/seed0", "tune", {"version": 1})
        store.end_attempt("tune/seed0", "failed", 2.0, 300.0, "loss is NaN")
        store.start_step("tune/seed0", "tune", {"version": 1})
        store.end_attempt("tune/seed0", "done", 3.0, 200.0)
    with RunStore(tmp_path / "run.sqlite") as store:
        row = store.step("tune/seed0")
    assert row is not None and (row.status, row.n_attempts, row.seconds) == ("done", 2, 5.0)
    assert (row.process_peak_rss_mb, row.message, row.fingerprint) == (300.0, "", {"version": 1})


def test_a_paid_answer_is_kept_once_and_counted_once(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run.sqlite") as store:
        store.add_answer("k", "openai:m", {"q": 1}, {"a": "first"}, 10, 5)
        store.add_answer("k", "openai:m", {"q": 1}, {"a": "second"}, 10, 5)
        row = store.answer("k")
        assert row is not None and row.response == {"a": "first"} and row.output_tokens == 5
        assert len(store.answers()) == 1 and store.answer("other") is None


def test_threads_share_one_store(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run.sqlite") as store:

        def work(part: int) -> None:
            for i in range(10):
                store.add_answer(f"{part}-{i}", "j", i, i, 1, 1)

        threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store.answers()) == 40


def test_writes_are_durable(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run.sqlite") as store:
        assert store._query("PRAGMA journal_mode")[0][0] == "wal"
        assert store._query("PRAGMA synchronous")[0][0] == 2


def test_a_foreign_file_and_another_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("not a database, " * 100)
    with pytest.raises(DataError, match="not a run record"):
        RunStore(tmp_path / "text.sqlite")
    connection = sqlite3.connect(tmp_path / "new.sqlite")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(DataError, match="another version"):
        RunStore(tmp_path / "new.sqlite")


def test_a_full_disk_keeps_the_answers_so_far(small_disk: Path) -> None:
    with RunStore(small_disk / "run.sqlite") as store:
        with pytest.raises(DiskFullError):
            for i in range(100):
                store.add_answer(str(i), "j", "x" * 5000, "y", 1, 1)
        n_kept = len(store.answers())
    assert 0 < n_kept < 100
    with RunStore(small_disk / "run.sqlite") as store:
        assert len(store.answers()) == n_kept
