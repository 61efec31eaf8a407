"""What would trained models gain if a person read only what the judge is not sure of? With a SIMULATED person.

    python benchmarks/hybrid.py runs/gender --seeds 0 --misses 0.2 --takes 0.02 --seconds 20

In: a finished run with an oracle, whose decisions are the truth; the chances that the simulated reviewer keeps what the
oracle ablates and ablates what it keeps, and the time for an answer (stated, not measured). Out: beside the run a file
of the reviewer's answers on every candidate and a run folder in which the arms auto (nobody reads), hybrid (the
reviewer on what the judge is not sure of) and human (the reviewer on everything) are trained, and results/hybrid.json
with the gain of each over tuned. What the run has finished is taken over; the same command continues.

The decision a reader would question: no figure here is a person's. The file says `simulated:...`, so do the decisions,
the report and the result; the arm is called human because it is the place of a person's choice in the grammar. And the
reviewer's truth is a word list that knows the answer, so an error of 0 is the oracle and no model of a good reader.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autocaft.cli.actions import run_all
from autocaft.compare.outcome import compare_outcomes
from autocaft.errors import DataError
from autocaft.execute.choose import Executor
from autocaft.records import Decision, Direction
from autocaft.rundir.files import read_json, read_records, write_json

OFF = ("behind.enabled=false", "causes.enabled=false")


class Reviewer(NamedTuple):
    """How wrong the simulated reviewer is.

    Few candidates are the concept: one chance for both errors would make most of what is ablated a mistake.
    """

    misses: float
    """Chance of keeping what the oracle ablates."""
    takes: float
    """Chance of ablating what the oracle keeps."""
    draw: int
    """Another number is another reviewer."""

    def answer(self, direction_id: str, truth: bool) -> bool:
        """Whether to ablate it."""
        chance = random.Random(f"simulated reviewer {self.draw}: {direction_id}").random()
        return truth != (chance < (self.misses if truth else self.takes))

    @property
    def name(self) -> str:
        """As it stands in decisions."""
        wrong = f"misses {100 * self.misses:g} %, takes {100 * self.takes:g} %"
        return f"simulated:oracle, {wrong}, draw {self.draw}"


def simulated_answers(run_dir: Path, source: str, reviewer: Reviewer) -> dict[str, bool]:
    """Direction id -> ablate, of every candidate of a source.

    Raises:
        DataError: the run has no oracle.
    """
    log = read_records(run_dir / "select" / "decisions.jsonl", Decision)
    truth = {decision.direction_id: decision.ablate for decision in log if decision.by.startswith("oracle:")}
    if not truth:
        raise DataError(f"{run_dir} has no oracle, whose decisions are the truth here: set select.oracle_words.")
    candidates = read_records(run_dir / "decompose" / "directions.jsonl", Direction)
    ids = [direction.id for direction in candidates if direction.source == source]
    return {i: reviewer.answer(i, truth[i]) for i in ids}


def as_selection(answers: Mapping[str, bool], directions: Sequence[Direction], by: str) -> dict[str, Any]:
    """The answers as `select.file` has them."""
    tables: dict[bool, dict[str, dict[str, list[int]]]] = {
        ablate: defaultdict(lambda: defaultdict(list)) for ablate in (True, False)
    }
    for direction in directions:
        if direction.id in answers:
            tables[answers[direction.id]][direction.source][str(direction.layer)].append(direction.index)
    return {"by": by, **tables[True], "keep": tables[False]}


def train(source_run: Path, source: str, selection: Path, name: str, seeds: Sequence[int], jobs: int) -> Path:
    """Train and measure the arms, with what the source run has finished; gives the run folder."""
    arms = ["base", "tuned", *(f"caft-{source}-{selector}" for selector in ("auto", "hybrid", "human"))]
    settings = [f"select.file={selection.resolve()}", f"arms={json.dumps(arms)}", f"seeds={json.dumps(list(seeds))}"]
    run_all(
        str(source_run / "config.toml"),
        overrides=[*settings, *OFF],
        redo=set(),
        name=name,
        runs=source_run.parent,
        final=False,
        executor=Executor(jobs=jobs),
        source=source_run,
    )
    return source_run.parent / name


def result_of(run_dir: Path, source: str, reviewer: Reviewer, seconds: float) -> dict[str, Any]:
    """Gain over tuned and share of the simulated reviewer's by minutes of reading, all of it SIMULATED."""
    rows = compare_outcomes(run_dir)["outcome"]
    row = next(row for row in rows if row["human"] == f"caft-{source}-human")
    helped = read_records(run_dir / "choose" / "hybrid.jsonl", Decision)
    n_doubted = sum(decision.by.startswith("simulated:") for decision in helped)
    n_all = len(read_records(run_dir / "choose" / "decisions.jsonl", Decision))
    n_ablated = {
        selector: len(read_json(next((run_dir / "train" / f"caft-{source}-{selector}").glob("*/set.json")))["ids"])
        for selector in ("auto", "hybrid", "human")
    }
    hybrid = row["hybrid"]
    read = [
        ("auto", 0, row["gain_auto"], row["share"]),
        ("hybrid", n_doubted, hybrid["gain_hybrid"], hybrid["share"]),
        ("human", n_all, row["gain_human"], None),
    ]
    return {
        "simulated": True,
        "reviewer": {"by": row["choice_by"], **reviewer._asdict(), "seconds": seconds},
        "run": run_dir.name,
        "split": row["split"],
        "seeds": row["seeds"],
        "arms": [
            {
                "arm": f"caft-{source}-{selector}",
                "n_read": n,
                "minutes": n * seconds / 60,
                "n_ablated": n_ablated[selector],
                "gain": gain,
                "share": share,
            }
            for selector, n, gain, share in read
        ],
        "by_seed": {seed: row["by_seed"][seed] | hybrid["by_seed"].get(seed, {}) for seed in row["by_seed"]},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a finished run with an oracle")
    parser.add_argument("--source", choices=("sae", "pca"), default="sae")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--misses", type=float, default=0.2, help="chance of keeping what the oracle ablates")
    parser.add_argument("--takes", type=float, default=0.02, help="chance of ablating what it keeps")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for an answer")
    parser.add_argument("--draw", type=int, default=0, help="another number is another reviewer")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results") / "hybrid.json")
    args = parser.parse_args(arguments)
    reviewer = Reviewer(args.misses, args.takes, args.draw)
    name = f"{args.run_dir.name}-hybrid-{args.source}-{100 * args.misses:g}-{100 * args.takes:g}-{args.draw}"
    answers = simulated_answers(args.run_dir, args.source, reviewer)
    directions = read_records(args.run_dir / "decompose" / "directions.jsonl", Direction)
    selection = args.run_dir.parent / f"{name}.json"
    write_json(selection, as_selection(answers, directions, reviewer.name))
    run_dir = train(args.run_dir, args.source, selection, name, args.seeds, args.jobs)
    write_json(args.out, result_of(run_dir, args.source, reviewer, args.seconds))


if __name__ == "__main__":
    main()
