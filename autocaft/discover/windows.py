"""Bounded tables of the best windows of every direction, kept as tensors.

In: for a chunk of documents, a score for each (document, direction) and where in the document it is. Out: the best
windows of each direction, at most one from a group of documents. Memory is directions x windows x width, whatever
the number of documents.

Documents that continue the same training row are one group: their shared opening has the same activations in each,
and ten copies of it would be all that a top list shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """Some whole documents with the projections of their tokens on C directions."""

    tokens_N: Tensor
    projections_NC: Tensor
    starts_M: Tensor
    stops_M: Tensor
    docs_M: Tensor
    """Number of each document."""
    groups_M: Tensor
    """Documents with the same group number count as one."""

    @property
    def owner_N(self) -> Tensor:
        """Which of the M documents each token is in."""
        return torch.repeat_interleave(torch.arange(len(self.starts_M)), self.stops_M - self.starts_M)


def extreme_by_document(values_NC: Tensor, chunk: Chunk, *, largest: bool = True) -> tuple[Tensor, Tensor]:
    """Largest (or smallest) value of each document and direction, (M, C), and the row in the chunk where it is."""
    sign = 1.0 if largest else -1.0
    n_documents, n_directions = len(chunk.starts_M), values_NC.shape[1]
    owner_NC = chunk.owner_N[:, None].expand(-1, n_directions)
    best_MC = torch.full((n_documents, n_directions), -torch.inf)
    best_MC.scatter_reduce_(0, owner_NC, values_NC * sign, reduce="amax")
    # Ties go to the first token.
    row_NC = torch.arange(len(values_NC))[:, None].expand(-1, n_directions)
    at_best_NC = (values_NC * sign) == best_MC[chunk.owner_N]
    masked_NC = torch.where(at_best_NC, row_NC, len(values_NC))
    row_MC = torch.full((n_documents, n_directions), len(values_NC))
    row_MC.scatter_reduce_(0, owner_NC, masked_NC, reduce="amin")
    return best_MC * sign, row_MC.clamp_max(max(0, len(values_NC) - 1))


class WindowTable:
    """The best `n_slots` windows of each of C directions by score; -inf marks an empty slot."""

    def __init__(self, n_directions: int, n_slots: int, side: int) -> None:
        self.side = side
        width = 2 * side + 1
        self.score_CR = torch.full((n_directions, n_slots), -torch.inf)
        self.doc_CR = torch.full((n_directions, n_slots), -1)
        self.group_CR = torch.full((n_directions, n_slots), -1)
        self.tokens_CRW = torch.full((n_directions, n_slots, width), -1, dtype=torch.int32)
        self.projections_CRW = torch.zeros(n_directions, n_slots, width)

    def update(self, score_MC: Tensor, row_MC: Tensor, chunk: Chunk) -> None:
        """Offer one window for each document and direction: its score (-inf: not eligible) and its centre's row."""
        n_slots = self.score_CR.shape[1]
        if not (score_MC.amax(dim=0) > self.score_CR.amin(dim=1)).any():
            return
        score = torch.cat([self.score_CR, score_MC.T], dim=1)
        group = torch.cat([self.group_CR, chunk.groups_M.expand(score_MC.shape[1], -1)], dim=1)
        score = _drop_repeats(score, group)
        self.score_CR, place_CR = score.topk(n_slots, dim=1)
        self.group_CR = group.gather(1, place_CR)
        self.doc_CR = torch.cat([self.doc_CR, chunk.docs_M.expand(score_MC.shape[1], -1)], dim=1).gather(1, place_CR)
        self._move_windows(place_CR, row_MC.T, chunk)

    def _move_windows(self, place_CR: Tensor, row_CM: Tensor, chunk: Chunk) -> None:
        """Fetch the windows of slots that came from this chunk, and move those that were here before."""
        n_slots = place_CR.shape[1]
        old_CR = place_CR.clamp_max(n_slots - 1)[..., None].expand(-1, -1, self.tokens_CRW.shape[2])
        self.tokens_CRW = self.tokens_CRW.gather(1, old_CR)
        self.projections_CRW = self.projections_CRW.gather(1, old_CR)
        direction, slot = (place_CR >= n_slots).nonzero(as_tuple=True)
        document = place_CR[direction, slot] - n_slots
        rows_KW = row_CM[direction, document][:, None] + torch.arange(-self.side, self.side + 1)
        inside_KW = (rows_KW >= chunk.starts_M[document, None]) & (rows_KW < chunk.stops_M[document, None])
        rows_KW = rows_KW.clamp(0, len(chunk.tokens_N) - 1)
        self.tokens_CRW[direction, slot] = torch.where(inside_KW, chunk.tokens_N[rows_KW], -1)
        projections_KW = chunk.projections_NC[rows_KW, direction[:, None]]
        self.projections_CRW[direction, slot] = torch.where(inside_KW, projections_KW, 0.0)


def _drop_repeats(score_CX: Tensor, group_CX: Tensor) -> Tensor:
    """Scores with -inf for all but the best of each group, row by row."""
    by_score_CX = score_CX.argsort(dim=1, descending=True, stable=True)
    groups_sorted = group_CX.gather(1, by_score_CX)
    by_group_CX = groups_sorted.argsort(dim=1, stable=True)
    order_CX = by_score_CX.gather(1, by_group_CX)
    groups_sorted = group_CX.gather(1, order_CX)
    repeated_CX = torch.zeros_like(score_CX, dtype=torch.bool)
    repeated_CX[:, 1:] = groups_sorted[:, 1:] == groups_sorted[:, :-1]
    return torch.where(torch.zeros_like(repeated_CX).scatter(1, order_CX, repeated_CX), -torch.inf, score_CX)


def word_triples(tokens: tuple[int, ...]) -> frozenset[tuple[int, ...]]:
    """All runs of three tokens of a window; the window itself if it is shorter."""
    if len(tokens) < 3:
        return frozenset([tokens])
    return frozenset(tokens[i : i + 3] for i in range(len(tokens) - 2))


def overlap(a: frozenset[tuple[int, ...]], b: frozenset[tuple[int, ...]]) -> float:
    """Shared triples as a share of the smaller window's."""
    return len(a & b) / max(1, min(len(a), len(b)))
