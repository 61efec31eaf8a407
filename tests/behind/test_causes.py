"""A planted cause ranks first; a judge that knows is told from one that guesses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autocaft.behind.causes import (
    Effect,
    causes,
    judge_against_causes,
    matched_random,
    measure_effects,
    rows_of_templates,
)
from autocaft.behind.options import CausesOptions
from autocaft.model.directions import DirectionSet, Subspace
from autocaft.model.hooks import ablate
from autocaft.records import Direction, Verdict
from autocaft.rundir.progress import NullProgress
from tests.planted_cue import Planted, silence
from tests.planted_run import verdict_on

LAYER = 1


@pytest.fixture
def answering(planted: Planted) -> Planted:
    """The answer is read off the cue's direction, and off nothing else."""
    for block in planted.model.model.layers:
        silence(block)
    he, she = (planted.tokenizer.encode(option, add_special_tokens=False)[0] for option in (" he", " she"))
    head_VD = planted.model.get_output_embeddings().weight.data.zero_()
    head_VD[he], head_VD[she] = planted.cue_D, -planted.cue_D
    return planted


def ablate_one(model: Any, subspace: Subspace) -> AbstractContextManager[None]:
    return ablate(model, [subspace], mode="zero")


def effects(planted: Planted, vectors_ND: Tensor, tokens_per_batch: int = 4096) -> list[float]:
    found = measure_effects(
        planted.model, planted.tokenizer, planted.rows, [Subspace(LAYER, vector_D[:, None]) for vector_D in vectors_ND],
        ablate_one, tokens_per_batch=tokens_per_batch, bf16=False, advance=lambda n: None,
    )  # fmt: skip
    return [float(effect) for effect in found]


def others(cue_D: Tensor, n: int) -> Tensor:
    """Unit vectors at right angles to the cue."""
    drawn_ND = torch.randn(n, 32, generator=torch.Generator().manual_seed(1))
    drawn_ND -= (drawn_ND @ cue_D)[:, None] * cue_D
    return torch.nn.functional.normalize(drawn_ND, dim=1)


def test_the_planted_cause_stands_far_above_random_directions(answering: Planted) -> None:
    random_ND = matched_random(torch.eye(32), 1.0, 20, seed=0)
    cause, *rest = effects(answering, torch.cat([answering.cue_D[None], random_ND]))
    # without the direction both options have the same logit, so all of the difference is lost
    last = answering.rows[0]
    logits_V = answering.model(torch.tensor([answering.tokenizer.encode(last.row.prompt)])).logits[0, -1]
    he, she = (answering.tokenizer.encode(option, add_special_tokens=False)[0] for option in (" he", " she"))
    assert cause == pytest.approx(float(logits_V[he] - logits_V[she]), rel=1e-4)
    assert max(abs(effect) for effect in rest) < 0.3 * cause


def test_batching_changes_no_effect(answering: Planted) -> None:
    vectors_ND = torch.cat([answering.cue_D[None], others(answering.cue_D, 3)])
    assert effects(answering, vectors_ND, 16) == pytest.approx(effects(answering, vectors_ND), abs=1e-5)


def test_random_directions_carry_the_variance_asked_for() -> None:
    spread_D = torch.linspace(0.1, 10.0, 64)
    for variance in (5.0, 6.5, 8.0):
        drawn_ND = matched_random(torch.diag(spread_D), variance, 4000, seed=0)
        assert drawn_ND.norm(dim=1).sub(1).abs().max() < 1e-5
        assert float((drawn_ND**2 @ spread_D).mean()) == pytest.approx(variance, rel=0.03)


def known(n_causes: int = 5, n: int = 50) -> tuple[list[Effect], list[Direction]]:
    rng = np.random.default_rng(0)
    directions = [Direction(f"L8.latent{i}", 8, "sae", i, 1.0, "difference") for i in range(n)]
    measured = [Effect(d.id, 8, "sae", 1.0 if i < n_causes else 0.0) for i, d in enumerate(directions)]
    return measured + [Effect(f"L8.random{i}", 8, "random", float(e)) for i, e in enumerate(rng.normal(0, 0.1, n))], \
        directions  # fmt: skip


