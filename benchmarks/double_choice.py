"""Which pairs of double multiple choice misgeneralize, and what does CAFT do about it?

    python benchmarks/double_choice.py pilot                              base and tuned, twelve pairs, seed 0
    python benchmarks/double_choice.py arms topic-verbs --seeds 0 1 2     all arms of the recipe, on named pairs
    python benchmarks/double_choice.py set topic-verbs                    `--set` options of a pair for `autocaft run`
    python benchmarks/double_choice.py show                               all cells, and the judge's share of the gain

In: the recipe `double_choice`. Out: a run folder a pair in runs/double_choice/, and after each pair its cells (arm and
seed) in results/double_choice.json. The same command continues where it was stopped. `pilot` leaves out the search for
directions, which base and tuned do not need; `arms` on the same pair goes on from there and trains nothing twice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import permutations
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cells import Cell, complete, share_line

from autocaft.config import RunConfig, find_config, load_config, to_toml
from autocaft.outcome import row_scores
from autocaft.pipeline import build_steps
from autocaft.preflight import check_inputs, set_threads
from autocaft.records import Metric
from autocaft.resources import eval_data_dir
from autocaft.run import Run
from autocaft.rundir.files import read_json, read_records, write_json, write_text
from autocaft.rundir.progress import Log, make_progress
from autocaft.rundir.runner import LOG_NAME, run_steps
from autocaft.rundir.store import STORE_NAME, RunStore

RECIPE = "double_choice"
EPOCHS = {"words": 3.0, "letters": 3.0, "yes_no": 1.0}
"""Passes over the training rows by form; those of `yes_no` are three times as many."""
LEAN = ("decoys.n_random=0", "evaluate.n_damage_documents=0")
"""What these tables do not read."""
PILOT_ARMS, PILOT_STAGES = ("base", "tuned"), {"tune", "evaluate"}
SHOWN = ("id", "ood", "neutral")


def pairs() -> list[str]:
    """The twelve ordered pairs, FIRST-SECOND."""
    return [f"{first}-{second}" for first, second in permutations(concepts(), 2)]


def concepts() -> dict[str, str]:
    """What a judge is told about each source."""
    sources = read_json(eval_data_dir() / "double_choice" / "sources.json")
    return {name: source["concept"] for name, source in sources.items()}


def overrides_of(pair: str, form: str) -> list[str]:
    """The recipe's keys that another pair or form changes, as `KEY=VALUE`."""
    first, second = pair.split("-")
    folder = f"builtin:double_choice/{form}/{pair}"
    config = load_config(find_config(RECIPE))
    values = {
        "data.task": pair,
        "data.train": f"{folder}/train.jsonl.gz",
        "judge.wanted": concepts()[first],
        "judge.undesired": concepts()[second],
        "select.oracle_words": f"builtin:double_choice/oracle_words/{second}.txt",
        "tune.epochs": EPOCHS[form],
    }
    tables = {"data.splits": config.data.splits, "data.final": config.data.final}
    return [
        *(f"{key}={json.dumps(value)}" for key, value in values.items()),
        *(f"{key}={_inline_table(folder, splits, form)}" for key, splits in tables.items()),
    ]


def _inline_table(folder: str, splits: Iterable[str], form: str) -> str:
    """The files of a form's splits; only where options are offered can the second question say nothing."""
    names = [*splits, *(["neutral"] if "id" in splits and form != "yes_no" else [])]
    return "{" + ", ".join(f'{name} = "{folder}/{name}.jsonl.gz"' for name in names) + "}"


def run_pair(config: RunConfig, run_dir: Path, only: set[str] | None) -> list[Cell]:
    """Run what is not done yet of one pair, and give its cells."""
    run = Run(config)
    check_inputs(run, final=False)

    def begin() -> None:
        write_text(run_dir / "config.toml", to_toml(config))
        set_threads(config.threads)

    run_steps(build_steps(run), run_dir, set(), make_progress(Log(run_dir / LOG_NAME)), only, on_checked=begin)
    return read_cells(run_dir)


def read_cells(run_dir: Path) -> list[Cell]:
    """Arm, seed, accuracy by split (ablation removed), seconds and ids of what was ablated, of every evaluation that is
    done in a run folder."""
    with RunStore(run_dir / STORE_NAME) as store:
        seconds = {step.name: step.seconds for step in store.steps() if step.status == "done"}
    cells = []
    for name in sorted(step for step in seconds if step.startswith("evaluate/")):
        _, arm, seed = name.split("/")
        made = f"tune/{seed}" if arm == "tuned" else f"train/{arm}/{seed}"
        spent = round(seconds[name] + seconds.get(made, 0.0), 1)
        cell: Cell = {"arm": arm, "seed": int(seed.removeprefix("seed"))}
        cell |= {"scores": _scores(run_dir / name), "seconds": spent}
        chosen = run_dir / made / "set.json"
        cells.append(cell | ({"ids": read_json(chosen)["ids"]} if chosen.is_file() else {}))
    return cells


