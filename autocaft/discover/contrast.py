"""Contrast components: along which directions do prompts of different answers differ, one kind of token at a time?

In: activations of the base model on the prompts of training rows that list their options, and each row's answer. Out:
unit vectors to read by, first those that tell the answers apart best in the half of the rows that did not make them.

Training can only use what differs with the answer. A latent or component may be loud, or large in a gradient, and the
same in every row; it tells no answer. The means of the answers are compared kind by kind (tokens that are alike, by
k-means: a class of words, a place of the template), because a mean over all tokens would mix what one sentence says
with what another one does, and a reader could name neither.

The decision a reader would question: as in ica.py, the vector of a component is the one its coordinate is read with,
Fisher's discriminant, and not the difference of the means. What it writes into the activations, their covariance with
that coordinate, is that difference but for the ridge; `train.basis = "covariance"` removes it, and where the means are
the same no linear reader of the kind's tokens tells the answers apart (arXiv 2306.03819).

Memory does not grow with the tokens: a sample of them, and sums. Key: N tokens, R rows, D d_model, K kinds, A answers,
C components, of a kind one less than there are answers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from scipy.stats import chi2
from torch import Tensor

from autocaft.data.rows import TaskRow, answers_to_compare
from autocaft.discover.pca import fix_signs
from autocaft.discover.shards import ShardReader

MAX_TOKENS = 20_000
"""Tokens that kinds are found on; all tokens are then told their kind."""
NOISE = 0.01
"""A component counts if the answers of rows at random would explain as much with at most this chance. Rows that share
words are no independent ones, so more noise than that comes through: the judge reads it and leaves it."""
UNEVEN = 0.25
"""A kind of which so large a share of tokens would need another answer to be divided as all are, is a part of one."""


@dataclass(frozen=True)
class Labels:
    """What is known of each row."""

    answer_R: Tensor
    half_R: Tensor
    """0 or 1; rows of one template are in one half, unless all of them would be."""
    n_answers: int

    @classmethod
    def of(cls, rows: Sequence[TaskRow]) -> Labels:
        """From the rows' options.

        Raises:
            DataError: they cannot be compared by their answers.
        """
        answers = answers_to_compare(rows)
        numbers = {answer: number for number, answer in enumerate(sorted(set(answers)))}
        half_R = _halves([row.template for row in rows])
        if len(half_R.unique()) == 1:
            half_R = _halves([row.id for row in rows])
        return cls(torch.tensor([numbers[answer] for answer in answers]), half_R, len(numbers))


def _halves(names: Sequence[str]) -> Tensor:
    """0 or 1 by a hash of each name."""
    return torch.tensor([hashlib.sha256(name.encode()).digest()[0] % 2 for name in names])


@dataclass(frozen=True)
class Contrasts:
    """Contrast components of one layer, the most telling first."""

    vectors_CD: Tensor
    """Unit rows; the coordinate of largest magnitude is positive."""
    explained_C: Tensor
    """Share of the variance between the rows of a half that the answers explain along the component as made from the
    other half; the mean over both. The vector is made from all rows."""
    n_kinds: int
    n_tested: int
    """Components of all kinds, noise among them."""


class Tokens(NamedTuple):
    """Some tokens of the rows' prompts at one layer."""

    acts_ND: Tensor
    row_N: Tensor
    """Which of the rows each token is of."""


@dataclass(frozen=True)
class PromptReader:
    """The tokens of the rows' prompts at one layer, from the store, some at a time.

    First tokens are not stored. Each pass reads the same tokens in the same order.
    """

    reader: ShardReader
    layer: int
    row_by_document: Mapping[int, int]
    """Which row a stored document is; the others are left out."""
    n_prompt_R: Sequence[int]
    """Tokens of each row's prompt."""

    def __iter__(self) -> Iterator[Tokens]:
        """One shard after another."""
        for shard in self.reader.shards(self.layer):
            starts, parts, owners = shard.starts_M1.tolist(), [], []
            for document, start, stop in zip(shard.docs_M.tolist(), starts, starts[1:], strict=False):
                row = self.row_by_document.get(document)
                if row is not None:
                    parts.append(shard.rows(start, min(stop, start + self.n_prompt_R[row] - 1)))
                    owners.append(torch.full((len(parts[-1]),), row))
            if parts:
                yield Tokens(torch.cat(parts), torch.cat(owners))


