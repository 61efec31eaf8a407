"""Steps as Ray tasks, on one machine or many.

In: a function that runs one step by its name, the steps, the run folder. Out: how each step ended. A step whose worker
or node is lost is begun anew elsewhere and continues from what it left; a step that raises is not.

Everything is handed over by files, so run folder, data and models must lie in a folder that all nodes share, under one
path; or a mirror carries the folders of steps (relay.py). What a worker is told and does is in there.py.

The decision a reader would question: steps that read or keep answers and costs (a judge that is a language model,
grades, a run's report) are not Ray's. They run in a process beside the run's own: SQLite's log does not work over
network folders, and the keys stay where they are.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from autocaft.errors import AutocaftError, ConfigError, WorkerError
from autocaft.execute.attempt import Told
from autocaft.execute.local import LocalWorkers
from autocaft.execute.mirror import Mirror
from autocaft.execute.relay import Brought, Relay
from autocaft.execute.there import There, attempt_there
from autocaft.rundir.runner import Ended, RunStep
from autocaft.rundir.steps import Step

MAX_LOSSES = 3
"""Times that a step is begun anew after its worker or node was lost."""
MAX_BESIDE = 4
"""Steps at a time in processes beside the run's own."""
LIGHT_BYTES = 1 << 30
"""Memory asked for a step that loads no model."""
STORE_BYTES = 100 << 20
"""Of Ray's object store, where Ray is started here: nothing large goes through it."""
LOOK_S, TURN_S = 10.0, 0.2
"""How long to wait for Ray before looking whether any node is left, and where both kinds of workers are at work."""


@dataclass(frozen=True)
class StepSize:
    """What Ray sets aside for one step that loads a model; a GPU comes on top where the cluster has any."""

    n_cpus: int
    n_bytes: int
    n_gpus: int = 1
    """Where the cluster has any."""