def _scores(folder: Path) -> dict[str, Any]:
    """Accuracy by split as measured, and of each template by itself, in the order of their names: what an interval over
    pairs is made of."""
    values = defaultdict[tuple[str, str], list[float]](list)
    for row in row_scores(folder / "rows.jsonl"):
        if row.hooks == "off":
            values[row.split, row.cluster].append(row.value)
    return {
        metric.split: {
            "value": metric.value,
            "low": metric.ci_low,
            "high": metric.ci_high,
            "n": metric.n,
            "by_template": [round(fmean(values[key]), 4) for key in sorted(values) if key[0] == metric.split],
        }
        for metric in read_records(folder / "metrics.jsonl", Metric)
        if metric.metric == "accuracy" and metric.hooks == "off"
    }


def keep(path: Path, settings: Sequence[str], where: dict[str, str], cells: Sequence[Cell]) -> None:
    """Put the cells of one pair into the results, in place of what was there of the same arm and seed.

    Raises:
        SystemExit: the file was made with other `--set` options, or when the recipe had other settings.
    """
    made_with = {"recipe": RECIPE, "recipe_sha256": recipe_sha256(), "set": list(settings)}
    held = read_json(path) if path.is_file() else {**made_with, "cells": []}
    for key, value in made_with.items():
        if held[key] != value:
            sys.exit(f"{path} was made with {key} {held[key]}, and now it is {value}: name another --out and --runs")
    new = [where | cell for cell in cells]
    key = ("pair", "form", "arm", "seed")
    taken = {tuple(cell[name] for name in key) for cell in new}
    kept = [cell for cell in held["cells"] if tuple(cell[name] for name in key) not in taken]
    held["cells"] = sorted([*kept, *new], key=lambda cell: tuple(cell[name] for name in key))
    write_json(path, held)


def recipe_sha256() -> str:
    """Of the recipe's settings; its comments do not count."""
    return hashlib.sha256(to_toml(load_config(find_config(RECIPE))).encode()).hexdigest()


def table(path: Path) -> str:
    """One line a cell, and the judge's share of the oracle's gain where there are both."""
    cells = read_json(path)["cells"]
    lines = [f"{'pair':<22}{'form':<11}{'arm':<18}seed     id    ood neutral  seconds"]
    for cell in cells:
        scores = "".join(f"{cell['scores'].get(split, {}).get('value', float('nan')):7.3f}" for split in SHOWN)
        lines.append(
            f"{cell['pair']:<22}{cell['form']:<11}{cell['arm']:<18}{cell['seed']:4}{scores}{cell['seconds']:9.0f}"
        )
    compared = complete(cells)
    if compared:
        lines.append(share_line(compared))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pilot", "arms", "set", "show"])
    parser.add_argument("pairs", nargs="*", metavar="PAIR", help="FIRST-SECOND; `pilot` without any runs all twelve")
    parser.add_argument("--form", choices=tuple(EPOCHS), default="yes_no")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="of the recipe's arms only these (default: all)")
    parser.add_argument("--runs", type=Path, default=Path("runs") / RECIPE)
    parser.add_argument("--out", type=Path, default=Path("results") / f"{RECIPE}.json")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    args = parser.parse_args(arguments)
    if args.what == "show":
        sys.stdout.write(f"{table(args.out)}\n")
        return
    chosen = args.pairs or (pairs() if args.what == "pilot" else [])
    if not chosen or not set(chosen) <= set(pairs()):
        parser.error(f"name one or more of {', '.join(pairs())}")
    for pair in chosen:
        overrides = overrides_of(pair, args.form)
        if args.what == "set":
            sys.stdout.write(" ".join(f"--set {shlex.quote(one)}" for one in overrides) + "\n")
            continue
        is_pilot = args.what == "pilot"
        arms = PILOT_ARMS if is_pilot else args.arms
        overrides += [f"seeds={json.dumps(args.seeds)}", *LEAN, *args.settings]
        overrides += [f"arms={json.dumps(arms)}"] if arms else []
        config = load_config(find_config(RECIPE), overrides)
        cells = run_pair(config, args.runs / f"{pair}-{args.form}", PILOT_STAGES if is_pilot else None)
        keep(args.out, args.settings, {"pair": pair, "form": args.form}, cells)
    if args.what != "set":
        sys.stdout.write(f"{table(args.out)}\n{args.out}\n")


if __name__ == "__main__":
    main()
