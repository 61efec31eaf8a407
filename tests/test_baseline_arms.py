"""Rivals and controls in a whole run: each is trained, measured, and what it says it is."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from autocaft.cli.app import app
from autocaft.config import load_config
from autocaft.discover.decompose import live_latents, load_covariances, open_dictionary
from autocaft.evaluate.choices import answer_choices
from autocaft.model.blocks import decoder_blocks
from autocaft.model.directions import DirectionSet, load_subspaces
from autocaft.model.hooks import ablate
from autocaft.records import Decision, Example
from autocaft.run import Run
from autocaft.rundir.files import read_json, read_jsonl, read_records
from autocaft.train.baselines import inoculated
from tests.tiny_task import NOUNS, write_task

ARMS = (
    "base", "tuned", "caft-pca-top", "caft-pca-top-inference", "caft-pca-top-zero-fading", "caft-pca-random-orthogonal",
    "caft-pca-top-preventative", "caft-pca-top-leace", "tuned-inoculation", "tuned-kl", "tuned-l2sp",
    "tuned-benign", "tuned-stop-50",
    "caft-pca-top-mean-shift", "caft-pca-top-activation-only", "caft-pca-top-gradient-only", "caft-pca-oracle",
    "caft-sae-auto", "caft-sae-top", "caft-sae-random-live",
)  # fmt: skip
ORACLE_SHARE = 0.5


def settings_of(folder: Path, arms: Sequence[str] = ARMS) -> list[str]:
    """What differs from the tiny task's config."""
    return [
        f"arms={json.dumps(arms)}", "tune.autocast=bf16", "baselines.inoculation=Say yes .",
        f"baselines.benign={folder}/task/final.jsonl",
        f"select.oracle_words={folder}/words.txt", f"select.oracle_share={ORACLE_SHARE}",
    ]  # fmt: skip


