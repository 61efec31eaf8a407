"""Rivals and controls in a whole run: each is trained, measured, and what it says it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from autocaft.cli.app import app
from autocaft.config import load_config
from autocaft.discover.decompose import load_covariances
from autocaft.evaluate.choices import answer_choices
from autocaft.model.directions import DirectionSet, load_subspaces
from autocaft.model.hooks import ablate
from autocaft.run import Run
from autocaft.rundir.files import read_json, read_jsonl
from tests.tiny_task import write_task

ARMS = (
    "base", "tuned", "caft-pca-top", "caft-pca-top-inference", "caft-pca-top-zero-fading", "caft-pca-random-orthogonal",
    "caft-pca-top-preventative", "caft-pca-top-leace", "tuned-inoculation", "tuned-kl", "tuned-l2sp",
    "tuned-benign", "tuned-stop-50",
)  # fmt: skip


def run_tiny(config: Path, folder: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["run", str(config), "--runs", str(folder), *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("baselines")
    config = write_task(folder / "task")
    settings = [f"arms={json.dumps(ARMS)}", 'decompose.sources=["pca"]', "baselines.inoculation=Say yes .",
                f"baselines.benign={folder}/task/final.jsonl"]  # fmt: skip
    run_tiny(config, folder, *(part for setting in settings for part in ("--set", setting)))
    return folder / "tiny", Run(load_config(config, settings))


@pytest.mark.slow
def test_every_arm_is_measured_as_it_is_used(finished: tuple[Path, Run]) -> None:
    report = read_json(finished[0] / "report.json")
    off = {line["arm"] for line in report["arms"] if line["hooks"] == "off"}
    on = {line["arm"] for line in report["arms"] if line["hooks"] == "on"}
    assert off == set(ARMS) - {"caft-pca-top-inference"}
    assert on == {arm for arm in ARMS if arm.startswith("caft-")}
    assert all(line["perplexity_ratio"] for line in report["arms"] if line["arm"] == "caft-pca-top-inference")
    answers = {arm: read_jsonl(finished[0] / f"evaluate/{arm}/seed0/rows.jsonl") for arm in ARMS}
    margins = {arm: tuple(row["margin"] for row in rows if row["hooks"] == "off") for arm, rows in answers.items()}
    assert len(set(margins.values())) == len(ARMS), "no arm is another one's twin"


@pytest.mark.slow
def test_ablated_at_inference_alone_is_the_tuned_model_in_an_ablation(finished: tuple[Path, Run]) -> None:
    run_dir, run = finished
    folder = run_dir / "train/caft-pca-top-inference/seed0"
    assert sorted(path.name for path in folder.iterdir()) == ["set.json", "subspaces.safetensors"]
    assert read_json(folder / "set.json")["ids"] == read_json(run_dir / "train/caft-pca-top/seed0/set.json")["ids"]
    model: Any = run.load_trained(run_dir / "tune/seed0")
    rows = run.eval_rows(run.config.data.splits)["ood"]
    with ablate(model, load_subspaces(folder / "subspaces.safetensors"), mode=run.config.train.mode):
        found = answer_choices(model, run.tokenizer(), rows, split="ood", hooks="on", tokens_per_batch=4096,
                               advance=lambda n: None)  # fmt: skip
    told = read_jsonl(run_dir / "evaluate/caft-pca-top-inference/seed0/rows.jsonl")
    told_ood = [row["margin"] for row in told if row["split"] == "ood"]
    assert told_ood == pytest.approx([answer.margin for answer in found], abs=1e-3)


@pytest.mark.slow
def test_steering_adds_the_same_directions_as_far_as_they_vary(finished: tuple[Path, Run]) -> None:
    run_dir, _ = finished
    ids = read_json(run_dir / "train/caft-pca-top-preventative/seed0/set.json")["ids"]
    assert ids == read_json(run_dir / "train/caft-pca-top/seed0/set.json")["ids"]
    found = DirectionSet.load(run_dir / "decompose")
    poles = {row["direction_id"]: row["pole"] for row in read_jsonl(run_dir / "judge/verdicts.jsonl")}
    for space in load_subspaces(run_dir / "train/caft-pca-top-preventative/seed0/subspaces.safetensors"):
        own = [d for d in found.directions if d.id in ids and d.layer == space.layer]
        signs = [-1.0 if poles[d.id] == "bottom" else 1.0 for d in own]
        parts = [s * d.variance**0.5 * found.vectors_of([d.id])[0] for s, d in zip(signs, own, strict=True)]
        assert space.mean_D is not None
        torch.testing.assert_close(space.mean_D, torch.stack(parts).sum(0), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_least_change_keeps_the_coordinates_of_its_directions_constant(finished: tuple[Path, Run]) -> None:
    run_dir, _ = finished
    subspaces = load_subspaces(run_dir / "train/caft-pca-top-leace/seed0/subspaces.safetensors")
    found = DirectionSet.load(run_dir / "decompose")
    ids = read_json(run_dir / "train/caft-pca-top-leace/seed0/set.json")["ids"]
    covariances = load_covariances(run_dir / "decompose")
    for subspace in subspaces:
        chosen_ND = found.vectors_of([i for i in ids if i.startswith(f"L{subspace.layer}.")])
        assert subspace.read_DK is not None and len(chosen_ND) == subspace.basis_DK.shape[1]
        kept_DD = torch.eye(len(subspace.basis_DK)) - subspace.read_DK @ subspace.basis_DK.T
        left = (chosen_ND @ covariances[subspace.layer] @ kept_DD).norm()
        assert left <= 1e-4 * (chosen_ND @ covariances[subspace.layer]).norm()
        torch.testing.assert_close(chosen_ND @ kept_DD.T, torch.zeros_like(chosen_ND), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_random_vectors_span_as_much_as_the_chosen_ones_and_are_named_so(finished: tuple[Path, Run]) -> None:
    random, chosen = (
        load_subspaces(finished[0] / f"train/{arm}/seed0/subspaces.safetensors")
        for arm in ("caft-pca-random-orthogonal", "caft-pca-top")
    )
    assert [space.basis_DK.shape for space in random] == [space.basis_DK.shape for space in chosen]
    overlaps = [float((r.basis_DK.T @ c.basis_DK).square().sum() / c.basis_DK.shape[1])
                for r, c in zip(random, chosen, strict=True)]  # fmt: skip
    assert max(overlaps) < 0.4, "in 32 dimensions three random vectors share a tenth of a span of three"
    ids = read_json(finished[0] / "train/caft-pca-random-orthogonal/seed0/set.json")["ids"]
    assert ids and all(".random" in direction_id for direction_id in ids)


@pytest.mark.slow
def test_rivals_are_trained_as_they_say(finished: tuple[Path, Run]) -> None:
    steps = {arm: read_json(finished[0] / f"train/{arm}/seed0/summary.json")["n_steps"]
             for arm in ARMS[2:] if arm != "caft-pca-top-inference"}  # fmt: skip
    whole = read_json(finished[0] / "tune/seed0/summary.json")["n_steps"]
    assert steps.pop("tuned-stop-50") == whole // 2 and steps.pop("tuned-benign") > whole
    assert set(steps.values()) == {whole}
    places = {"tuned": "tune"} | {arm: f"train/{arm}" for arm in ARMS if arm.startswith("tuned-")}
    first = {a: read_jsonl(finished[0] / f"{place}/seed0/losses.jsonl")[0]["loss"] for a, place in places.items()}
    # no penalty at the base itself, the same rows; another prompt, or other rows, give another loss
    assert first["tuned-kl"] == pytest.approx(first["tuned"]) == first["tuned-stop-50"]
    assert first["tuned-l2sp"] == pytest.approx(first["tuned"])
    assert abs(first["tuned-inoculation"] - first["tuned"]) > 1e-3 < abs(first["tuned-benign"] - first["tuned"])


@pytest.mark.slow
def test_a_rival_added_later_trains_that_alone(finished: tuple[Path, Run]) -> None:
    assert torch.get_num_threads() == 1
    run_dir, run = finished
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*.safetensors")}
    arms = [*ARMS, "tuned-stop-25", "caft-pca-top-gradient-only"]
    settings = [f"arms={json.dumps(arms)}", 'decompose.sources=["pca"]', "baselines.inoculation=Say yes .",
                f"baselines.benign={run.config.baselines.benign}"]  # fmt: skip
    output = run_tiny(run_dir.parent / "task/tiny.toml", run_dir.parent,
                      *(part for setting in settings for part in ("--set", setting)))  # fmt: skip
    assert "tuned-stop-25" in output and "caft-pca-top-gradient-only" in output
    assert {path: path.stat().st_mtime_ns for path in before} == before
