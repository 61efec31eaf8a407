from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import WORDS, sentence

from autocaft.data.corpus import Document, write_documents
from autocaft.data.rows import TaskRow
from autocaft.discover.mine import POLES, Groups, mine
from autocaft.discover.options import DecomposeOptions, MineOptions
from autocaft.discover.pca import CovarianceFitter
from autocaft.discover.shards import ShardReader, ShardWriter
from autocaft.discover.windows import Chunk, WindowTable, extreme_by_document
from autocaft.model.directions import DirectionSet
from autocaft.records import Direction, Example
from autocaft.rundir.files import read_json, read_records, write_json
from autocaft.rundir.progress import NullProgress

WIDTH, LAYER = 6, 2


class Made:
    """A collect and a decompose folder with random activations and a few directions."""

    def __init__(self, root: Path, tokenizer: Any, *, sign: float = 1.0, n_rows: int = 60) -> None:
        generator = torch.Generator().manual_seed(0)
        self.documents = [
            Document(f"row-{i}#{k}", "seeded", None, sentence(generator, 8 + i % 9))
            for i in range(n_rows)
            for k in (0, 1)
        ]
        self.rows = [
            TaskRow(f"row-{i}", "the cat", " runs", None, "t", " ".join(self.documents[2 * i].text.split()[:3]))
            for i in range(n_rows)
        ]
        self.collected, self.decomposed, self.out = root / "collect", root / "decompose", root / "mine"
        writer = ShardWriter(self.collected / "acts", [LAYER], d_model=WIDTH, dtype=torch.float32, rows_per_shard=200)
        self.acts: dict[str, torch.Tensor] = {}
        for number, document in enumerate(self.documents):
            ids = torch.tensor(tokenizer.encode(document.text)[1:])
            acts_TD = torch.randn(len(ids), WIDTH, generator=generator) + 10.0
            self.acts[document.id] = acts_TD
            writer.append(number, ids, {LAYER: acts_TD})
        writer.close()
        write_documents(self.collected / "documents.jsonl.gz", self.documents)
        self.mean_D = torch.cat(list(self.acts.values())).mean(0)
        means = {f"L{LAYER}.{name}_mean_D": self.mean_D.clone() for name in ("generic", "train", "mining")}
        means.update(CovarianceFitter(WIDTH).state(f"L{LAYER}.difference"))
        save_file(means, self.collected / "stats.safetensors")
        write_json(self.collected / "stats.json", {"mean_norm": {str(LAYER): 1.0}})
        self.vectors_ND = sign * torch.nn.functional.normalize(torch.randn(3, WIDTH, generator=generator), dim=1)
        directions = [Direction(f"L{LAYER}.pc{i}", LAYER, "pca", i, 1.0, "explained-variance") for i in range(3)]
        DirectionSet(tuple(directions), self.vectors_ND).save(self.decomposed)
        projections = (torch.cat(list(self.acts.values())) - self.mean_D) @ self.vectors_ND.T
        extents = {"low_N": projections.amin(0), "high_N": projections.amax(0)}
        save_file(extents, self.decomposed / "extents.safetensors")

    def mine(self, tokenizer: Any, **options: Any) -> list[Example]:
        mine(
            tokenizer=tokenizer,
            rows=self.rows,
            collected=self.collected,
            decomposed=self.decomposed,
            decompose_options=DecomposeOptions(),
            options=MineOptions(**{"window": 3, "n_describe": 5, "n_verify": 5, "tokens_per_chunk": 100, **options}),
            out=self.out,
            progress=NullProgress(),
        )
        return read_records(self.out / "examples.jsonl", Example)


@pytest.fixture
def made(tmp_path: Path, tokenizer: Any) -> Made:
    return Made(tmp_path, tokenizer)


def test_top_windows_are_those_of_brute_force(made: Made, tokenizer: Any) -> None:
    examples = made.mine(tokenizer, max_overlap=1.0)
    groups = Groups.of(made.documents)
    for number in range(3):
        for purpose in ("describe", "verify"):
            best: dict[int, tuple[float, str]] = {}
            for i, document in enumerate(made.documents):
                if bool(groups.verify_M[i]) == (purpose == "verify"):
                    value = float(((made.acts[document.id] - made.mean_D) @ made.vectors_ND[number]).max())
                    best[int(groups.group_M[i])] = max(
                        best.get(int(groups.group_M[i]), (-9e9, "")), (value, document.id)
                    )
            expected = [doc_id for _, doc_id in sorted(best.values(), reverse=True)[:5]]
            found = [e for e in examples if (e.direction_id, e.pole, e.split) == (f"L2.pc{number}", "top", purpose)]
            assert [example.doc_id for example in found] == expected


