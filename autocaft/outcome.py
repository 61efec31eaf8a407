"""What a run left on the disk, gathered for its report.

In: the folders of the steps. Out: the arguments of `build_report`. Nothing is computed here and no figure is made.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocaft.ablations import SEARCH
from autocaft.config import RunConfig, find_config, load_config, recipe_names, to_toml
from autocaft.data.rows import load_rows
from autocaft.records import Decision, Direction, Evidence, Example, Metric, Verdict
from autocaft.report.arms import RowScore
from autocaft.report.calibration import calibration_card, calibration_of
from autocaft.resources import calibrations_dir
from autocaft.rundir.files import digest, read_json, read_jsonl, read_records, sha256_of
from autocaft.rundir.runner import StepContext

if TYPE_CHECKING:
    from autocaft.judge.options import JudgeOptions
    from autocaft.run import Run

COMPARISON_FORMAT = 4
"""Counted up when compare.json gets another shape: an older one is left out of the report until it is made anew."""
PACKAGES = ("autocaft", "torch", "transformers", "peft", "accelerate", "sae-lens", "tokenizers", "numpy")


def report_parts(
    run: Run,
    context: StepContext,
    measured: Sequence[str],
    trained: Sequence[str],
    looked: Sequence[str],
    graded: Sequence[str],
) -> dict[str, Any]:
    """Arguments of `report.build.build_report`; stages that no arm needed leave their part empty."""
    folders = [context.dir_of(name) for name in measured]
    deciding = ("select", "choose") if run.config.select.file else ("select",)
    found = _discovery(context, trained, deciding) if trained else _no_discovery()
    found["judge"] |= {"undesired": run.config.judge.undesired, "wanted": run.config.judge.wanted}
    found["judge"]["threshold"] = run.config.select.threshold
    if trained:
        found["calibration"] = _calibration(run, found["judge"])
    return {
        **found,
        "name": context.out.parent.name,
        "metrics": [metric for folder in folders for metric in read_records(folder / "metrics.jsonl", Metric)],
        "rows": [score for folder in folders for score in row_scores(folder / "rows.jsonl")],
        "behind": _behind(context, looked),
        "searches": [read_json(context.dir_of(f"search/{source}") / SEARCH) for source in run.config.searched_sources],
        "free_form": _free_form(run, context, graded),
        "timing": seconds_by_stage(context),
        "versions": installed_versions(),
        "threads": _threads(),
        "model": {
            "spec": run.config.model,
            "provenance": run.weights.provenance,
            "identity": digest(run.weights.identity),
        },
        "data": _data(run),
        "config": run.config.model_dump(mode="json"),
        "config_toml": to_toml(run.config),
        "command": _command(run.config),
        "comparison": load_comparison(context.out.parent),
    }


def decision_logs(run_dir: Path) -> list[Path]:
    """The files that say what each rule, person and list decided."""
    return [run_dir / stage / "decisions.jsonl" for stage in ("select", "choose")]


def choice_by(run_dir: Path) -> str | None:
    """Who made the run's `select.file`: `human:NAME`, or `simulated:NAME`; None if the run has none."""
    path = run_dir / "choose" / "decisions.jsonl"
    return next((decision.by for decision in read_records(path, Decision)), None) if path.is_file() else None


def decision_hashes(run_dir: Path) -> dict[str, str]:
    """sha256 of each file that says what a judge or a person decided: what a comparison is made from."""
    files = [run_dir / "judge" / "verdicts.jsonl", *decision_logs(run_dir)]
    files += sorted((run_dir / "review").glob("*.jsonl"))
    return {file.relative_to(run_dir).as_posix(): sha256_of(file) for file in files if file.is_file()}


def load_comparison(run_dir: Path) -> dict[str, Any] | None:
    """What `autocaft compare` left in the run folder, and whether somebody has decided something since.

    None if there is none, or one of an older shape.
    """
    path = run_dir / "compare.json"
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    if found.get("format") != COMPARISON_FORMAT:
        return None
    return found | {"is_stale": found.get("made_from") != decision_hashes(run_dir)}


