"""Steps as Ray tasks on a cluster of two one-CPU nodes: as local ones, also when a worker, a node or the run dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from autocaft.audit.options import load_audit
from autocaft.cli.actions import run_all
from autocaft.cli.audits import audit_sets
from autocaft.errors import ConfigError, DataError, WorkerError
from autocaft.execute import there as there_room
from autocaft.execute.choose import Executor
from autocaft.execute.ray import MAX_LOSSES, RayWorkers, StepSize
from autocaft.execute.there import There, attempt_there
from autocaft.rundir.files import digest, read_jsonl, sha256_of
from autocaft.rundir.lock import lock_run
from autocaft.rundir.progress import NullProgress
from autocaft.rundir.runner import run_steps
from tests.audit.test_audit_run import CONFIG, PLANTED, _write_set
from tests.execute.test_local_workers import (
    STOPS,
    assert_workers_end_with_the_run,
    make_steps,
    outs,
    run_one,
    statuses,
)
from tests.ray_steps import die_always, tell_one, telling_steps
from tests.test_run import report_of
from tests.tiny_task import write_task

SIZE = StepSize(1, 1 << 28)
MEET = {"train/a": "meet train/b", "train/b": "meet train/a"}
SMALL = {"object_store_memory": 80 << 20, "memory": 4 << 30}
HEAD = {"include_dashboard": False, "_system_config": {"worker_niceness": 0, "health_check_period_ms": 500}}
"""Ray's workers would give way to whatever else works on the machine, such as another test; and a dead node, for which
tasks may wait, is given up after five looks: by default, in a quarter of a minute."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of one CPU each, every one with processes of its own."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **HEAD, **SMALL})
    found.add_node(num_cpus=1, **SMALL)
    yield found
    found.shutdown()


def go(run_dir: Path, told: dict[str, str], address: str, said: list[str] | None = None) -> list[str]:
    """Run the four steps of the local workers' tests there."""
    steps, say = make_steps(told), (said if said is not None else []).append
    with RayWorkers(partial(run_one, told), steps, run_dir, SIZE, address, say=say) as workers:
        return run_steps(steps, run_dir, set(), NullProgress(), workers=workers)


@pytest.mark.slow
def test_two_steps_meet_on_two_nodes_and_each_finds_what_it_needs(cluster: Cluster, tmp_path: Path) -> None:
    assert sorted(go(tmp_path, MEET, cluster.address)) == sorted(make_names())
    found = outs(tmp_path)
    assert found["train/a"][0] != found["train/b"][0] != str(os.getpid())
    assert all(missing == "[]" for _, _, missing in found.values())
    assert go(tmp_path, {}, cluster.address) == [], "the second run has nothing to do"


def make_names() -> list[str]:
    return [step.name for step in make_steps({})]


