"""Steps in processes of their own on this machine, several at a time.

In: a function that runs one step, by its name. Out: how each step ended. A worker lives as long as the run and takes
one step after the other; one that dies loses its step alone, and its slot gets a new worker.

The decision a reader would question: processes are spawned, not forked. A fork of a process with threads or an open
GPU hangs sooner or later; a spawned one imports torch once, and sees the threads and the GPU that it is given.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Self

from autocaft.errors import WorkerError
from autocaft.execute.attempt import attempt
from autocaft.rundir.runner import Ended


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    step: str = ""
    """What it works on; empty while it waits."""


@dataclass
class LocalWorkers:
    """Up to `n_slots` steps at a time. Use it as a context manager: what still works when it closes is stopped."""

    run_step: Callable[[str], None]
    """Runs the step of this name to its end. It is pickled: a module's function, or a partial of one."""
    n_slots: int
    devices: Sequence[str] = ()
    """What `CUDA_VISIBLE_DEVICES` is for the slots, in turn; empty: as it is."""
    n_devices_each: int = 1
    """How many of them a slot takes: as many as a step uses at most."""
    _workers: dict[int, _Worker] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            worker.process.kill()  # a step must bear that at any moment, and asking nicely would only add a second way
            worker.process.join()
            worker.connection.close()
        self._workers.clear()

    def start(self, step: str) -> None:
        """Hand a step to a free slot; there must be one."""
        slot = next(slot for slot in range(self.n_slots) if slot not in self._workers or not self._workers[slot].step)
        if slot not in self._workers:
            self._workers[slot] = self._spawn(slot)
        worker = self._workers[slot]
        worker.step = step
        worker.connection.send(step)

    def wait(self) -> Ended:
        """The next step that ended, by itself or with its process."""
        ended = self.ended_within(None)
        assert ended is not None, "nobody was at work"
        return ended

    @property
    def n_busy(self) -> int:
        """Steps at work."""
        return sum(bool(worker.step) for worker in self._workers.values())

    def ended_within(self, seconds: float | None) -> Ended | None:
        """The same; None if no step ends in that time."""
        busy = {worker.connection: slot for slot, worker in self._workers.items() if worker.step}
        heard = wait(list(busy), seconds)
        if not heard:
            return None
        slot = busy[heard[0]]  # type: ignore[index]  # only connections were asked for
        worker = self._workers[slot]
        step, worker.step = worker.step, ""
        try:
            error, text, peak_mb = worker.connection.recv()
        except EOFError:
            del self._workers[slot]
            worker.process.join()
            died = WorkerError(_how_it_died(step, worker.process.exitcode))
            return Ended(step, died, str(died), 0.0)
        return Ended(step, error, text, peak_mb)

    def _spawn(self, slot: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.run_step), name=f"worker {slot}")
        with environment(self._environment_of(slot)):
            process.start()
        theirs.close()  # or a dead worker would never read as an end of file
        return _Worker(process, ours)

    def _environment_of(self, slot: int) -> dict[str, str]:
        """Each worker takes its share of the cores, and gives one up while it waits for a thread: spinning threads of
        several processes on the same cores stop each other for a time."""
        share = max(1, (os.cpu_count() or 1) // self.n_slots)
        chosen = {"OMP_NUM_THREADS": str(share), "OMP_WAIT_POLICY": "PASSIVE"}
        chosen = {key: os.environ.get(key, value) for key, value in chosen.items()}
        first = slot * self.n_devices_each
        places = range(first, first + self.n_devices_each) if self.devices else ()
        own = [self.devices[place % len(self.devices)] for place in places]
        return chosen | ({"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {})


def visible_devices() -> list[str]:
    """The CUDA devices this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    n_devices = torch.cuda.device_count()
    return named.split(",")[:n_devices] if named else [str(index) for index in range(n_devices)]


def _how_it_died(step: str, code: int | None) -> str:
    how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
    why = " (most often: out of memory; use fewer --jobs)" if code == -signal.SIGKILL else ""
    return f"the process of step {step} {how}{why}. What is done is kept; the same command continues."


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """These variables for the block: a spawned process takes what it finds when it starts."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _work(connection: Connection, run_step: Callable[[str], None]) -> None:
    """A worker's life: steps in, what is told of each out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the run's own process decides
    threading.Thread(target=end_with_parent, daemon=True).start()
    while True:
        connection.send(attempt(run_step, connection.recv()))


def end_with_parent() -> None:
    """A worker that outlives a killed run would write into folders that the next run works in."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
