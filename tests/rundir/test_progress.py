"""Bars on a terminal only, one line a task in the log, no keys in it."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from autocaft.rundir.progress import Log, NullProgress, QuietProgress, RichProgress, make_progress, redact


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def test_quiet_progress_prints_nothing_and_logs_one_line_a_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = make_progress(Log(tmp_path / "log.txt"))
    assert isinstance(progress, QuietProgress)
    with progress.task("collect", 4, "documents") as advance:
        advance(1)
        advance(3)
    with pytest.raises(ValueError), progress.task("mine", 9) as advance:
        advance(2)
        raise ValueError
    assert capsys.readouterr() == ("", "")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert len(lines) == 2
    assert "collect: done 4 documents in" in lines[0]
    assert "mine: stopped at 2 of 9 rows in" in lines[1]


def test_rich_progress_shows_counts_on_a_terminal_and_nests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    progress = make_progress(Log(tmp_path / "log.txt"))
    assert isinstance(progress, RichProgress)
    progress.say("tune: starts")
    with progress.task("train", 3, "steps") as outer:
        outer(2)
        with progress.task("[mine] rows", None) as inner:
            inner(5)
        progress.say("note")
        outer(1)
    shown = stream.getvalue()
    for text in ("tune: starts", "train: 3 steps in", "[mine] rows: 5 rows in", "2/3", "steps/s", "note"):
        assert text in shown, text
    assert (tmp_path / "log.txt").read_text().count("done") == 2


def test_null_progress_does_nothing() -> None:
    with NullProgress().task("x", None) as advance:
        advance(3)
    NullProgress().say("x")


def test_keys_never_reach_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "my-own-secret-value")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "EMPTY")
    log = Log(tmp_path / "log.txt")
    log.write("bad key sk-ant-api03-abcDEF_123456 in\nmy-own-secret-value, Authorization: Bearer abcdefghijkl")
    text = (tmp_path / "log.txt").read_text()
    assert text.count("[hidden key]") == 3
    assert not any(secret in text for secret in ("abcDEF", "my-own", "abcdefghijkl"))
    plain = "task-seeded text of EMPTY rows, risk-adjusted-value"
    assert redact(plain) == plain


def test_a_log_that_cannot_be_written_does_not_stop_a_run(tmp_path: Path) -> None:
    Log(tmp_path / "missing" / "log.txt").write("x")
    Log().write("x")
