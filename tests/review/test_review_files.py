"""Out to a spreadsheet and back: nothing changes on the way, nothing runs, and a run takes the selection."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocaft.cli.actions import review_run
from autocaft.errors import ConfigError, DataError, RunLockedError
from autocaft.records import Decision, Direction
from autocaft.report.plain import guard_cell, unguard_cell
from autocaft.review.acts import ActLog, answers, log_path, read_acts
from autocaft.review.deck import load_deck
from autocaft.review.files import export_answers, import_answers
from autocaft.review.session import Review
from autocaft.rundir.files import read_jsonl, read_records
from autocaft.select.choices import read_person_choice
from tests.planted_run import AT, make_run

EVIL = (
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "  =cmd|' /C calc'!A0",
    "＝1",
    "x;=1",
    "'=1",
    '=HYPERLINK("http://x")',
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "planted")


def _review(run_dir: Path, said: dict[str, tuple[str, str]]) -> None:
    deck = load_deck(run_dir)
    with ActLog(log_path(run_dir, "ada")) as log:
        Review(deck, log, "ada").take_in([(i, choice, note) for i, (choice, note) in said.items()])  # type: ignore[misc]


def test_a_run_takes_the_exported_selection_as_a_persons_choice(run_dir: Path, tmp_path: Path) -> None:
    said = {
        "L8.latent3": "ablate",
        "L14.pc1": "ablate",
        "L8.latent4": "keep",
        "L8.pc0": "unsure",
        "L8.random0": "ablate",
    }
    _review(run_dir, {i: (choice, "") for i, choice in said.items()})
    _, _, path = export_answers(run_dir, "ada", tmp_path / "out")
    directions = read_records(run_dir / "decompose" / "directions.jsonl", Direction)
    decisions = read_person_choice(path, directions, "ada", AT)
    assert {d.direction_id for d in decisions} == {"L8.latent3", "L14.pc1"}, "a control is no candidate"
    assert {d.by for d in decisions} == {"human:ada"}


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_what_is_exported_can_be_taken_in_by_another(ending: str, run_dir: Path, tmp_path: Path) -> None:
    said = {
        "L8.latent3": ("ablate", "two  words; \"quoted\", 'é'"),
        "L14.pc1": ("keep", ""),
        "L8.pc0": ("unsure", "=1+1"),
    }
    _review(run_dir, said)
    export_answers(run_dir, "ada", tmp_path)
    path = tmp_path / f"ada.{ending}"
    assert import_answers(run_dir, "bob", path) == 3
    taken = {i: (a.choice, a.note) for (i, _), a in answers(read_acts(log_path(run_dir, "bob"))).items()}
    assert taken == said | {"L8.latent3": ("ablate", "two words; \"quoted\", 'é'")}, "a note is one line"
    assert {act.by for act in read_acts(log_path(run_dir, "bob"))} == {"human:bob"}
    assert import_answers(run_dir, "bob", path) == 0, "a second time there is nothing new"


def test_json_lines_hold_decisions_and_unsure_is_none(run_dir: Path, tmp_path: Path) -> None:
    _review(run_dir, {"L8.latent3": ("ablate", "why"), "L14.pc1": ("keep", ""), "L8.pc0": ("unsure", "")})
    rows = {row["direction_id"]: row for row in read_jsonl(export_answers(run_dir, "ada", tmp_path)[1])}
    assert {i: row["ablate"] for i, row in rows.items()} == {"L8.latent3": True, "L14.pc1": False, "L8.pc0": None}
    fields = {field: rows["L8.latent3"][field] for field in Decision.__dataclass_fields__}
    assert Decision.from_row(fields).by == "human:ada" and Decision.from_row(fields).reason == "why"


@pytest.mark.parametrize(("separator", "mark"), [(",", "\ufeff"), (";", ""), ("\t", "")])
def test_a_sheet_filled_in_by_hand_is_read_whatever_its_locale(
    separator: str, mark: str, run_dir: Path, tmp_path: Path
) -> None:
    export_answers(run_dir, "ada", tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "ada.csv").read_text("utf-8-sig"), newline="")))
    assert len(rows) == 48 and all(row["answer"] == "" for row in rows)
    rows[0]["answer"], rows[5]["answer"] = "Ablate ", "keep"
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    (tmp_path / "filled.csv").write_text(mark + file.getvalue(), "utf-8")
    assert import_answers(run_dir, "ada", tmp_path / "filled.csv") == 2


def test_the_sheet_is_blind(run_dir: Path, tmp_path: Path) -> None:
    text = export_answers(run_dir, "ada", tmp_path)[0].read_text("utf-8-sig")
    assert "judge's" not in text and "relevance" not in text


# formulas


@pytest.mark.parametrize("text", EVIL)
def test_no_cell_is_a_formula_and_the_note_comes_back(text: str, run_dir: Path, tmp_path: Path) -> None:
    examples = run_dir / "judge" / "cards.jsonl"
    rows = [json.loads(line) for line in examples.read_text().splitlines()]
    for row in rows:
        for window in row["top"]:
            window["tokens"][0], window["tokens"][1] = text, f";{text}"
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _review(run_dir, {"L8.latent3": ("keep", text)})
    path = export_answers(run_dir, "ada", tmp_path)[0]
    content = path.read_bytes().decode("utf-8-sig")
    for separator in (",", ";", "\t"):
        cells = [cell for row in csv.reader(io.StringIO(content, newline=""), delimiter=separator) for cell in row]
        assert not [cell for cell in cells if cell.lstrip(' "')[:1] in tuple("=+-@\t\r＝＋－＠")]
    import_answers(run_dir, "bob", path)
    (taken,) = answers(read_acts(log_path(run_dir, "bob"))).values()
    assert taken.note == " ".join(text.split())


@given(st.text() | st.text(alphabet=";,| '=-a"))
def test_guarding_a_cell_can_be_undone(text: str) -> None:
    assert unguard_cell(guard_cell(text)) == text
    assert guard_cell(text).lstrip(" ")[:1] not in tuple("=+-@\t\r\n＝＋－＠")
    assert not re.search("[;,|] *[=+@＝＋－＠-]", guard_cell(text))


# bad files


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("direction_id,answer\nL8.latent3,maybe\n", r"bad\.csv:2: 'maybe' is no answer"),
        ("direction_id,answer\nL8.latent999,keep\n", r"bad\.csv:2: 'L8\.latent999' is no direction"),
        ("direction_id,answer\nL8.latent3,keep\nL8.latent3,ablate\n", r"bad\.csv:3: L8\.latent3 has another answer"),
        ("direction_id,answer,card\nL8.latent3,keep,0000\n", "another card"),
        ("direction,answer\nL8.latent3,keep\n", "no column direction_id"),
        ("direction_id,choice\nL8.latent3,keep\n", "no column answer"),
        (b"direction_id,answer,note\nL8.latent3,keep,caf\xe9\n", "not UTF-8"),
        ("", "no column direction_id"),
    ],
)
def test_a_bad_file_is_named_and_nothing_is_taken_in(
    content: str | bytes, named: str, run_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=named):
        import_answers(run_dir, "ada", path)
    assert read_acts(log_path(run_dir, "ada")) == []
    with pytest.raises(DataError, match=r"none\.csv"):
        import_answers(run_dir, "ada", tmp_path / "none.csv")


def test_files_are_not_taken_in_while_the_page_is_open(run_dir: Path, tmp_path: Path) -> None:
    path = export_answers(run_dir, "ada", tmp_path)[0]
    with ActLog(log_path(run_dir, "ada")), pytest.raises(RunLockedError):
        import_answers(run_dir, "ada", path)


def test_the_command_exports_and_imports(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _review(run_dir, {"L8.latent3": ("ablate", "")})
    review_run(run_dir, "ada", host="127.0.0.1", port=0, export=tmp_path / "out", import_=None)
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / "out" / f"ada.{e}") for e in ("csv", "jsonl", "json")
    ]
    review_run(run_dir, "bob", host="127.0.0.1", port=0, export=None, import_=tmp_path / "out" / "ada.csv")
    assert "1 new answers of bob" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="two commands"):
        review_run(run_dir, "bob", host="127.0.0.1", port=0, export=tmp_path, import_=tmp_path / "ada.csv")
