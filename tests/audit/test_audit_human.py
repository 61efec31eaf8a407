"""A person beside an audit: the sheet is blind, half of it flagged, and the figures equal a hand computation."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from autocaft.audit.human import COLUMNS, agreement, agreement_text, write_sheet
from autocaft.errors import DataError
from autocaft.rundir.files import write_json, write_jsonl

N_ROWS, FLAGGED = 40, range(8)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Two sets of 40 rows; of the first eight are flagged, and those with an even number are off the purpose."""
    for name in ("a", "b"):
        rows = [
            {"number": n, "id": f"{name}{n}", "file": f"{name}.jsonl", "line": n + 1, "prompt": f"={name} {n}",
             "answer": f"answer {n}"}
            for n in range(N_ROWS)
        ]  # fmt: skip
        write_jsonl(tmp_path / "rows" / name / "rows.jsonl.gz", rows)
        write_json(tmp_path / "rows" / name / "summary.json", {"unread": None})
    decided = [
        {"set": name, "id": f"{name}{n}", "file": f"{name}.jsonl", "line": n + 1, "score": float(-n), "reasons": [],
         "action": ("hide" if n == 0 else "review") if name == "a" and n in FLAGGED else "keep"}
        for name in ("a", "b")
        for n in range(N_ROWS)
    ]  # fmt: skip
    write_jsonl(tmp_path / "rows.jsonl", decided)
    write_json(tmp_path / "audit.json", {"sets": [{"name": name, "purpose": f"purpose of {name}"} for name in "ab"]})
    return tmp_path


def _lines(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))


def _fill(path: Path, say: dict[str, str]) -> None:
    """Answer by the prompt that is shown (`'=a 3`)."""
    lines = _lines(path)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(line | {"off_purpose": say.get(line["prompt"].removeprefix("'="), "")} for line in lines)


def test_the_sheet_is_blind_and_half_of_it_is_flagged(run_dir: Path) -> None:
    path = run_dir / "sheet.csv"
    assert write_sheet(run_dir, path, 12) == 12
    lines = _lines(path)
    shown = [line["prompt"] for line in lines]
    flagged = [text in {f"'=a {n}" for n in FLAGGED} for text in shown]
    assert sum(flagged) == 6 and flagged != sorted(flagged) and flagged != sorted(flagged, reverse=True)
    assert all(line["purpose"] == f"purpose of {line['prompt'][2]}" and not line["off_purpose"] for line in lines)
    text = path.read_text()
    assert not any(word in text for word in ("hide", "review", "keep", "a.jsonl", "score"))
    assert all(prompt.startswith("'=") for prompt in shown), "no spreadsheet runs what a data file wrote"
    with pytest.raises(DataError, match="exists"):
        write_sheet(run_dir, path, 12)


def test_where_few_rows_are_flagged_all_are_shown_and_the_rest_is_kept_rows(run_dir: Path) -> None:
    write_sheet(run_dir, run_dir / "sheet.csv", 30)
    shown = {line["prompt"] for line in _lines(run_dir / "sheet.csv")}
    assert {f"'=a {n}" for n in FLAGGED} < shown and len(shown) == 30
    assert write_sheet(run_dir, run_dir / "all.csv", 1000) == 2 * N_ROWS


def test_figures_equal_a_hand_computation(run_dir: Path) -> None:
    path = run_dir / "sheet.csv"
    write_sheet(run_dir, path, 1000)
    kept = [("a", n) for n in range(8, N_ROWS)] + [("b", n) for n in range(N_ROWS)]
    say = {f"a {n}": "yes" if n % 2 == 0 else "no" for n in range(6)}
    say |= {f"{name} {n}": "Y" if (name, n) in (("b", 0), ("b", 1), ("b", 2)) else "n" for name, n in kept[:60]}
    _fill(path, say)
    found = agreement(run_dir, path)
    assert (found["n_answers"], found["n_empty"]) == (66, 14)
    assert found["precision"]["value"] == pytest.approx(3 / 6) and found["missed"]["value"] == pytest.approx(3 / 60)
    assert found["found"] == pytest.approx((8 * 0.5) / (8 * 0.5 + 72 * 0.05))
    assert found["precision"]["low"] < 0.5 < found["precision"]["high"] and 0.5 < found["area"] < 1
    assert "50%" in agreement_text(found) and "66 answers, 14 left empty" in agreement_text(found)


def test_a_half_that_nobody_read_says_nothing(run_dir: Path) -> None:
    path = run_dir / "sheet.csv"
    write_sheet(run_dir, path, 1000)
    _fill(path, {"b 3": "yes"})
    found = agreement(run_dir, path)
    assert found["precision"] is None and found["found"] is None and found["area"] is None
    assert "none read" in agreement_text(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,off_purpose\r\nr0,yes\r\n", "no row of this audit"),
        ("id;purpose\r\n", "no column off_purpose"),
        ("", "no column id"),
    ],
)
def test_another_sheet_is_refused(run_dir: Path, text: str, message: str) -> None:
    (run_dir / "other.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        agreement(run_dir, run_dir / "other.csv")


def test_a_cell_that_says_neither_is_named(run_dir: Path) -> None:
    path = run_dir / "sheet.csv"
    write_sheet(run_dir, path, 10)
    with pytest.raises(DataError, match="nothing is filled in"):
        agreement(run_dir, path)
    _fill(path, {line["prompt"].removeprefix("'="): "perhaps" for line in _lines(path)})
    with pytest.raises(DataError, match=r"sheet.csv:2: off_purpose is 'perhaps'"):
        agreement(run_dir, path)
