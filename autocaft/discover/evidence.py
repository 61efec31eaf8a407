"""What is known of a direction without a judge: where it fires, what it writes (what is lost without it: `alone.py`).

In: the projections of the mining pass, the base model. Out: shares of tokens and documents, tokens of the vocabulary.
The decision a reader would question: parts of the texts stand for positions. "At the answer" or "in generic text" says
what a position number would not, since rows differ in length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from autocaft.data.corpus import Document
from autocaft.data.rows import TaskRow
from autocaft.discover.alone import loss_changes
from autocaft.discover.collect import encode_rows
from autocaft.discover.pair import Model, ModelPair
from autocaft.discover.windows import Chunk
from autocaft.model.blocks import final_norm
from autocaft.model.directions import DirectionSet
from autocaft.records import Evidence
from autocaft.rundir.progress import Progress

GENERIC, PROMPT, ANSWER, OPENING, CONTINUATION = range(5)
PARTS = (
    "generic text",
    "training rows, prompt",
    "training rows, answer",
    "task-seeded text, opening",
    "task-seeded text, continuation",
)
"""Parts of the mining texts. The opening of task-seeded text is the row's own sentence, the rest the base model's."""
Fires = dict[str, dict[str, list[float]]]
"""Pole -> part -> [share of tokens, share of documents]."""
N_LENS = 8
"""Tokens of each sign."""
LENS_ROWS = 64
"""Directions whose logits over the vocabulary are held at once."""


@dataclass(frozen=True)
class Parts:
    """Which part of the texts each token is in: a document's first one, or from a position on its second."""

    first_M: Tensor
    second_M: Tensor
    turn_M: Tensor
    """The token, counted from the start of the whole document, at which the second part begins."""

    @classmethod
    def of(cls, tokenizer: Any, documents: Sequence[Document], rows: Sequence[TaskRow]) -> Parts:
        """Of the mining documents; `rows` are those that they show and continue."""
        n_prompt = dict(zip((row.id for row in rows), (e.n_prompt for e in encode_rows(tokenizer, rows)), strict=True))
        n_opening = {row.id: len(tokenizer.encode(row.seed)) for row in rows}
        parts = {"train": (PROMPT, ANSWER, n_prompt), "seeded": (OPENING, CONTINUATION, n_opening)}
        found = []
        for document in documents:
            first, second, turn_by_row = parts.get(document.kind, (GENERIC, GENERIC, {}))
            found.append((first, second, turn_by_row.get(document.id.partition("#")[0], 0)))
        first_M, second_M, turn_M = torch.tensor(found).T
        return cls(first_M, second_M, turn_M)

    def of_tokens(self, chunk: Chunk) -> Tensor:
        """The part (N,) of each token. Every document is stored without its first token."""
        owner_N = chunk.owner_N
        place_N = torch.arange(len(owner_N)) - chunk.starts_M[owner_N] + 1
        docs_N = chunk.docs_M[owner_N]
        return torch.where(place_N < self.turn_M[docs_N], self.first_M[docs_N], self.second_M[docs_N])


