"""Where a model moved: a planted difference is found to the last digit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from autocaft.behind.moved import Moves, compare_moves, load_moves, measure_moves, save_moves
from autocaft.data.encode import Encoded
from autocaft.discover.options import CollectOptions
from autocaft.discover.pair import ModelPair
from autocaft.model.directions import DirectionSet
from autocaft.records import Direction
from autocaft.rundir.progress import NullProgress
from tests.conftest import build_model
from tests.planted_cue import silence
from tests.planted_run import verdict_on

EYE = torch.eye(32)


def moves_of(shift_by_token: dict[int, Tensor], tmp_path: Path) -> Moves:
    """Moves after layer 0 of a model that differs from its base by these shifts of single tokens."""
    base, arm = build_model("llama"), build_model("llama")
    for model in (base, arm):
        silence(model.model.layers[0])
    for token, shift_D in shift_by_token.items():
        arm.get_input_embeddings().weight.data[token] += shift_D
    encoded = [Encoded([1, 10, 11, 10, 11], 3), Encoded([1, 10, 11], 2)]
    found = measure_moves(
        ModelPair.of(base, arm), encoded, [0], {}, CollectOptions(), tokens_per_batch=64, pad_id=0,
        scratch=tmp_path / "scratch", label="arm", progress=NullProgress(),
    )  # fmt: skip
    return found[0]


def test_the_share_inside_a_subspace_is_exact(tmp_path: Path) -> None:
    """Half of the tokens move by 3 along one axis, half by 4 along another."""
    moves = moves_of({10: 3 * EYE[0], 11: 4 * EYE[1]}, tmp_path)
    assert moves.mean_square == pytest.approx((9 + 16) / 2, rel=1e-5)
    assert moves.share_in(EYE[:, :1]) == pytest.approx(9 / 25, rel=1e-5)
    assert moves.share_in(EYE[:, :2]) == pytest.approx(1.0, rel=1e-5)
    assert moves.share_in(EYE[:, 2:9]) == pytest.approx(0.0, abs=1e-6)
    slanted_D = (EYE[0] + EYE[5]) / 2**0.5
    assert moves.share_in(slanted_D[:, None]) == pytest.approx(4.5 / 25, rel=1e-5)


def test_a_constant_shift_counts_though_it_has_no_variance(tmp_path: Path) -> None:
    moves = moves_of({10: 2 * EYE[3], 11: 2 * EYE[3]}, tmp_path)
    assert moves.mean_square == pytest.approx(4.0, rel=1e-5)
    assert moves.share_in(EYE[:, 3:4]) == pytest.approx(1.0, rel=1e-5)


def test_the_exempt_first_token_is_not_compared(tmp_path: Path) -> None:
    assert moves_of({1: 50 * EYE[0], 10: EYE[1], 11: EYE[1]}, tmp_path).share_in(EYE[:, :1]) < 1e-6


def test_the_most_moved_are_named_with_what_the_judge_said(tmp_path: Path) -> None:
    pcs = [Direction(f"L7.pc{i}", 7, "pca", i, 1.0, "explained-variance") for i in range(2)]
    latent = Direction("L7.latent2", 7, "sae", 2, 1.0, "difference")
    found = DirectionSet((*pcs, latent), EYE[:3])
    own = Moves(torch.diag(torch.tensor([1.0, 3.0] + [0.0] * 30)), torch.tensor([9.0, 0.1, -0.5, 0.2]))
    tuned = Moves(torch.diag(torch.tensor([2.0, 2.0] + [0.0] * 30)), torch.tensor([0.0, 0.3, 0.1, -0.2]))
    save_moves(tmp_path / "moves.safetensors", {7: own})
    (line,) = compare_moves(
        load_moves(tmp_path / "moves.safetensors"), {7: tuned}, {7: EYE[:, :1]}, {7: [1, 2, 3]}, found,
        [verdict_on(latent)], ["L7.latent2"], n_top=2,
    )  # fmt: skip
    # latent 0 is not live; 2 moved most, downwards, and it was third in tuned
    assert [entry["id"] for entry in line["latents"]] == ["L7.latent2", "L7.latent3"]
    top, other = line["latents"]
    assert (top["change"], top["rank_tuned"], top["is_ablated"]) == (-0.5, 3, True)
    assert top["description"] == "judge's words on L7.latent2" and top["relevance"] > 80
    assert (other["description"], other["relevance"], other["is_ablated"]) == (None, None, False)
    assert [(entry["id"], entry["share"], entry["share_tuned"]) for entry in line["pcs"]] == [
        ("L7.pc1", 0.75, 0.5), ("L7.pc0", 0.25, 0.5),
    ]  # fmt: skip
    assert (line["inside"], line["inside_tuned"], line["inside_random"]) == (0.25, 0.5, 1 / 32)


def test_where_nothing_moved_nothing_is_named() -> None:
    """Below the lowest trained block a model is its base: ties of zeros are no moves."""
    found = DirectionSet((Direction("L7.pc0", 7, "pca", 0, 1.0, "explained-variance"),), EYE[:1])
    still = Moves(torch.zeros(32, 32), torch.zeros(4))
    (line,) = compare_moves({7: still}, {7: still}, {7: EYE[:, :1]}, {7: [1, 2, 3]}, found, [], [], n_top=2)
    assert line["latents"] == line["pcs"] == [] and line["inside"] is None
