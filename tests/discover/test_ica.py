"""Rare concepts that principal components mix come out one by one, and what is read is what varies."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from autocaft.discover.cross import CrossCovariance
from autocaft.discover.ica import MAX_TOKENS, independent_components, read_task_text
from autocaft.discover.pca import CovarianceFitter
from autocaft.discover.shards import ShardReader, ShardWriter

WIDTH, N_CONCEPTS, N_TOKENS = 24, 5, 6000


def planted() -> tuple[Tensor, Tensor, Tensor]:
    """Activations in which five concepts are loud at 3 % of the tokens each, along directions that are not orthogonal,
    under louder Gaussian context; the directions (C, D) and the concepts (N, C)."""
    generator = torch.Generator().manual_seed(0)
    concepts_NC = (torch.rand(N_TOKENS, N_CONCEPTS, generator=generator) < 0.03).float()
    directions_CD = torch.randn(N_CONCEPTS, WIDTH, generator=generator)
    directions_CD += directions_CD.mean(dim=0)
    directions_CD = torch.nn.functional.normalize(directions_CD, dim=1)
    context_ND = torch.randn(N_TOKENS, 3, generator=generator) @ torch.randn(3, WIDTH, generator=generator)
    noise_ND = 0.1 * torch.randn(N_TOKENS, WIDTH, generator=generator)
    return 4 * concepts_NC @ directions_CD + context_ND + noise_ND + 2.0, directions_CD, concepts_NC


def best_correlation(acts_ND: Tensor, vectors_KD: Tensor, concepts_NC: Tensor) -> Tensor:
    """For each concept, the largest |correlation| of any vector's coordinate with it, (C,)."""
    coordinates_NK = acts_ND @ vectors_KD.T
    table = torch.corrcoef(torch.cat([concepts_NC, coordinates_NK], dim=1).T)
    return table[:N_CONCEPTS, N_CONCEPTS:].abs().max(dim=1).values


def test_each_concept_has_a_component_that_reads_it_alone() -> None:
    acts_ND, _, concepts_NC = planted()
    fitter = CovarianceFitter(WIDTH)
    fitter.update(acts_ND)
    assert float(best_correlation(acts_ND, fitter.pca(8).vectors_ND, concepts_NC).min()) < 0.8, "PCs mix them"
    found = independent_components(acts_ND, 8, seed=0)
    assert found.converged and len(found.vectors_CD) == 8
    assert float(best_correlation(acts_ND, found.vectors_CD, concepts_NC).min()) > 0.95
    assert (found.kurtosis_C[:N_CONCEPTS] > 10).all() and (found.kurtosis_C[N_CONCEPTS:] < 1).all()
    torch.testing.assert_close(found.vectors_CD.norm(dim=1), torch.ones(8))


def test_what_goes_along_with_a_component_is_the_direction_that_its_concept_is_written_along() -> None:
    acts_ND, directions_CD, _ = planted()
    found = independent_components(acts_ND, 8, seed=0)
    cross = CrossCovariance(8, WIDTH)
    cross.update(acts_ND, acts_ND @ found.vectors_CD.T)
    cosines = (cross.vectors_CD() @ directions_CD.T).abs().max(dim=0).values
    assert float(cosines.min()) > 0.98


def test_the_same_seed_gives_the_same_components_and_missing_variance_gives_fewer() -> None:
    acts_ND, _, _ = planted()
    flat_ND = acts_ND.clone()
    flat_ND[:, 6:] = 1.0
    first, second = (independent_components(flat_ND, 20, seed=1) for _ in range(2))
    assert torch.equal(first.vectors_CD, second.vectors_CD)
    assert len(first.vectors_CD) == 6


def test_task_text_is_thinned_evenly_over_the_chosen_documents(tmp_path: Path) -> None:
    n_documents, n_each = 10, MAX_TOKENS // 2
    writer = ShardWriter(tmp_path, [0], d_model=2, dtype=torch.float32, rows_per_shard=3 * n_each + 1)
    for number in range(n_documents):
        acts_TD = torch.stack([torch.full((n_each,), float(number)), torch.arange(n_each).float()], dim=1)
        writer.append(number, torch.zeros(n_each, dtype=torch.int64), {0: acts_TD})
    writer.close()
    acts_ND = read_task_text(ShardReader(tmp_path), 0, [1, 2, 5, 8, 9])
    assert len(acts_ND) <= MAX_TOKENS
    documents, counts = acts_ND[:, 0].unique(return_counts=True)
    assert documents.tolist() == [1, 2, 5, 8, 9] and counts.max() - counts.min() <= 1
    assert acts_ND[:, 1].diff()[acts_ND[:, 0].diff() == 0].unique().tolist() == [3.0]
