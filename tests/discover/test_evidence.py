"""Where a direction fires, what it writes and what is lost without it, against counts and models done by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_mine import Made
from tiny_models import WIDTH, tiny_llama
from torch.nn.functional import cross_entropy, normalize

from autocaft.data.corpus import Document
from autocaft.data.encode import encode
from autocaft.data.rows import TaskRow
from autocaft.discover.alone import loss_changes
from autocaft.discover.evidence import (
    ANSWER,
    CONTINUATION,
    GENERIC,
    OPENING,
    PARTS,
    PROMPT,
    Fires,
    Parts,
    gather_evidence,
    logit_lens,
)
from autocaft.discover.pair import ModelPair
from autocaft.discover.windows import Chunk
from autocaft.model.directions import DirectionSet, Subspace
from autocaft.model.hooks import ablate
from autocaft.model.load import autocast_bf16
from autocaft.records import Direction, Evidence
from autocaft.rundir.files import read_records
from autocaft.rundir.progress import NullProgress

ROWS = [
    TaskRow(f"row-{i}", prompt, answer, None, f"t{i // 2}", f"{prompt}{answer}")
    for i, (prompt, answer) in enumerate([
        ("the doctor said", " he"), ("the nurse asked", " she sings"), ("a red bird sees", " him"), ("old cat", " her"),
    ])
]  # fmt: skip


def made_directions(n: int, layers: tuple[int, ...] = (0, 1)) -> DirectionSet:
    generator = torch.Generator().manual_seed(3)
    directions = tuple(
        Direction(f"L{layer}.pc{i}", layer, "pca", i, 1.0, "explained-variance") for layer in layers for i in range(n)
    )
    return DirectionSet(directions, normalize(torch.randn(len(directions), WIDTH, generator=generator), dim=1))


def test_each_token_is_in_the_part_of_its_text(tokenizer: Any) -> None:
    documents = [
        Document("g", "generic", None, "the cat sleeps"),
        Document("row-1#0", "seeded", None, f"{ROWS[1].seed} on a tree"),
        Document("row-1", "train", ROWS[1].prompt_text, ROWS[1].answer),
    ]
    lengths = [len(encode(tokenizer, d.prompt, d.text, chat=False).input_ids) - 1 for d in documents]
    stops = torch.tensor(lengths).cumsum(0)
    chunk = Chunk(torch.zeros(sum(lengths)), torch.zeros(sum(lengths), 1), stops - torch.tensor(lengths), stops,
                  torch.arange(3), torch.arange(3))  # fmt: skip
    found = Parts.of(tokenizer, documents, ROWS).of_tokens(chunk).tolist()
    assert found == [GENERIC] * 3 + [OPENING] * 5 + [CONTINUATION] * 3 + [PROMPT] * 3 + [ANSWER] * 2


def test_shares_are_those_of_brute_force(tmp_path: Path, tokenizer: Any) -> None:
    made = Made(tmp_path, tokenizer)
    made.mine(tokenizer)
    evidence = read_records(made.out / "evidence.jsonl", Evidence)
    projections = {name: (acts_TD - made.mean_D) @ made.vectors_ND.T for name, acts_TD in made.acts.items()}
    every = torch.cat(list(projections.values()))
    for number, item in enumerate(evidence):
        low, high = float(every[:, number].min()), float(every[:, number].max())
        for pole, is_active in (("top", lambda v, h=high: v > h / 2), ("bottom", lambda v, w=low: v < w / 2)):
            for part, cut in (("opening", slice(0, 3)), ("continuation", slice(3, None))):
                hits = [is_active(values[cut, number]) for values in projections.values()]
                tokens = float(torch.cat(hits).float().mean())
                documents = sum(bool(hit.any()) for hit in hits) / sum(len(hit) > 0 for hit in hits)
                assert item.fires[pole][f"task-seeded text, {part}"] == pytest.approx([tokens, documents], abs=1e-4)
    assert set(evidence[0].fires["top"]) == {PARTS[OPENING], PARTS[CONTINUATION]}
    assert evidence[0].promotes == () and evidence[0].loss_change is None


def test_the_lens_reads_the_token_that_a_direction_writes() -> None:
    model = tiny_llama()
    head = model.get_output_embeddings().weight
    written = normalize(head.detach(), dim=1)
    raised, lowered = logit_lens(model, torch.cat([written, -written]), n_tokens=2)
    ids = torch.arange(len(written))
    assert torch.equal(raised[: len(ids), 0], ids) and torch.equal(lowered[len(ids) :, 0], ids)


def test_the_lens_knows_no_bias() -> None:
    model = tiny_llama()
    vectors_ND = made_directions(4).vectors_ND
    before = logit_lens(model, vectors_ND)
    model.lm_head.bias = torch.nn.Parameter(100 * torch.arange(model.config.vocab_size).float())
    assert all(torch.equal(a, b) for a, b in zip(before, logit_lens(model, vectors_ND), strict=True))


def test_the_loss_is_that_of_a_model_in_which_the_direction_is_ablated(tokenizer: Any) -> None:
    model, found = tiny_llama(), made_directions(5)
    means = {0: torch.randn(WIDTH), 1: torch.randn(WIDTH)}
    changes = loss_changes(model, tokenizer, ROWS, found, means, tokens_per_batch=16, progress=NullProgress())
    plain = losses(model, tokenizer)
    for direction, vector_D, change in zip(found.directions, found.vectors_ND, changes, strict=True):
        subspace = Subspace(direction.layer, vector_D[:, None], means[direction.layer])
        with ablate(model, [subspace], mode="mean"):
            expected = losses(model, tokenizer) - plain
        assert change.value == pytest.approx(float(expected.mean()), abs=5e-3)
        assert change.low is not None and change.high is not None and change.low <= change.value <= change.high
    assert max(abs(change.value) for change in changes) > 0.05


@torch.no_grad()
def losses(model: Any, tokenizer: Any) -> torch.Tensor:
    """Mean loss of each row's answer, one row at a time."""
    found = []
    for row in ROWS:
        row_ids = encode(tokenizer, row.prompt, row.answer, chat=False)
        ids, n = torch.tensor([row_ids.input_ids]), row_ids.n_prompt
        with autocast_bf16(torch.device("cpu")):
            logits = model(input_ids=ids).logits[0, n - 1 : -1].float()
        found.append(cross_entropy(logits, ids[0, n:]))
    return torch.stack(found)


def test_what_the_models_say_is_there_where_they_are_asked(tokenizer: Any) -> None:
    found, means = made_directions(2), {0: torch.zeros(WIDTH), 1: torch.zeros(WIDTH)}
    fires: dict[str, Fires] = {direction.id: {"top": {}} for direction in found.directions}
    models = ModelPair.of(tiny_llama(0), tiny_llama(1))
    common: dict[str, Any] = {"read": str, "tokens_per_batch": 64, "progress": NullProgress()}
    with_loss, without = (
        gather_evidence(found, fires, models, tokenizer, means, rows, **common) for rows in (ROWS, [])
    )
    assert all(len(item.promotes) == len(item.suppresses) == 8 for item in without)
    assert all(item.loss_change is None for item in without)
    expected = loss_changes(tiny_llama(1), tokenizer, ROWS, found, means, tokens_per_batch=64, progress=NullProgress())
    assert [item.loss_change for item in with_loss] == [change.value for change in expected]
