"""Perplexity and KL to base, checked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from autocaft.data.corpus import Document
from autocaft.data.encode import encode
from autocaft.evaluate.damage import Damage, damage_metrics, measure_damage
from autocaft.records import Metric

MakeModel = Callable[..., PreTrainedModel]
MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


def documents() -> list[Document]:
    texts = [" he saw red cat .", " she went up", " one two three one two three one two", " it is blue . it was green"]
    return [Document(f"d{n}", "generic", "The doctor" if n % 2 else None, text) for n, text in enumerate(texts)]


def measured(model: Any, base: Any, tokenizer: Any, texts: Sequence[Document], **changes: Any) -> list[Damage]:
    settings = {"max_tokens": 64, "tokens_per_batch": 20, "advance": lambda n: None, **changes}
    return measure_damage(model, lambda: nullcontext(base), tokenizer, texts, **settings)


def by_name(found: list[Damage]) -> dict[str, Metric]:
    metrics = damage_metrics(found, arm="a", seed=1, hooks="off", n_bootstrap=200)
    return {metric.metric: metric for metric in metrics}


def test_base_against_itself_loses_nothing(family_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    metric = by_name(measured(family_model, family_model, tokenizer, documents()))["kl_to_base"]
    assert metric.value == 0.0
    assert (metric.ci_low, metric.ci_high) == (None, None), "nats are no shares: no interval made up from counts"


@torch.no_grad()
@pytest.mark.parametrize("chat", [False, True])
def test_perplexity_and_kl_equal_those_by_hand(
    make_model: MakeModel, make_tokenizer: MakeTokenizer, chat: bool
) -> None:
    model, base, tokenizer = make_model("llama", seed=1), make_model("llama"), make_tokenizer(chat=chat)
    nll, kl = [], []
    for document in documents():
        row = encode(tokenizer, document.prompt, document.text, chat=chat)
        ids_BT = torch.tensor([row.input_ids])
        ours_TV, theirs_TV = (m(input_ids=ids_BT).logits[0].double().log_softmax(-1) for m in (model, base))
        for place in range(max(1, row.n_prompt), len(row.input_ids)):
            nll.append(-float(ours_TV[place - 1, row.input_ids[place]]))
            kl.append(float((theirs_TV[place - 1].exp() * (theirs_TV[place - 1] - ours_TV[place - 1])).sum()))
    metrics = by_name(measured(model, base, tokenizer, documents()))
    perplexity = metrics["perplexity"]
    assert perplexity.value == pytest.approx(math.exp(sum(nll) / len(nll)), rel=1e-4)
    assert metrics["kl_to_base"].value == pytest.approx(sum(kl) / len(kl), rel=1e-4)
    assert perplexity.n == len(nll) and perplexity.n_unscored == 0
    assert perplexity.value and perplexity.ci_low and perplexity.ci_high
    assert perplexity.ci_low < perplexity.value < perplexity.ci_high


def test_documents_without_a_reply_in_reach_are_left_out(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = make_model("llama")
    assert [d.document_id for d in measured(model, model, tokenizer, documents(), max_tokens=2)] == ["d0", "d2"]


def test_nan_is_unscored_and_counted() -> None:
    found = [Damage("a", 4, 4.0, 1.0), Damage("b", 4, 8.0, 2.0), Damage("c", 5, math.nan, math.nan)]
    metrics = by_name(found)
    assert metrics["perplexity"].value == pytest.approx(math.exp(1.5))
    assert (metrics["perplexity"].n, metrics["perplexity"].n_unscored) == (8, 5)
    lost = by_name(found[2:])["perplexity"]
    assert (lost.value, lost.ci_low, lost.ci_high, lost.n, lost.n_unscored) == (None, None, None, 0, 5)


def test_one_document_has_no_interval_and_a_lost_model_a_number() -> None:
    metric = by_name([Damage("a", 2, 1e6, 1e6)])["perplexity"]
    assert metric.value is not None and math.isfinite(metric.value)
    assert (metric.ci_low, metric.ci_high) == (None, None)
