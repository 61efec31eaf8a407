"""The check phase: what would be skipped, continued, emptied or refused, decided for all steps before any runs.

In: the declared steps, the store and the folders. Out: one action for each step, or an error that names every changed
key and the ways out. It changes nothing, so `autocaft plan` uses it as it is.

The decision a reader would question: a step that is not done and whose folder is empty may change freely. There is
nothing to lose, and "nothing passed the selection" is mended by changing an option.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from autocaft.errors import ConfigError, RunChangedError
from autocaft.rundir.files import digest
from autocaft.rundir.finished import FinishedRun
from autocaft.rundir.steps import Fingerprint, Step, all_needs, changed_keys, declared_by_name, fingerprints
from autocaft.rundir.store import RunStore, StepRow

Action = Literal["skip", "take over", "continue", "run", "empty and run"]


@dataclass(frozen=True)
class Plan:
    """What is to be done; steps in order of declaration."""

    by_name: Mapping[str, Step]
    prints: Mapping[str, Fingerprint]
    actions: Mapping[str, Action]
    chosen: tuple[str, ...]
    """The steps this call is about: all, or those of the asked stages."""

    @property
    def to_empty(self) -> list[str]:
        """Steps whose folders are emptied first, also those outside `chosen` that depend on a redone one."""
        return [name for name, action in self.actions.items() if action == "empty and run"]

    @property
    def to_run(self) -> list[str]:
        """Steps that will run."""
        return [name for name in self.chosen if self.actions[name] not in ("skip", "take over")]

    @property
    def to_take_over(self) -> list[str]:
        """Steps that another run has finished."""
        return [name for name, action in self.actions.items() if action == "take over"]


@dataclass
class _Findings:
    """What the check collects before it refuses."""

    causes: dict[str, list[str]] = field(default_factory=dict)
    """Changed keys of each step that has any of its own."""
    refused: list[str] = field(default_factory=list)
    """Every step that would have to be made anew, in order."""


def make_plan(
    steps: list[Step],
    run_dir: Path,
    store: RunStore | None,
    redo: set[str],
    only: set[str] | None = None,
    source: FinishedRun | None = None,
) -> Plan:
    """Decide for every step; `store` is None for a run folder that does not exist yet.

    Args:
        source: a run whose finished steps are taken over where this one has nothing yet.

    Raises:
        ConfigError: an unknown stage, or with `only` a step whose needs are not done.
        RunChangedError: a step was made with other settings and is not covered by `redo`.
    """
    by_name = declared_by_name(steps)
    _check_stage_names(steps, redo, "--redo")
    _check_stage_names(steps, only or set(), "stage")
    prints = fingerprints(steps)
    chosen = tuple(step.name for step in steps if only is None or step.stage in only)
    concerned = set(chosen).union(*(all_needs(by_name[name], by_name) for name in chosen))
    covered = _covered(by_name, redo)
    findings = _Findings()
    actions: dict[str, Action] = {}
    for name, step in by_name.items():
        row = store.step(name) if store else None
        if name in covered or (row is not None and row.status == "emptying"):
            actions[name] = "empty and run"
        else:
            actions[name] = _action(step, row, prints[name], run_dir, findings)
            if source is not None and _is_to_be_made(step, actions[name], run_dir) and source.has(name, prints[name]):
                actions[name] = "take over"
    if any(name in concerned for name in findings.refused):
        raise RunChangedError(_refusal(by_name, findings, concerned, run_dir))
    if only is not None:
        _check_needs_are_done(by_name, chosen, concerned, actions)
    return Plan(by_name, prints, actions, chosen)


def _action(step: Step, row: StepRow | None, new: Fingerprint, run_dir: Path, findings: _Findings) -> Action:
    """The action of a step that no redo covers; a difference goes into `findings`."""
    folder_is_empty = not _has_files(run_dir / step.name)
    if row is None:
        if folder_is_empty:
            return "run"
        findings.causes[step.name] = [f"{step.name}/ has files, but the run's record knows nothing of the step"]
        findings.refused.append(step.name)
        return "run"
    if digest(row.fingerprint) == digest(new):
        # A folder that someone deleted is made again; what was made from it is the same.
        return "skip" if row.status == "done" and (run_dir / step.name).is_dir() else "continue"
    if step.derived or (row.status != "done" and folder_is_empty):
        return "empty and run"
    lines = changed_keys(row.fingerprint, new, step)
    if not lines and not any(need in findings.refused for need in step.needs):
        differing = [need for need, value in new["needs"].items() if row.fingerprint["needs"].get(need) != value]
        lines = [f"{need} was made anew since" for need in differing]
    if lines:
        findings.causes[step.name] = lines
    findings.refused.append(step.name)
    return "run"


def _is_to_be_made(step: Step, action: Action, run_dir: Path) -> bool:
    """Whether a step would be made from nothing: never begun, or its folder is gone."""
    return not step.derived and action in ("run", "continue") and not _has_files(run_dir / step.name)


def _covered(by_name: Mapping[str, Step], stages: set[str]) -> set[str]:
    """Steps of these stages, and all that need one of them."""
    return {
        name
        for name, step in by_name.items()
        if step.stage in stages or any(by_name[need].stage in stages for need in all_needs(step, by_name))
    }


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(item.is_file() for item in folder.rglob("*"))


def _check_stage_names(steps: list[Step], asked: set[str], what: str) -> None:
    stages = list(dict.fromkeys(step.stage for step in steps))
    for name in sorted(asked - set(stages)):
        near = difflib.get_close_matches(name, stages, n=1)
        hint = f"the nearest is {near[0]!r}; " if near else ""
        raise ConfigError(f"{what} {name!r} is not a stage of this run; {hint}stages are {', '.join(stages)}.")


def _check_needs_are_done(
    by_name: Mapping[str, Step], chosen: tuple[str, ...], concerned: set[str], actions: Mapping[str, Action]
) -> None:
    missing = [name for name in by_name if name in concerned and name not in chosen and actions[name] != "skip"]
    if missing:
        asked = ", ".join(dict.fromkeys(by_name[name].stage for name in chosen))
        stages = ", then ".join(dict.fromkeys(by_name[name].stage for name in missing))
        raise ConfigError(f"{asked} reads {', '.join(missing)}, which is not done. Run first: {stages}.")


def _refusal(by_name: Mapping[str, Step], findings: _Findings, concerned: set[str], run_dir: Path) -> str:
    """The message: changed keys by stage, the steps to be redone, the two ways out."""
    causes = {name: lines for name, lines in findings.causes.items() if name in concerned}
    redo = _stages_to_redo(by_name, list(causes))
    again = _covered(by_name, set(redo))
    redone = [name for name in by_name if name in again]
    flags = " ".join(f"--redo {stage}" for stage in redo)
    return (
        f"{run_dir} was made with other settings:\n"
        + "\n".join(_cause_lines(by_name, causes))
        + f"\nTo be redone: {', '.join(redone)}.\n"
        + "Two ways out:\n"
        + "  another run name: what is here stays as it is\n"
        + f"  {flags}: empties and runs again the steps above, keeps the others"
    )


def _cause_lines(by_name: Mapping[str, Step], causes: Mapping[str, list[str]]) -> list[str]:
    """Changed keys under their stage; a key that changed in several steps of a stage is told once."""
    names_by_line: dict[str, dict[str, list[str]]] = {}
    for name, lines in causes.items():
        for line in lines:
            names_by_line.setdefault(by_name[name].stage, {}).setdefault(line, []).append(name)
    told: list[str] = []
    for stage, steps_by_line in names_by_line.items():
        told.append(f"  {stage}")
        n_in_stage = sum(step.stage == stage for step in by_name.values())
        for line, names in steps_by_line.items():
            told.append(f"    {line}" + ("" if len(names) == n_in_stage else f"  ({', '.join(names)})"))
    return told


def _stages_to_redo(by_name: Mapping[str, Step], causes: list[str]) -> list[str]:
    """The earliest stage with a changed key, and further ones only if that one does not bring them along."""
    stages: list[str] = []
    for name in causes:
        if name not in _covered(by_name, set(stages)):
            stages.append(by_name[name].stage)
    return stages
