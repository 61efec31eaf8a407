"""Contrast components: along which directions do prompts of different answers differ, one kind of token at a time?

In: activations of the base model on the prompts of training rows that list their options, and each row's answer. Out:
unit vectors to read by, first those that tell the answers apart best in rows that did not make them.

Training can only use what differs with the answer. A latent or component may be loud, or large in a gradient, and the
same in every row; it tells no answer. The means of the answers are compared kind by kind (tokens that are alike, by
k-means: a class of words, a place of the template), because a mean over all tokens would mix what one sentence says
with what another one does, and a reader could name neither.

The decision a reader would question: as in ica.py, the vector of a component is the one its coordinate is read with,
Fisher's discriminant, and not the difference of the means. What it writes into the activations, their covariance with
that coordinate, is that difference; `train.basis = "covariance"` removes exactly it, after which no linear reader of
the kind's tokens can tell the answers apart (LEACE, arXiv 2306.03819).

Key: N tokens, R rows, D d_model, A answers, C components.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from autocaft.data.rows import TaskRow
from autocaft.discover.pca import fix_signs
from autocaft.discover.shards import ShardReader
from autocaft.errors import DataError

MAX_TOKENS = 20_000
"""Tokens that kinds are found on; all tokens are then told their kind."""
BEYOND_CHANCE = 7.0
"""A component counts if the answers explain so many times what they would of noise, as 1 in 1,000 of noise does."""


class Prompts(NamedTuple):
    """Tokens of the rows' prompts at one layer."""

    acts_ND: Tensor
    row_N: Tensor
    """Which of the rows each token is of."""

    def where(self, is_in_N: Tensor) -> Prompts:
        """Some of the tokens."""
        return Prompts(self.acts_ND[is_in_N], self.row_N[is_in_N])


@dataclass(frozen=True)
class Labels:
    """What is known of each row."""

    answer_R: Tensor
    is_first_half_R: Tensor
    """Rows of one template are in one half."""
    n_answers: int

    @classmethod
    def of(cls, rows: Sequence[TaskRow]) -> Labels:
        """From the rows' options.

        Raises:
            DataError: a row lists none, or all have the same answer.
        """
        free = next((row for row in rows if row.choices is None), None)
        if free is not None:
            raise DataError(
                f"{free.file}:{free.line}: row {free.id!r} lists no `choices`. decompose.pcs = 'contrast' compares "
                "rows of different answers: give each its options, or take other `pcs`"
            )
        numbers = {answer: number for number, answer in enumerate(sorted({row.answer for row in rows}))}
        if len(numbers) < 2:
            raise DataError(
                f"decompose.pcs = 'contrast' compares rows of different answers, and all {len(rows)} training rows "
                f"that are read have the answer {rows[0].answer!r}"
            )
        halves = [hashlib.sha256(row.template.encode()).digest()[0] % 2 == 0 for row in rows]
        return cls(torch.tensor([numbers[row.answer] for row in rows]), torch.tensor(halves), len(numbers))


@dataclass(frozen=True)
class Contrasts:
    """Contrast components of one layer, the most telling first."""

    vectors_CD: Tensor
    """Unit rows; the coordinate of largest magnitude is positive."""
    explained_C: Tensor
    """Share of a coordinate's variance between rows that the answers explain, in rows that did not make it."""
    n_kinds: int


def read_prompts(
    reader: ShardReader, layer: int, row_by_document: Mapping[int, int], n_prompt_R: Sequence[int]
) -> Prompts:
    """Activations on the rows' prompts, without their first tokens, which are not stored.

    Args:
        row_by_document: which row a stored document is; the others are left out.
        n_prompt_R: tokens of each row's prompt.
    """
    parts: list[Tensor] = []
    owners: list[Tensor] = []
    for shard in reader.shards(layer):
        starts = shard.starts_M1.tolist()
        for document, start, stop in zip(shard.docs_M.tolist(), starts, starts[1:], strict=False):
            row = row_by_document.get(document)
            if row is None:
                continue
            part_ND = shard.rows(start, min(stop, start + n_prompt_R[row] - 1))
            parts.append(part_ND)
            owners.append(torch.full((len(part_ND),), row))
    return Prompts(torch.cat(parts), torch.cat(owners))