def _command(config: RunConfig) -> str:
    """What makes the run again: the recipe's name if nothing in it was changed, else a file of the configuration."""
    for name in recipe_names():
        if load_config(find_config(name)) == config:
            return f"autocaft run {name}"
    return "autocaft run config.toml"


def _no_discovery() -> dict[str, Any]:
    empty: dict[str, Any] = dict.fromkeys(("directions", "verdicts", "decisions", "examples"), ())
    return empty | {"sets": {}, "discovery": {}, "judge": {"name": "none"}, "cost": {}}


def _discovery(context: StepContext, trained: Sequence[str], deciding: Sequence[str]) -> dict[str, Any]:
    """Candidates, windows, verdicts, decisions and the set of each arm."""
    judged = read_json(context.dir_of("judge") / "summary.json")
    return {
        "directions": read_records(context.dir_of("decompose") / "directions.jsonl", Direction),
        "examples": read_records(context.dir_of("mine") / "examples.jsonl", Example),
        "evidence": read_records(context.dir_of("mine") / "evidence.jsonl", Evidence),
        "n_loss_rows": len(read_json(context.dir_of("mine") / "summary.json")["loss_rows"]),
        "verdicts": read_records(context.dir_of("judge") / "verdicts.jsonl", Verdict),
        "decisions": [
            d for stage in deciding for d in read_records(context.dir_of(stage) / "decisions.jsonl", Decision)
        ],
        "sets": {**_sets(context, trained), "counts": read_json(context.dir_of("select") / "summary.json")},
        "discovery": _latent_counts(read_json(context.dir_of("decompose") / "summary.json")),
        "judge": {"name": judged["judge"]} | {key: judged[key] for key in ("prompt_hash", "self_checked", "agreement")},
        "cost": {key: judged[key] for key in ("n_calls", "input_tokens", "output_tokens") if key in judged}
        | dollars(context),
    }


def _behind(context: StepContext, looked: Sequence[str]) -> dict[str, Any]:
    """Readings of the probes, moves of the ablated arms, the judge against causes; nothing that was not asked for."""
    folders = [context.dir_of(name) for name in looked if name.startswith("behind/")]
    found: dict[str, Any] = {}
    if folders:
        found["probes"] = [row for folder in folders for row in read_jsonl(folder / "probe.jsonl")]
        moved = [folder / "moved.json" for folder in folders]
        found["moved"] = [read_json(path) for path in moved if path.is_file()]
    if "causes" in looked:
        found["causes"] = read_json(context.dir_of("causes") / "summary.json")
    return found


def _free_form(run: Run, context: StepContext, graded: Sequence[str]) -> dict[str, Any] | None:
    """What each free-form answer adds to each rate, and what was no number and why; None if none was graded."""
    if not graded:
        return None
    folders = [context.dir_of(name) for name in graded]
    counts = [
        {"step": name, **count}
        for name, folder in zip(graded, folders, strict=True)
        for count in read_json(folder / "summary.json")["counts"].values()
    ]
    every = (row["metric"] for folder in folders for row in read_jsonl(folder / "metrics.jsonl"))
    return {
        "grader": run.config.free_form.grader,
        "metrics": list(dict.fromkeys(every)),
        "scores": [row for folder in folders for row in read_jsonl(folder / "scores.jsonl")],
        "counts": counts,
    }


def _calibration(run: Run, judge: dict[str, Any]) -> dict[str, Any]:
    """How the judge did on planted concepts, from the file that the recipe names or one that ships."""
    named = run.config.judge.calibration
    paths = sorted(calibrations_dir().glob("*.json"))
    if named is not None:
        path = Path(named).expanduser()
        paths.insert(0, path / "calibration.json" if path.is_dir() else path)
    found = (read_json(path) for path in paths if path.is_file())
    own = calibration_of(judge["name"], judge["prompt_hash"], run.config.judge.reading, found)
    commands = calibrate_commands(run.config.judge, run.config.model)
    return calibration_card(own, threshold=judge["threshold"], commands=commands)