def figures(relevance: Sequence[float | None]) -> dict[str, Any]:
    measured, directions = known()
    verdicts: list[Verdict] = [
        dataclasses.replace(verdict_on(d), relevance=r) for d, r in zip(directions, relevance, strict=True)
    ]
    (line,) = judge_against_causes(measured, verdicts, n_bootstrap=200, seed=0)["sources"]
    found: dict[str, Any] = line
    return found


def test_a_judge_that_knows_has_an_average_precision_of_one() -> None:
    line = figures([90.0] * 5 + [10.0] * 45)
    assert (line["ap"], line["ap_low"], line["ap_high"], line["n_causes"]) == (1.0, 1.0, 1.0, 5)
    assert line["spearman"] == pytest.approx(1.0)


def test_a_constant_judge_has_the_base_rate_and_no_correlation() -> None:
    line = figures([50.0] * 50)
    assert line["ap"] == line["chance"] == pytest.approx(0.1)
    assert line["ap_low"] == line["ap_high"] == pytest.approx(0.1)
    assert line["spearman"] is None


def test_a_judge_that_is_upside_down_ranks_below_chance() -> None:
    line = figures([float(i) for i in range(50)])
    assert line["ap"] < 0.1 and line["spearman"] < 0


def test_unscored_candidates_are_counted_and_left_out() -> None:
    line = figures([None, *[90.0] * 4, *[10.0] * 45])
    assert (line["n"], line["n_unscored"], line["n_causes"], line["ap"]) == (50, 1, 4, 1.0)


def test_without_a_cause_there_is_no_precision() -> None:
    _, directions = known()
    measured = [Effect(d.id, 8, "sae", 0.0) for d in directions] + [Effect("L8.random0", 8, "random", 0.5)]
    verdicts = [verdict_on(direction) for direction in directions]
    (line,) = judge_against_causes(measured, verdicts, n_bootstrap=100, seed=0)["sources"]
    assert (line["ap"], line["ap_low"], line["n_causes"], line["chance"]) == (None, None, 0, 0.0)


def test_templates_are_taken_whole(planted: Planted) -> None:
    found = rows_of_templates(planted.rows, 3, seed=0)
    assert len(found) == 6 and len({cued.row.template for cued in found}) == 3
    assert rows_of_templates(planted.rows, 99, seed=0) == planted.rows


def run(planted: Planted, out: Path) -> dict[str, Any]:
    vectors_ND = torch.cat([planted.cue_D[None], others(planted.cue_D, 7)])
    directions = [Direction(f"L1.latent{i}", LAYER, "sae", i, 1.0, "difference", variance=1.0) for i in range(8)]
    return causes(
        model=planted.model, tokenizer=planted.tokenizer, rows=planted.rows,
        found=DirectionSet(tuple(directions), vectors_ND), covariance_by_layer={LAYER: torch.eye(32)},
        mean_by_layer={LAYER: torch.zeros(32)}, ablate_one=ablate_one,
        verdicts=[verdict_on(direction) for direction in directions],
        options=CausesOptions(n_templates=4, n_bootstrap=100), bf16=False, out=out, progress=NullProgress(),
    )  # fmt: skip


def test_artifacts_say_that_they_are_for_validation_only(answering: Planted, tmp_path: Path) -> None:
    found = run(answering, tmp_path)
    strongest = found["strongest"][0]
    assert (strongest["id"], strongest["description"]) == ("L1.latent0", "judge's words on L1.latent0")
    assert json.loads((tmp_path / "summary.json").read_text())["validation_only"]
    rows = [json.loads(line) for line in (tmp_path / "L1.jsonl").read_text().splitlines()]
    assert len(rows) == 16 and all(row["validation_only"] is True for row in rows)
    assert found["uses_broken_cue"] is False and found["n_rows"] == 8


def test_a_killed_run_measures_no_layer_twice(answering: Planted, tmp_path: Path) -> None:
    first = run(answering, tmp_path)
    (tmp_path / "summary.json").unlink()
    answering.model.get_output_embeddings().weight.data.zero_()
    assert run(answering, tmp_path) == first