def test_a_window_holds_the_text_around_its_peak_and_its_projections(made: Made, tokenizer: Any) -> None:
    text_by_id = {document.id: document.text.split() for document in made.documents}
    for example in made.mine(tokenizer):
        words, projections_TN = (
            text_by_id[example.doc_id],
            (made.acts[example.doc_id] - made.mean_D) @ made.vectors_ND.T,
        )
        number = int(example.direction_id[-1])
        shown = [token.strip() for token in example.tokens]
        assert len(shown) == len(example.projections) <= 7 and set(shown) <= set(WORDS)
        places = [i for i in range(len(words)) if words[i : i + len(shown)] == shown]
        values = [projections_TN[i : i + len(shown), number] for i in places]
        assert any(torch.allclose(value, torch.tensor(example.projections), atol=1e-3) for value in values)


def test_describe_and_verify_share_no_document_and_no_training_row(made: Made, tokenizer: Any) -> None:
    by_purpose: dict[str, set[str]] = {"describe": set(), "verify": set()}
    for example in made.mine(tokenizer):
        by_purpose[example.split].add(example.doc_id.split("#")[0])
    assert by_purpose["describe"] and by_purpose["verify"] and not by_purpose["describe"] & by_purpose["verify"]


def test_a_direction_shows_a_training_row_once_but_for_its_two_ends(made: Made, tokenizer: Any) -> None:
    examples = made.mine(tokenizer)
    for number in range(3):
        for other_end in ("top", "bottom"):
            own = [e for e in examples if e.direction_id == f"L2.pc{number}" and e.pole != other_end]
            rows = [example.doc_id.split("#")[0] for example in own]
            assert len(rows) == len(set(rows)) > 10


def test_swapping_the_sign_swaps_the_poles_and_nothing_else(tmp_path: Path, tokenizer: Any) -> None:
    def ends(made: Made) -> dict[str, list[tuple[str, str, tuple[str, ...]]]]:
        found: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {"top": [], "bottom": [], "random": []}
        for example in made.mine(tokenizer, n_describe=3, n_verify=3):
            if example.pole in found:
                found[example.pole].append((example.direction_id, example.doc_id, example.tokens))
        return found

    plain, swapped = ends(Made(tmp_path / "a", tokenizer)), ends(Made(tmp_path / "b", tokenizer, sign=-1.0))
    assert plain["top"] == swapped["bottom"] and plain["bottom"] == swapped["top"]
    assert plain["random"] == swapped["random"] and plain["top"] != plain["bottom"]


def test_quiet_windows_are_quiet(made: Made, tokenizer: Any) -> None:
    examples = made.mine(tokenizer)
    high = {f"L2.pc{i}": float(v) for i, v in enumerate(_projections(made).amax(0))}
    low = {f"L2.pc{i}": float(v) for i, v in enumerate(_projections(made).amin(0))}
    quiet = [example for example in examples if example.pole in ("random", "near")]
    assert {example.pole for example in quiet} == {"random", "near"}
    for example in quiet:
        assert max(example.projections) <= high[example.direction_id] / 2 + 1e-3
        assert min(example.projections) >= low[example.direction_id] / 2 - 1e-3


def _projections(made: Made) -> torch.Tensor:
    return (torch.cat(list(made.acts.values())) - made.mean_D) @ made.vectors_ND.T


def test_chunk_size_changes_nothing(made: Made, tokenizer: Any) -> None:
    assert made.mine(tokenizer, tokens_per_chunk=30) == made.mine(tokenizer, tokens_per_chunk=10_000)


def test_summary_counts_windows(made: Made, tokenizer: Any) -> None:
    examples = made.mine(tokenizer)
    counted = read_json(made.out / "summary.json")["n_windows"]
    for pole in POLES:
        for purpose in ("describe", "verify"):
            assert counted[pole][purpose] == sum((e.pole, e.split) == (pole, purpose) for e in examples)
    assert ShardReader(made.collected / "acts").n_rows == sum(len(acts) for acts in made.acts.values())


def test_near_duplicates_are_shown_once(tmp_path: Path, tokenizer: Any) -> None:
    table = WindowTable(1, 4, 1)
    tokens_N = torch.arange(6, dtype=torch.int32)
    chunk = Chunk(
        tokens_N,
        torch.tensor([[0.0], [3.0], [0.0], [0.0], [2.0], [0.0]]),
        torch.tensor([0, 3]),
        torch.tensor([3, 6]),
        torch.tensor([0, 1]),
        torch.tensor([7, 7]),
    )
    score_MC, row_MC = extreme_by_document(chunk.projections_NC, chunk)
    table.update(score_MC, row_MC, chunk)
    table.update(score_MC, row_MC, chunk)
    # One group: only its best window stays, however often it is offered.
    assert table.score_CR.tolist()[0][0] == 3.0 and table.score_CR.isfinite().sum() == 1
    assert table.tokens_CRW[0, 0].tolist() == [0, 1, 2]