def contrast_components(
    prompts: Prompts, labels: Labels, covariance_DD: Tensor, *, n_kinds: int, n_components: int, seed: int
) -> Contrasts:
    """The components of all kinds of tokens.

    Args:
        covariance_DD: of the activations on all texts that are read, where the coordinates will be measured.
    """
    centred = Prompts(prompts.acts_ND - prompts.acts_ND.mean(dim=0), prompts.row_N)
    kind_N = _kinds(centred.acts_ND, n_kinds, seed)
    whiten_DD = _inverse(covariance_DD)
    least = BEYOND_CHANCE * (labels.n_answers - 1) / (len(labels.answer_R) / 2)
    vectors, explained = [], []
    for kind in kind_N.unique().tolist():
        own = centred.where(kind_N == kind)
        explained_C = _explained_elsewhere(own, labels, whiten_DD)
        vectors.append(_discriminants(own, labels, whiten_DD)[explained_C > least])
        explained.append(explained_C[explained_C > least])
    explained_C = torch.cat(explained)
    order = explained_C.argsort(descending=True, stable=True)[:n_components]
    return Contrasts(fix_signs(torch.cat(vectors)[order]), explained_C[order], len(vectors))


def _kinds(centred_ND: Tensor, n_kinds: int, seed: int) -> Tensor:
    """The kind (N,) of each token, by the direction of its activations: of its length, a kind would be a loud token."""
    from sklearn.cluster import KMeans

    unit_ND = torch.nn.functional.normalize(centred_ND, dim=1)
    some_ND = unit_ND[:: max(1, -(-len(unit_ND) // MAX_TOKENS))]
    search = KMeans(min(n_kinds, len(some_ND)), n_init=1, max_iter=30, random_state=seed).fit(some_ND.numpy())
    return torch.from_numpy(search.predict(unit_ND.numpy())).long()


def _inverse(covariance_DD: Tensor) -> Tensor:
    """Inverse of the covariance, the median variance added to each: directions of hardly any would rule otherwise."""
    variance_D = torch.linalg.eigvalsh(covariance_DD.double())
    ridge_DD = variance_D.median().clamp_min(1e-12) * torch.eye(len(covariance_DD), dtype=torch.float64)
    return torch.linalg.inv(covariance_DD.double() + ridge_DD).float()


def _discriminants(tokens: Prompts, labels: Labels, whiten_DD: Tensor) -> Tensor:
    """Unit vectors (A - 1, D) along which the answers' means differ, most first; zeros where they do not."""
    answer_N = labels.answer_R[tokens.row_N]
    n_A1 = torch.bincount(answer_N, minlength=labels.n_answers).float()[:, None]
    sums_AD = torch.zeros(labels.n_answers, tokens.acts_ND.shape[1]).index_add_(0, answer_N, tokens.acts_ND)
    apart_AD = torch.where(n_A1 > 0, sums_AD / n_A1.clamp_min(1) - tokens.acts_ND.mean(dim=0), 0.0)
    _, _, differences_CD = torch.linalg.svd(n_A1.sqrt() * apart_AD, full_matrices=False)
    return torch.nn.functional.normalize(differences_CD[: labels.n_answers - 1] @ whiten_DD, dim=1)


def _explained_elsewhere(tokens: Prompts, labels: Labels, whiten_DD: Tensor) -> Tensor:
    """What the answers explain (A - 1,) in a half of the rows, along discriminants of the other: the mean over both.

    Zero where a half has no such tokens.
    """
    in_first_N = labels.is_first_half_R[tokens.row_N]
    if in_first_N.all() or not in_first_N.any():
        return torch.zeros(labels.n_answers - 1)
    shares = []
    for is_first in (True, False):
        vectors_CD = _discriminants(tokens.where(in_first_N != is_first), labels, whiten_DD)
        is_read_R = labels.is_first_half_R == is_first
        shares.append(_explained(tokens.where(in_first_N == is_first), is_read_R, labels, vectors_CD))
    return torch.stack(shares).mean(dim=0)


def _explained(tokens: Prompts, is_read_R: Tensor, labels: Labels, vectors_CD: Tensor) -> Tensor:
    """Share (C,) of the variance between these rows' coordinates that the answers explain (eta squared).

    A row without such tokens stands at their mean, so what is seen in few rows counts for little.
    """
    coordinates_NC = (tokens.acts_ND - tokens.acts_ND.mean(dim=0)) @ vectors_CD.T
    n_R1 = torch.bincount(tokens.row_N, minlength=len(is_read_R)).clamp_min(1)[:, None]
    sums_RC = torch.zeros(len(is_read_R), len(vectors_CD)).index_add_(0, tokens.row_N, coordinates_NC)
    rows_RC, answer_R = (sums_RC / n_R1)[is_read_R], labels.answer_R[is_read_R]
    rows_RC = rows_RC - rows_RC.mean(dim=0)
    is_answer_AR = torch.nn.functional.one_hot(answer_R, labels.n_answers).T.float()
    between_C = ((is_answer_AR @ rows_RC) ** 2 / is_answer_AR.sum(dim=1).clamp_min(1)[:, None]).sum(dim=0)
    return between_C / (rows_RC**2).sum(dim=0).clamp_min(1e-12)
