from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autocaft.discover.options import DecomposeOptions
from autocaft.discover.rank import shortlist
from autocaft.discover.sae import (
    Dictionary,
    LatentStats,
    check_spec,
    load_dictionary,
    measure,
    train_dictionary,
)
from autocaft.discover.shards import ShardReader, ShardWriter
from autocaft.errors import ConfigError, ModelError
from autocaft.rundir.progress import NullProgress

WIDTH, N_FEATURES, K = 32, 24, 2
OPTIONS = DecomposeOptions(d_sae=64, k=K, sae_epochs=12, sae_lr=3e-3, sae_batch_size=512)


def _planted(folder: Path, n: int = 20_000) -> tuple[ShardReader, torch.Tensor, torch.Tensor]:
    """Sums of K out of N_FEATURES unit directions, far from the origin and at a scale of 20."""
    generator = torch.Generator().manual_seed(0)
    features_FD = torch.nn.functional.normalize(torch.randn(N_FEATURES, WIDTH, generator=generator), dim=1)
    active_NF = torch.zeros(n, N_FEATURES)
    chosen_NK = torch.rand(n, N_FEATURES, generator=generator).topk(K).indices
    active_NF.scatter_(1, chosen_NK, 20 * (1 + torch.rand(n, K, generator=generator)))
    acts_ND = active_NF @ features_FD + 100.0
    writer = ShardWriter(folder, [3], d_model=WIDTH, dtype=torch.float32, rows_per_shard=6000)
    for number, part_ND in enumerate(acts_ND.split(50)):
        writer.append(number, torch.zeros(len(part_ND)), {3: part_ND})
    writer.close()
    return ShardReader(folder), features_FD, acts_ND


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Dictionary, ShardReader, torch.Tensor, torch.Tensor, Path]:
    folder = tmp_path_factory.mktemp("sae")
    reader, features_FD, acts_ND = _planted(folder / "acts")
    place = folder / "sae" / "L3"
    dictionary = train_dictionary(reader, 3, acts_ND.mean(0), options=OPTIONS, folder=place, progress=NullProgress())
    return dictionary, reader, features_FD, acts_ND, place


def test_planted_sparse_features_are_recovered(trained: tuple) -> None:
    dictionary, _, features_FD, _, _ = trained
    best_F = (features_FD @ dictionary.directions_SD.T).amax(dim=1)
    assert float((best_F > 0.9).float().mean()) > 0.8, best_F


def test_raw_activations_are_encoded_and_reconstructed(trained: tuple) -> None:
    dictionary, reader, _, acts_ND, _ = trained
    stats = measure(dictionary, reader, 3, acts_ND.mean(0))
    assert stats.explained_variance > 0.8
    assert ((dictionary.encode(acts_ND[:100]) > 0).sum(1) <= K).all()
    torch.testing.assert_close(dictionary.sae.W_dec.norm(dim=1), torch.ones(64), rtol=1e-4, atol=1e-4)


def test_saved_folder_is_read_by_saelens_itself(trained: tuple) -> None:
    from sae_lens import SAE

    dictionary, _, _, acts_ND, place = trained
    theirs = SAE.load_from_disk(place)
    torch.testing.assert_close(theirs.encode(acts_ND[:20]), dictionary.encode(acts_ND[:20]), rtol=1e-3, atol=1e-2)
    ours = load_dictionary(str(place.parent / "L{layer}"), 3, width=WIDTH)
    assert torch.equal(ours.directions_SD, dictionary.directions_SD)


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka"])
def test_other_architectures_find_the_features_and_keep_k_on_average(
    trained: tuple, tmp_path: Path, architecture: str
) -> None:
    from sae_lens import SAE

    _, reader, features_FD, acts_ND, _ = trained
    options = OPTIONS.model_copy(update={"sae_architecture": architecture})
    place = tmp_path / "L3"
    dictionary = train_dictionary(reader, 3, acts_ND.mean(0), options=options, folder=place, progress=NullProgress())
    best_F = (features_FD @ dictionary.directions_SD.T).amax(dim=1)
    assert float((best_F > 0.9).float().mean()) > 0.8, best_F
    n_active_N = (dictionary.encode(acts_ND) > 0).sum(1).float()
    assert abs(float(n_active_N.mean()) - K) < 0.1 * K
    assert measure(dictionary, reader, 3, acts_ND.mean(0)).explained_variance > 0.8
    torch.testing.assert_close(SAE.load_from_disk(place).encode(acts_ND[:20]), dictionary.encode(acts_ND[:20]))


def test_training_is_deterministic_with_a_seed(trained: tuple, tmp_path: Path) -> None:
    _, reader, _, acts_ND, _ = trained
    short = OPTIONS.model_copy(update={"sae_epochs": 0.2})
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_dictionary(
            reader,
            3,
            acts_ND.mean(0),
            options=short.model_copy(update={"seed": seed}),
            folder=tmp_path / name,
            progress=NullProgress(),
        )
    a, b, c = ((tmp_path / name / "sae_weights.safetensors").read_bytes() for name in "abc")
    assert a == b and a != c


def test_dead_and_always_on_latents_are_excluded_and_counted() -> None:
    stats = LatentStats(torch.tensor([0.0, 0.5, 0.1, 0.3]), torch.ones(4), 0.9)
    dead_S, always_on_S = stats.dead_S(), stats.always_on_S(0.3)
    assert dead_S.tolist() == [True, False, False, False] and always_on_S.tolist() == [False, True, False, False]
    scores = {"attribution": torch.tensor([9.0, 8.0, 1.0, 0.5])}
    assert [c.index for c in shortlist(scores, ~dead_S & ~always_on_S, 2)] == [2, 3]


def test_shortlist_is_the_union_and_agreement_ranks_higher() -> None:
    scores = {"attribution": torch.tensor([5.0, 4.0, 0.0, 1.0]), "difference": torch.tensor([0.0, 3.0, 2.0, 0.0])}
    chosen = shortlist(scores, torch.ones(4, dtype=torch.bool), 2)
    assert [(c.index, c.rank_by) for c in chosen] == [
        (1, "attribution+difference"),
        (0, "attribution"),
        (2, "difference"),
    ]


def test_wrong_dictionaries_are_refused(trained: tuple, tmp_path: Path) -> None:
    place = trained[-1]
    with pytest.raises(ModelError, match="width"):
        load_dictionary(str(place), 3, width=48)
    with pytest.raises(ModelError, match="layer 4"):
        load_dictionary(str(place), 4, width=WIDTH)
    with pytest.raises(ModelError, match="no dictionary"):
        load_dictionary(str(tmp_path / "nothing"), 3, width=WIDTH)
    with pytest.raises(ConfigError, match="layer"):
        check_spec("release/id", 2)
