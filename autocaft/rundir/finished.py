"""What another run folder has finished, to be taken over instead of made again.

In: another run's folder. Out: its done steps, linked or copied into this run's folder, and its answers. A step is the
same if its fingerprint is: settings, inputs, version, and those of all it needs.

The decision a reader would question: files are hard links where the file system allows it, so that five models of a
gigabyte cost nothing. No step writes into a file that is there: each replaces it whole, and a redo removes the name, so
neither run can change what the other has.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocaft.errors import ConfigError
from autocaft.rundir.files import digest, replacing_folder
from autocaft.rundir.store import STORE_NAME, RunStore


@dataclass(frozen=True)
class FinishedRun:
    """Another run's folder, open to be read."""

    run_dir: Path
    store: RunStore

    def has(self, name: str, fingerprint: Mapping[str, Any]) -> bool:
        """Whether that run has finished this very step."""
        row = self.store.step(name)
        return (
            row is not None
            and row.status == "done"
            and digest(row.fingerprint) == digest(fingerprint)
            and (self.run_dir / name).is_dir()
        )

    def hand_over(self, name: str, run_dir: Path, store: RunStore) -> None:
        """Put a finished step into another run's record and folder. In this order: a step whose folder is not there
        is made again, while a folder that the record does not know would be refused."""
        row = self.store.step(name)
        assert row is not None, "the plan takes over what `has` found"
        store.add_done_step(row)
        with replacing_folder(run_dir / name) as folder:
            shutil.copytree(self.run_dir / name, folder, copy_function=_link_or_copy, dirs_exist_ok=True)


@contextmanager
def open_finished(source: Path | None, run_dir: Path) -> Iterator[FinishedRun | None]:
    """The run to take over from, None without one.

    Raises:
        ConfigError: it is no run folder, or this one.
    """
    if source is None:
        yield None
        return
    if not (source / STORE_NAME).is_file():
        raise ConfigError(f"--from {source}: is no run folder, it has no {STORE_NAME}")
    if source.resolve() == run_dir.resolve():
        raise ConfigError(f"--from {source}: is the run itself; name another one with --name")
    with RunStore(source / STORE_NAME) as store:
        yield FinishedRun(source, store)


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
    return target
