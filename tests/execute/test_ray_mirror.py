"""Steps on two Ray nodes that share no run folder: a mirror carries what each made, and all is as it is here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from autocaft.cli.actions import run_all
from autocaft.execute.choose import Executor
from autocaft.execute.ray import RayWorkers
from autocaft.rundir.progress import NullProgress
from autocaft.rundir.runner import run_steps
from tests.execute.test_local_workers import is_alive, make_steps, outs, run_one, statuses, wait_until
from tests.execute.test_ray_workers import HEAD, SIZE, SMALL, contents
from tests.test_run import report_of
from tests.tiny_task import write_task

NODES = ("n1", "n2")


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the cache folder of each node."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(scope="module")
def cluster(caches: Path) -> Iterator[Cluster]:
    """Two nodes of one CPU each, every one with a cache folder of its own."""
    first, second = ({"env_vars": {"AUTOCAFT_CACHE": str(caches / node)}, "num_cpus": 1, **SMALL} for node in NODES)
    found = Cluster(initialize_head=True, head_node_args={**HEAD, **first})
    found.add_node(**second)
    yield found
    found.shutdown()


def begun_on(caches: Path, run: str) -> dict[str, set[str]]:
    """Steps of a run by the nodes that have their folder."""
    found: dict[str, set[str]] = {}
    for node in NODES:
        for path in (caches / node).glob(f"mirrored/{run}-*/[!.]*/*"):
            found.setdefault(f"{path.parent.name}/{path.name}", set()).add(node)
    return found


@pytest.mark.slow
def test_a_run_by_a_mirror_ends_as_it_does_here(
    cluster: Cluster, caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, how = str(write_task(tmp_path / "task")), {"overrides": (), "redo": set(), "final": False, "source": None}
    run_all(config, runs=Path("here"), name="tiny", executor=Executor(), **how)
    by_mirror = Executor("ray", cluster.address, step_gib=1.0, mirror=f"file://{tmp_path}/bucket")
    run_all(config, runs=Path("there"), name="tiny", executor=by_mirror, **how)
    assert report_of(tmp_path / "there/tiny") == report_of(tmp_path / "here/tiny")
    there = {name: what for name, what in contents(tmp_path / "there/tiny").items() if not name.startswith("log.")}
    assert there == contents(tmp_path / "here/tiny")
    where = begun_on(caches, "tiny")
    assert {frozenset(nodes) for nodes in where.values()} >= {frozenset({"n1"}), frozenset({"n2"})}, where


def go(run_dir: Path, told: dict[str, str], address: str, said: list[str] | None = None) -> list[str]:
    """Run the four steps of the local workers' tests there."""
    steps, say = make_steps(told), (said if said is not None else []).append
    mirror = f"file://{run_dir}-bucket"
    with RayWorkers(partial(run_one, told), steps, run_dir, SIZE, address, say=say, mirror=mirror) as workers:
        return run_steps(steps, run_dir, set(), NullProgress(), workers=workers)


@pytest.mark.slow
def test_a_lost_worker_and_a_killed_run_lose_the_step_they_were_at(
    cluster: Cluster, caches: Path, tmp_path: Path
) -> None:
    run_dir, said = tmp_path / "killed", []
    script = tmp_path / "script.py"
    script.write_text(f"""if __name__ == "__main__":
        from pathlib import Path
        from tests.execute.test_ray_mirror import go
        go(Path({str(run_dir)!r}), {{"train/a": "hang"}}, {cluster.address!r})""")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.Popen([sys.executable, str(script)], env=environment)
    worker = _process_at(caches, "killed", "train/a")
    run.kill()
    run.wait()
    wait_until(lambda: not is_alive(worker), "a worker outlives its run")
    tune = outs(run_dir, ("tune",))
    assert statuses(run_dir)["train/a"] == "started" and statuses(run_dir)["tune"] == "done"
    assert go(run_dir, {"train/a": "die"}, cluster.address, said)[0] == "train/a"
    assert len([line for line in said if "begun anew" in line]) in (1, 2), "once for each node that it came to"
    assert outs(run_dir, ("tune",)) == tune
    assert all(missing == "[]" for _, _, missing in outs(run_dir).values())


def _process_at(caches: Path, run: str, step: str) -> int:
    """The process that works on a step, on whichever node."""
    wait_until(lambda: any(caches.glob(f"*/mirrored/{run}-*/{step}/out")), f"nobody began {step}")
    (path,) = caches.glob(f"*/mirrored/{run}-*/{step}/out")
    wait_until(lambda: bool(path.read_text()), f"{path} stays empty")
    return int(path.read_text().split()[0])
