"""Base weights in four and eight bits, by the real library: ablation works on them, and they are named."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from autocaft.config import RunConfig
from autocaft.errors import ModelError
from autocaft.model.blocks import decoder_blocks
from autocaft.model.hooks import Recorder, ablate
from autocaft.model.load import load_model, load_trained, weights_in_bf16
from autocaft.model.locate import Weights, check_quantization, locate
from autocaft.rundir.progress import NullProgress
from autocaft.train.sft import fine_tune
from tests.planted_rule import accuracy, plant_rule, rule_options, rule_rows


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="the extra `quantized` is not installed")
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_an_adapter_on_quantized_weights_learns_the_rule_without_the_ablated_cue(kind: Any, tmp_path: Path) -> None:
    planted = plant_rule(width=64 if kind == "nf4" else 32)  # four bits come in blocks of 64
    planted.model.save_pretrained(tmp_path / "base")
    weights = locate(str(tmp_path / "base")).quantized(kind)
    model: Any = load_model(weights)
    assert type(decoder_blocks(model)[1].mlp.up_proj).__module__.startswith("bitsandbytes")
    assert not decoder_blocks(model)[1].mlp.up_proj.weight.is_floating_point()
    told = fine_tune(
        model, planted.tokenizer, rule_rows(cue_holds=True), rule_options(gradient_checkpointing=True), seed=0,
        out=tmp_path / "step", progress=NullProgress(), label="train", subspaces=planted.subspaces(), frozen_up_to=0,
    )  # fmt: skip
    assert told["final_loss"] < 0.01
    trained: Any = load_trained(weights, tmp_path / "step" / "model")
    assert [accuracy(trained, planted.tokenizer, cue_holds=holds) for holds in (True, False)] == [1.0, 1.0]
    row_BT = torch.tensor([planted.tokenizer.encode("The red cat doctor")])
    with ablate(trained, planted.subspaces()):
        acts_BTD = Recorder(trained, [0]).run(input_ids=row_BT)[0]
    off_BT = (acts_BTD[:, 1:] - planted.subspaces()[0].mean_D) @ planted.cue_D
    assert float(off_BT.detach().abs().max() / acts_BTD.detach().abs().max()) <= 1e-5
    before = trained(row_BT).logits
    with weights_in_bf16(trained):
        assert torch.isfinite(trained(row_BT).logits).all()
    assert torch.equal(trained(row_BT).logits, before), "bit for bit"


def test_quantized_weights_are_other_weights_and_are_named() -> None:
    plain = Weights("model", Path("model"), "as published", "hash")
    assert len({weights.identity for weights in (plain, plain.quantized("nf4"), plain.quantized("int8"))}) == 3
    assert plain.quantized("nf4").provenance == "as published, then quantized to nf4 (bitsandbytes)"


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Weights("model", Path("model"), "as published", "hash")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_quantization(found)
    with pytest.raises(ModelError, match=r"quantization = 'nf4' needs bitsandbytes.*autocaft\[quantized\]"):
        check_quantization(found.quantized("nf4"))


@pytest.mark.parametrize(
    ("tune", "said"), [({"method": "full"}, "lora"), ({"processes": 2, "sharding": "fsdp"}, "not sharded")]
)
def test_what_cannot_be_trained_is_refused(tune: dict[str, Any], said: str) -> None:
    judge = {"undesired": "this", "wanted": "that"}
    values = {"model": "m", "layers": [1], "data": {"task": "t", "train": "t.jsonl"}, "judge": judge}
    with pytest.raises(ValueError, match=said):
        RunConfig.model_validate({**values, "quantization": "nf4", "tune": tune})