class FireCount:
    """Counts, over the chunks of one layer, in how much of each part each of C directions is active."""

    def __init__(self, parts: Parts, is_latent_C: Tensor, low_C: Tensor, high_C: Tensor) -> None:
        self.parts, self.is_latent_C = parts, is_latent_C
        self.bar_C = torch.where(is_latent_C, 0.0, high_C / 2)
        self.low_bar_C = torch.where(is_latent_C, -torch.inf, low_C / 2)
        n_columns = 2 * len(is_latent_C) + 1
        self.tokens_PX = torch.zeros(len(PARTS), n_columns)
        self.documents_PX = torch.zeros(len(PARTS), n_columns)

    def update(self, chunk: Chunk) -> None:
        """Add a chunk of whole documents."""
        values_NC, n_parts = chunk.projections_NC, len(PARTS)
        everywhere_N1 = torch.ones(len(values_NC), 1, dtype=torch.bool)
        active_NX = torch.cat([values_NC > self.bar_C, values_NC < self.low_bar_C, everywhere_N1], dim=1).float()
        place_N = chunk.owner_N * n_parts + self.parts.of_tokens(chunk)
        counts_QX = torch.zeros(len(chunk.starts_M) * n_parts, active_NX.shape[1]).index_add_(0, place_N, active_NX)
        counts_MPX = counts_QX.view(-1, n_parts, active_NX.shape[1])
        self.tokens_PX += counts_MPX.sum(0)
        self.documents_PX += (counts_MPX > 0).sum(0)

    def fires(self) -> list[Fires]:
        """The shares of each direction."""
        shares = [
            counts_PX[:, :-1] / counts_PX[:, -1:].clamp_min(1) for counts_PX in (self.tokens_PX, self.documents_PX)
        ]
        there = [part for part in range(len(PARTS)) if self.tokens_PX[part, -1] > 0]
        n = len(self.is_latent_C)

        def at(column: int) -> dict[str, list[float]]:
            return {PARTS[part]: [round(float(s[part, column]), 5) for s in shares] for part in there}

        found = []
        for number, is_latent in enumerate(self.is_latent_C.tolist()):
            found.append({"top": at(number)} | ({} if is_latent else {"bottom": at(n + number)}))
        return found


@torch.no_grad()
def logit_lens(model: Model, vectors_ND: Tensor, n_tokens: int = N_LENS) -> tuple[Tensor, Tensor]:
    """Ids (N, n) of the tokens that each direction raises and lowers most, through the final norm and the head.

    Half the difference of what comes out for the direction and for its negative, so that no bias is in it.
    """
    norm, head = final_norm(model), model.get_output_embeddings()
    weight = head.weight
    raised, lowered = [], []
    for part_ND in vectors_ND.split(LENS_ROWS):
        # as long as a normed stream is, so that the norm's epsilon plays no part
        x_ND = (part_ND * part_ND.shape[1] ** 0.5).to(weight.device, weight.dtype)
        odd_ND = (norm(x_ND) - norm(-x_ND)) / 2
        logits_NV = (head(odd_ND) - head(-odd_ND)).float() / 2
        raised.append(logits_NV.topk(n_tokens).indices.cpu())
        lowered.append(logits_NV.topk(n_tokens, largest=False).indices.cpu())
    return torch.cat(raised), torch.cat(lowered)


def gather_evidence(
    found: DirectionSet,
    fires: Mapping[str, Fires],
    models: ModelPair | None,
    tokenizer: Any,
    mean_by_layer: Mapping[int, Tensor],
    loss_rows: Sequence[TaskRow],
    *,
    read: Callable[[int], str],
    tokens_per_batch: int,
    progress: Progress,
) -> list[Evidence]:
    """Where each direction fires, with what the models say of it as far as they are asked.

    Args:
        models: None leaves out what they say.
        loss_rows: rows to measure the loss on; without any it is left out.
        read: a token's text.
    """
    evidence = [Evidence(direction.id, fires[direction.id], (), ()) for direction in found.directions]
    if models is None:
        return evidence
    with models.base() as base:
        raised_NK, lowered_NK = logit_lens(base, found.vectors_ND)
    evidence = [
        replace(item, promotes=tuple(map(read, raised)), suppresses=tuple(map(read, lowered)))
        for item, raised, lowered in zip(evidence, raised_NK.tolist(), lowered_NK.tolist(), strict=True)
    ]
    if not loss_rows:
        return evidence
    common: dict[str, Any] = {"tokens_per_batch": tokens_per_batch, "progress": progress}
    with models.tuned() as tuned:
        changes = loss_changes(tuned, tokenizer, loss_rows, found, mean_by_layer, **common)
    return [
        replace(item, loss_change=change.value, loss_low=change.low, loss_high=change.high)
        for item, change in zip(evidence, changes, strict=True)
    ]
