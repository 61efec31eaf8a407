"""The loop that runs steps: skip what is done, continue what was started, refuse what was made otherwise.

In: the declared steps and a run folder. Out: the steps' artifacts, `run.sqlite` and `log.txt`. All steps are checked
before the first one runs; "done" is written last; a redo empties every step it concerns before anything runs.

The decision a reader would question: an interrupted step is not rolled back. It is run again with what it left in
its folder, and continues from there, because hours of training must survive a kill.
"""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autocaft.errors import DiskFullError
from autocaft.rundir.check import Plan, make_plan
from autocaft.rundir.files import clean_temporary, disk_errors, remove_folder
from autocaft.rundir.finished import FinishedRun, open_finished
from autocaft.rundir.lock import holder_of, lock_run
from autocaft.rundir.memory import give_memory_back, process_peak_rss_mb
from autocaft.rundir.progress import Log, Progress, redact
from autocaft.rundir.steps import (
    Elsewhere,
    Step,
    StepContext,
    all_needs,
    check_is_same,
    declared_by_name,
    fingerprints,
)
from autocaft.rundir.store import STORE_NAME, RunStore

__all__ = [
    "LOG_NAME", "Elsewhere", "Ended", "RunStep", "Step", "StepContext", "Workers", "plan_steps", "run_alone",
    "run_steps", "worker_log",
]  # fmt: skip

LOG_NAME = "log.txt"


@dataclass(frozen=True)
class Ended:
    """How a step ended that somebody else ran."""

    step: str
    error: Exception | None
    traceback: str
    process_peak_rss_mb: float


class RunStep(Protocol):
    """Runs one step in a process of its own. It is pickled: a module's function, or a partial of one."""

    def __call__(self, run_dir: Path, step: str, elsewhere: Elsewhere | None = None, /) -> None:
        """Run the step of this name to its end."""
        ...


class Workers(Protocol):
    """Whoever runs steps elsewhere (execute/)."""

    @property
    def n_slots(self) -> int:
        """How many steps at a time. It may change while they run."""
        ...

    def start(self, step: str) -> None:
        """Begin a step; called when fewer than `n_slots` are at work."""
        ...

    def wait(self) -> Ended:
        """The next step that ended."""
        ...


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
    workers: Workers | None = None,
    source: Path | None = None,
) -> list[str]:
    """Run what is not done yet; gives the names of the steps that ran.

    Args:
        redo: stages to empty and run again, with all that needs them.
        only: run the steps of these stages alone; what they need must be done.
        on_checked: called when the check has passed and before anything changes (to write config.toml: a refused
            change must not overwrite the settings the folder was made with).
        workers: run the steps there, several at a time, each once what it needs is done; None: here, in order.
        source: another run's folder; what it has finished and is the same here is taken over, and so are its answers.

    Raises:
        RunLockedError, RunChangedError, ConfigError: before anything ran.
        DiskFullError: the disk is full; what is done is kept.
        Exception: whatever a step raises; the step stays resumable.
    """
    log = Log(run_dir / LOG_NAME)
    with (
        lock_run(run_dir),
        RunStore(run_dir / STORE_NAME) as store,
        open_finished(source, run_dir) as finished,
        disk_errors(run_dir),
    ):
        clean_temporary(run_dir)
        run = _Run(run_dir, make_plan(steps, run_dir, store, redo, only, finished), store, progress, log)
        if on_checked is not None:
            on_checked()
        _empty(run)
        if finished is not None:
            _take_over(run, finished)
        if workers is not None:
            _run_elsewhere(run, workers)
        else:
            for name in run.plan.to_run:
                _run_here(run, run.plan.by_name[name])
        return run.plan.to_run


def run_alone(
    steps: list[Step], name: str, run_dir: Path, progress: Progress, elsewhere: Elsewhere | None = None
) -> None:
    """A worker's part: the step's own work. Who started it keeps the record.

    Raises:
        ConfigError: the step is another one here than on the run's own machine.
    """
    by_name = declared_by_name(steps)
    if elsewhere is not None:
        check_is_same(by_name[name], elsewhere.expected, fingerprints(steps)[name])
    with (
        RunStore(run_dir / STORE_NAME) if by_name[name].uses_store else nullcontext() as store,
        disk_errors(run_dir),
    ):
        by_name[name].run(_context(by_name, name, run_dir, progress, worker_log(run_dir), store, elsewhere))


def worker_log(run_dir: Path) -> Log:
    """Where a worker writes: the run's log, or on another machine a file of its own beside it. Over a network, lines
    that two machines append to one file at once overwrite each other."""
    here, runs_at = socket.gethostname(), holder_of(run_dir).get("host")
    return Log(run_dir / (LOG_NAME if runs_at in (None, here) else f"log.{here}.txt"))


