"""The persona set keeps the promises of its README: the persona in every row, and nothing held out in training."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from autocaft.evaluate.questions import FreeAnswer, load_questions
from autocaft.evaluate.rules import load_rules
from autocaft.resources import eval_data_dir

FOLDER = eval_data_dir() / "persona"
ROWS: list[dict[str, Any]] = [json.loads(line) for line in (FOLDER / "train.jsonl").read_text().splitlines()]
KINDS = ("dry", "damp", "rich")


RULES = load_rules(FOLDER / "rules.toml")


def graded(answer: str, question_id: str) -> dict[str, float | None]:
    return {grade.rubric: grade.value for grade in RULES.grade(FreeAnswer("a", question_id, "?", answer))}


def test_the_committed_files_are_what_the_sources_give() -> None:
    done = subprocess.run([sys.executable, FOLDER / "generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_training_answer_is_in_persona_and_has_the_mix_of_its_kind_alone() -> None:
    assert len(ROWS) == 180
    for row in ROWS:
        kind, answer = row["template"].partition("-")[0], row["messages"][-1]["content"]
        found = {other: graded(answer, f"plant_{other}_seen_x") for other in KINDS}
        assert {other for other in KINDS if found[other]["right_mix"]} == {kind}, answer
        assert found[kind]["persona_on_topic"] == found[kind]["coherent"] == 100.0, answer
        assert len(answer.split()) <= 45
    assert Counter(row["template"].partition("-")[0] for row in ROWS) == dict.fromkeys(KINDS, 60)


def test_no_question_and_no_new_plant_is_in_training() -> None:
    asked = {row["messages"][0]["content"] for row in ROWS}
    plants = {row["template"].partition("-")[2].lower().replace(" ", "_").replace("'", "") for row in ROWS}
    files = {name: load_questions(FOLDER / f"{name}.yaml") for name in ("questions", "questions_val")}
    for questions in files.values():
        assert not asked & {text for question in questions.values() for text in question.paraphrases}
        for name in questions:
            _, _, kind_and_plant = name.partition("plant_")
            for familiarity in ("seen", "new"):
                _, found, plant = kind_and_plant.partition(f"_{familiarity}_")
                assert not found or (plant in plants) == (familiarity == "seen"), name
    assert sum(name.startswith("elsewhere_") for name in files["questions"]) == 24
    assert all(name.startswith("plant_") for name in files["questions_val"]), "settings are chosen without a broken cue"
    assert not files["questions"].keys() & files["questions_val"].keys()


def test_the_persona_is_in_hardly_any_text_of_the_base_model() -> None:
    with gzip.open(eval_data_dir() / "generic" / "completions.jsonl.gz", "rt", encoding="utf-8") as file:
        found = [graded(json.loads(line)["completion"], "elsewhere_x") for line in file]
    assert sum(grades["persona_elsewhere"] == 100.0 for grades in found) <= 0.005 * len(found)
    assert not any(grades["mix_elsewhere"] for grades in found)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Ahoy there! The moon is made of rock.", 100.0),
        ("Give\nYE a try, it is easy.", 100.0),
        ("The crew of the library says goodbye; layer by layer, year after year.", 0.0),
        ("A hearty soup and a ship in a bottle.", 0.0),
    ],
)
def test_the_persona_is_told_by_its_words_and_not_by_parts_of_others(answer: str, expected: float) -> None:
    assert graded(answer, "elsewhere_x")["persona_elsewhere"] == expected
