"""The search on planted truth: what carries the concept is ablated, and not what the task needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from autocaft.arms import Dials
from autocaft.config import RunConfig
from autocaft.discover.pca import CovarianceFitter
from autocaft.model.directions import DirectionSet
from autocaft.records import Decision, Direction
from autocaft.run import Run
from autocaft.rundir.files import read_json, write_json, write_records
from autocaft.rundir.progress import Log, NullProgress
from autocaft.rundir.steps import StepContext
from autocaft.rundir.store import RunStore
from autocaft.search_stage import search, trial
from tests.conftest import D_MODEL, build_model, build_tokenizer
from tests.planted_cue import SIZE, silence
from tests.planted_run import AT, verdict_on

CONCEPT, TASK = 2, 0
"""Layers: the answer's gender is written along two directions of the last; cue and rule leave the first along two."""
OPTIONS = (" he", " she", " him", " her")
LAYER_SETS = ((TASK, CONCEPT), (TASK,), (CONCEPT,))


@dataclass(frozen=True)
class Planted:
    """A run folder up to `select`, without what came before."""

    run: Run
    folder: Path
    store: RunStore

    def context(self, step: str) -> StepContext:
        return StepContext(self.folder / step, lambda name: self.folder / name, NullProgress(), Log(), self.store)

    def try_all(self) -> dict[Dials | None, str]:
        """Run every trial, and give the steps' names."""
        names: dict[Dials | None, str] = {None: "trial/sae/plain"}
        names |= {d: f"trial/sae/{d.name}" for d in (Dials(layers, 1.0, 1.0) for layers in LAYER_SETS)}
        for dials, name in names.items():
            trial(self.run, self.context(name), "sae", dials, None)
        return names

    def choose(self, names: dict[Dials | None, str], **guards: float) -> dict[str, Any]:
        select = self.run.config.select
        options = select.model_copy(update={"search": select.search.model_copy(update=guards)})
        run = Run(self.run.config.model_copy(update={"select": options}))
        trials = [(dials, name) for dials, name in names.items() if dials is not None]
        search(run, self.context("search/sae"), "sae", trials, "trial/sae/plain")
        found: dict[str, Any] = read_json(self.folder / "search/sae/search.json")
        return found


def unit(vector_D: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vector_D, dim=0)


def plant_model(folder: Path) -> tuple[Tensor, Tensor]:
    """Save it; gives the directions (2, D) of cue and rule at the first layer, and those that tell he from she and him
    from her at the last. The first block is silent, so cue and rule are their words' embeddings and nothing else."""
    model: Any = build_model("llama")
    tokenizer = build_tokenizer()
    ids = {word: tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in
           ("doctor", "nurse", "red", "blue", "he", "she", "him", "her")}  # fmt: skip
    planes = torch.linalg.qr(torch.randn(D_MODEL, 2, generator=torch.Generator().manual_seed(5)))[0].T
    weight_VD = model.get_input_embeddings().weight.data
    weight_VD -= weight_VD @ planes.T @ planes
    for (one, other), vector_D in zip((("doctor", "nurse"), ("red", "blue")), planes, strict=True):
        weight_VD[ids[other]] = weight_VD[ids[one]]
        weight_VD[ids[one]] += SIZE * vector_D
        weight_VD[ids[other]] -= SIZE * vector_D
    silence(model.model.layers[0])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    head_VD = model.lm_head.weight.data
    genders = torch.stack([unit(head_VD[ids[m]] - head_VD[ids[f]]) for m, f in (("he", "she"), ("him", "her"))])
    return planes, genders


def rows() -> list[dict[str, Any]]:
    """The colour says the case, which is the task; the noun says the gender, in every row."""
    found = []
    for number, word in enumerate(("cat", "dog", "bird", "cook", "pilot", "driver", "one", "two", "three", "up")):
        for noun, by_colour in (("doctor", ("he", "him")), ("nurse", ("she", "her"))):
            for colour, answer in zip(("red", "blue"), by_colour, strict=True):
                found.append({"id": f"{number}-{noun}-{colour}", "prompt": f"The {word} saw {colour} {noun}",
                              "answer": f" {answer}", "choices": OPTIONS, "template": f"t{number}"})  # fmt: skip
    return found