@dataclass
class RayWorkers:
    """Up to `n_slots` steps at a time. Use it as a context manager: what still works when it closes is stopped.

    Raises:
        ConfigError: Ray is not installed, nobody answers at the address, or no node is large enough for a step.
    """

    run_step: RunStep
    steps: Iterable[Step]
    run_dir: Path
    size: StepSize
    address: str | None = None
    """Of a cluster (`auto`, `HOST:PORT`); None takes RAY_ADDRESS, and without it starts Ray on this machine."""
    at_most: int | None = None
    """Steps at a time; None: as many as the cluster has room for."""
    key_names: Sequence[str] = ()
    """Variables with keys besides `*_API_KEY`: a Ray that is started here does not get to see them."""
    say: Callable[[str], None] = lambda text: None
    mirror: str | None = None
    """URL by which the folders of steps travel; None: every node sees the run folder."""
    _by_name: dict[str, Step] = field(default_factory=dict)
    _tasks: dict[Any, str] = field(default_factory=dict)
    """Ray's reference of each step that works there."""
    _remote: dict[bool, Any] = field(default_factory=dict)
    _n_lost: Counter[str] = field(default_factory=Counter)
    _queue: list[str] = field(default_factory=list)
    _is_stuck: bool = False

    def __enter__(self) -> Self:
        self._by_name = {step.name: step for step in self.steps}
        self._beside = LocalWorkers(partial(self.run_step, self.run_dir), MAX_BESIDE)
        self._relay = None
        if self.mirror is not None:
            self._relay = Relay(Mirror(self.mirror), list(self._by_name.values()), self.run_dir)
            self._relay.mirror.check()
        self._ray = _connect(self.address or os.environ.get("RAY_ADDRESS") or "local", self.key_names, self.say)
        self._has_gpus = any(node.get("GPU", 0) > 0 for node in self._nodes())
        if not self._room():
            nodes = "; ".join(_node_text(node) for node in self._nodes()) or "there are none"
            self._ray.shutdown()
            raise ConfigError(
                f"no node of the Ray cluster has room for one step ({_node_text(self._need(True))}): {nodes}. Ask for "
                "less (threads in the config, --step-gb), or start larger nodes"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._beside.__exit__(kind, error, traceback)
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        with suppress(self._ray.exceptions.RayError):
            if self._tasks:  # whoever comes next must not meet them in the run folder
                self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=LOOK_S)
        self._ray.shutdown()

    @property
    def n_slots(self) -> int:
        """As many steps as there is room for now: nodes come and go."""
        return max(1, min(self._room(), self.at_most or self._room()))

    def start(self, step: str) -> None:
        """Hand a step to Ray; one that uses the store to a process beside this one."""
        if self._by_name[step].uses_store:
            self._queue.append(step)
            self._start_beside()
        else:
            self._submit(step)

    def wait(self) -> Ended:
        """The next step that ended; what was lost with its node is begun anew."""
        while True:
            ended = self._ended_beside() or self._ended_there()
            if ended is not None:
                return ended

    def _start_beside(self) -> None:
        while self._queue and self._beside.n_busy < MAX_BESIDE:
            self._beside.start(self._queue.pop(0))

    def _ended_beside(self) -> Ended | None:
        if not self._beside.n_busy:
            return None
        ended = self._beside.ended_within(0.0 if self._tasks else None)
        self._start_beside()
        return ended

    def _ended_there(self) -> Ended | None:
        if not self._tasks:
            return None
        done, _ = self._ray.wait(list(self._tasks), timeout=TURN_S if self._beside.n_busy else LOOK_S)
        if not done:
            self._tell_if_stuck()
            return None
        return self._end(done[0], self._tasks.pop(done[0]))

    def _submit(self, step: str) -> None:
        uses_model = self._by_name[step].uses_model
        if uses_model not in self._remote:
            need = self._need(uses_model)
            # a process that has used a GPU keeps its memory: each step there gets a process of its own
            fresh = {"max_calls": 1} if need["GPU"] else {}
            self._remote[uses_model] = self._ray.remote(
                num_cpus=need["CPU"], num_gpus=need["GPU"], memory=need["memory"], max_retries=0, **fresh
            )(attempt_there)
        errand = None if self._relay is None else self._relay.errand(step)
        there = There.of(self.run_step, self.run_dir, errand)
        self._tasks[self._remote[uses_model].remote(there, step)] = step

    def _end(self, task: Any, step: str) -> Ended | None:
        """How a step ended; None if it was lost and is begun anew."""
        try:
            told, brought = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            died = WorkerError(f"step {step} could not begin on its node; is autocaft installed there? {error}")
            return Ended(step, died, str(died), 0.0)
        except self._ray.exceptions.RayError as lost:
            return self._lose(step, lost)
        return Ended(step, *(told if brought is None else self._take(step, told, brought)))

    def _take(self, step: str, told: Told, brought: Brought) -> Told:
        """Get what a step made on a node; if that fails, the step has."""
        assert self._relay is not None, "only an errand brings something"
        error, text, peak_mb = told
        self._relay.keep_log(brought)
        try:
            if error is None:
                self._relay.take(step, brought)
        except AutocaftError as failed:
            return failed, str(failed), peak_mb
        return error, text, peak_mb

    def _lose(self, step: str, lost: Exception) -> Ended | None:
        self._n_lost[step] += 1
        n, why = self._n_lost[step], f"{type(lost).__name__}: {str(lost).strip().splitlines()[0]}"
        if n > MAX_LOSSES:
            died = WorkerError(
                f"step {step} was lost with its worker {n} times (most often: out of memory), at last by {why}. "
                "What is done is kept; the same command continues."
            )
            return Ended(step, died, str(died), 0.0)
        self.say(f"{step}: lost with its worker or node, begun anew ({n} of at most {MAX_LOSSES} times); {why}")
        self._submit(step)
        return None

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _need(self, uses_model: bool) -> dict[str, int]:
        if not uses_model:
            return {"CPU": 1, "GPU": 0, "memory": LIGHT_BYTES}
        return {"CPU": self.size.n_cpus, "GPU": self.size.n_gpus if self._has_gpus else 0, "memory": self.size.n_bytes}

    def _room(self) -> int:
        """Steps with a model that the nodes have room for together."""
        need = {name: amount for name, amount in self._need(True).items() if amount}
        return sum(min(int(node.get(name, 0) // amount) for name, amount in need.items()) for node in self._nodes())

    def _tell_if_stuck(self) -> None:
        is_stuck = not self._room()
        if is_stuck and not self._is_stuck:
            self.say("no node of the Ray cluster has room for a step now; waiting for one (Ctrl-C stops)")
        self._is_stuck = is_stuck


def _connect(address: str, key_names: Sequence[str], say: Callable[[str], None]) -> Any:
    """Ray, connected: to a cluster, or to one that is started on this machine for this run alone."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        import ray._private.worker
    except ImportError:
        raise ConfigError("--executor ray needs Ray: pip install 'autocaft[ray]'") from None
    # Ray prints a lost node's last words, thirty lines of them, among what the run prints.
    ray._private.worker.print_to_stdstream = partial(_say_first_line, say)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        os.environ.setdefault("RAY_worker_niceness", "0")  # steps are the work itself, and give way to nothing
        with _without_keys(key_names):
            ray.init(address, include_dashboard=False, object_store_memory=STORE_BYTES, **quiet)
        return ray
    try:
        ray.init(address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(f"--address {address}: no Ray cluster can be reached there ({error})") from error
    return ray


def _say_first_line(say: Callable[[str], None], data: Mapping[str, Any], *_: Any, **__: Any) -> None:
    first = "".join(data["lines"][:1]).strip().splitlines()[:1]
    say(f"Ray: {first[0] if first else ''}")


@contextmanager
def _without_keys(names: Sequence[str]) -> Iterator[None]:
    """Without the variables that hold keys of vendors: what is started in the block never has them. A token of the
    Hugging Face Hub stays, as steps load models with it."""
    keys = [name for name in os.environ if name in names or name.endswith("_API_KEY")]
    kept = {name: os.environ.pop(name) for name in keys}
    try:
        yield
    finally:
        os.environ.update(kept)


def _node_text(resources: Mapping[str, float]) -> str:
    gpus = f", {resources['GPU']:g} GPU" if resources.get("GPU") else ""
    return f"{resources.get('CPU', 0):g} CPU, {resources.get('memory', 0) / (1 << 30):.1f} GiB{gpus}"
