"""What a step is, and what makes two runs of it the same.

In: a step's options, inputs and version. Out: its fingerprint, and the keys in which two fingerprints differ.

The decision a reader would question: a fingerprint is kept as readable JSON, not as a hash, so that a refusal can
name the changed key with its old and new value. What a step needs goes in as hashes: that says that something
above it changed, while the step above names what.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autocaft.errors import ConfigError
from autocaft.rundir.files import digest
from autocaft.rundir.options import fingerprint_options
from autocaft.rundir.progress import Log, Progress
from autocaft.rundir.store import RunStore

Fingerprint = dict[str, Any]


@dataclass(frozen=True)
class StepContext:
    """What a running step is handed."""

    out: Path
    """The step's own folder. It may hold what an interrupted attempt left: continue from it."""
    dir_of: Callable[[str], Path]
    """The folder of a step this one needs, directly or through others; any other name is an error."""
    progress: Progress
    log: Log
    opened: RunStore | None
    """The run's record, for a step that declares that it uses it."""

    @property
    def store(self) -> RunStore:
        """What was paid for, and what is known of the other steps."""
        # It would be missing where the step runs on another machine than the run's own.
        assert self.opened is not None, f"the step of {self.out} uses the store but does not declare it (uses_store)"
        return self.opened


@dataclass(frozen=True)
class Elsewhere:
    """What a step is told that runs on a machine without the run folder."""

    expected: Fingerprint
    """What the step is on the run's own machine."""
    fetch: Callable[[str], None]
    """Brings the folder of a step that is needed."""


@dataclass(frozen=True)
class Step:
    """One unit of a run that is done, or not."""

    name: str
    """Its folder in the run folder: `train/caft-sae-auto/seed0`."""
    stage: str
    """The verb: `train`."""
    options: Mapping[str, Any]
    """All that can change its result, as Options, tables or dotted keys; `transport` fields are left out."""
    inputs: Mapping[str, str]
    """Label to sha256 of each file from outside. A label may end in its path, `data.train (rows.jsonl)`: the path is
    shown but does not count, so a moved file is the same file."""
    needs: tuple[str, ...]
    """Names of steps declared before this one."""
    version: int
    """Counted up when the code of the stage changes what it writes."""
    run: Callable[[StepContext], None] = field(compare=False)
    derived: bool = False
    """Cheap and made from other steps alone (a report): made anew when they change, never a reason to refuse."""
    uses_store: bool = field(default=False, compare=False)
    """Reads or keeps answers and costs. It runs on the run's own machine, which has the record and the keys."""
    uses_model: bool = field(default=True, compare=False)
    """Loads a language model: a GPU, if there are any, and memory are for it."""


def step_of(
    version_by_stage: Mapping[str, int],
    name: str,
    run: Callable[[StepContext], None],
    options: Mapping[str, Any],
    inputs: Mapping[str, str],
    *needs: str,
    derived: bool = False,
    uses_store: bool = False,
    uses_model: bool = True,
) -> Step:
    """A step whose name begins with its stage: `train/caft-sae-auto/seed0`; `evaluate-final/...` is of `evaluate`."""
    stage = name.split("/")[0].removesuffix("-final")
    version = version_by_stage[stage]
    return Step(name, stage, options, inputs, needs, version, run, derived, uses_store, uses_model)


def declared_by_name(steps: list[Step]) -> dict[str, Step]:
    """The steps by name, after a check of what only a mistake in a pipeline can break."""
    by_name: dict[str, Step] = {}
    for step in steps:
        assert step.name not in by_name, f"step {step.name!r} is declared twice"
        for need in step.needs:
            assert need in by_name, f"step {step.name!r} needs {need!r}, which is not declared before it"
        for other in by_name:
            # Emptying one folder must not empty another step's.
            nested = f"{step.name}/".startswith(f"{other}/") or f"{other}/".startswith(f"{step.name}/")
            assert not nested, f"the folders of steps {step.name!r} and {other!r} lie in each other"
        by_name[step.name] = step
    return by_name


def all_needs(step: Step, by_name: Mapping[str, Step]) -> set[str]:
    """Names of all steps that this one needs, directly or through others."""
    found: set[str] = set()
    waiting = list(step.needs)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += by_name[name].needs
    return found


def fingerprints(steps: list[Step]) -> dict[str, Fingerprint]:
    """Each step's fingerprint: options, inputs and version of its own, and a hash of each step it needs."""
    found: dict[str, Fingerprint] = {}
    for step in steps:
        own = {
            "options": fingerprint_options(step.options),
            "inputs": {split_label(label)[0]: sha256 for label, sha256 in step.inputs.items()},
            "version": step.version,
            "needs": {need: digest(found[need]) for need in sorted(step.needs)},
        }
        found[step.name] = json.loads(json.dumps(own, allow_nan=False))
    return found


def check_is_same(step: Step, expected: Fingerprint, here: Fingerprint) -> None:
    """A file that is missing or different on a node would else make another result under the same name.

    Raises:
        ConfigError: names what is different.
    """
    if digest(expected) == digest(here):
        return
    needs = [
        f"{need}, which it needs" for need, hashed in here["needs"].items() if expected["needs"].get(need) != hashed
    ]
    lines = changed_keys(expected, here, step) or needs
    raise ConfigError(f"{step.name} is not the same here as where the run was started:\n  " + "\n  ".join(lines))


def split_label(label: str) -> tuple[str, str]:
    """`data.train (rows.jsonl)` as `("data.train", " (rows.jsonl)")`."""
    name, bracket, path = label.partition(" (")
    return name, bracket + path


def changed_keys(old: Fingerprint, new: Fingerprint, step: Step) -> list[str]:
    """One text for each difference that is the step's own, `train.mode: "mean" -> "zero"`.

    What only follows from a step it needs is not among them.
    """
    lines = [f"{key}: {before} -> {after}" for key, before, after in _differences(old["options"], new["options"])]
    paths = dict(split_label(label) for label in step.inputs)
    for key, before, after in _differences(old["inputs"], new["inputs"], _short_hash):
        lines.append(f"input {key}{paths.get(key, '')}: sha256 {before} -> {after}")
    if old["version"] != new["version"]:
        lines.append(f"version of the stage: {old['version']} -> {new['version']} (autocaft itself changed)")
    if sorted(old["needs"]) != sorted(new["needs"]):
        lines.append(f"what it reads: {_names(old['needs'])} -> {_names(new['needs'])}")
    return lines


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], show: Callable[[Any], str] = lambda value: _shown(value)
) -> list[tuple[str, str, str]]:
    keys = [*new, *(key for key in old if key not in new)]
    return [
        (key, show(old[key]) if key in old else "(not set)", show(new[key]) if key in new else "(not set)")
        for key in keys
        if key not in old or key not in new or _differs(old[key], new[key])
    ]


def _differs(old: Any, new: Any) -> bool:
    """Compared as JSON text: in Python 1 == True == 1.0, but these are different settings."""
    return json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:100]}... ({digest(value)[:8]})"


def _short_hash(value: Any) -> str:
    return f"{str(value)[:12]}..."


def _names(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "nothing"