def plan_steps(
    steps: list[Step], run_dir: Path, redo: set[str], only: set[str] | None = None, source: Path | None = None
) -> Plan:
    """What `run_steps` would do, without doing it. Raises what its check raises."""
    is_begun = (run_dir / STORE_NAME).is_file()
    with (
        open_finished(source, run_dir) as finished,
        RunStore(run_dir / STORE_NAME) if is_begun else nullcontext() as store,
    ):
        return make_plan(steps, run_dir, store, redo, only, finished)


def _empty(run: _Run) -> None:
    """Empty the folders of all steps to be made anew, last ones first; a kill in between is taken up next time."""
    names = run.plan.to_empty
    run.store.mark_emptying(names)
    for name in reversed(names):
        remove_folder(run.run_dir / name)
        run.store.forget_step(name)
    if names:
        run.log.write(f"emptied: {', '.join(names)}")


def _take_over(run: _Run, finished: FinishedRun) -> None:
    """Finished steps and answers of another run; a kill in between is taken up by the same command."""
    run.store.add_answers_of(finished.store)
    for name in run.plan.to_take_over:
        finished.hand_over(name, run.run_dir, run.store)
        run.progress.say(f"{name}: taken over from {finished.run_dir}")


def _run_here(run: _Run, step: Step) -> None:
    """One attempt at one step, recorded however it ends."""
    _begin(run, step)
    start = time.monotonic()
    try:
        with disk_errors(run.run_dir):
            step.run(_context(run.plan.by_name, step.name, run.run_dir, run.progress, run.log, run.store))
    except KeyboardInterrupt:
        _stopped(run, {step.name: start})
        raise KeyboardInterrupt(f"stopped in {step.name}; the same command continues from there") from None
    except Exception as error:  # The one broad except of the runner: recorded and raised again.
        _failed(run, step.name, start, error, traceback.format_exc(), process_peak_rss_mb())
        raise
    _done(run, step.name, start, process_peak_rss_mb())
    if step.uses_model:  # others leave little, and looking through all objects takes longer than most of them
        give_memory_back()


def _run_elsewhere(run: _Run, workers: Workers) -> None:
    """All steps, as many at a time as there are slots. After a failure no new one starts; those at work may end."""
    waiting = [run.plan.by_name[name] for name in run.plan.to_run]
    started: dict[str, float] = {}
    failure: Exception | None = None
    try:
        with run.progress.task("run", len(waiting), "steps") as advance:
            while started or (waiting and failure is None):
                unfinished = {*started, *(step.name for step in waiting)}
                ready = [step for step in waiting if unfinished.isdisjoint(step.needs)] if failure is None else []
                for step in ready[: max(0, workers.n_slots - len(started))]:
                    waiting.remove(step)
                    _begin(run, step)
                    started[step.name] = time.monotonic()
                    workers.start(step.name)
                ended = workers.wait()
                start = started.pop(ended.step)
                if ended.error is None:
                    _done(run, ended.step, start, ended.process_peak_rss_mb)
                    advance(1)
                else:
                    _failed(run, ended.step, start, ended.error, ended.traceback, ended.process_peak_rss_mb)
                    failure = failure or ended.error
    except KeyboardInterrupt:
        _stopped(run, started)
        raise KeyboardInterrupt(f"stopped in {', '.join(started)}; the same command continues from there") from None
    if failure is not None:
        raise failure


def _begin(run: _Run, step: Step) -> None:
    run.progress.say(f"{step.name}: {'continues' if run.plan.actions[step.name] == 'continue' else 'starts'}")
    (run.run_dir / step.name).mkdir(parents=True, exist_ok=True)
    run.store.start_step(step.name, step.stage, run.plan.prints[step.name])


def _done(run: _Run, name: str, start: float, peak_mb: float) -> None:
    run.store.end_attempt(name, "done", time.monotonic() - start, peak_mb)
    run.log.write(f"{name}: done in {time.monotonic() - start:.1f} s")


def _failed(run: _Run, name: str, start: float, error: Exception, text: str, peak_mb: float) -> None:
    run.log.write(f"{name}: failed\n{text}")
    message = redact(f"{type(error).__name__}: {error}")
    with suppress(DiskFullError):  # A full disk must not hide the error; unrecorded, the step counts as started.
        run.store.end_attempt(name, "failed", time.monotonic() - start, peak_mb, message)


def _stopped(run: _Run, started: Mapping[str, float]) -> None:
    for name, start in started.items():
        run.store.end_attempt(name, "started", time.monotonic() - start, process_peak_rss_mb())
        run.log.write(f"{name}: stopped by the user")


def _context(
    by_name: Mapping[str, Step],
    name: str,
    run_dir: Path,
    progress: Progress,
    log: Log,
    store: RunStore | None,
    elsewhere: Elsewhere | None = None,
) -> StepContext:
    needed = all_needs(by_name[name], by_name)

    def dir_of(other: str) -> Path:
        # A folder that is read without being needed would change without changing the fingerprint.
        assert other in needed, f"step {name!r} reads {other!r} but does not declare that it needs it"
        if elsewhere is not None:
            elsewhere.fetch(other)
        return run_dir / other

    return StepContext(run_dir / name, dir_of, progress, log, store if by_name[name].uses_store else None)
