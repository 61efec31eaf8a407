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


def test_an_answer_and_the_end_of_its_hold_are_one_transaction(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run.sqlite") as store:
        first, second = (store.hold("k", "j", 100, 2_000) for _ in range(2))
        with pytest.raises(TypeError):
            store.add_answer("k", "j", {}, {"a": object()}, 1, 1, hold=first)
        assert store.holds_of("k") == [first, second] and store.answers() == []
        store.add_answer("k", "j", {}, {}, 40, 2, nano_usd=700, hold=first)
        store.add_answer("k", "j", {}, {}, 40, 2, nano_usd=700, hold=second)
        assert [(c.is_held, c.nano_usd) for c in store.charges()] == [(False, 700), (True, 2_000)]


def test_a_record_of_the_version_before_keeps_its_answers(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "run.sqlite") as old:
        old.execute(
            "CREATE TABLE answers (key TEXT PRIMARY KEY, judge TEXT NOT NULL, request TEXT NOT NULL, response TEXT NOT"
            " NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, at TEXT NOT NULL)"
        )
        old.execute("INSERT INTO answers VALUES ('k', 'j', '{}', '{}', 10, 5, 'then')")
        old.execute("PRAGMA user_version=1")
    old.close()
    for _ in range(2):
        with RunStore(tmp_path / "run.sqlite") as store:
            row = store.answer("k")
            assert row is not None and row.input_tokens == 10 and row.nano_usd is None


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
