"""One process at a time on a run folder.

In: the folder. Out: a context in which this process is alone there. The lock is the kernel's (flock), so a killed
process leaves none behind; `.holder.json` beside it only serves the message and may be stale.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from autocaft.errors import DataError, RunLockedError
from autocaft.rundir.files import disk_errors, read_json, write_text

LOCK_NAME = ".lock"
HOLDER_NAME = ".holder.json"


@contextmanager
def lock_run(run_dir: Path) -> Iterator[None]:
    """Hold the run folder for the block; it is made if it is not there.

    Raises:
        RunLockedError: another process holds it; names its pid, its host and the folder.
    """
    with disk_errors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run_dir / LOCK_NAME)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunLockedError(_who_holds(run_dir)) from None
    try:
        write_text(run_dir / HOLDER_NAME, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        (run_dir / HOLDER_NAME).unlink(missing_ok=True)
        lock.release()


@contextmanager
def one_at_a_time(run_dir: Path, what: str) -> Iterator[None]:
    """Wait until no other step of the run does the same: several that buy at once would each keep the caps alone."""
    with FileLock(run_dir / f".{what}.lock"):
        yield


def holder_of(run_dir: Path) -> dict[str, Any]:
    """`pid` and `host` of the process that holds the run folder; empty where nobody has said so."""
    try:
        return dict(read_json(run_dir / HOLDER_NAME))
    except DataError:
        return {}


def _who_holds(run_dir: Path) -> str:
    holder = holder_of(run_dir)
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return f"{who} works on {run_dir}. Wait for it or stop it, or take another run name."
