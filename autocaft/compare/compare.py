"""`autocaft compare RUN`: everything that is to be said of the judge against the people of one run.

In: a run folder with decisions of both. Out: one dict, the same for `--json` and for compare.json; nothing is written
here and nothing is decided.
"""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autocaft.compare.agreement import (
    agreement_rows,
    controls_ablated,
    disagreements,
    self_agreement,
    threshold_curve,
)
from autocaft.compare.ceiling import ceiling
from autocaft.compare.hybrid import N_SIMULATED, SimulatedReviewer, gain_by_reading, hybrid_curve
from autocaft.compare.outcome import compare_outcomes
from autocaft.compare.raters import Rater, load_raters
from autocaft.compare.subspaces import subspace_overlap
from autocaft.config import RunConfig, load_config
from autocaft.errors import DataError
from autocaft.outcome import COMPARISON_FORMAT, choice_by, decision_hashes
from autocaft.records import Direction, Verdict
from autocaft.review.deck import decoys_of
from autocaft.rundir.files import read_records
from autocaft.select.verdicts import in_doubt


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
    candidates = read_records(run_dir / "decompose" / "directions.jsonl", Direction)
    verdicts = read_records(run_dir / "judge" / "verdicts.jsonl", Verdict)
    raters = load_raters(run_dir, candidates)
    humans, rules = [r for r in raters if r.is_human], [r for r in raters if not r.is_human]
    decoys = {decoy.id for decoy in decoys_of(run_dir)}
    if not humans:
        raise DataError(
            f"{run_dir}: no person has decided anything. Read the directions with `autocaft review {run_dir} --name "
            "YOU`, or give a person's choice in select.file."
        )
    outcomes = compare_outcomes(run_dir)
    doubted = in_doubt(candidates, verdicts)
    pairs = [
        _pair(human, rule, candidates, verdicts, doubted, run_dir, config, reviewer)
        for human in humans
        if human.ablates
        for rule in rules
    ]
    trained_on = choice_by(run_dir) or f"human:{config.select.person}"
    reader = next((human for human in humans if human.by == trained_on), None)
    measured = reader and gain_by_reading(outcomes["outcome"], candidates, doubted, reader, reviewer.seconds)
    for pair in pairs:
        pair["hybrid"]["gain"] = measured if pair["human"] == trained_on else None
    return {
        "format": COMPARISON_FORMAT,
        "run": run_dir.name,
        "n_candidates": len(candidates),
        "raters": [_rater_row(rater, decoys) for rater in raters],
        "auto_against_human": pairs,
        **ceiling(humans, rules, candidates),
        **outcomes,
        "made_from": decision_hashes(run_dir),
        "is_stale": False,
    }


def _rater_row(rater: Rater, decoys: Collection[str]) -> dict[str, Any]:
    """What one rater did; random directions are no candidates and have a count of their own."""
    return {
        "by": rater.by,
        "n_rated": sum(i not in decoys for i in rater.ablates),
        "n_ablate": sum(i not in decoys for i in rater.chosen),
        "n_unsure": sum(i not in decoys for i in rater.unsure),
        "n_copied": rater.n_copied,
        "n_not_blind": rater.n_not_blind,
        "from_list": rater.from_list,
        "minutes": sum(rater.seconds) / 60 if rater.seconds else None,
        "seconds_a_direction": sorted(rater.seconds)[len(rater.seconds) // 2] if rater.seconds else None,
        "self_agreement": self_agreement(rater),
        "random_controls": controls_ablated(rater, decoys),
    }


def _pair(
    human: Rater,
    auto: Rater,
    candidates: list[Direction],
    verdicts: list[Verdict],
    doubted: Set[str],
    run_dir: Path,
    config: RunConfig,
    reviewer: SimulatedReviewer,
) -> dict[str, Any]:
    """The judge's rule against one person."""
    verdict_of = {verdict.direction_id: verdict for verdict in verdicts}
    rated = {direction.id: human.ablates[direction.id] for direction in candidates if direction.id in human.ablates}
    relevance = {i: None if verdict.unscored_reason else verdict.relevance for i, verdict in verdict_of.items()}
    return {
        "human": human.by,
        "auto": auto.by,
        "n_unscored": sum(relevance.get(i) is None for i in rated),
        "n_candidates": len(candidates),
        "n_in_doubt": len(doubted),
        "n_in_doubt_rated": len(doubted & rated.keys()),
        "agreement": agreement_rows(human, auto, candidates),
        "subspaces": subspace_overlap(run_dir / "decompose", human.chosen, auto.chosen & set(rated)),
        "disagreements": disagreements(human, auto, candidates, verdict_of),
        "thresholds": threshold_curve(human, candidates, verdicts, config.select),
        "hybrid": {
            "simulated": True,
            "n_simulated": N_SIMULATED,
            "reviewer": asdict(reviewer),
            "points": hybrid_curve(
                rated,
                auto.ablates,
                relevance,
                config.select.threshold,
                reviewer,
                abstained={verdict.direction_id for verdict in verdicts if verdict.abstains},
            ),
            "gain": None,
        },
    }
