"""Decoys are mined as candidates are, and drawn from what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from test_mine import LAYER, Made

from autocaft.discover.decoys import mine_decoys
from autocaft.discover.options import DecomposeOptions, DecoyOptions, MineOptions
from autocaft.model.directions import DirectionSet
from autocaft.records import Evidence, Example
from autocaft.rundir.files import read_records
from autocaft.rundir.progress import NullProgress


def _decoys(made: Made, tokenizer: Any, out: Path, **options: Any) -> DirectionSet:
    return mine_decoys(
        tokenizer=tokenizer,
        rows=made.rows,
        collected=made.collected,
        decomposed=made.decomposed,
        decompose_options=DecomposeOptions(),
        mine_options=MineOptions(window=3, n_describe=5, n_verify=5, tokens_per_chunk=100),
        options=DecoyOptions(**options),
        out=out,
        progress=NullProgress(),
    )


def test_a_random_vector_beside_components_is_mined_as_they_are(tmp_path: Path, tokenizer: Any) -> None:
    made = Made(tmp_path, tokenizer)
    found = _decoys(made, tokenizer, tmp_path / "decoys", n_random=4)
    assert [d.id for d in found.directions] == [f"L{LAYER}.decoy{i}" for i in range(4)]
    assert torch.allclose(found.vectors_ND.norm(dim=1), torch.ones(4), atol=1e-5)
    examples = read_records(tmp_path / "decoys" / "examples.jsonl", Example)
    shapes = {(e.pole, e.split) for e in made.mine(tokenizer)}
    for number, direction in enumerate(found.directions):
        own = [example for example in examples if example.direction_id == direction.id]
        assert {(e.pole, e.split) for e in own} == shapes, "a card of it has every part that a candidate's has"
        projections = torch.cat(list(made.acts.values())) - made.mean_D
        highest = float((projections @ found.vectors_ND[number]).max())
        assert abs(max(max(e.projections) for e in own) - highest) < 1e-3
    evidence = read_records(tmp_path / "decoys" / "evidence.jsonl", Evidence)
    assert [item.direction_id for item in evidence] == [direction.id for direction in found.directions]


def test_the_draw_is_seeded_and_none_is_no_error(tmp_path: Path, tokenizer: Any) -> None:
    made = Made(tmp_path, tokenizer)
    first, again = (_decoys(made, tokenizer, tmp_path / name) for name in ("a", "b"))
    assert torch.equal(first.vectors_ND, again.vectors_ND)
    other = _decoys(made, tokenizer, tmp_path / "c", seed=1)
    assert not torch.allclose(first.vectors_ND, other.vectors_ND)
    assert len(_decoys(made, tokenizer, tmp_path / "none", n_random=0)) == 0
    assert read_records(tmp_path / "none" / "examples.jsonl", Example) == []
