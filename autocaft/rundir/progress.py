"""What a long stage shows while it works, and the log of a run.

In: a label, a total, and calls of `advance(n)`. Out: a bar with counts, rate and ETA on a terminal, nothing elsewhere,
and in either case one line a finished task in `log.txt`.

The decision a reader would question: keys are blacked out where the log is written, not where they could leak,
because a traceback or an error message of an SDK can hold one anywhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

Advance = Callable[[int], None]
"""`advance(n)`: n more units are done."""

KEY_PATTERN = re.compile(r"(?<![A-Za-z0-9])(sk-|hf_)[A-Za-z0-9_-]{8,}|(?<=Bearer )\S{8,}")
SECRET_NAMES = re.compile(r".*_API_KEY|HF_TOKEN|HUGGING_FACE_HUB_TOKEN")
HIDDEN = "[hidden key]"
_known_keys: set[str] = set()


def hide(key: str) -> None:
    """From now on black out this key too, whatever its variable is called."""
    _known_keys.add(key)


def redact(text: str) -> str:
    """`text` without API keys: what looks like one, the values of `*_API_KEY` and `HF_TOKEN` variables, and the keys
    that this process was told to hide."""
    for key in _known_keys:
        text = text.replace(key, HIDDEN)
    for name, value in os.environ.items():
        # Short values are placeholders of local servers (`EMPTY`, `none`) and would black out plain words.
        if SECRET_NAMES.fullmatch(name) and len(value) >= 8:
            text = text.replace(value, HIDDEN)
    return KEY_PATTERN.sub(HIDDEN, text)


class Log:
    """Appends lines with a UTC time to a file, without keys. Without a path it keeps nothing."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    def write(self, text: str) -> None:
        """Append `text`; further lines of it are indented. A log that cannot be written never stops a run."""
        if self.path is None:
            return
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = redact(text).rstrip().replace("\n", "\n    ")
        with contextlib.suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(f"{stamp} {body}\n")


class Progress(Protocol):
    """What a stage is handed to say how far it is."""

    def task(self, label: str, total: int | None, unit: str = "rows") -> AbstractContextManager[Advance]:
        """`with progress.task("collect", 600, "documents") as advance: advance(8)`; total None if unknown."""
        ...

    def say(self, text: str) -> None:
        """One line for whoever watches."""
        ...


class NullProgress:
    """Shows and keeps nothing: for notebooks and tests."""

    @contextmanager
    def task(self, label: str, total: int | None, unit: str = "rows") -> Iterator[Advance]:
        """Count nothing."""
        yield lambda n: None

    def say(self, text: str) -> None:
        """Say nothing."""


class QuietProgress:
    """Prints nothing; the log gets one line a task."""

    def __init__(self, log: Log) -> None:
        self.log = log

    @contextmanager
    def task(self, label: str, total: int | None, unit: str = "rows") -> Iterator[Advance]:
        """Count, and log what was done when the task ends, also by an error."""
        counter = _Counter()
        start = time.monotonic()
        ended = "stopped at"
        try:
            yield counter.advance
            ended = "done"
        finally:
            self.log.write(f"{label}: {ended} {_amount(counter.n, total, unit, time.monotonic() - start)}")

    def say(self, text: str) -> None:
        """Log the line."""
        self.log.write(text)


class RichProgress:
    """Bars on stderr with label, count of total with unit, rate, elapsed time and ETA; logs like QuietProgress.

    Tasks may be nested: all open ones share one display.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self._quiet = QuietProgress(log)
        self._bars: Bars | None = None
        self._n_open = 0

    @contextmanager
    def task(self, label: str, total: int | None, unit: str = "rows") -> Iterator[Advance]:
        """Show a bar while the block runs, then leave one line."""
        with self._quiet.task(label, total, unit) as count, self._display() as bars:
            start = time.monotonic()
            bar = bars.add_task(label, total=total, unit=unit, rate="")
            done = 0

            def advance(n: int) -> None:
                nonlocal done
                count(n)
                done += n
                seconds = max(time.monotonic() - start, 1e-9)
                bars.update(bar, advance=n, rate=f"{done / seconds:,.1f} {unit}/s")

            try:
                yield advance
            finally:
                bars.remove_task(bar)
                bars.console.print(
                    f"{label}: {_amount(done, total, unit, time.monotonic() - start)}", markup=False, highlight=False
                )

    def say(self, text: str) -> None:
        """Print the line above the bars, and log it."""
        self.log.write(text)
        with self._display() as bars:
            bars.console.print(redact(text), markup=False, highlight=False)

    @contextmanager
    def _display(self) -> Iterator[Bars]:
        """The one display, started by the first open task and stopped by the last."""
        if self._bars is None:
            self._bars = _make_bars()
        self._n_open += 1
        if self._n_open == 1:
            self._bars.start()
        try:
            yield self._bars
        finally:
            self._n_open -= 1
            if self._n_open == 0:
                self._bars.stop()


def make_progress(log: Log) -> Progress:
    """Bars where a person watches (stderr is a terminal), else the log only."""
    return RichProgress(log) if sys.stderr.isatty() else QuietProgress(log)


class _Counter:
    def __init__(self) -> None:
        self.n = 0

    def advance(self, n: int) -> None:
        self.n += n


def _amount(n: int, total: int | None, unit: str, seconds: float) -> str:
    of_total = f" of {total:,}" if total is not None and total != n else ""
    return f"{n:,}{of_total} {unit} in {seconds:.1f} s ({n / max(seconds, 1e-9):,.1f} {unit}/s)"


def _make_bars() -> Bars:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[unit]}  {task.fields[rate]}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    return progress.Progress(*columns, console=Console(stderr=True), transient=True)
