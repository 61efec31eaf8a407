"""Would this run come out the same here, and did it? What `autocaft reproduce` says.

In: a finished run's folder, or two. Out: differences, each with what it was and what it is. The decision a reader would
question: nothing is run. What can differ is compared (versions, machine, threads, weights, files, settings of each
step), and of two runs also what came out, by hash and by figure; to make the second run is one command, which is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocaft.config import RunConfig, load_config
from autocaft.data.sets import find_set
from autocaft.errors import AutocaftError, ConfigError, DataError
from autocaft.outcome import installed_versions
from autocaft.pipeline import build_steps
from autocaft.run import Run
from autocaft.rundir.files import digest, read_json, sha256_of
from autocaft.rundir.steps import changed_keys, fingerprints
from autocaft.rundir.store import STORE_NAME, RunStore

HASHED = (
    "decompose/*.safetensors", "train/*/*/subspaces.safetensors", "t*/**/model/*.safetensors",
    "answer/*/*/answers.jsonl", "free_form/*/*/grades.jsonl",
)  # fmt: skip
"""What a run makes that the same run elsewhere should make bit for bit, but for grades that a vendor gives."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was."""

    what: str
    then: str
    now: str

    def __str__(self) -> str:
        return f"{self.what}: {self.then} -> {self.now}"


def compare_with_now(run_dir: Path) -> list[Difference]:
    """What has changed since the run was made: packages, machine, weights, data, settings.

    Raises:
        ConfigError: no run folder with a report.
    """
    report, config = _open(run_dir)
    run = Run(config, downloads=False)
    return [*_environment(report, config), *_weights(report, run), *_data(report), *_steps(run, run_dir)]


def compare_runs(run_dir: Path, again: Path) -> list[Difference]:
    """What differs between two runs: where they were made, what they made, and every figure.

    Raises:
        ConfigError: one is no run folder with a report.
    """
    (one, _), (two, _) = _open(run_dir), _open(again)
    found = list(_mapping_differences("", one["versions"], two["versions"]))
    found += _mapping_differences("", {"threads": one["threads"]}, {"threads": two["threads"]})
    found += _mapping_differences("model", one["model"], two["model"])
    files = [{path.relative_to(place).as_posix(): path for path in _made(place)} for place in (run_dir, again)]
    hashes = [{name: sha256_of(path)[:12] for name, path in by_name.items()} for by_name in files]
    found += _mapping_differences("sha256", *hashes)
    found += _mapping_differences("", *({_name(m): m["value"] for m in r["metrics"]} for r in (one, two)))
    return [*found, *_mapping_differences("", _free_form(one), _free_form(two))]


def describe(differences: list[Difference], run_dir: Path, again: Path | None) -> list[str]:
    """For people: what differs, and what to do next."""
    lines = [str(difference) for difference in differences]
    if again is not None:
        return lines or [
            "both runs have the same packages, base weights, trained weights and directions, free-form answers and "
            "grades if there are any, and figures"
        ]
    if differences:
        return [*lines, "with these differences the figures may differ too"]
    return [
        "nothing differs: the same versions, weights, files and settings. To make it again and compare:",
        f"  autocaft run {run_dir / 'config.toml'} --runs {run_dir.parent} --name {run_dir.name}-again",
        f"  autocaft reproduce {run_dir} {run_dir}-again",
    ]


def _open(run_dir: Path) -> tuple[dict[str, Any], RunConfig]:
    path = run_dir / "report.json"
    if not path.is_file() or not (run_dir / "config.toml").is_file():
        raise ConfigError(f"{run_dir} is no finished run: it has no report.json; make it with `autocaft run`")
    return dict(read_json(path)), load_config(run_dir / "config.toml")


def _environment(report: Mapping[str, Any], config: RunConfig) -> Iterator[Difference]:
    import torch

    threads = config.threads or torch.get_num_threads()
    yield from _mapping_differences("", report["versions"], installed_versions())
    yield from _mapping_differences("", {"threads": report["threads"]}, {"threads": threads})


def _weights(report: Mapping[str, Any], run: Run) -> Iterator[Difference]:
    try:
        identity = digest(run.weights.identity) if run.weights.config is not None or run.weights.gguf else "not here"
    except AutocaftError:
        identity = "not here"
    then = report["model"]["identity"]
    if identity != then:
        yield Difference(f"weights of {report['model']['spec']}", then[:12], identity[:12])


def _data(report: Mapping[str, Any]) -> Iterator[Difference]:
    for split, info in report["data"]["splits"].items():
        try:
            found = find_set(info["path"], downloads=False)
            now = found.identity if found.is_here else "not here"
        except DataError:
            now = "not here"
        if now != info["sha256"]:
            yield Difference(f"rows of {split} ({info['path']})", info["sha256"][:12], now[:12])


def _steps(run: Run, run_dir: Path) -> Iterator[Difference]:
    """Settings, inputs and stage versions of each step, as recorded and as they would be now."""
    try:
        steps = build_steps(run)
    except AutocaftError as error:
        yield Difference("the steps", "made", f"cannot be made here ({error})")
        return
    new = fingerprints(steps)
    with RunStore(run_dir / STORE_NAME) as store:
        rows = {step.name: store.step(step.name) for step in steps}
    told: set[str] = set()
    for step in steps:
        row = rows[step.name]
        if row is None:
            yield Difference(f"step {step.name}", "not made", "in the settings")
            continue
        for line in changed_keys(row.fingerprint, new[step.name], step):
            if line not in told and not step.derived:
                told.add(line)
                what, _, change = line.partition(": ")
                then, _, now = change.partition(" -> ")
                yield Difference(f"{step.stage}, {what}", then, now)


def _made(run_dir: Path) -> list[Path]:
    return sorted({path for pattern in HASHED for path in run_dir.glob(pattern)})


def _name(metric: Mapping[str, Any]) -> str:
    return f"{metric['arm']}, seed {metric['seed']}, hooks {metric['hooks']}: {metric['split']} {metric['metric']}"


def _free_form(report: Mapping[str, Any]) -> dict[str, Any]:
    """Who graded, and every rate by seed with what is behind it over all seeds; empty where nothing was asked."""
    found = report.get("free_form")
    if found is None:
        return {}
    told = {"grader of free-form answers": found["grader"]}
    for line in found["arms"]:
        for metric, cell in line["cells"].items():
            for seed, value in cell["by_seed"].items():
                told[f"{line['arm']}, seed {seed}: free-form {metric}"] = value
            for key in ("n", "n_unscored"):
                told[f"{line['arm']}, all seeds: free-form {metric}, {key}"] = cell[key]
    return told


def _mapping_differences(what: str, one: Mapping[str, Any], two: Mapping[str, Any]) -> Iterator[Difference]:
    for key in dict.fromkeys([*one, *two]):
        then, now = one.get(key, "not there"), two.get(key, "not there")
        if then != now:
            yield Difference(" ".join(part for part in (what, key) if part), str(then), str(now))
