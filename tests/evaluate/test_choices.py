"""Choice accuracy on a model whose answers are planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from autocaft.data.rows import TaskRow
from autocaft.evaluate.choices import Answer, accuracy, answer_choices

MakeModel = Callable[..., PreTrainedModel]
CHOICES = (" he", " she")


def rows(n: int = 24) -> list[TaskRow]:
    """The text before the last word differs in length, so batches are padded; the answer goes by the last word."""
    found = []
    for number in range(n):
        color = ("red", "green", "blue")[number % 3]
        prompt = "The" + " cat" * (number % 4) + f" {color}"
        choices = CHOICES if number % 2 else CHOICES[::-1]
        found.append(TaskRow(f"r{number}", prompt, " he" if color == "red" else " she", choices, f"t{number % 6}", ""))
    return found


class RiggedHead(nn.Module):
    """Logits by the last token alone: `he` after red, `she` after green, an exact tie after blue unless told else."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, after_blue: tuple[float, float]) -> None:
        super().__init__()
        he, she = (tokenizer.encode(choice)[0] for choice in CHOICES)
        table_VV = torch.zeros(96, 96)
        for color, (he_logit, she_logit) in {"red": (2, 1), "green": (-3, -1), "blue": after_blue}.items():
            table_VV[tokenizer.encode(f" {color}")[0], [he, she]] = torch.tensor([he_logit, she_logit]).float()
        self.table_VV = table_VV
        self.ids_BT = torch.zeros(0)

    def forward(self, acts_BTD: torch.Tensor) -> torch.Tensor:
        return self.table_VV[self.ids_BT[:, -acts_BTD.shape[1] :]]


def rigged(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, after_blue: tuple[float, float]) -> Any:
    head = RiggedHead(tokenizer, after_blue)
    model.lm_head = head
    model.register_forward_pre_hook(
        lambda module, args, kwargs: setattr(head, "ids_BT", kwargs["input_ids"]), with_kwargs=True
    )
    return model


def answers_of(model: Any, tokenizer: PreTrainedTokenizerFast, tokens_per_batch: int = 24) -> list[Answer]:
    advanced: list[int] = []
    found = answer_choices(model, tokenizer, rows(), split="id", hooks="off",
                           tokens_per_batch=tokens_per_batch, advance=advanced.append)  # fmt: skip
    assert sum(advanced) == len(found) == 24
    return found


def test_the_likelier_option_is_the_answer(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    found = answers_of(rigged(make_model("llama"), tokenizer, (0.0, 5.0)), tokenizer)
    assert [answer.row_id for answer in found] == [row.id for row in rows()]
    assert all(answer.correct for answer in found)
    assert [answer.margin for answer in found[:3]] == [1.0, 2.0, 5.0]
    assert [answer.chosen for answer in found[:3]] == [" he", " she", " she"]
    metric = accuracy(found, arm="tuned", task="t", seed=3, n_bootstrap=200)
    assert (metric.value, metric.n, metric.n_unscored) == (1.0, 24, 0)
    assert (metric.arm, metric.split, metric.metric, metric.hooks, metric.seed) == ("tuned", "id", "accuracy", "off", 3)


def test_a_tie_is_wrong_whichever_option_is_named_first(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = answers_of(rigged(make_model("llama"), tokenizer, (4.0, 4.0)), tokenizer)
    assert [answer.correct for answer in found] == [True, True, False] * 8
    assert accuracy(found, arm="a", task="t", seed=0, n_bootstrap=200).value == pytest.approx(2 / 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_logit_that_is_no_number_is_unscored_and_counted(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, bad: float
) -> None:
    found = answers_of(rigged(make_model("llama"), tokenizer, (bad, 1.0)), tokenizer)
    assert [(a.chosen, a.correct, a.margin) for a in found if a.correct is None] == [(None, None, None)] * 8
    metric = accuracy(found, arm="a", task="t", seed=0, n_bootstrap=200)
    assert (metric.value, metric.n, metric.n_unscored) == (1.0, 16, 8)


def test_nothing_scored_gives_no_value() -> None:
    none = [Answer(str(n), "id", "t", "off", None, None, None) for n in range(3)]
    metric = accuracy(none, arm="a", task="t", seed=0, n_bootstrap=200)
    assert (metric.value, metric.ci_low, metric.ci_high, metric.n, metric.n_unscored) == (None, None, None, 0, 3)


def test_batching_changes_no_answer(family_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    one, many = answers_of(family_model, tokenizer, 1), answers_of(family_model, tokenizer, 4096)
    assert [answer.chosen for answer in one] == [answer.chosen for answer in many]
    assert [answer.margin for answer in one] == pytest.approx([answer.margin for answer in many], abs=1e-3)


def test_the_interval_is_over_templates_not_rows() -> None:
    """Six templates that are right or wrong as a whole: 600 rows tell no more than 6."""

    def spread(n_rows: int) -> float:
        answers = [Answer(f"{t}-{n}", "id", f"t{t}", "off", " he", t < 3, 1.0) for t in range(6) for n in range(n_rows)]
        metric = accuracy(answers, arm="a", task="t", seed=0, n_bootstrap=1000)
        assert metric.ci_low is not None and metric.ci_high is not None
        return metric.ci_high - metric.ci_low

    assert spread(100) == pytest.approx(spread(1), abs=0.05)
    assert spread(100) > 0.5