@pytest.mark.slow
def test_a_step_that_raises_keeps_its_kind_and_is_not_tried_again(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 7 is bad") as failed:
        go(tmp_path, {"train/a": "fail", "train/b": "meet train/a"}, cluster.address)
    assert failed.value.exit_code == DataError.exit_code
    assert statuses(tmp_path) == {"tune": "done", "train/a": "failed", "train/b": "done"}
    with pytest.raises(RuntimeError, match="UnsendableError: <function"):
        go(tmp_path, {"train/a": "fail with an error that cannot be sent"}, cluster.address)


@pytest.mark.slow
def test_a_lost_worker_loses_its_step_alone_which_is_begun_anew(cluster: Cluster, tmp_path: Path) -> None:
    said: list[str] = []
    go(tmp_path, {"train/a": "die"}, cluster.address, said)
    lost = [line for line in said if "begun anew" in line]
    assert len(lost) == 1 and lost[0].startswith("train/a: lost with its worker or node, begun anew (1 of at most 3")
    assert set(statuses(tmp_path).values()) == {"done"}


@pytest.mark.slow
def test_a_step_that_is_lost_again_and_again_ends_the_run(cluster: Cluster, tmp_path: Path) -> None:
    steps = make_steps({})
    workers = RayWorkers(die_always, steps, tmp_path, SIZE, cluster.address)
    with pytest.raises(WorkerError, match=f"step tune was lost with its worker {MAX_LOSSES + 1} times"), workers:
        run_steps(steps, tmp_path, set(), NullProgress(), workers=workers)
    assert (tmp_path / "begun").read_text().split() == ["tune"] * (MAX_LOSSES + 1)
    assert statuses(tmp_path) == {"tune": "failed"}


def told_by(run_dir: Path, address: str | None) -> dict[str, list[str]]:
    """(keys, GPU, store, niceness) by step."""
    steps = telling_steps()
    with RayWorkers(tell_one, steps, run_dir, SIZE, address, key_names=["MY_SECRET"]) as workers:
        run_steps(steps, run_dir, set(), NullProgress(), workers=workers)
    return {step.name: (run_dir / step.name / "out").read_text().split("|") for step in steps}


@pytest.mark.slow
def test_keys_and_the_store_stay_beside_the_run_and_no_step_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NONE_API_KEY", "MY_SECRET", "HF_TOKEN"):
        monkeypatch.setenv(name, "value-of-a-key")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_worker_niceness", raising=False)
    found = told_by(tmp_path, None)
    assert {name: line[0] for name, line in found.items()} == {
        "tune": "HF_TOKEN", "select": "HF_TOKEN", "judge": "NONE_API_KEY,MY_SECRET,HF_TOKEN",
    }  # fmt: skip
    assert {name: line[2] for name, line in found.items()} == {"tune": "", "select": "", "judge": "run.sqlite"}
    assert {line[3] for line in found.values()} == {str(os.nice(0))}
    assert os.environ["NONE_API_KEY"] == os.environ["MY_SECRET"] == "value-of-a-key"


@pytest.mark.slow
def test_a_step_with_a_model_gets_a_gpu_of_its_own_and_no_other_does(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=2, num_gpus=2, **SMALL)
    try:
        assert told_by(tmp_path, cluster.address)["tune"][1] in ("0", "1")
        assert (tmp_path / "select" / "out").read_text().split("|")[1] not in ("0", "1")
        with RayWorkers(print, [], tmp_path, SIZE, cluster.address) as workers:
            assert workers.n_slots == 2, "as many as there are GPUs"
        with RayWorkers(print, [], tmp_path, SIZE, cluster.address, at_most=1) as workers:
            assert workers.n_slots == 1
    finally:
        cluster.remove_node(node)


@pytest.mark.slow
def test_a_step_that_no_node_has_room_for_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"one step \(1 CPU, 99.0 GiB\): .*1 CPU, 4.0 GiB"):
        go_large = RayWorkers(print, [], tmp_path, StepSize(1, 99 << 30), cluster.address)
        go_large.__enter__()
    assert not ray.is_initialized()


def test_a_node_that_does_not_see_the_run_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(there_room, "PATIENCE_S", 0.0)
    there = There(b"", str(tmp_path), tmp_path, {"pid": 1, "host": "elsewhere"}, {})
    with lock_run(tmp_path):
        (error, text, _), _ = attempt_there(there, "tune")
    assert isinstance(error, ConfigError) and "every node shares" in str(error) and "Traceback" in text


@pytest.mark.slow
@STOPS
def test_steps_end_with_the_run_and_the_same_command_continues(
    sent: signal.Signals, cluster: Cluster, tmp_path: Path
) -> None:
    begin = f'go(Path({str(tmp_path)!r}), {{"train/a": "hang"}}, {cluster.address!r})'
    assert_workers_end_with_the_run("test_ray_workers", begin, sent, tmp_path)
    assert set(go(tmp_path, {}, cluster.address)) >= {"train/a", "report"}


OTHERWISE = ("log.txt", "run.sqlite", "report.json", "report.html", "cost.json", "adapter_config.json")
"""Files that say when and where besides what was found, and PEFT's, which lists modules in any order."""


def contents(run_dir: Path) -> dict[str, str]:
    """sha256 of every file that a run leaves; of decisions and an audit's page without their time."""
    paths = [path for path in run_dir.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(run_dir)): _content(path) for path in paths if path.name not in OTHERWISE}