def contrast_components(
    prompts: Iterable[Tokens], labels: Labels, covariance_DD: Tensor, *, n_kinds: int, n_components: int, seed: int
) -> Contrasts:
    """The components of all kinds of tokens, in four passes over the prompts.

    Args:
        prompts: read several times, so no generator.
        covariance_DD: of the activations on all texts that are read, where the coordinates will be measured.
    """
    kinds = Kinds.of(prompts, labels, n_kinds, seed)
    sums = _add_up(prompts, labels, kinds)
    root_DD = _inverse_root(covariance_DD)
    halves = [sums.discriminants(root_DD, half) for half in (0, 1)]
    explained_KC = _explained_elsewhere(prompts, labels, kinds, halves)
    # Where answers are chance, a share is near a chi-squared variable over the half's rows. The two rise together, with
    # how alike the halves' discriminants are by chance: their mean is no narrower than one of them.
    least = chi2.isf(NOISE, labels.n_answers - 1) / (len(labels.answer_R) / 2)
    explained_C = explained_KC.flatten()
    order = explained_C.argsort(descending=True, stable=True)[: min(n_components, int((explained_C > least).sum()))]
    vectors_CD = sums.discriminants(root_DD).flatten(0, 1)[order]
    return Contrasts(fix_signs(vectors_CD), explained_C[order], kinds.n, len(explained_C))


