"""The evaluate stage: every arm with its hooks off, ablated arms with them on as well if asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from autocaft.data.corpus import Document
from autocaft.data.rows import TaskRow
from autocaft.evaluate.evaluate import evaluate_arm
from autocaft.evaluate.options import EvaluateOptions
from autocaft.model.directions import Subspace, orthonormal_basis
from autocaft.model.hooks import ablate
from autocaft.model.load import as_base
from autocaft.records import Metric
from autocaft.rundir.files import read_jsonl, read_records
from autocaft.rundir.progress import NullProgress

MakeModel = Callable[..., PreTrainedModel]


def rows() -> list[TaskRow]:
    return [TaskRow(str(n), f"The {w} said that", " he", (" he", " she"), f"t{n % 2}", "")
            for n, w in enumerate(["doctor", "nurse", "pilot", "cook"])]  # fmt: skip


@pytest.fixture
def measure(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Callable[..., list[Metric]]:
    def run(model: Any, *, base: Any = None, ablated: Any = None, used: Any = "off", **changes: Any) -> list[Metric]:
        from contextlib import nullcontext

        options = EvaluateOptions(**{"autocast": "fp32", "n_bootstrap": 100, **changes})
        texts = [Document(str(n), "generic", None, "The cat" + " is" * (n + 1)) for n in range(3)]
        return evaluate_arm(model, base or (lambda: nullcontext(model)), tokenizer, {"id": rows(), "ood": rows()},
                            texts, options, arm="arm", task="toy", seed=2, ablated=ablated, out=tmp_path,
                            progress=NullProgress(), used=used)  # fmt: skip

    return run


def kinds(metrics: list[Metric]) -> list[tuple[str, str, str]]:
    return [(metric.metric, metric.split, metric.hooks) for metric in metrics]


OFF = [("accuracy", "id", "off"), ("accuracy", "ood", "off")]
ON = [("accuracy", "id", "on"), ("accuracy", "ood", "on")]
DAMAGE = [("perplexity", "generic", "off"), ("kl_to_base", "generic", "off")]


def test_an_arm_without_ablation_has_no_rows_with_hooks_on(
    make_model: MakeModel, measure: Callable[..., list[Metric]], tmp_path: Path
) -> None:
    metrics = measure(make_model("llama"), hooks=("off", "on"))
    assert kinds(metrics) == OFF + DAMAGE
    assert read_records(tmp_path / "metrics.jsonl", Metric) == metrics
    assert {row["hooks"] for row in read_jsonl(tmp_path / "rows.jsonl")} == {"off"}


def test_an_ablated_arm_is_measured_both_ways(
    make_model: MakeModel, measure: Callable[..., list[Metric]], tmp_path: Path
) -> None:
    model = make_model("llama")
    space = Subspace(1, orthonormal_basis(torch.randn(8, 32, generator=torch.Generator().manual_seed(0))))
    metrics = measure(model, ablated=ablate(model, [space], mode="zero"), hooks=("off", "on"))
    assert kinds(metrics) == OFF + ON + DAMAGE
    found = read_jsonl(tmp_path / "rows.jsonl")
    margins = {hooks: [row["margin"] for row in found if row["hooks"] == hooks] for hooks in ("off", "on")}
    assert len(margins["off"]) == len(margins["on"]) == 8
    assert all(off != on for off, on in zip(margins["off"], margins["on"], strict=True))
    plain = [row["margin"] for row in read_jsonl(tmp_path / "rows.jsonl") if row["hooks"] == "off"]
    measure(make_model("llama"))
    assert plain == [row["margin"] for row in read_jsonl(tmp_path / "rows.jsonl")], "off is really off"


def test_hooks_are_on_only_if_asked(make_model: MakeModel, measure: Callable[..., list[Metric]]) -> None:
    model = make_model("llama")
    space = Subspace(1, orthonormal_basis(torch.randn(2, 32)))
    assert kinds(measure(model, ablated=ablate(model, [space], mode="zero"))) == OFF + DAMAGE
    assert kinds(measure(model, n_damage_documents=0)) == OFF


def test_a_model_that_is_lost_is_measured_and_its_rows_counted(
    make_model: MakeModel, measure: Callable[..., list[Metric]]
) -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(torch.nan)
    for metric in measure(model):
        assert metric.value is None and metric.n == 0 and metric.n_unscored > 0


def test_kl_is_taken_to_the_model_without_its_adapter(
    make_model: MakeModel, measure: Callable[..., list[Metric]]
) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(make_model("llama"), config).eval()
    kl = [metric.value for metric in measure(model, base=lambda: as_base(model)) if metric.metric == "kl_to_base"]
    assert kl[0] is not None and kl[0] > 1e-3


def test_an_arm_that_is_used_ablated_is_measured_so_alone_against_a_base_that_is_not(
    make_model: MakeModel, measure: Callable[..., list[Metric]], tmp_path: Path
) -> None:
    """An adapter that adds nothing: all that differs from the base, which lies inside it, is the ablation."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(make_model("llama"), config).eval()
    space = Subspace(1, orthonormal_basis(torch.randn(8, 32, generator=torch.Generator().manual_seed(0))))
    metrics = measure(
        model, ablated=ablate(model, [space], mode="zero"), base=lambda: as_base(model), used="on", hooks=("off",)
    )
    assert kinds(metrics) == [*ON, ("perplexity", "generic", "on"), ("kl_to_base", "generic", "on")]
    assert {row["hooks"] for row in read_jsonl(tmp_path / "rows.jsonl")} == {"on"}
    kl = next(metric.value for metric in metrics if metric.metric == "kl_to_base")
    assert kl is not None and kl > 1e-3
    plain = {m.metric: m.value for m in measure(make_model("llama")) if m.split == "generic"}
    perplexity = next(metric.value for metric in metrics if metric.metric == "perplexity")
    assert plain["kl_to_base"] == 0.0 and perplexity != plain["perplexity"]