def calibrate_commands(options: JudgeOptions, model: str) -> list[str]:
    """How to calibrate the judge of these options; nothing for a panel with one that is asked through files."""
    if options.has_files_in_panel:
        return []
    usual = type(options)(judge=options.judge, undesired="-", wanted="-").reading
    given = {key: value for key, value in options.reading.items() if value != usual.get(key)}
    given |= {"api_key_env": options.api_key_env} if options.api_key_env else {}
    sets = [
        f"--set {key}={value}" if isinstance(value, str) else f"--set '{key}={json.dumps(value)}'"
        for key, value in given.items()
    ]
    return [
        " ".join([f"autocaft calibrate --judge {options.judge} --model {model} --split {split}", *sets])
        for split in ("tuning", "held_out")
    ]


def dollars(context: StepContext) -> dict[str, float]:
    """What all answers of the run cost, and what answers that never came may have; nothing unless every price is
    known."""
    charges = context.store.charges()
    if not charges or any(charge.nano_usd is None for charge in charges):
        return {}
    usd = {is_held: sum(c.nano_usd or 0 for c in charges if c.is_held == is_held) / 1e9 for is_held in (False, True)}
    return {"usd": usd[False], "usd_held": usd[True]}


def _sets(context: StepContext, trained: Sequence[str]) -> dict[str, Any]:
    """Direction ids, and the match of each control, by arm and seed."""
    ids: dict[str, dict[str, list[str]]] = defaultdict(dict)
    matching: dict[str, dict[str, list[Any]]] = defaultdict(dict)
    for name in trained:
        _, arm, seed = name.split("/")
        chosen = read_json(context.dir_of(name) / "set.json")
        ids[arm][seed.removeprefix("seed")] = chosen["ids"]
        if chosen["matching"]:
            matching[arm][seed.removeprefix("seed")] = chosen["matching"]
    return {"arms": dict(ids), "matching": dict(matching)}


def _latent_counts(summary: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Live, dead and always-on latents by layer, where there is a dictionary."""
    counts: dict[str, dict[str, int]] = {"live_by_layer": {}, "dead_by_layer": {}, "always_on_by_layer": {}}
    for layer, note in summary["layers"].items():
        if "n_latents" in note:
            counts["dead_by_layer"][layer] = note["n_dead"]
            counts["always_on_by_layer"][layer] = note["n_always_on"]
            counts["live_by_layer"][layer] = note["n_latents"] - note["n_dead"] - note["n_always_on"]
    return counts


def row_scores(path: Path) -> list[RowScore]:
    """The scored rows of one evaluation."""
    return [
        RowScore(r["arm"], r["split"], r["hooks"], r["seed"], r["row_id"], r["template"], float(r["correct"]))
        for r in read_jsonl(path)
        if r["correct"] is not None
    ]


def seconds_by_stage(context: StepContext) -> dict[str, float]:
    """Of all steps but the report, which is at it."""
    seconds: dict[str, float] = {}
    for row in context.store.steps():
        if row.stage != "report":
            seconds[row.stage] = round(seconds.get(row.stage, 0.0) + row.seconds, 1)
    return seconds


def installed_versions() -> dict[str, str]:
    """Of Python, the machine (with its fastest products) and the packages that figures depend on."""
    from autocaft.model.load import default_device, multiplies_bf16

    products = "bf16" if multiplies_bf16(default_device()) else "fp32"
    versions = {"python": platform.python_version(), "machine": platform.machine(), "products": products}
    return versions | {package: importlib.metadata.version(package) for package in PACKAGES}


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _data(run: Run) -> dict[str, Any]:
    """Files behind the figures: rows and sha256."""
    data = run.config.data
    files = {"train": data.train, **data.splits}
    return {
        "task": data.task,
        "splits": {
            split: {
                "n": len(run.train_rows if spec == data.train else load_rows(found.files)),
                "sha256": found.identity,
                "path": spec,
            }
            for split, spec in files.items()
            if (found := run.found(spec))
        },
    }