def _content(path: Path) -> str:
    if path.name == "audit.html":
        return digest(path.read_text().partition('id="cost"')[0])
    if path.name != "decisions.jsonl":
        return sha256_of(path)
    return digest([{key: value for key, value in row.items() if key != "at"} for row in read_jsonl(path)])


def on(cluster: Cluster) -> Executor:
    return Executor("ray", cluster.address, step_gib=1.0)


@pytest.mark.slow
def test_eight_sets_give_the_same_audit_as_here_though_a_node_is_lost(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_task(tmp_path)
    for number in range(7):
        _write_set(tmp_path / f"b{number}.jsonl", seed=number)
    _write_set(tmp_path / "planted.jsonl", seed=9, planted=PLANTED)
    config = CONFIG.format(folder=tmp_path, hostile="").split('[[sets]]\nname = "broken"')
    (tmp_path / "tiny.toml").write_text(config[0] + "[screen]" + config[1].partition("[screen]")[2])
    assert sum(len(sets.files) for sets in load_audit(tmp_path / "tiny.toml").sets) == 2
    how: dict[str, Any] = {"init": False, "name": "tiny", "redo": set(), "fail_on": None}
    audit_sets(tmp_path / "tiny.toml", runs=Path("here"), executor=Executor(), **how)
    left: list[bool] = []
    killer = threading.Thread(target=_kill_a_node, args=(cluster, tmp_path / "there/tiny", "own", left), daemon=True)
    killer.start()
    try:
        audit_sets(tmp_path / "tiny.toml", runs=Path("there"), executor=on(cluster), **how)
        killer.join(60)
    finally:
        cluster.add_node(num_cpus=1, **SMALL)  # two again for the next test
    assert left == [True], "in the middle of the audit"
    here, there = contents(tmp_path / "here/tiny"), contents(tmp_path / "there/tiny")
    assert len([name for name in here if name.startswith("judge/")]) > 0 and there == here


@pytest.mark.slow
def test_a_run_that_loses_a_node_ends_as_it_does_here(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    how: dict[str, Any] = {"overrides": (), "redo": set(), "name": "tiny", "final": False, "source": None}
    config = str(write_task(tmp_path / "task"))
    run_all(config, runs=Path("here"), executor=Executor(), **how)
    run_dir = tmp_path / "there/tiny"
    killer = threading.Thread(target=_kill_a_node, args=(cluster, run_dir, "train", []), daemon=True)
    killer.start()
    run_all(config, runs=Path("there"), executor=on(cluster), **how)
    killer.join(60)
    assert (
        "lost with its worker or node, begun anew (1 of at most 3 times); NodeDiedError"
        in (run_dir / "log.txt").read_text()
    )
    assert report_of(run_dir) == report_of(tmp_path / "here/tiny")
    assert contents(run_dir) == contents(tmp_path / "here/tiny")


def _kill_a_node(cluster: Cluster, run_dir: Path, stage: str, left: list[bool]) -> None:
    """While it works on a step, when two of this stage have begun; notes whether there was something left to do."""
    while len(list(run_dir.glob(f"{stage}/*"))) < 2:
        time.sleep(0.05)
    node = cluster.list_all_nodes()[-1]
    worker = _halt_a_worker(node.all_processes["raylet"][0].process.pid)
    cluster.remove_node(node, allow_graceful=False)
    worker.kill()
    left.append(not (run_dir / "report").exists())


def _halt_a_worker(raylet: int) -> psutil.Process:
    """A worker of this node, halted in the middle of a step, so that the step cannot end before its node does."""
    while True:
        for worker in psutil.Process(raylet).children():
            with suppress(psutil.NoSuchProcess):
                if not _has_step(worker):
                    continue
                worker.suspend()
                if _has_step(worker):
                    return worker
                worker.resume()
        time.sleep(0.02)


def _has_step(worker: psutil.Process) -> bool:
    """Ray names a worker's process after what it does; one that waits is called `ray::IDLE`."""
    return worker.cmdline()[:1] == [f"ray::{attempt_there.__name__}"]
