"""What does one changed thing in the recipe `gender` do to what comes out?

    python benchmarks/variants.py runs/gender wording1 wording2 wording3 --arms caft-sae-auto --seeds 0 1 2 3 4 --jobs 2
    python benchmarks/variants.py runs/gender mean zero own-vectors no-continuations --jobs 2
    python benchmarks/variants.py --list

In: a run of the recipe, whose finished steps are taken over where a variant leaves them as they are. The wordings are
the lines of eval_data/gender/concept_paraphrases.txt, written before any of them was tried and never changed.
Out: a run folder a variant beside the given one, and results/variants.json: how many directions are selected (of the
same candidates: how many that the recipe selects too), and what the arms score with the ablation removed. The same
command continues where it was stopped; more variants, arms and seeds are added to what is there.

The decision a reader would question: the final splits are not read. Whoever compares variants looks at id and ood, and
those are named in the README as what the recipe's settings were chosen on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autocaft.arms import parse_arm
from autocaft.cli.actions import run_all
from autocaft.execute.choose import Executor
from autocaft.records import Decision, Direction
from autocaft.resources import eval_data_dir
from autocaft.rundir.files import read_json, read_records, sha256_of, write_json

RECIPE = "gender"
OFF = ("behind.enabled=false", "causes.enabled=false")
SETTINGS = {
    "recipe": (),
    "mean": ("train.mode=mean",),
    "zero": ("train.mode=zero",),
    "own-vectors": ("train.basis=direction",),
    "first-position-too": ("train.exempt_first=false",),
    "no-continuations": ("collect.n_continuations=0",),
    "one-continuation": ("collect.n_continuations=1",),
    "layer-14": ("layers=[14]",),
    "layer-20": ("layers=[20]",),
    "all-blocks": ("tune.trained_blocks=all",),
    "answer-loss": ("tune.loss=answer",),
    "one-epoch": ("tune.epochs=1.0",),
    "larger-dictionary": ("decompose.d_sae=16384",),
    "denser-dictionary": ("decompose.k=48",),
    "batchtopk": ("decompose.sae_architecture=batchtopk",),
    "matryoshka": ("decompose.sae_architecture=matryoshka",),
    "other-dictionary": ("decompose.seed=1",),
}
"""Name -> what is set otherwise. The wordings are added from their file."""

Line = dict[str, Any]


def variants() -> dict[str, tuple[str, ...]]:
    """All variants: name -> `--set` options."""
    path = eval_data_dir() / "gender" / "concept_paraphrases.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    wordings = {f"wording{i}": (f"judge.undesired={json.dumps(line)}",) for i, line in enumerate(lines, start=1)}
    return {**SETTINGS, **wordings}


def run_variant(source: Path, name: str, arms: Sequence[str], seeds: Sequence[int], jobs: int) -> Path:
    """Train and measure a variant's arms, with what the source has finished; gives the run folder."""
    overrides = [*variants()[name], f"arms={json.dumps(list(arms))}", f"seeds={json.dumps(list(seeds))}", *OFF]
    run_name = f"{source.name}-{name}"
    run_all(
        RECIPE,
        overrides=overrides,
        redo=set(),
        name=run_name,
        runs=source.parent,
        final=False,
        executor=Executor(jobs=jobs),
        source=source,
    )
    return source.parent / run_name


def selected(run_dir: Path) -> dict[str, set[str]]:
    """Ids of the directions that the judge selected, by source."""
    source_by_id = {d.id: d.source for d in read_records(run_dir / "decompose" / "directions.jsonl", Direction)}
    chosen: dict[str, set[str]] = {"sae": set(), "pca": set()}
    for decision in read_records(run_dir / "select" / "decisions.jsonl", Decision):
        if decision.by.startswith("auto:") and decision.ablate:
            chosen[source_by_id[decision.direction_id]].add(decision.direction_id)
    return chosen


def lines_of(run_dir: Path, name: str, source: Path) -> list[Line]:
    """One line an arm."""
    own, reference = selected(run_dir), selected(source)
    candidates = [sha256_of(folder / "decompose" / "directions.jsonl") for folder in (run_dir, source)]
    lines = []
    for arm in read_json(run_dir / "report.json")["arms"]:
        kind = parse_arm(arm["arm"]).source
        assert kind is not None, "only ablated arms are run"
        shared = len(own[kind] & reference[kind]) if candidates[0] == candidates[1] else None
        lines.append(
            {
                "variant": name,
                "set": list(variants()[name]),
                "n_selected": len(own[kind]),
                "n_of_recipe": len(reference[kind]),
                "n_shared": shared,
                **{key: arm[key] for key in ("arm", "seeds", "worst_seed", "scores")},
            }
        )
    return lines


def keep(path: Path, lines: Sequence[Line]) -> None:
    """Put lines into the result, in place of what was there of the same variant and arm."""
    held = read_json(path)["lines"] if path.is_file() else []
    new = {(line["variant"], line["arm"]) for line in lines}
    order = list(variants())
    kept = [line for line in held if (line["variant"], line["arm"]) not in new]
    write_json(path, {"lines": sorted([*kept, *lines], key=lambda line: (order.index(line["variant"]), line["arm"]))})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", metavar="RUN_DIR", help="a run of the recipe")
    parser.add_argument("names", nargs="*", metavar="VARIANT")
    parser.add_argument("--list", action="store_true", help="print the variants and what each sets")
    parser.add_argument("--arms", nargs="+", default=["caft-sae-auto"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results") / "variants.json")
    args = parser.parse_intermixed_args(arguments)
    if args.list:
        sys.stdout.write("".join(f"{name:<20}{' '.join(options)}\n" for name, options in variants().items()))
        return
    if args.source is None or not args.names or not set(args.names) <= set(variants()):
        parser.error(f"name a run folder, and one or more of {', '.join(variants())}")
    for name in args.names:
        run_dir = run_variant(args.source, name, args.arms, args.seeds, args.jobs)
        keep(args.out, lines_of(run_dir, name, args.source))


if __name__ == "__main__":
    main()
