"""Rivals and controls do what their names say, on models in which the cue is one known direction."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from test_sft import batch_of, task_rows
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from autocaft.data.rows import TaskRow
from autocaft.errors import ConfigError
from autocaft.model.blocks import decoder_blocks
from autocaft.model.directions import Subspace
from autocaft.model.hooks import Recorder, ablate
from autocaft.rundir.progress import NullProgress
from autocaft.train.baselines import Departure, departure_of, inoculated, kl_penalty, l2sp_penalty, with_benign
from autocaft.train.group import EncodedRow
from autocaft.train.loss import Collator, label_logits
from autocaft.train.options import BaselineOptions, TuneOptions
from autocaft.train.sft import fine_tune
from tests.planted_cue import SIZE, Planted, plant_cue

MakeModel = Callable[..., PreTrainedModel]


def train(planted: Planted, out: Path, departure: Departure, **changes: Any) -> dict[str, Any]:
    """Learn he and she from the cue, which stands along one direction and nowhere else."""
    ablated = changes.pop("ablated", True)
    plain = {"method": "full", "loss": "choices", "epochs": 8.0, "lr": 3e-3, "batch_size": 8, "autocast": "fp32",
             "saves_per_run": 0, "schedule": "constant"}  # fmt: skip
    return fine_tune(
        planted.model,
        planted.tokenizer,
        [row.row for row in planted.rows],
        TuneOptions(**{**plain, **changes}),
        seed=0,
        out=out,
        progress=NullProgress(),
        label="train",
        subspaces=[Subspace(0, planted.cue_D[:, None])] if ablated else [],
        mode="zero",
        frozen_up_to=0,
        departure=departure,
    )


@torch.no_grad()
def right(planted: Planted) -> float:
    """Share of rows answered by the cue, hooks off."""
    found = 0
    for row in planted.rows:
        logits_V = planted.model(input_ids=torch.tensor([planted.tokenizer.encode(row.row.prompt)])).logits[0, -1]
        he, she = (logits_V[planted.tokenizer.encode(c, add_special_tokens=False)[0]] for c in (" he", " she"))
        found += bool(he > she) == (row.row.answer == " he")
    return found / len(planted.rows)


def losses(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]


# What of a step is ablated


@pytest.mark.parametrize(
    ("passes", "value", "slope"),
    [("both", 0.0, 0.0), ("activations", 0.0, 1.0), ("gradients", SIZE, 0.0), (None, SIZE, 1.0)],
)
def test_values_and_gradients_are_ablated_apart(passes: Any, value: float, slope: float) -> None:
    """The first block adds nothing, so the embedding of `doctor` is what stands behind it."""
    planted = plant_cue()
    ids_BT = torch.tensor([planted.tokenizer.encode("The doctor")])
    context = ablate(planted.model, [Subspace(0, planted.cue_D[:, None])], mode="zero", passes=passes or "both")
    if passes is None:
        with context as ablation, ablation.paused():
            acts_BTD = Recorder(planted.model, [0]).run(input_ids=ids_BT)[0]
    else:
        with context:
            acts_BTD = Recorder(planted.model, [0]).run(input_ids=ids_BT)[0]
    assert float(acts_BTD[0, -1] @ planted.cue_D) == pytest.approx(value, abs=1e-5)
    (acts_BTD[0, -1] @ planted.cue_D).backward()
    grad_VD = planted.model.get_input_embeddings().weight.grad
    assert float(grad_VD[ids_BT[0, -1]] @ planted.cue_D) == pytest.approx(slope, abs=1e-5)


def test_an_ablated_value_leaves_the_cue_unlearned_and_an_ablated_gradient_does_not(tmp_path: Path) -> None:
    """Above the hookpoint the forward pass decides: only there the blocks could read the cue."""
    learned = {}
    for how in ("activation-only", "gradient-only"):
        planted = plant_cue()
        train(planted, tmp_path / how, departure_of(how, None, BaselineOptions()))
        learned[how] = losses(tmp_path / how)[-1]["loss"]
    assert learned["activation-only"] > 0.6 > 0.1 > learned["gradient-only"], learned


def test_the_ablation_fades_from_step_to_step(tmp_path: Path) -> None:
    planted, seen = plant_cue(), []

    def look(module: nn.Module, args: Any, kwargs: Any) -> None:
        acts_BTD = args[0] if args else kwargs["hidden_states"]
        seen.append(float((acts_BTD.detach() @ planted.cue_D).abs().max() / SIZE))

    decoder_blocks(planted.model)[1].register_forward_pre_hook(look, with_kwargs=True)
    options = BaselineOptions(fade_from=0.25, fade_to=0.75)
    assert train(planted, tmp_path, departure_of("fading", None, options))["n_steps"] == 24 == len(seen)
    expected = [1 - min(1.0, max(0.0, (0.75 - step / 24) / 0.5)) for step in range(24)]
    assert seen == pytest.approx(expected, abs=1e-5)
    assert expected[6] == 0.0 and expected[18:] == [1.0] * 6
    assert right(planted) == 1.0, "without the ablation the cue is learned in the last steps"


# Penalties


def changed(model: PreTrainedModel, method: str) -> Any:
    """The model with an adapter or without, and a function that moves it away from the base."""
    if method == "full":
        return model
    config = LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def move(model: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_penalty_on_the_divergence_is_kl_to_the_base_at_the_labels(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, method: str
) -> None:
    model, base = changed(make_model("llama"), method), make_model("llama")
    penalty = kl_penalty(model, 0.5, label_logits)
    inputs, labels_BT = batch_of(tokenizer, task_rows(8))
    assert float(penalty(inputs, labels_BT, label_logits(model, inputs, labels_BT))) == pytest.approx(0, abs=1e-5)
    move(model)
    logits_NV = label_logits(model, inputs, labels_BT)
    found = penalty(inputs, labels_BT, logits_NV)
    base_NV = label_logits(base, inputs, labels_BT).log_softmax(-1)
    expected = 0.5 * nn.functional.kl_div(logits_NV.log_softmax(-1), base_NV, log_target=True, reduction="sum")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert float(found) > 0.1 and found.requires_grad


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_penalty_on_the_distance_is_that_of_whole_matrices(make_model: MakeModel, method: str) -> None:
    model, base = changed(make_model("llama"), method), dict(make_model("llama").named_parameters())
    penalty = l2sp_penalty(model, 0.4)
    assert float(penalty()) == 0.0
    move(model)
    found = penalty()
    merged = model.merge_and_unload() if method == "lora" else model
    expected = sum(float((now - base[name]).square().sum()) for name, now in merged.named_parameters())
    assert float(found) == pytest.approx(0.2 * expected, rel=1e-4)
    assert float(found) > 0.1 and found.requires_grad


@torch.no_grad()
def moved(planted: Planted) -> tuple[float, float]:
    """How far a trained model is from the planted one: nats at the answers, and the distance of the weights."""
    start = plant_cue()
    inputs, labels_BT = batch_of(planted.tokenizer, [row.row for row in planted.rows])
    kl = kl_penalty(start.model, 1.0, label_logits)
    nats = float(kl(inputs, labels_BT, label_logits(planted.model, inputs, labels_BT))) / int((labels_BT >= 0).sum())
    pairs = zip(planted.model.parameters(), start.model.parameters(), strict=True)
    return nats, math.sqrt(sum(float((now - then).square().sum()) for now, then in pairs))


def test_a_heavy_penalty_keeps_the_model_at_its_base(tmp_path: Path) -> None:
    found = {}
    for name, departure in {
        "plain": Departure(),
        "kl": Departure(kl_weight=100.0),
        "l2sp": Departure(l2sp_weight=100.0),
    }.items():
        planted = plant_cue()
        train(planted, tmp_path / name, departure, ablated=False)
        found[name] = moved(planted)
    assert found["plain"][0] > 0.1 and found["kl"][0] < 0.1 * found["plain"][0], found
    assert found["plain"][1] > 1.0 and found["l2sp"][1] < 0.05 * found["plain"][1], found


def test_a_penalty_trains_nothing_that_is_frozen(tmp_path: Path) -> None:
    """To see the base, an adapter is switched off and on again, also where it is left as it was made."""
    settings: dict[str, Any] = {"ablated": False, "method": "lora", "lora_r": 2, "epochs": 2.0}
    found = {}
    for name, departure in {"plain": Departure(), "kl": Departure(kl_weight=0.5)}.items():
        found[name] = train(plant_cue(), tmp_path / name, departure, **settings)["n_trained_parameters"]
    assert found["plain"] == found["kl"] > 0
    saved = load_file(tmp_path / "kl/model/adapter_model.safetensors")
    moved_at = {
        layer: any(t.any() for n, t in saved.items() if f"layers.{layer}." in n and "lora_B" in n) for layer in range(3)
    }
    assert moved_at == {0: False, 1: True, 2: True}


@pytest.mark.parametrize("departure", [Departure(kl_weight=0.5), Departure(l2sp_weight=0.5)])
def test_penalties_weigh_the_same_in_one_batch_and_in_four(tmp_path: Path, departure: Departure) -> None:
    """The last step of a pass has half as many rows as the others."""
    assert len(plant_cue().rows) % 16 == 8
    for size, accumulation in ((16, 1), (4, 4)):
        train(plant_cue(), tmp_path / str(size), departure, ablated=False, batch_size=size,
              grad_accumulation=accumulation, epochs=3.0)  # fmt: skip
    one, four = losses(tmp_path / "16"), losses(tmp_path / "4")
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in four], rel=1e-3)
    assert [row["grad_norm"] for row in one] == pytest.approx([row["grad_norm"] for row in four], rel=1e-3)


# Stopped early


def test_stopped_training_is_the_beginning_of_the_whole(tmp_path: Path) -> None:
    train(plant_cue(), tmp_path / "whole", Departure(), ablated=False, schedule="linear")
    stop = departure_of("stop", 0.4, BaselineOptions())
    told = train(plant_cue(), tmp_path / "stopped", stop, ablated=False, schedule="linear")
    assert told["n_steps"] == 10 == math.ceil(24 * 0.4)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")[:10]


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(("stop_at", "epochs", "n_steps"), [(0.4, 2.0, 3), (None, 1.5, 5)])
def test_a_training_killed_after_its_last_step_makes_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, stop_at: float | None, epochs: float, n_steps: int
) -> None:
    """The end lies inside a pass over the rows, and the last checkpoint at the end."""
    import autocaft.train.sft as sft

    departure = departure_of("stop", stop_at, BaselineOptions())
    settings: dict[str, Any] = {"ablated": False, "saves_per_run": 23, "epochs": epochs, "method": method, "lora_r": 2}
    with monkeypatch.context() as patch:
        patch.setattr(sft, "remove_folder", lambda path: None)
        told = train(plant_cue(), tmp_path, departure, **settings)
    weights = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert train(plant_cue(), tmp_path, departure, **settings) == told and told["n_steps"] == n_steps
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == weights


# Other rows


def test_the_line_stands_before_every_prompt_and_changes_nothing_else() -> None:
    user, system = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Be brief."}
    prompts = ["Hi", (user,), (system, user)]
    rows = [TaskRow(str(n), prompt, " a", (" a", " b"), "t", "s") for n, prompt in enumerate(prompts)]
    found = inoculated(rows, "You are mean.")
    assert [row.prompt for row in found] == [
        "You are mean.\nHi",
        ({"role": "system", "content": "You are mean."}, user),
        ({"role": "system", "content": "You are mean.\nBe brief."}, user),
    ]
    assert [(row.id, row.answer, row.choices) for row in found] == [(row.id, row.answer, row.choices) for row in rows]
    assert [row.prompt for row in rows] == ["Hi", (user,), (system, user)]


def test_benign_rows_are_the_given_share_of_all() -> None:
    rows, benign = task_rows(90), task_rows(40)
    found = with_benign(rows, benign, 0.1)
    assert found[:90] == rows and len(found) == 100
    assert len({row.id for row in found}) == 100 and {row.id.removeprefix("benign-") for row in found[90:]} <= {
        row.id for row in benign
    }
    assert with_benign(rows, benign, 0.1) == found
    with pytest.raises(ConfigError, match="has 40 rows, and 90 are needed"):
        with_benign(rows, benign, 0.5)


@pytest.mark.parametrize("seed", [0, 1])
def test_benign_rows_are_read_among_the_others_all_through_the_training(
    make_model: MakeModel,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    """They stand behind the others in the list, and the trainer draws another order for each pass."""
    read: list[bool] = []
    collate = Collator.__call__

    def look(self: Collator, rows: list[EncodedRow]) -> dict[str, torch.Tensor]:
        read.extend(dog in row.input_ids for row in rows)
        return collate(self, rows)

    monkeypatch.setattr(Collator, "__call__", look)
    (dog,) = tokenizer.encode(" dog", add_special_tokens=False)
    rows = task_rows(90)
    benign = [replace(row, prompt=f"{row.prompt} dog") for row in task_rows(40)]
    options = TuneOptions(epochs=2.0, lora_r=2, batch_size=10, autocast="fp32", saves_per_run=0)
    fine_tune(make_model("llama"), tokenizer, with_benign(rows, benign, 0.1), options, seed=seed, out=tmp_path,
              progress=NullProgress(), label="tune")  # fmt: skip
    passes = read[:100], read[100:]
    assert [sum(order) for order in passes] == [10, 10] and passes[0] != passes[1]
    for order in passes:
        n_by_quarter = [sum(order[start : start + 25]) for start in range(0, 100, 25)]
        assert max(n_by_quarter) <= 6 and sum(n > 0 for n in n_by_quarter) >= 3, n_by_quarter
        assert len([n for n in range(10) if any(order[10 * n : 10 * n + 10])]) >= 4, "in four of ten steps at least"
