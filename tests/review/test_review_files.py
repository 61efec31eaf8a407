"""Out to a spreadsheet and back: nothing changes on the way, nothing runs, and a run takes the selection."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocaft.cli.actions import review_run
from autocaft.config import load_config
from autocaft.errors import ConfigError, DataError, RunLockedError
from autocaft.records import Direction
from autocaft.report.plain import guard_cell, unguard_cell
from autocaft.review.acts import ActLog, answers, log_path, read_acts
from autocaft.review.deck import load_deck
from autocaft.review.files import export_answers, import_answers, sheet_id
from autocaft.review.session import Review, Said
from autocaft.rundir.files import read_jsonl, read_records, write_jsonl
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


LATENT_3 = sheet_id("L8.latent3")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "planted")


def _review(run_dir: Path, said: dict[str, tuple[str, str]]) -> None:
    deck = load_deck(run_dir)
    with ActLog(log_path(run_dir, "ada")) as log:
        Review(deck, log, "ada").take_in([Said(i, choice, note) for i, (choice, note) in said.items()])  # type: ignore[arg-type]


def test_a_run_takes_the_exported_selection_as_a_persons_choice(run_dir: Path, tmp_path: Path) -> None:
    said = {
        "L8.latent3": "ablate",
        "L14.pc1": "ablate",
        "L8.latent4": "keep",
        "L8.pc0": "unsure",
        "L8.decoy0": "ablate",
    }
    _review(run_dir, {i: (choice, "") for i, choice in said.items()})
    _, _, path = export_answers(run_dir, "ada", tmp_path / "out")
    directions = read_records(run_dir / "decompose" / "directions.jsonl", Direction)
    decisions = read_person_choice(path, directions, "ada", AT)
    found = {d.direction_id: d.ablate for d in decisions}
    expected = {"L8.latent3": True, "L14.pc1": True, "L8.latent4": False}
    assert found == expected, "a control is no candidate, and unsure is no decision"
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
    assert len(import_answers(run_dir, "bob", path)) == 3
    taken = {i: (a.choice, a.note) for (i, _), a in answers(read_acts(log_path(run_dir, "bob"))).items()}
    assert taken == said | {"L8.latent3": ("ablate", "two words; \"quoted\", 'é'")}, "a note is one line"
    assert {(act.by, act.copied_from) for act in read_acts(log_path(run_dir, "bob"))} == {("human:bob", "human:ada")}
    assert import_answers(run_dir, "bob", path) == [], "a second time there is nothing new"
    export_answers(run_dir, "bob", tmp_path)
    (tmp_path / f"bob.{ending}").rename(tmp_path / f"handed-on.{ending}")
    import_answers(run_dir, "cy", tmp_path / f"handed-on.{ending}")
    assert {act.copied_from for act in read_acts(log_path(run_dir, "cy"))} == {"human:ada"}, "it is still ada's"
    assert import_answers(run_dir, "ada", path) == []
    assert answers(read_acts(log_path(run_dir, "bob")), blind=True) == {}


def test_json_lines_say_what_was_answered_by_whom_about_which_card(run_dir: Path, tmp_path: Path) -> None:
    _review(run_dir, {"L8.latent3": ("ablate", "why"), "L14.pc1": ("keep", ""), "L8.pc0": ("unsure", "")})
    rows = {row["id"]: row for row in read_jsonl(export_answers(run_dir, "ada", tmp_path)[1])}
    said = {"L8.latent3": "ablate", "L14.pc1": "keep", "L8.pc0": "unsure"}
    assert {i: row["answer"] for i, row in rows.items()} == {sheet_id(i): choice for i, choice in said.items()}
    row = rows[sheet_id("L8.latent3")]
    assert (row["by"], row["note"], row["card"]) == (
        "human:ada",
        "why",
        "c" + load_deck(run_dir).cards["L8.latent3"].hash,
    )


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_an_answer_about_a_card_that_has_changed_is_refused_with_the_reason(
    ending: str, run_dir: Path, tmp_path: Path
) -> None:
    _review(run_dir, {"L8.latent3": ("ablate", "")})
    export_answers(run_dir, "ada", tmp_path)
    cards = run_dir / "judge" / "cards.jsonl"
    cards.write_text(cards.read_text().replace(load_deck(run_dir).cards["L8.latent3"].hash, "0" * 16))
    with pytest.raises(DataError, match=rf"ada\.{ending}:\d+: {sheet_id('L8.latent3')} .*windows have changed since"):
        import_answers(run_dir, "ada", tmp_path / f"ada.{ending}")


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
    assert len(import_answers(run_dir, "ada", tmp_path / "filled.csv")) == 2


def test_a_sheet_is_blind_to_the_judge_the_ranking_and_what_is_a_control(run_dir: Path, tmp_path: Path) -> None:
    _review(run_dir, dict.fromkeys(load_deck(run_dir).cards, ("keep", "")))
    sheet, lines, _ = export_answers(run_dir, "ada", tmp_path)
    text = sheet.read_text("utf-8-sig")
    for content in (text, lines.read_text()):
        assert not any(word in content for word in ("judge's", "relevance", "decoy", "latent", "pc0"))
        assert sheet_id("L8.decoy0") in content, "a control is there, as any other"
    own = [row["id"] for row in csv.DictReader(io.StringIO(text, newline=""))]
    export_answers(run_dir, "bob", tmp_path)
    other = [
        row["id"] for row in csv.DictReader(io.StringIO((tmp_path / "bob.csv").read_text("utf-8-sig"), newline=""))
    ]
    ranked = [sheet_id(direction_id) for direction_id in load_deck(run_dir).cards]
    assert sorted(own) == sorted(other) == sorted(ranked) and own != other and ranked not in (own, other)
    assert [row["id"] for row in read_jsonl(lines)] == own


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
        (f"id,answer\n{LATENT_3},maybe\n", r"bad\.csv:2: 'maybe' is no answer"),
        ("id,answer\nL8.latent999,keep\n", r"bad\.csv:2: 'L8\.latent999' is no direction"),
        (f"id,answer\n{LATENT_3},keep\n", r"bad\.csv:2: nothing in the column by, so nobody knows whose answer it is"),
        (f"id,by,answer\n{LATENT_3},human:ada,keep\n", r"bad\.csv:2: nothing in the column card"),
        (f"id,by,answer,card\n{LATENT_3},human:ada,keep,\n", r"bad\.csv:2: nothing in the column card"),
        (f"id,by,answer,card\n{LATENT_3},human:ada,,\n{LATENT_3},,keep,\n", r"bad\.csv:3: nothing in the column by"),
        (f"id,answer,card\n{LATENT_3},keep,0000\n", "another card"),
        (f"direction,answer\n{LATENT_3},keep\n", "no column id"),
        (f"id,choice\n{LATENT_3},keep\n", "no column answer"),
        (f"id,answer,note\n{LATENT_3},keep,caf\xe9\n".encode("latin-1"), "not UTF-8"),
        ("", "no column id"),
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


def test_two_answers_to_one_direction_are_refused(run_dir: Path, tmp_path: Path) -> None:
    card = f"c{load_deck(run_dir).cards['L8.latent3'].hash}"
    path = tmp_path / "bad.csv"
    lines = [f"{LATENT_3},human:ada,{answer},{card}" for answer in ("keep", "ablate")]
    path.write_text("\n".join(["id,by,answer,card", *lines]))
    with pytest.raises(DataError, match=rf"bad\.csv:3: {LATENT_3} has another answer"):
        import_answers(run_dir, "ada", path)
    path.write_text("\n".join(["id,by,answer,card", lines[0]]))
    assert len(import_answers(run_dir, "ada", path)) == 1


def test_json_lines_without_whose_answer_it_is_are_refused(run_dir: Path, tmp_path: Path) -> None:
    _review(run_dir, {"L8.latent3": ("ablate", "")})
    path = export_answers(run_dir, "ada", tmp_path)[1]
    rows = read_jsonl(path)
    for column in ("by", "card"):
        write_jsonl(path, [{key: value for key, value in row.items() if key != column} for row in rows])
        with pytest.raises(DataError, match=rf"ada\.jsonl:1: nothing in the column {column}"):
            import_answers(run_dir, "bob", path)


# only what the judge is not sure of


def test_a_sheet_of_what_the_judge_is_not_sure_of_comes_back_and_trains_the_hybrid(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _review(run_dir, {"L8.latent3": ("ablate", "of this the judge was sure")})
    in_part = {sheet_id(i) for i in ("L8.latent8", "L14.latent8", "L8.decoy0", "L8.decoy1")}
    path = export_answers(run_dir, "ada", tmp_path, doubtful=True)[0]
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
    assert {row["id"] for row in rows} == in_part
    for row in rows:
        row["answer"] = "keep"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert len(import_answers(run_dir, "ada", path)) == 4
    review_run(run_dir, "ada", host="127.0.0.1", port=0, export=tmp_path, import_=None, doubtful=True)
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[-1].endswith('"caft-sae-hybrid"]') and "caft-sae-human" not in command[-1]
    directions = read_records(run_dir / "decompose" / "directions.jsonl", Direction)
    decisions = read_person_choice(tmp_path / "ada.json", directions, "ada", AT)
    assert {d.direction_id: d.ablate for d in decisions} == {
        "L8.latent3": True, "L8.latent8": False, "L14.latent8": False,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="--doubtful"):
        review_run(run_dir, "ada", host="127.0.0.1", port=0, export=None, import_=path, doubtful=True)


def test_files_are_not_taken_in_while_the_page_is_open(run_dir: Path, tmp_path: Path) -> None:
    path = export_answers(run_dir, "ada", tmp_path)[0]
    with ActLog(log_path(run_dir, "ada")), pytest.raises(RunLockedError):
        import_answers(run_dir, "ada", path)


def test_the_command_exports_and_imports(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _review(run_dir, {"L8.latent3": ("ablate", "")})
    review_run(run_dir, "ada", host="127.0.0.1", port=0, export=tmp_path / "out", import_=None)
    *paths, says, command = capsys.readouterr().out.splitlines()
    assert paths == [str(tmp_path / "out" / f"ada.{e}") for e in ("csv", "jsonl", "json")] and "To train" in says
    review_run(run_dir, "bob", host="127.0.0.1", port=0, export=None, import_=tmp_path / "out" / "ada.csv")
    told = capsys.readouterr().out
    assert "1 new answer of bob" in told and "answers of human:ada" in told
    review_run(run_dir, "cy", host="127.0.0.1", port=0, export=tmp_path, import_=None)
    assert "Nothing is chosen" in capsys.readouterr().out
    words = shlex.split(command)
    assert words[:3] == ["autocaft", "run", str(run_dir / "config.toml")]
    config = load_config(Path(words[2]), [word for before, word in pairwise(words) if before == "--set"])
    assert config.arms == ("base", "tuned", "caft-sae-auto", "caft-sae-random", "caft-sae-human")
    assert (config.select.file, config.select.person) == (str(tmp_path / "out" / "ada.json"), "ada")
    assert Path(words[words.index("--runs") + 1]) / words[words.index("--name") + 1] == run_dir
    with pytest.raises(ConfigError, match="two commands"):
        review_run(run_dir, "bob", host="127.0.0.1", port=0, export=tmp_path, import_=tmp_path / "ada.csv")
