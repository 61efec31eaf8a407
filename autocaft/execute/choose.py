"""Who runs the steps: this process, processes of this machine, or Ray.

In: what the command line says. Out: the workers, open for a block, or None for this process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from autocaft.errors import ConfigError
from autocaft.rundir.runner import RunStep, Step, Workers

GIB = 1 << 30
Kind = Literal["local", "ray"]


@dataclass(frozen=True)
class Executor:
    """`--executor`, and what goes with it."""

    kind: Kind = "local"
    address: str | None = None
    """Of a Ray cluster."""
    jobs: int | None = None
    """Steps at a time: one, or with Ray as many as there is room for."""
    step_gib: float | None = None
    """Memory that Ray sets aside for one step; None: from the model's size."""
    mirror: str | None = None
    """URL by which the folders of steps travel; None: all nodes share the run folder."""

    @classmethod
    def of(
        cls, kind: str, address: str | None, jobs: int | None, step_gib: float | None, mirror: str | None = None
    ) -> Executor:
        """From the command line.

        Raises:
            ConfigError: options that do not go together.
        """
        if kind == "ray":
            if mirror is not None:
                _check_url(mirror)
            return cls("ray", address, jobs, step_gib, mirror)
        if kind != "local":
            raise ConfigError(f"--executor {kind!r}: must be local or ray")
        if address is not None or step_gib is not None or mirror is not None:
            raise ConfigError("--address, --step-gb and --mirror are for --executor ray")
        return cls("local", None, jobs)

    @contextmanager
    def workers(
        self,
        run_step: RunStep,
        steps: Sequence[Step],
        run_dir: Path,
        *,
        threads: int | None,
        model_bytes: int,
        n_devices: int = 1,
        key_names: Sequence[str],
        say: Callable[[str], None],
    ) -> Iterator[Workers | None]:
        """The workers; None means this process.

        Args:
            threads: of a step, where the config says so; Ray gives each step as many CPUs.
            model_bytes: what a step with the model needs by its size.
            n_devices: GPUs of a step that trains; each step is given as many where there are any.
            key_names: variables that hold keys of judges.

        Raises:
            ConfigError: fewer GPUs are visible than the steps take.
        """
        if self.kind == "ray":
            from autocaft.execute.ray import RayWorkers, StepSize

            n_bytes = model_bytes if self.step_gib is None else int(self.step_gib * GIB)
            size = StepSize(threads or 1, n_bytes, n_devices)
            with RayWorkers(
                run_step, steps, run_dir, size, self.address, self.jobs, key_names, say, self.mirror
            ) as there:
                yield there
        elif self.jobs is not None and self.jobs > 1:
            from autocaft.execute.local import LocalWorkers, visible_devices

            devices = visible_devices()
            if n_devices > 1 and 0 < len(devices) < n_devices * self.jobs:
                raise ConfigError(
                    f"--jobs {self.jobs} with tune.processes = {n_devices} takes {n_devices * self.jobs} GPUs, and "
                    f"{len(devices)} are visible; set either lower"
                )
            with LocalWorkers(partial(run_step, run_dir), self.jobs, devices, n_devices) as here:
                yield here
        else:
            yield None


def _check_url(mirror: str) -> None:
    if not re.match(r"file:///[^/]|(?!file:)[a-z][\w+.-]*://[^/]", mirror):
        raise ConfigError(
            f"--mirror {mirror!r}: must be a URL that means the same on every node, as s3://bucket/folder or "
            "file:///folder"
        )
    if re.match(r"[^/]+//[^/]*:[^/]*@", mirror):
        raise ConfigError(
            "--mirror: a password in the URL would be read in logs; give it to the driver by its own files or by "
            "variables (fsspec reads FSSPEC_PROTOCOL_PASSWORD)"
        )
