"""The one loop that runs steps: skip what is done, continue what was started, refuse what was made otherwise.

In: the declared steps and a run folder. Out: the steps' artifacts, `run.sqlite` and `log.txt`. All steps are checked
before the first one runs; "done" is written last; a redo empties every step it concerns before anything runs.

The decision a reader would question: an interrupted step is not rolled back. It is run again with what it left in
its folder, and continues from there, because hours of training must survive a kill.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autocaft.errors import DiskFullError
from autocaft.rundir.check import Plan, make_plan
from autocaft.rundir.files import clean_temporary, disk_errors, remove_folder
from autocaft.rundir.lock import lock_run
from autocaft.rundir.progress import Log, Progress, redact
from autocaft.rundir.steps import Step, StepContext, all_needs
from autocaft.rundir.store import STORE_NAME, RunStore, Status

__all__ = ["LOG_NAME", "Step", "StepContext", "plan_steps", "process_peak_rss_mb", "run_steps"]

LOG_NAME = "log.txt"


@dataclass(frozen=True)
class _Run:
    """What the functions below share."""

    run_dir: Path
    plan: Plan
    store: RunStore
    progress: Progress
    log: Log


def run_steps(
    steps: list[Step],
    run_dir: Path,
    redo: set[str],
    progress: Progress,
    only: set[str] | None = None,
    on_checked: Callable[[], None] | None = None,
) -> list[str]:
    """Run what is not done yet; gives the names of the steps that ran.

    Args:
        redo: stages to empty and run again, with all that needs them.
        only: run the steps of these stages alone; what they need must be done.
        on_checked: called when the check has passed and before anything changes (to write config.toml: a refused
            change must not overwrite the settings the folder was made with).

    Raises:
        RunLockedError, RunChangedError, ConfigError: before anything ran.
        DiskFullError: the disk is full; what is done is kept.
        Exception: whatever a step raises; the step stays resumable.
    """
    log = Log(run_dir / LOG_NAME)
    with lock_run(run_dir), RunStore(run_dir / STORE_NAME) as store, disk_errors(run_dir):
        clean_temporary(run_dir)
        run = _Run(run_dir, make_plan(steps, run_dir, store, redo, only), store, progress, log)
        if on_checked is not None:
            on_checked()
        _empty(run)
        for name in run.plan.to_run:
            _run_step(run, run.plan.by_name[name])
        return run.plan.to_run


def plan_steps(steps: list[Step], run_dir: Path, redo: set[str], only: set[str] | None = None) -> Plan:
    """What `run_steps` would do, without doing it. Raises what its check raises."""
    if not (run_dir / STORE_NAME).is_file():
        return make_plan(steps, run_dir, None, redo, only)
    with RunStore(run_dir / STORE_NAME) as store:
        return make_plan(steps, run_dir, store, redo, only)


def _empty(run: _Run) -> None:
    """Empty the folders of all steps to be made anew, last ones first; a kill in between is taken up next time."""
    names = run.plan.to_empty
    run.store.mark_emptying(names)
    for name in reversed(names):
        remove_folder(run.run_dir / name)
        run.store.forget_step(name)
    if names:
        run.log.write(f"emptied: {', '.join(names)}")


def _run_step(run: _Run, step: Step) -> None:
    """One attempt at one step, recorded however it ends."""
    run.progress.say(f"{step.name}: {'continues' if run.plan.actions[step.name] == 'continue' else 'starts'}")
    (run.run_dir / step.name).mkdir(parents=True, exist_ok=True)
    run.store.start_step(step.name, step.stage, run.plan.prints[step.name])
    start = time.monotonic()

    def end(status: Status, message: str = "") -> None:
        run.store.end_attempt(step.name, status, time.monotonic() - start, process_peak_rss_mb(), redact(message))

    try:
        with disk_errors(run.run_dir):
            step.run(_context(run, step))
    except KeyboardInterrupt:
        end("started")
        run.log.write(f"{step.name}: stopped by the user")
        raise KeyboardInterrupt(f"stopped in {step.name}; the same command continues from there") from None
    except Exception as error:  # The one broad except of the project: recorded and raised again.
        run.log.write(f"{step.name}: failed\n{traceback.format_exc()}")
        with suppress(DiskFullError):  # A full disk must not hide the error; unrecorded, the step counts as started.
            end("failed", f"{type(error).__name__}: {error}")
        raise
    end("done")
    run.log.write(f"{step.name}: done in {time.monotonic() - start:.1f} s")
    give_memory_back()


def _context(run: _Run, step: Step) -> StepContext:
    needed = all_needs(step, run.plan.by_name)

    def dir_of(name: str) -> Path:
        # A folder that is read without being needed would change without changing the fingerprint.
        assert name in needed, f"step {step.name!r} reads {name!r} but does not declare that it needs it"
        return run.run_dir / name

    return StepContext(run.run_dir / step.name, dir_of, run.progress, run.log, run.store)


def give_memory_back() -> None:
    """Let go of what a finished step left: unreachable models, and the freed blocks that the C library keeps.

    glibc holds on to freed blocks below its growing mmap threshold; without this each step's peak stands on the heap
    of the steps before it.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def process_peak_rss_mb() -> float:
    """Peak resident memory of this process since its start, in MiB (the kernel gives KiB, on macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
