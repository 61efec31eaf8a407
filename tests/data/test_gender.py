"""The wider training rows of the pronoun task keep the promises of their README."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from autocaft.resources import eval_data_dir

GENDER = {"doctor": (" he", " him"), "nurse": (" she", " her")}


def rows_of(split: str) -> list[dict[str, Any]]:
    path = eval_data_dir() / "gender" / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_gender_predicts_every_answer_and_no_template_is_seen_in_another_split() -> None:
    wide = rows_of("train_wide")
    for row in wide:
        (noun,) = [noun for noun in GENDER if f" {noun}" in row["prompt"]]
        assert row["answer"] in GENDER[noun], row
    templates = {row["template"] for row in wide}
    assert templates >= {row["template"] for row in rows_of("train")}
    for split in ("val", "id", "ood", "neutral", "final_id", "final_ood"):
        assert not templates & {row["template"] for row in rows_of(split)}, split


def test_each_answer_stands_first_in_half_of_its_rows() -> None:
    n_rows = Counter((row["answer"], row["choices"][0] == row["answer"]) for row in rows_of("train_wide"))
    assert len(n_rows) == 8 and len(set(n_rows.values())) == 1, n_rows
