"""How a step runs on a node that shares nothing with the run's own machine but a mirror.

In: the steps, a run folder, a mirror. Out: errands. A node works in a scratch folder of its own, gets the folder of
another step from the mirror when the step first reads it, and puts what the step made; the run's own machine puts what
the mirror does not have yet, and gets each finished step. So steps beside the run, reports and a later run without
nodes find everything in the run folder.

The decision a reader would question: what an unfinished step left on a node is continued there and nowhere else, and
only while the run folder says that it is the same beginning. A redo, or a step's folder that somebody deleted, takes
that word away, so nothing old is met.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from filelock import FileLock

from autocaft.errors import ConfigError, DataError, ModelError
from autocaft.execute.mirror import Mirror
from autocaft.resources import cache_dir
from autocaft.rundir.files import TEMPORARY_PREFIX, clean_temporary, digest, remove_folder, write_text
from autocaft.rundir.runner import LOG_NAME, Elsewhere, RunStep
from autocaft.rundir.steps import Fingerprint, Step, all_needs, fingerprints

BEGUN = ".begun-"
"""Begins the name of an empty folder in the folder of a step that a node has begun; a file would count as work."""
HELD = ".held"


class Brought(NamedTuple):
    """What a node tells of an errand besides how it ended."""

    version: str
    """Of the folder that it put; empty after an error."""
    host: str
    log: str


@dataclass
class Relay:
    """The side of the run's own machine."""

    mirror: Mirror
    steps: list[Step]
    run_dir: Path
    _versions: dict[str, str] = field(default_factory=dict)
    """Of the steps that the mirror has as they are here."""

    @cached_property
    def _by_name(self) -> dict[str, Step]:
        return {step.name: step for step in self.steps}

    @cached_property
    def _prints(self) -> dict[str, Fingerprint]:
        return fingerprints(self.steps)

    def errand(self, step: str) -> Errand:
        """What a node is told of a step; all it may read is at the mirror then."""
        needs = {need: self._version(need) for need in sorted(all_needs(self._by_name[step], self._by_name))}
        return Errand(self.mirror.url, self._label, step, self._beginning(step), needs, self._prints[step])

    def take(self, step: str, brought: Brought) -> None:
        """Get what a node made."""
        self.mirror.get(step, brought.version, self.run_dir / step)
        self._versions[step] = brought.version

    def keep_log(self, brought: Brought) -> None:
        """Append what a node wrote into its log."""
        with (self.run_dir / f"log.{brought.host}.txt").open("a", encoding="utf-8") as file:
            file.write(brought.log)

    @property
    def _label(self) -> str:
        path = self.run_dir.absolute()
        return f"{path.name}-{digest([self.mirror.url, os.uname().nodename, str(path)])[:16]}"

    def _version(self, need: str) -> str:
        if need not in self._versions:
            self._versions[need] = self.mirror.put(need, self.run_dir / need)
        return self._versions[need]

    def _beginning(self, step: str) -> str:
        """The word for the work that is begun: another one once the step's folder was emptied."""
        folder = self.run_dir / step
        if not any(folder.glob(f"{BEGUN}*")):
            (folder / f"{BEGUN}{secrets.token_hex(8)}").mkdir(parents=True)
        return next(folder.glob(f"{BEGUN}*")).name


@dataclass(frozen=True)
class Errand:
    """The side of a node: one step."""

    url: str
    run: str
    """Names the scratch folder: steps of one run on one node share it."""
    step: str
    beginning: str
    needs: Mapping[str, str]
    """Version by name, of all that it may read."""
    expected: Fingerprint
    """What the step is on the run's own machine."""

    @property
    def scratch(self) -> Path:
        """The run folder here."""
        return cache_dir() / "mirrored" / self.run

    def do(self, run_step: RunStep) -> str:
        """Run the step and put its folder; gives the version."""
        mirror = Mirror(self.url)
        self._begin()
        try:
            run_step(self.scratch, self.step, Elsewhere(self.expected, lambda need: self._fetch(mirror, need)))
        except (ConfigError, DataError, ModelError) as error:
            raise type(error)(
                f"on node {os.uname().nodename}: {error}\n(With --mirror only the folders of steps travel: model, data "
                "and all else that the config names must be there on every node under the same name and path.)"
            ) from error
        with self._holding(self.step) as held:
            version = mirror.put(self.step, self.scratch / self.step)
            write_text(held, version)
        return version

    def brought(self, version: str) -> Brought:
        """What is told of the errand; the log's lines are told once."""
        log, told = self.scratch / LOG_NAME, ""
        with self._holding(LOG_NAME):
            if log.is_file():
                away = log.with_name(f"{TEMPORARY_PREFIX}{LOG_NAME}")
                os.replace(log, away)  # steps beside this one begin another file
                told = away.read_text(encoding="utf-8")
                away.unlink()
        return Brought(version, os.uname().nodename, told)

    def _begin(self) -> None:
        """Continue what was begun here; begin anew where the folder is of another beginning, or was got or put."""
        folder = self.scratch / self.step
        with self._holding(self.step) as held:
            if not _says(held, self.beginning):
                held.unlink(missing_ok=True)
                remove_folder(folder)
                write_text(held, self.beginning)
            folder.mkdir(parents=True, exist_ok=True)
            clean_temporary(folder)

    def _fetch(self, mirror: Mirror, need: str) -> None:
        version, folder = self.needs[need], self.scratch / need
        with self._holding(need) as held:
            if not (_says(held, version) and folder.is_dir()):
                held.unlink(missing_ok=True)  # first: a kill must not leave a folder under a wrong word
                mirror.get(need, version, folder)
                write_text(held, version)

    @contextmanager
    def _holding(self, name: str) -> Iterator[Path]:
        """Alone with one step's folder here; gives the file that says what the folder is."""
        held, folder = self.scratch / HELD / quote(name, safe=""), self.scratch / name
        held.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{held}.lock"):
            for left in folder.parent.glob(f"{TEMPORARY_PREFIX}*-{folder.name}"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield held


def _says(held: Path, word: str) -> bool:
    return held.is_file() and held.read_text(encoding="utf-8") == word
