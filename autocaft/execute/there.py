"""What a Ray worker is told of a step, and does.

In: the function that runs a step, pickled, and where. Out: how it ended. Workers are told the path of the run folder,
where the run was started, and the variables of `PASSED_ON`, and nothing else of the run's environment: no key.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autocaft.errors import ConfigError
from autocaft.execute.attempt import Told, attempt
from autocaft.execute.relay import Brought, Errand
from autocaft.rundir.lock import holder_of
from autocaft.rundir.runner import RunStep

PATIENCE_S = 60.0
"""How long a node may take to see the run folder as it is: a network file system remembers for a while."""
PASSED_ON = (
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE",
    "WANDB_MODE", "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE",
)  # fmt: skip
PASSED_ON_WHERE_SHARED = ("AUTOCAFT_CACHE", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE")
"""Folders: with a mirror each node has its own."""


@dataclass(frozen=True)
class There:
    """What a worker is told."""

    run_step: bytes
    """Pickled, so that nothing of it is imported before the environment is set."""
    started_in: str
    run_dir: Path
    holder: Mapping[str, Any]
    environment: Mapping[str, str]
    errand: Errand | None = None
    """None: the node shares the run folder."""

    @classmethod
    def of(cls, run_step: RunStep, run_dir: Path, errand: Errand | None) -> There:
        """As this process is now."""
        names = PASSED_ON + (PASSED_ON_WHERE_SHARED if errand is None else ())
        environment = {name: os.environ[name] for name in names if name in os.environ}
        how = pickle.dumps(run_step)
        return cls(how, os.getcwd(), run_dir.absolute(), holder_of(run_dir), environment, errand)


def attempt_there(there: There, step: str) -> tuple[Told, Brought | None]:
    """A worker's part."""
    os.environ.update(there.environment)
    errand = there.errand
    if errand is None:
        return attempt(partial(_run_there, there), step), None
    put: list[str] = []
    told = attempt(lambda _: put.append(_run_apart(there, errand)), step)
    return told, errand.brought("".join(put))


def _run_there(there: There, step: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not (Path(there.started_in).is_dir() and holder_of(there.run_dir) == there.holder):
        if time.monotonic() > end:
            raise ConfigError(
                f"node {os.uname().nodename} does not see {there.run_dir} as the run's own machine does. With Ray the "
                f"run folder, {there.started_in} and all data must lie in a folder that every node shares, under the "
                "same path"
            )
        time.sleep(1.0)
    os.chdir(there.started_in)  # paths in a config are relative to it
    pickle.loads(there.run_step)(there.run_dir, step)


def _run_apart(there: There, errand: Errand) -> str:
    """Where the folder that the run was started in exists here too, paths in a config are relative to it."""
    errand.scratch.mkdir(parents=True, exist_ok=True)
    os.chdir(there.started_in if Path(there.started_in).is_dir() else errand.scratch)
    return errand.do(pickle.loads(there.run_step))