@dataclass(frozen=True)
class Kinds:
    """Tells tokens of one kind from those of another."""

    mean_D: Tensor
    """Of all tokens."""
    search: Any
    """scikit-learn's k-means, which cuts the tokens into parts P."""
    kind_P: Tensor

    @classmethod
    def of(cls, prompts: Iterable[Tokens], labels: Labels, n_kinds: int, seed: int) -> Kinds:
        """Found on every n-th token, so that at most `MAX_TOKENS` are held.

        A part that is one answer's (praise, without its blame) is joined to the nearest: inside it nothing differs.
        """
        from sklearn.cluster import KMeans

        counts, sums = zip(*((len(t.row_N), t.acts_ND.sum(dim=0, dtype=torch.float64)) for t in prompts), strict=True)
        n, mean_D = sum(counts), (torch.stack(sums).sum(dim=0) / sum(counts)).float()
        step, skip, sample = max(1, -(-n // MAX_TOKENS)), 0, []
        for tokens in prompts:
            sample.append(Tokens(tokens.acts_ND[skip::step], tokens.row_N[skip::step]))
            skip = (skip - len(tokens.row_N)) % step
        some_ND = _unit(torch.cat([tokens.acts_ND for tokens in sample]) - mean_D)
        search = KMeans(min(n_kinds, len(some_ND)), n_init=1, max_iter=30, random_state=seed).fit(some_ND.numpy())
        answer_N = labels.answer_R[torch.cat([tokens.row_N for tokens in sample])]
        n_PA = torch.zeros(len(search.cluster_centers_), labels.n_answers)
        n_PA.index_put_((torch.from_numpy(search.labels_).long(), answer_N), torch.ones(len(answer_N)), accumulate=True)
        return cls(mean_D, search, _joined(torch.from_numpy(search.cluster_centers_), n_PA))

    @property
    def n(self) -> int:
        """How many."""
        return int(self.kind_P.max()) + 1

    def tell(self, acts_ND: Tensor) -> Tensor:
        """The kind (N,) of each token."""
        return self.kind_P[torch.from_numpy(self.search.predict(_unit(acts_ND - self.mean_D).numpy())).long()]


def _joined(centre_PD: Tensor, n_PA: Tensor) -> Tensor:
    """The kind (P,) of each part: the most uneven one joins the kind with the nearest centre, until none is."""
    share_A = n_PA.sum(dim=0) / n_PA.sum()
    members = [[part] for part in range(len(n_PA))]
    while len(members) > 1:
        n_KA = torch.stack([n_PA[own].sum(dim=0) for own in members])
        uneven_K = (n_KA / n_KA.sum(dim=1, keepdim=True).clamp_min(1) - share_A).abs().sum(dim=1) / 2
        worst = int(uneven_K.argmax())
        if uneven_K[worst] <= UNEVEN:
            break
        weight_P1 = n_PA.sum(dim=1, keepdim=True).clamp_min(1)
        centre_KD = torch.stack([(weight_P1 * centre_PD)[own].sum(dim=0) / weight_P1[own].sum() for own in members])
        apart_K = (centre_KD - centre_KD[worst]).norm(dim=1)
        apart_K[worst] = torch.inf
        members[int(apart_K.argmin())] += members[worst]
        members.pop(worst)
    kind_P = torch.zeros(len(n_PA), dtype=torch.long)
    for kind, own in enumerate(members):
        kind_P[own] = kind
    return kind_P


def _unit(acts_ND: Tensor) -> Tensor:
    """Directions alone: by their length, a loud token would be a kind of its own."""
    return torch.nn.functional.normalize(acts_ND, dim=1)


@dataclass(frozen=True)
class _Sums:
    """Sums over tokens by kind K, half H of the rows and answer A."""

    n_KHA: Tensor
    sum_KHAD: Tensor

    def discriminants(self, root_DD: Tensor, half: int | None = None) -> Tensor:
        """Unit vectors (K, A - 1, D) by whose coordinates the answers' means differ, in standard deviations of the
        coordinate most first; zeros where they do not differ.

        Args:
            root_DD: of the covariance's inverse.
            half: of which rows; of all, if not given.
        """
        n_KA, sum_KAD = (
            values.sum(dim=1) if half is None else values[:, half] for values in (self.n_KHA, self.sum_KHAD)
        )
        middle_K1D = sum_KAD.sum(dim=1, keepdim=True) / n_KA.sum(dim=1).clamp_min(1)[:, None, None]
        n_KA1 = n_KA[..., None]
        apart_KAD = torch.where(n_KA1 > 0, sum_KAD / n_KA1.clamp_min(1) - middle_K1D, 0.0)
        _, size_KA, axes_KAD = torch.linalg.svd(n_KA1.sqrt() * apart_KAD @ root_DD, full_matrices=False)
        differ_KA = size_KA > 1e-5 * size_KA[:, :1]  # the rest is rounding
        vectors_KAD = torch.nn.functional.normalize(axes_KAD @ root_DD, dim=2) * differ_KA[..., None]
        return vectors_KAD[:, : n_KA.shape[1] - 1]


def _add_up(prompts: Iterable[Tokens], labels: Labels, kinds: Kinds) -> _Sums:
    shape = (kinds.n, 2, labels.n_answers)
    n_P, sum_PD = torch.zeros(math.prod(shape)), torch.zeros(math.prod(shape), len(kinds.mean_D))
    for tokens in prompts:
        half_N, answer_N = labels.half_R[tokens.row_N], labels.answer_R[tokens.row_N]
        place_N = (kinds.tell(tokens.acts_ND) * 2 + half_N) * labels.n_answers + answer_N
        n_P += torch.bincount(place_N, minlength=len(n_P))
        sum_PD.index_add_(0, place_N, tokens.acts_ND - kinds.mean_D)
    return _Sums(n_P.view(shape), sum_PD.view(*shape, -1))


def _inverse_root(covariance_DD: Tensor) -> Tensor:
    """Root of the covariance's inverse, the median variance added to each: directions of hardly any would rule else."""
    variance_D, axes_DD = torch.linalg.eigh(covariance_DD.double())
    ridged_D = variance_D.clamp_min(0) + variance_D.median().clamp_min(1e-12)
    return (axes_DD * ridged_D.rsqrt() @ axes_DD.T).float()


def _explained_elsewhere(prompts: Iterable[Tokens], labels: Labels, kinds: Kinds, halves: Sequence[Tensor]) -> Tensor:
    """What the answers explain (K, A - 1) in each half of the rows along the other half's discriminants; the mean.

    Args:
        halves: discriminants (K, A - 1, D) of each half.
    """
    n_rows, n_vectors = len(labels.answer_R), labels.n_answers - 1
    n_RK, sum_RKC = torch.zeros(n_rows, kinds.n), torch.zeros(n_rows, kinds.n, n_vectors)
    for tokens in prompts:
        kind_N, half_N = kinds.tell(tokens.acts_ND), labels.half_R[tokens.row_N]
        n_RK.index_put_((tokens.row_N, kind_N), torch.ones(len(kind_N)), accumulate=True)
        for half in (0, 1):
            for kind in kind_N.unique().tolist():
                here_N = (kind_N == kind) & (half_N == half)
                coordinates_NC = (tokens.acts_ND[here_N] - kinds.mean_D) @ halves[1 - half][kind].T
                sum_RKC[:, kind].index_add_(0, tokens.row_N[here_N], coordinates_NC)
    shares = [_explained(n_RK[is_in_R], sum_RKC[is_in_R], labels.answer_R[is_in_R], labels.n_answers)
              for is_in_R in (labels.half_R == 0, labels.half_R == 1)]  # fmt: skip
    return torch.stack(shares).mean(dim=0)


def _explained(n_RK: Tensor, sum_RKC: Tensor, answer_R: Tensor, n_answers: int) -> Tensor:
    """Share (K, C) of the variance between rows' mean coordinates that their answers explain (eta squared).

    A row without tokens of a kind stands at the mean of those that have some: what few rows have counts for little.
    """
    has_RK1 = (n_RK > 0)[..., None]
    mean_RKC = sum_RKC / n_RK.clamp_min(1)[..., None]
    mean_KC = (mean_RKC * has_RK1).sum(dim=0) / has_RK1.sum(dim=0).clamp_min(1)
    apart_RKC = torch.where(has_RK1, mean_RKC - mean_KC, 0.0)
    is_answer_AR = torch.nn.functional.one_hot(answer_R, n_answers).T.float()
    by_answer_AKC = torch.einsum("ar,rkc->akc", is_answer_AR, apart_RKC)
    between_KC = (by_answer_AKC**2 / is_answer_AR.sum(dim=1).clamp_min(1)[:, None, None]).sum(dim=0)
    return between_KC / (apart_RKC**2).sum(dim=0).clamp_min(1e-12)
