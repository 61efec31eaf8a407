"""Does the wording of the concept decide what comes out?

    python benchmarks/paraphrases.py runs/gender --seeds 0 1 2 3 4 --arms caft-sae-auto --jobs 2

In: a run of the recipe `gender`, whose directions are taken over and judged again against each line of
eval_data/gender/concept_paraphrases.txt, which were written before any of them was tried and never changed.
Out: a run folder a wording beside the given one, and results/paraphrases.json: how many directions each wording
selects, how many of them the recipe's selects too, and what the arms trained on them score. The recipe's own figures
are those of results/gender.json. The same command continues where it was stopped; more arms and seeds can be named.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autocaft.arms import parse_arm
from autocaft.cli.actions import run_all
from autocaft.config import find_config, load_config
from autocaft.records import Decision, Direction
from autocaft.resources import eval_data_dir
from autocaft.rundir.files import read_json, read_records, write_json

RECIPE = "gender"
OFF = ("behind.enabled=false", "causes.enabled=false")
RECIPE_RESULT = Path("results") / f"{RECIPE}.json"


def wordings() -> list[str]:
    """The other wordings of the recipe's concept."""
    path = eval_data_dir() / "gender" / "concept_paraphrases.txt"
    return path.read_text(encoding="utf-8").splitlines()


def run_wording(source: Path, name: str, wording: str, arms: Sequence[str], seeds: Sequence[int], jobs: int) -> Path:
    """Judge the source's directions against another wording, train and measure the arms; gives the run folder."""
    overrides = [
        f"judge.undesired={json.dumps(wording)}", f"arms={json.dumps(list(arms))}", f"seeds={json.dumps(list(seeds))}",
        *OFF,
    ]  # fmt: skip
    run_all(
        RECIPE, overrides=overrides, redo=set(), name=name, runs=source.parent, final=False, jobs=jobs, source=source
    )
    return source.parent / name


def selected(run_dir: Path) -> dict[str, set[str]]:
    """Ids of the directions that the judge selected, by source."""
    source_by_id = {d.id: d.source for d in read_records(run_dir / "decompose" / "directions.jsonl", Direction)}
    chosen: dict[str, set[str]] = {"sae": set(), "pca": set()}
    for decision in read_records(run_dir / "select" / "decisions.jsonl", Decision):
        if decision.by.startswith("auto:") and decision.ablate:
            chosen[source_by_id[decision.direction_id]].add(decision.direction_id)
    return chosen


def lines_of(run_dir: Path, wording: str, reference: dict[str, set[str]]) -> list[dict[str, Any]]:
    """One line an arm: what was selected, and the scores with the ablation removed."""
    own = selected(run_dir)
    lines = []
    for arm in read_json(run_dir / "report.json")["arms"]:
        source = parse_arm(arm["arm"]).source
        assert source is not None, "only ablated arms are run"
        lines.append(
            {
                "wording": wording,
                "n_selected": len(own[source]),
                "n_of_recipe": len(own[source] & reference[source]),
                **arm,
            }
        )
    return lines


def recipe_lines(result: Path, reference: dict[str, set[str]], arms: Sequence[str]) -> list[dict[str, Any]]:
    """The same of the recipe's own words, from its result."""
    wording = load_config(find_config(RECIPE)).judge.undesired
    lines = [line for line in read_json(result)["arms"] if line["arm"] in arms and line["hooks"] == "off"]
    counts = {arm: len(reference[str(parse_arm(arm).source)]) for arm in arms}
    return [
        {"wording": wording, "n_selected": counts[line["arm"]], "n_of_recipe": counts[line["arm"]], **line}
        for line in lines
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="RUN_DIR", help="a run of the recipe")
    parser.add_argument("--arms", nargs="+", default=["caft-sae-auto", "caft-pca-auto"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results") / "paraphrases.json")
    args = parser.parse_args(arguments)
    reference = selected(args.source)
    found = []
    for number, wording in enumerate(wordings(), start=1):
        name = f"{args.source.name}-wording{number}"
        run_dir = run_wording(args.source, name, wording, args.arms, args.seeds, args.jobs)
        found += lines_of(run_dir, wording, reference)
        write_json(args.out, {"lines": recipe_lines(RECIPE_RESULT, reference, args.arms) + found})


if __name__ == "__main__":
    main()
