"""What the cue says is joined to its rows, and a file that does not fit is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocaft.data.cues import load_cued_rows
from autocaft.data.rows import TaskRow, load_rows
from autocaft.errors import DataError
from autocaft.resources import eval_data_dir

MakeJsonl = Callable[..., Path]
GENDER = eval_data_dir() / "gender"
GOOD = {"split": "id", "id": "a", "cue": "male", "option": " he"}


def row(row_id: str) -> TaskRow:
    return TaskRow(row_id, "The doctor said", " he", (" he", " she"), "t", "")


def test_rows_without_a_cue_are_left_out(make_jsonl: MakeJsonl) -> None:
    found = load_cued_rows(make_jsonl("cues.jsonl", GOOD), {"id": [row("b"), row("a")]})
    assert [(cued.row.id, cued.cue, cued.option) for cued in found] == [("a", "male", " he")]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({**GOOD, "cue": None}, "needs split, id, cue, option"),
        ({**GOOD, "option": " it"}, "is no choice of row 'a'"),
        ({**GOOD, "split": "ood"}, "no row of the split 'id' has a cue; it has ood"),
    ],
)
def test_a_cue_that_does_not_fit_is_named(make_jsonl: MakeJsonl, bad: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_cued_rows(make_jsonl("cues.jsonl", bad), {"id": [row("a")]})


def test_the_gender_cue_agrees_with_the_answer_in_id_and_never_in_ood() -> None:
    rows = {split: load_rows(GENDER / f"{split}.jsonl", choices_required=True) for split in ("id", "ood")}
    for split, own in rows.items():
        found = load_cued_rows(GENDER / "cues.jsonl", {split: own})
        assert len(found) == len(own) == 240
        assert {cued.option == cued.row.answer for cued in found} == {split == "id"}
        assert all(("doctor" in cued.row.prompt_text) == (cued.cue == "male") for cued in found)


def test_no_split_that_trains_or_selects_has_a_cue() -> None:
    for split in ("train", "val"):
        with pytest.raises(DataError, match="has a cue"):
            load_cued_rows(GENDER / "cues.jsonl", {split: load_rows(GENDER / f"{split}.jsonl")})
