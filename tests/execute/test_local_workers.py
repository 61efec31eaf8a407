"""Steps in processes of their own: at the same time, after what they need, and nothing lost when one dies."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest

from autocaft.errors import DataError, WorkerError
from autocaft.execute.local import LocalWorkers
from autocaft.rundir.progress import NullProgress
from autocaft.rundir.runner import Elsewhere, Step, StepContext, run_alone, run_steps
from autocaft.rundir.store import RunStore

NEEDS = {"tune": (), "train/a": ("tune",), "train/b": ("tune",), "report": ("train/a", "train/b")}
PATIENCE_S = 180.0


def wait_for(path: Path) -> None:
    wait_until(path.is_file, f"nobody wrote {path}")


def wait_until(is_so: Callable[[], bool], else_say: str) -> None:
    start = time.monotonic()
    while not is_so():
        assert time.monotonic() - start < PATIENCE_S, else_say
        time.sleep(0.01)


def work(name: str, told: dict[str, str], context: StepContext) -> None:
    """Write `out`; then what the step was told to do: wait for the other's, fail, or die once."""
    missing = [need for need in NEEDS[name] if not (context.dir_of(need) / "out").is_file()]
    (context.out / "out").write_text(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')} {missing}")
    order = told.get(name, "")
    if order.startswith("meet"):
        wait_for(context.out.parent.parent / order.removeprefix("meet ") / "out")
    elif order == "fail":
        raise DataError("row 7 is bad")
    elif order == "fail with an error that cannot be sent":
        raise UnsendableError(lambda: None)
    elif order == "die" and not (context.out / "died").is_file():
        (context.out / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    elif order == "hang":
        time.sleep(PATIENCE_S)


class UnsendableError(Exception):
    pass


def make_steps(told: dict[str, str]) -> list[Step]:
    return [
        Step(name, name.partition("/")[0], {}, {}, needs, 1, partial(work, name, told)) for name, needs in NEEDS.items()
    ]


def run_one(told: dict[str, str], run_dir: Path, name: str, elsewhere: Elsewhere | None = None, /) -> None:
    run_alone(make_steps(told), name, run_dir, NullProgress(), elsewhere)


def go(
    run_dir: Path, told: dict[str, str] | None = None, devices: tuple[str, ...] = (), n_devices_each: int = 1
) -> list[str]:
    with LocalWorkers(partial(run_one, told or {}, run_dir), 2, devices, n_devices_each) as workers:
        return run_steps(make_steps(told or {}), run_dir, set(), NullProgress(), workers=workers)


def outs(run_dir: Path, names: Iterable[str] = NEEDS) -> dict[str, list[str]]:
    """What each step wrote: its process, its device, and what it needed and did not find."""
    return {name: (run_dir / name / "out").read_text().split(maxsplit=2) for name in names}


def statuses(run_dir: Path) -> dict[str, str]:
    with RunStore(run_dir / "run.sqlite") as store:
        return {row.name: row.status for row in store.steps()}


def test_two_steps_meet_and_each_finds_what_it_needs(tmp_path: Path) -> None:
    assert go(tmp_path, {"train/a": "meet train/b", "train/b": "meet train/a"}) == list(NEEDS)
    found = outs(tmp_path)
    assert found["train/a"][0] != found["train/b"][0] != str(os.getpid())
    assert all(missing == "[]" for _, _, missing in found.values())
    assert set(statuses(tmp_path).values()) == {"done"}
    assert go(tmp_path) == [], "the second run has nothing to do"


def advise(step: str) -> None:
    """As a library does that misses a package which would only make it faster."""
    logging.getLogger("bitsandbytes").warning("%s could be faster", step)
    logging.getLogger("mine").warning("%s is heard", step)


def test_what_a_library_only_advises_is_not_printed_by_a_worker(capfd: pytest.CaptureFixture[str]) -> None:
    with LocalWorkers(advise, 1) as workers:
        workers.start("tune")
        assert workers.wait().error is None
    assert capfd.readouterr().err == "tune is heard\n"


def test_each_slot_sees_its_own_device(tmp_path: Path) -> None:
    go(tmp_path, {"train/a": "meet train/b", "train/b": "meet train/a"}, devices=("GPU-x", "GPU-y"))
    assert {outs(tmp_path)[name][1] for name in ("train/a", "train/b")} == {"GPU-x", "GPU-y"}
    assert os.environ.get("CUDA_VISIBLE_DEVICES") is None


def test_a_slot_sees_as_many_devices_as_its_steps_use(tmp_path: Path) -> None:
    told = {"train/a": "meet train/b", "train/b": "meet train/a"}
    go(tmp_path, told, ("GPU-0", "GPU-1", "GPU-2", "GPU-3"), n_devices_each=2)
    assert {outs(tmp_path)[name][1] for name in ("train/a", "train/b")} == {"GPU-0,GPU-1", "GPU-2,GPU-3"}


def test_a_failure_keeps_its_kind_and_the_other_step_ends(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 7 is bad"):
        go(tmp_path, {"train/a": "fail", "train/b": "meet train/a"})
    assert statuses(tmp_path) == {"tune": "done", "train/a": "failed", "train/b": "done"}
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    assert go(tmp_path) == ["train/a", "report"]


def test_an_error_that_cannot_be_sent_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="UnsendableError: <function"):
        go(tmp_path, {"train/b": "fail with an error that cannot be sent"})


def test_a_dead_worker_loses_its_step_alone(tmp_path: Path) -> None:
    told = {"train/a": "die", "train/b": "meet train/a"}
    with pytest.raises(WorkerError, match=r"step train/a was killed by signal 9 .*out of memory"):
        go(tmp_path, told)
    assert statuses(tmp_path) == {"tune": "done", "train/a": "failed", "train/b": "done"}
    assert go(tmp_path, told) == ["train/a", "report"]


STOPS = pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])


@STOPS
def test_workers_end_with_the_run(sent: signal.Signals, tmp_path: Path) -> None:
    begin = f'go(Path({str(tmp_path)!r}), {{"train/a": "hang"}})'
    assert_workers_end_with_the_run("test_local_workers", begin, sent, tmp_path)
    assert set(go(tmp_path)) >= {"train/a", "report"}


def assert_workers_end_with_the_run(module: str, begin: str, sent: signal.Signals, run_dir: Path) -> None:
    """Stop a run whose step train/a hangs, and see that the worker is gone and the step counts as started.

    Args:
        begin: call of the module's `go` that begins the run.
    """
    code = f"""if __name__ == "__main__":
        from pathlib import Path
        from tests.execute.{module} import go
        {begin}"""
    script = run_dir / "script.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    # a shell's background job is deaf to Ctrl-C, and hands that on to all it starts
    run = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    wait_for(run_dir / "train/a/out")
    worker = int(outs_of(run_dir, "train/a"))
    run.send_signal(sent)
    _, told = run.communicate(timeout=PATIENCE_S)
    wait_until(lambda: not is_alive(worker), "a worker outlives its run")
    assert statuses(run_dir)["train/a"] == "started"
    assert sent == signal.SIGKILL or "stopped in train/a" in told


def outs_of(run_dir: Path, name: str) -> str:
    """The process that ran the step; it writes in one go, but a file is there before its content."""
    path = run_dir / name / "out"
    while not path.read_text():
        time.sleep(0.01)
    return path.read_text().split()[0]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
