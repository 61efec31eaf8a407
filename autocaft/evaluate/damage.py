"""General damage: how far has a model moved from its base on text that has nothing to do with the task?

In: a model, its base and generic documents. Out: perplexity of the model and KL(base || model) in nats per token,
with intervals over documents. Both are taken on the documents' replies, not on their prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from autocaft.data.corpus import Document
from autocaft.data.encode import Batch, batches, encode
from autocaft.records import Hooks, Metric
from autocaft.rundir.progress import Advance
from autocaft.stats import cluster_bootstrap

BaseContext = Callable[[], AbstractContextManager[PreTrainedModel]]
"""Opens on the base model: its adapter switched off, or a second model."""

_MAX_NATS = 700.0
"""A perplexity beyond e**700 is no floating-point number any more; such a model is lost either way."""


@dataclass(frozen=True)
class Damage:
    """Sums over one document's tokens."""

    document_id: str
    n_tokens: int
    nll: float
    """Negative log-likelihood under the model, nats."""
    kl: float
    """KL(base || model), nats."""


@torch.no_grad()
def measure_damage(
    model: PreTrainedModel,
    base: BaseContext,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    *,
    max_tokens: int,
    tokens_per_batch: int,
    advance: Advance,
) -> list[Damage]:
    """Nats lost on each document that has a reply within `max_tokens`."""
    is_chat = tokenizer.chat_template is not None
    encoded = [encode(tokenizer, d.prompt, d.text, chat=is_chat, max_tokens=max_tokens) for d in documents]
    kept = [number for number, row in enumerate(encoded) if len(row.input_ids) > max(row.n_prompt, 1)]
    found: list[Damage] = []
    rows = [encoded[number] for number in kept]
    pad_id = int(tokenizer.pad_token_id)
    for numbers, batch in batches(rows, tokens_per_batch=tokens_per_batch, pad_id=pad_id, device=model.device):
        with base() as base_model:
            base_BTV = base_model(**batch.inputs).logits
        nll_BT, kl_BT, counted_BT = token_nats(model(**batch.inputs).logits, base_BTV, batch)
        for row, number in enumerate(numbers):
            document = documents[kept[number]]
            sums = nll_BT[row].sum().item(), kl_BT[row].sum().item()
            found.append(Damage(document.id, int(counted_BT[row].sum()), *sums))
        advance(len(numbers))
    return found


def token_nats(model_BTV: Tensor, base_BTV: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Negative log-likelihood under the model and KL(base || model) of each predicted token, on the CPU and 0 where
    none counts, and which ones count; (B, T-1) each.

    Row by row, so that two full tables of log-probabilities over the vocabulary never exist at once.
    """
    counted_BT = batch.answer_mask_BT[:, 1:] & batch.attention_mask_BT[:, :-1].bool()
    nll_BT, kl_BT = torch.zeros(counted_BT.shape), torch.zeros(counted_BT.shape)
    for row in range(len(counted_BT)):
        keep_T = counted_BT[row]
        model_NV = model_BTV[row, :-1][keep_T].float().log_softmax(-1)
        base_NV = base_BTV[row, :-1][keep_T].float().log_softmax(-1)
        targets_N1 = batch.input_ids_BT[row, 1:][keep_T][:, None]
        nll_BT[row, keep_T.cpu()] = -model_NV.gather(1, targets_N1)[:, 0].cpu()
        kl_BT[row, keep_T.cpu()] = (base_NV.exp() * (base_NV - model_NV)).sum(-1).cpu()
    return nll_BT, kl_BT, counted_BT


def damage_metrics(found: Sequence[Damage], *, arm: str, seed: int, hooks: Hooks, n_bootstrap: int) -> list[Metric]:
    """Perplexity and KL to base per token, intervals over documents; documents with NaN are left out and counted."""
    scored = [damage for damage in found if math.isfinite(damage.nll) and math.isfinite(damage.kl)]
    n_tokens = sum(damage.n_tokens for damage in scored)
    n_unscored = sum(damage.n_tokens for damage in found) - n_tokens
    clusters = [damage.document_id for damage in scored for _ in range(damage.n_tokens)]
    metrics = []
    for name, nats in (("perplexity", [d.nll for d in scored]), ("kl_to_base", [d.kl for d in scored])):
        value, low, high = None, None, None
        if scored:
            repeated = [nat / d.n_tokens for nat, d in zip(nats, scored, strict=True) for _ in range(d.n_tokens)]
            mean = cluster_bootstrap(repeated, clusters, n=n_bootstrap)
            # Without spread the bootstrap falls back to an interval for shares, which nats are not.
            value = mean.value
            low, high = (mean.low, mean.high) if mean.method == "bootstrap" else (None, None)
        if name == "perplexity":
            value, low, high = (None if nat is None else math.exp(min(nat, _MAX_NATS)) for nat in (value, low, high))
        metrics.append(Metric(arm, "generic", "generic", name, hooks, value, low, high, n_tokens, n_unscored, seed))
    return metrics
