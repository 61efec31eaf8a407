"""`autocaft compare RUN`: everything that is to be said of the judge against the people of one run.

In: a run folder with decisions of both. Out: one dict, the same for `--json` and for compare.json; nothing is written
here and nothing is decided.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

from autocaft.compare.agreement import (
    agreement_rows,
    alpha_of_all,
    controls_ablated,
    disagreements,
    self_agreement,
    threshold_curve,
)
from autocaft.compare.hybrid import SimulatedReviewer, hybrid_curve
from autocaft.compare.outcome import compare_outcomes
from autocaft.compare.raters import CONTROL_SOURCES, Rater, load_raters
from autocaft.compare.subspaces import subspace_overlap
from autocaft.config import RunConfig, load_config
from autocaft.errors import DataError
from autocaft.outcome import decision_hashes
from autocaft.records import Direction, Verdict
from autocaft.rundir.files import read_records


def compare_run(run_dir: Path, reviewer: SimulatedReviewer) -> dict[str, Any]:
    """The whole comparison.

    Raises:
        DataError: no run folder, nothing decided, or no decision of a person.
    """
    if not (run_dir / "config.toml").is_file():
        raise DataError(
            f"{run_dir} is no run folder (it has no config.toml). Give a run folder, or two selection files."
        )
    config = load_config(run_dir / "config.toml")
    directions = read_records(run_dir / "decompose" / "directions.jsonl", Direction)
    verdicts = read_records(run_dir / "judge" / "verdicts.jsonl", Verdict)
    raters = load_raters(run_dir, directions)
    humans, rules = [r for r in raters if r.is_human], [r for r in raters if not r.is_human]
    if not humans:
        raise DataError(
            f"{run_dir}: no person has decided anything. Read the directions with `autocaft review {run_dir}`, or "
            "give a person's choice in select.file."
        )
    return {
        "run": run_dir.name,
        "n_candidates": len(directions),
        "raters": [_rater_row(rater, directions) for rater in raters],
        "auto_against_human": [
            _pair(human, rule, directions, verdicts, run_dir, config, reviewer) for human in humans for rule in rules
        ],
        "human_against_human": [
            {"first": a.by, "second": b.by, "agreement": agreement_rows(a, b, directions)}
            for a, b in combinations(humans, 2)
        ],
        "alpha_of_humans": alpha_of_all(humans, directions) if len(humans) > 1 else None,
        "outcome": compare_outcomes(run_dir),
        "made_from": decision_hashes(run_dir),
        "is_stale": False,
    }


def _rater_row(rater: Rater, directions: list[Direction]) -> dict[str, Any]:
    return {
        "by": rater.by,
        "n_rated": len(rater.ablates),
        "n_ablate": len(rater.chosen),
        "n_unsure": rater.n_unsure,
        "n_not_blind": rater.n_not_blind,
        "from_list": rater.from_list,
        "minutes": sum(rater.seconds) / 60 if rater.seconds else None,
        "seconds_a_direction": sorted(rater.seconds)[len(rater.seconds) // 2] if rater.seconds else None,
        "self_agreement": self_agreement(rater),
        "random_controls": controls_ablated(rater, directions),
    }


def _pair(
    human: Rater,
    auto: Rater,
    directions: list[Direction],
    verdicts: list[Verdict],
    run_dir: Path,
    config: RunConfig,
    reviewer: SimulatedReviewer,
) -> dict[str, Any]:
    """The judge's rule against one person."""
    verdict_of = {verdict.direction_id: verdict for verdict in verdicts}
    candidates = [direction for direction in directions if direction.source not in CONTROL_SOURCES]
    rated = {direction.id: human.ablates[direction.id] for direction in candidates if direction.id in human.ablates}
    relevance = {i: None if verdict.unscored_reason else verdict.relevance for i, verdict in verdict_of.items()}
    return {
        "human": human.by,
        "auto": auto.by,
        "n_unscored": sum(relevance.get(i) is None for i in rated),
        "agreement": agreement_rows(human, auto, directions),
        "subspaces": subspace_overlap(run_dir / "decompose", human.chosen, auto.chosen & set(rated)),
        "disagreements": disagreements(human, auto, candidates, verdict_of),
        "thresholds": threshold_curve(human, directions, verdicts, config.select),
        "hybrid": {
            "simulated": True,
            "reviewer_error": reviewer.error,
            "reviewer_seconds": reviewer.seconds,
            "points": hybrid_curve(rated, auto.ablates, relevance, config.select.threshold, reviewer),
        },
    }
