"""Weighted moves: a planted shift along one direction is found with its size, at the texts that have it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from autocaft.data.encode import encode
from autocaft.discover.options import CollectOptions
from autocaft.discover.pair import ModelPair
from autocaft.discover.weighed import weighed_moves
from autocaft.model.directions import DirectionSet
from autocaft.records import Direction
from autocaft.rundir.progress import NullProgress
from tests.planted_cue import SIZE, plant_cue

TEXTS = ("The red nurse saw", "The red cat saw two nurse", "The dog", "The nurse saw nurse")


def direction(layer: int, index: int) -> Direction:
    return Direction(f"L{layer}.latent{index}", layer, "sae", index, 1.0, "attribution")


@pytest.mark.parametrize("way", ["side by side", "in turn"])
def test_a_planted_shift_is_found_with_its_size_where_it_is(way: Any, tmp_path: Path) -> None:
    planted = plant_cue()
    tuned = copy.deepcopy(planted.model)
    (nurse,) = planted.tokenizer.encode(" nurse", add_special_tokens=False)
    tuned.get_input_embeddings().weight.data[nurse] += SIZE * planted.cue_D  # her cue is gone
    other_D = torch.linalg.qr(torch.stack([planted.cue_D, torch.ones(32)], dim=1))[0][:, 1]
    # twice the cue's own direction, one across it, one without a weight; the first block adds nothing
    found = DirectionSet(
        tuple(direction(0, index) for index in range(4)),
        torch.stack([planted.cue_D, -planted.cue_D, other_D, planted.cue_D]),
    )
    weights = {"L0.latent0": 0.9, "L0.latent1": 0.1, "L0.latent2": 1.0}
    moved = weighed_moves(
        ModelPair(lambda: planted.model, lambda: tuned, way),
        [encode(planted.tokenizer, None, text, chat=False) for text in TEXTS],
        found,
        weights,
        CollectOptions(tokens_per_batch=64),
        pad_id=0,
        scratch=tmp_path / "compared",
        label="planted",
        progress=NullProgress(),
    )
    assert list(moved) == [0]
    assert moved[0] == pytest.approx([SIZE**2, SIZE**2, 0.0, 2 * SIZE**2], rel=0.02)