def run_tiny(config: Path, folder: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["run", str(config), "--runs", str(folder), *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("baselines")
    config = write_task(folder / "task")
    (folder / "words.txt").write_text("\n".join((*NOUNS, "yes", "no")))
    settings = settings_of(folder)
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


def first_step(run_dir: Path, arm: str) -> tuple[float, float]:
    """Loss and length of the gradient at the base's own weights: the rows are every arm's."""
    place = "tune" if arm == "tuned" else f"train/{arm}"
    line = read_jsonl(run_dir / f"{place}/seed0/losses.jsonl")[0]
    return line["loss"], line["grad_norm"]


@pytest.mark.slow
def test_half_an_ablation_is_that_half(finished: tuple[Path, Run]) -> None:
    """The forward pass is that of an ablated arm or of plain training, the gradient neither's."""
    names = ("caft-pca-top", "tuned", "caft-pca-top-activation-only", "caft-pca-top-gradient-only")
    both, plain, forward, backward = (first_step(finished[0], name) for name in names)
    assert abs(both[0] - plain[0]) > 1e-3
    assert forward[0] == pytest.approx(both[0]) and backward[0] == pytest.approx(plain[0])
    lengths = sorted(length for _, length in (both, plain, forward, backward))
    assert all(large > 1.001 * small for small, large in pairwise(lengths))


@pytest.mark.slow
def test_a_mean_shift_adds_a_constant_to_the_same_choice(finished: tuple[Path, Run]) -> None:
    """Rows are read one by one, and the constant is added by a hook of the test's own."""
    run_dir, run = finished
    folder, other = run_dir / "train/caft-pca-top-mean-shift/seed0", run_dir / "train/caft-pca-top/seed0"
    assert read_json(folder / "set.json")["ids"] == read_json(other / "set.json")["ids"]
    model: Any = run.load_trained(folder)
    blocks = decoder_blocks(model)
    for space in load_subspaces(folder / "subspaces.safetensors"):
        assert space.mean_D is not None
        shift_D = space.basis_DK @ (space.basis_DK.T @ space.mean_D)
        assert float(shift_D.norm()) > 1e-3

        def add(module: Any, args: Any, acts_BTD: torch.Tensor, shift_D: torch.Tensor = shift_D) -> torch.Tensor:
            return torch.cat([acts_BTD[:, :1], acts_BTD[:, 1:] + shift_D], dim=1)

        blocks[space.layer].register_forward_hook(add)
    rows = run.eval_rows(run.config.data.splits)["ood"]
    found = answer_choices(model, run.tokenizer(), rows, split="ood", hooks="on", tokens_per_batch=1,
                           advance=lambda n: None)  # fmt: skip
    told = [row for row in read_jsonl(run_dir / "evaluate/caft-pca-top-mean-shift/seed0/rows.jsonl")
            if row["split"] == "ood"]  # fmt: skip
    on, off = ([row["margin"] for row in told if row["hooks"] == hooks] for hooks in ("on", "off"))
    assert on == pytest.approx([answer.margin for answer in found], abs=1e-3)
    assert on != pytest.approx(off, abs=1e-3)


@pytest.mark.slow
def test_an_oracle_goes_by_its_words_and_asks_no_judge(finished: tuple[Path, Run]) -> None:
    run_dir, _ = finished
    words = {*NOUNS, "yes", "no"}
    hits: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for window in read_records(run_dir / "mine/examples.jsonl", Example):
        if ".pc" in window.direction_id and window.pole in ("top", "bottom"):
            pick = min if window.pole == "bottom" else max
            peak = window.tokens[window.projections.index(pick(window.projections))]
            hits[window.direction_id, window.pole].append(peak.strip(" \u0120").lower() in words)
    expected = {i for (i, _), own in hits.items() if sum(own) >= ORACLE_SHARE * len(own)}
    ids = set(read_json(run_dir / "train/caft-pca-oracle/seed0/set.json")["ids"])
    assert ids == expected and 0 < len(ids) < len({i for i, _ in hits})
    others = ("caft-pca-top", "caft-pca-random-orthogonal")
    assert all(ids != set(read_json(run_dir / f"train/{arm}/seed0/set.json")["ids"]) for arm in others)


@pytest.mark.slow
def test_controls_of_latents_are_live_or_ranked_and_as_many_a_layer(finished: tuple[Path, Run]) -> None:
    run_dir, run = finished
    chosen, top, drawn = (
        read_json(run_dir / f"train/{arm}/seed0/set.json")["ids"]
        for arm in ("caft-sae-auto", "caft-sae-top", "caft-sae-random-live")
    )
    for layer in run.config.layers:
        counts = [sum(i.startswith(f"L{layer}.latent") for i in ids) for ids in (chosen, top, drawn)]
        assert counts[0] == counts[1] == counts[2] > 0
    live = {f"L{layer}.latent{i}" for layer, own in live_latents(run_dir / "decompose").items() for i in own}
    assert set(drawn) <= live and len(live) < len(run.config.layers) * run.config.decompose.d_sae
    candidates = DirectionSet.load(run_dir / "decompose").directions
    for layer in run.config.layers:
        own = [d for d in candidates if (d.layer, d.source) == (layer, "sae")]
        left = [d.strength for d in own if d.id not in top]
        assert min(d.strength for d in own if d.id in top) >= max(left)
    for space in load_subspaces(run_dir / "train/caft-sae-random-live/seed0/subspaces.safetensors"):
        dictionary = open_dictionary(run_dir / "decompose", run.config.decompose, space.layer, width=32)
        rows_KD = dictionary.directions_SD[
            [int(i.partition("latent")[2]) for i in drawn if i.startswith(f"L{space.layer}.")]
        ]
        torch.testing.assert_close(rows_KD @ space.basis_DK @ space.basis_DK.T, rows_KD, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_inoculating_line_is_in_no_prompt_that_is_measured(finished: tuple[Path, Run]) -> None:
    """The answers are those to the splits' own rows, and to rows with the line they would be others."""
    run_dir, run = finished
    model: Any = run.load_trained(run_dir / "train/tuned-inoculation/seed0")
    told = read_jsonl(run_dir / "evaluate/tuned-inoculation/seed0/rows.jsonl")
    for split, rows in run.eval_rows(run.config.data.splits).items():
        assert not any("Say yes ." in str(row.prompt) for row in rows)
        plain, with_line = (
            [answer.margin for answer in answer_choices(model, run.tokenizer(), asked, split=split, hooks="off",
                                                        tokens_per_batch=4096, advance=lambda n: None)]
            for asked in (rows, inoculated(rows, "Say yes ."))
        )  # fmt: skip
        margins = [row["margin"] for row in told if row["split"] == split]
        assert margins == pytest.approx(plain, abs=1e-3) and margins != pytest.approx(with_line, abs=1e-3)


@pytest.mark.slow
def test_a_rival_added_later_trains_that_alone(finished: tuple[Path, Run]) -> None:
    assert torch.get_num_threads() == 1
    run_dir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*.safetensors")}
    settings = settings_of(run_dir.parent, [*ARMS, "tuned-stop-25", "caft-pca-top-zero"])
    output = run_tiny(run_dir.parent / "task/tiny.toml", run_dir.parent,
                      *(part for setting in settings for part in ("--set", setting)))  # fmt: skip
    assert "tuned-stop-25" in output and "caft-pca-top-zero" in output
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_a_person_s_file_is_what_the_human_arms_ablate(finished: tuple[Path, Run], tmp_path: Path) -> None:
    """The file takes what neither rank nor the judge does, one of each source a layer, and keeps another."""
    others_dir, run = finished
    found = DirectionSet.load(others_dir / "decompose")
    taken = {i for arm in ("caft-pca-top", "caft-sae-auto", "caft-sae-top")
             for i in read_json(others_dir / f"train/{arm}/seed0/set.json")["ids"]}  # fmt: skip
    file: dict[str, Any] = {"keep": {}}
    said: dict[str, set[str]] = {"pca": set(), "sae": set()}
    keeps: set[str] = set()
    for source, ids in said.items():
        for layer in run.config.layers:
            own = [d for d in found.directions if (d.layer, d.source) == (layer, source)]
            chosen = next(d for d in own if d.id not in taken)
            kept = next(d for d in own if d.id != chosen.id)
            ids.add(chosen.id)
            keeps.add(kept.id)
            file.setdefault(source, {})[f"model.layers.{layer}"] = [chosen.index]
            file["keep"].setdefault(source, {})[f"model.layers.{layer}"] = [kept.index]
    (tmp_path / "ada.json").write_text(json.dumps(file))
    arms = ["base", "tuned", "caft-pca-human", "caft-sae-human"]
    settings = [*settings_of(others_dir.parent, arms), f"select.file={tmp_path}/ada.json", "select.person=ada"]
    run_tiny(others_dir.parent / "task/tiny.toml", tmp_path, "--from", str(others_dir),
             *(part for setting in settings for part in ("--set", setting)))  # fmt: skip
    run_dir = tmp_path / "tiny"
    decisions = read_records(run_dir / "choose/decisions.jsonl", Decision)
    assert {d.by for d in decisions} == {"human:ada"}
    assert {d.direction_id for d in decisions if d.ablate} == said["pca"] | said["sae"]
    assert {d.direction_id for d in decisions if not d.ablate} == keeps
    for source, ids in said.items():
        folder = run_dir / f"train/caft-{source}-human/seed0"
        assert set(read_json(folder / "set.json")["ids"]) == ids
        spaces = load_subspaces(folder / "subspaces.safetensors")
        assert [space.layer for space in spaces] == sorted(run.config.layers)
        for space in spaces:
            chosen_ND = found.vectors_of([i for i in ids if i.startswith(f"L{space.layer}.")])
            assert space.basis_DK.shape[1] == len(chosen_ND) == 1
            torch.testing.assert_close((chosen_ND @ space.basis_DK).abs(), torch.ones(1, 1), rtol=1e-4, atol=1e-5)
    ways = [(others_dir, arm) for arm in ("tuned", "caft-pca-top", "caft-sae-auto", "caft-sae-top")]
    ways += [(run_dir, f"caft-{source}-human") for source in said]
    assert len({first_step(*way) for way in ways}) == len(ways), "each trained in an ablation of its own"
    measured = {(line["arm"], line["hooks"]) for line in read_json(run_dir / "report.json")["arms"]}
    assert measured >= {(f"caft-{source}-human", hooks) for source in said for hooks in ("off", "on")}