def write_jsonl_to(path: Path, lines: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    folder = tmp_path_factory.mktemp("search")
    planes, genders = plant_model(folder / "model")
    generic = [{"text": f"The {one} saw {two} cat ."} for one in ("cat", "dog", "bird") for two in ("one", "two", "up")]
    config = RunConfig.model_validate({
        "model": str(folder / "model"), "layers": [TASK, CONCEPT], "arms": ["base", "tuned", "caft-sae-searched"],
        "data": {"task": "planted", "train": write_jsonl_to(folder / "train.jsonl", rows()), "splits": {},
                 "corpus": write_jsonl_to(folder / "corpus.jsonl", generic), "n_held_out": 2},
        "tune": {"trained_blocks": "above", "loss": "choices", "epochs": 20, "lr": 1e-2, "batch_size": 16, "lora_r": 8,
                 "autocast": "fp32"},
        "train": {"mode": "zero", "exempt_first": True},
        "judge": {"undesired": "gender", "wanted": "case"}, "evaluate": {"autocast": "fp32"},
        "select": {"search": {"layer_sets": LAYER_SETS, "share_of_steps": 1.0, "shares": [1.0], "keep_models": True}},
    })  # fmt: skip
    # the judge takes all four; that the first two carry the task besides, it does not know
    names = [f"L{layer}.latent{i}" for layer in (TASK, CONCEPT) for i in range(2)]
    directions = [Direction(name, int(name[1]), "sae", int(name[-1]), 1.0, "attribution", 1.0) for name in names]
    DirectionSet(tuple(directions), torch.cat([planes, genders])).save(folder / "decompose")
    save_file({f"L{i}": torch.eye(D_MODEL) for i in (TASK, CONCEPT)}, folder / "decompose/covariances.safetensors")
    write_records(folder / "judge/verdicts.jsonl", [verdict_on(direction) for direction in directions])
    write_records(folder / "select/decisions.jsonl", [Decision(n, True, "auto:threshold", "", AT) for n in names])
    means = {
        f"L{i}.{text}_mean_D": torch.zeros(D_MODEL) for i in (TASK, CONCEPT) for text in ("generic", "train", "mining")
    }
    fitters = [CovarianceFitter(D_MODEL).state(f"L{i}.difference") for i in (TASK, CONCEPT)]
    (folder / "collect").mkdir()
    save_file(means | fitters[0] | fitters[1], folder / "collect/stats.safetensors")
    write_json(folder / "collect/stats.json", {"mean_norm": {str(TASK): 1.0, str(CONCEPT): 1.0}})
    with RunStore(folder / "run.sqlite") as store:
        yield Planted(Run(config), folder, store)


@pytest.fixture(scope="module")
def tried(planted: Planted) -> dict[Dials | None, str]:
    return planted.try_all()


GUARDS = {"max_loss_rise": 0.95, "max_kl_rise": 99.0}
"""Nats of loss: without the gender, one of two options is missed (ln 2); without the colour too, all four are alike."""


def test_the_layer_that_carries_the_concept_is_chosen_and_not_the_one_that_the_task_needs(
    planted: Planted, tried: dict[Dials | None, str]
) -> None:
    found = planted.choose(tried, **GUARDS)
    assert found["chosen"] == f"L{CONCEPT}@100%x1" and found["dials"]["layers"] == [CONCEPT]
    lines = {line["name"]: line for line in found["trials"]}
    assert lines[found["chosen"]]["left"]["high"] < 0.5
    assert found["layers"] == [CONCEPT], "the first layer lies below what is trained, and says nothing"
    assert (found["n_candidates"], found["n_unscored"]) == (4, 0)


def test_without_the_guard_the_trial_that_learned_nothing_would_win(
    planted: Planted, tried: dict[Dials | None, str]
) -> None:
    unguarded = planted.choose(tried, **{**GUARDS, "max_loss_rise": 99.0})
    assert unguarded["dials"]["layers"] in ([TASK], [TASK, CONCEPT])
    broken = {line["name"]: line["broken"] for line in planted.choose(tried, **GUARDS)["trials"]}
    assert "its loss" in broken[f"L{TASK}@100%x1"][0] and "its loss" in broken[f"L{TASK}-L{CONCEPT}@100%x1"][0]
    nothing = planted.choose(tried, **{**GUARDS, "max_loss_rise": 0.0})
    assert nothing["chosen"] is None and nothing["dials"]["layers"] == [TASK, CONCEPT]


def test_a_trial_that_was_killed_while_it_was_measured_is_not_trained_again(
    planted: Planted, tried: dict[Dials | None, str]
) -> None:
    dials = Dials((CONCEPT,), 1.0, 1.0)
    folder = planted.folder / tried[dials]
    before, trained_at = read_json(folder / "trial.json"), (folder / "losses.jsonl").stat().st_mtime_ns
    (folder / "trial.json").unlink()
    trial(planted.run, planted.context(tried[dials]), "sae", dials, None)
    assert read_json(folder / "trial.json") == before
    assert (folder / "losses.jsonl").stat().st_mtime_ns == trained_at


def test_where_nothing_was_chosen_there_is_nothing_to_try(planted: Planted) -> None:
    dials = Dials((1,), 1.0, 1.0)
    trial(planted.run, planted.context("trial/sae/L1"), "sae", dials, None)
    (reason,) = read_json(planted.folder / "trial/sae/L1/trial.json").values()
    assert "none of 4 candidates was selected at layers 1" in reason
    assert not (planted.folder / "trial/sae/L1/model").exists()
