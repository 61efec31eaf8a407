"""Given and own answers are read alike: cut at one length, without the token that ends a chat's turn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autocaft.audit.options import ScreenOptions
from autocaft.audit.own import SIDES, Answers, read_answers, write_own_answers
from autocaft.audit.rows import AuditRow
from autocaft.rundir.progress import Log, QuietProgress
from tests.conftest import build_model, build_tokenizer


@pytest.fixture
def rows() -> list[AuditRow]:
    turns = ({"role": "user", "content": "The doctor said"},)
    texts = ("yes no he she him her", "yes", "The cat bird dog")
    return [AuditRow(number, str(number), "f", number + 1, turns, text) for number, text in enumerate(texts)]


def _write(rows: list[AuditRow], options: ScreenOptions, out: Path) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer(chat=True)
    progress = QuietProgress(Log(out / "log.txt"))
    write_own_answers(model, tokenizer, rows, options, seed=0, label="own", out=out, progress=progress)


def test_answers_are_cut_alike_and_end_without_the_end_of_turn(rows: list[AuditRow], tmp_path: Path) -> None:
    tokenizer, options = build_tokenizer(chat=True), ScreenOptions(answer_tokens=4)
    _write(rows, options, tmp_path)
    answers = Answers(rows, tmp_path)
    for side in SIDES:
        encoded = answers.encoded(tokenizer, side, options)
        assert all(len(e.input_ids) - e.n_prompt <= 4 for e in encoded)
        assert all(e.input_ids[-1] != tokenizer.eos_token_id for e in encoded if len(e.input_ids) > e.n_prompt)
    lengths = [len(e.input_ids) - e.n_prompt for e in answers.encoded(tokenizer, "given", options)]
    assert lengths == [4, 1, 4]


def test_own_answers_depend_on_the_row_and_not_on_its_neighbours(rows: list[AuditRow], tmp_path: Path) -> None:
    options = ScreenOptions(answer_tokens=4, rows_per_batch=2)
    _write(rows, options, tmp_path / "all")
    _write(rows, ScreenOptions(answer_tokens=4, rows_per_batch=1), tmp_path / "one")
    assert Answers(rows, tmp_path / "all").texts("own") == Answers(rows, tmp_path / "one").texts("own")


def test_activations_come_from_the_answer_alone(rows: list[AuditRow], tmp_path: Path) -> None:
    tokenizer, model, options = build_tokenizer(chat=True), build_model("llama"), ScreenOptions(answer_tokens=8)
    encoded = Answers(rows, tmp_path).encoded(tokenizer, "given", options)
    seen: dict[int, list[int]] = {}
    for read in read_answers(model, tokenizer, encoded, [1], tokens_per_batch=40):
        assert len(read.acts_by_layer[1]) == len(read.tokens_N) == len(read.owner_N)
        for place, number in enumerate(read.numbers):
            seen[number] = read.tokens_N[read.owner_N == place].tolist()
            assert torch.isfinite(read.acts_by_layer[1]).all()
    assert seen == {number: e.input_ids[e.n_prompt :] for number, e in enumerate(encoded)}
