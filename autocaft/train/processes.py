"""Several processes of this machine that train one model together.

In: a function of a `Progress`, and how many processes. Out: what it gave in the first of them. All run it in one
process group (NCCL between GPUs, Gloo between CPUs), a GPU each where there are GPUs; `transformers.Trainer` and
accelerate find the group and use it. If one process raises or dies all end, and its error is raised.

The decision a reader would question: processes are spawned as execute/local.py spawns its workers, and meet in a file;
torchrun would take a port. Several trainings start on one machine at a time, and an error keeps its kind and exit code.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from autocaft.errors import AutocaftError, ConfigError, WorkerError
from autocaft.execute.attempt import sendable
from autocaft.execute.local import end_with_parent, environment
from autocaft.execute.quiet import quiet_libraries
from autocaft.rundir.progress import NullProgress, Progress

POLL_S = 0.2
GRACE_S = 5.0
"""For the others to end by themselves once one has failed: they wait for it in a collective."""
Work = Callable[[Progress], Any]


def train_together(work: Work, n_processes: int, progress: Progress) -> Any:
    """Run `work` in processes of one group; gives what the first returned.

    Args:
        work: pickled, so a module's function or a partial of one. The first process is handed a progress that shows
            here, the others one that shows nothing.

    Raises:
        ConfigError: fewer GPUs are visible than processes.
        WorkerError: a process died.
        Exception: what `work` raised in one of them.
    """
    import torch

    n_devices = torch.accelerator.device_count()
    if 0 < n_devices < n_processes:
        raise ConfigError(f"tune.processes = {n_processes} takes a GPU each, and {n_devices} are visible; set it lower")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        context, packed = multiprocessing.get_context("spawn"), pickle.dumps(work)  # tensors by value
        ours, theirs = context.Pipe(duplex=False)
        group = [
            context.Process(target=_take_part, args=(rank, packed, n_processes, folder, theirs), name=f"process {rank}")
            for rank in range(n_processes)
        ]
        try:
            # spinning threads of several processes on the same cores stop each other for a time
            with environment({"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}):
                for process in group:
                    process.start()
            theirs.close()
            with _Shown(progress) as shown:
                while any(process.is_alive() for process in group) and not _codes(group, failed=True):
                    shown.take(ours)
            _wait_for_others(group)
            codes = _codes(group, failed=True)
            if codes:
                raise _why(folder, codes, n_processes)
        finally:
            for process in group:
                if process.pid is not None:
                    process.kill()
                    process.join()
        return pickle.loads((folder / "result").read_bytes())


def _codes(processes: list[Any], *, failed: bool) -> dict[int, int]:
    """Exit codes of the processes that ended, or that ended badly, by rank."""
    codes = {rank: process.exitcode for rank, process in enumerate(processes) if process.exitcode is not None}
    return {rank: code for rank, code in codes.items() if code or not failed}


def _wait_for_others(processes: list[Any]) -> None:
    """Until all have ended, or for a while: one that waits for a dead one may never end."""
    start = time.monotonic()
    while len(_codes(processes, failed=False)) < len(processes) and time.monotonic() - start < GRACE_S:
        time.sleep(POLL_S / 4)


def _why(folder: Path, codes: dict[int, int], n_processes: int) -> Exception:
    """What a user can mend first; then a death, of which the others' errors follow; then the earliest error."""
    told = [pickle.loads(path.read_bytes()) for path in sorted(folder.glob("*.error"), key=_written)]
    mendable = [error for error, _ in told if isinstance(error, AutocaftError)]
    if mendable:
        return mendable[0]
    for rank, code in codes.items():
        if code < 0:
            cause = " (most often: out of memory)" if code == -signal.SIGKILL else ""
            return WorkerError(
                f"process {rank} of the {n_processes} that train together was killed by signal {-code}{cause}; the "
                "others were ended. What is done is kept; the same command continues."
            )
    if not told:
        rank, code = next(iter(codes.items()))
        return WorkerError(f"process {rank} of the {n_processes} that train together ended with code {code}")
    error: Exception = told[0][0]
    error.add_note(told[0][1])
    return error


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


def _take_part(rank: int, packed: bytes, n_processes: int, folder: Path, connection: Connection) -> None:
    """One process's life. An error goes into a file, and the process ends without waiting for anybody."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; who started it decides
    threading.Thread(target=end_with_parent, daemon=True).start()
    quiet_libraries()
    try:
        _join(rank, n_processes, folder)
        work: Work = pickle.loads(packed)
        result = work(_Sent(connection) if rank == 0 else NullProgress())
        if rank == 0:
            (folder / "result").write_bytes(pickle.dumps(result))
    except Exception as error:  # recorded, and raised again by who started the group
        (folder / f"{rank}.error").write_bytes(pickle.dumps((sendable(error), traceback.format_exc())))
        os._exit(1)
    import torch.distributed as dist

    dist.destroy_process_group()


def _join(rank: int, n_processes: int, folder: Path) -> None:
    """The process group, and the variables by which accelerate knows it."""
    import torch

    size = str(n_processes)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # asked for, and not used: the group is there
    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(rank)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // n_processes))
    torch.distributed.init_process_group(init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=n_processes)


class _Sent(NullProgress):
    """The first process's progress: what it counts goes to who started the group."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @contextmanager
    def task(self, label: str, total: int | None, unit: str = "rows") -> Iterator[Callable[[int], None]]:
        """Send the task, its counts, and None at its end."""
        self.connection.send((label, total, unit))
        yield self.connection.send
        self.connection.send(None)


class _Shown(AbstractContextManager["_Shown"]):
    """The other end: shows what arrives."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self._open = progress, ExitStack()
        self._advance: Callable[[int], None] = lambda n: None

    def take(self, connection: Connection) -> None:
        """What has arrived, or the next message within a moment."""
        with suppress(EOFError):
            if not connection.poll(POLL_S):
                return
            message = connection.recv()
            if message is None:
                self._open.close()
            elif isinstance(message, int):
                self._advance(message)
            else:
                self._advance = self._open.enter_context(self.progress.task(*message))

    def __exit__(self, *details: Any) -> None:
        self._open.__exit__(*details)
