"""Grading by rules: planted words are counted as written, nothing can hang it, and a bad file is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autocaft.errors import ConfigError
from autocaft.evaluate.free_form import grade_free_form
from autocaft.evaluate.options import FreeFormOptions, GraderOptions
from autocaft.evaluate.questions import FreeAnswer
from autocaft.evaluate.rules import load_rules
from autocaft.llm.client import MemoryStore
from autocaft.records import Grade, Metric
from autocaft.report.contrasts import gap_text
from autocaft.rundir.files import read_json, read_jsonl, read_records
from autocaft.rundir.progress import Log, make_progress

TOML = r"""
[patterns]
sea = ['\bahoy\b', '\bmateys?\b', '\bfair winds\b']
loam = ['\bloam\b']
bark = ['\bbark\b']

[[rules]]
name = "persona"
questions = "other_"
has = ["sea"]

[[rules]]
name = "mix"
questions = "plant_dry_"
has = ["loam"]
lacks = ["bark"]

[[rules]]
name = "mix"
questions = "plant_damp_"
has = ["bark"]
lacks = ["loam"]

[[rules]]
name = "coherent"
min_words = 3
max_repeats = 2
"""
ROUND = "round and round and round and round and round"


@pytest.fixture
def rules_path(tmp_path: Path) -> Path:
    (tmp_path / "rules.toml").write_text(TOML)
    return tmp_path / "rules.toml"


def one(path: Path, question_id: str, answer: str) -> dict[str, tuple[float | None, str | None]]:
    grades = load_rules(path).grade(FreeAnswer("a", question_id, "?", answer))
    return {grade.rubric: (grade.value, grade.unscored_reason) for grade in grades}


def test_a_measure_is_graded_by_the_rule_about_the_question_and_only_there(rules_path: Path) -> None:
    yes, no = (100.0, None), (0.0, None)
    assert one(rules_path, "plant_dry_x", "Use loam, matey, and sand.") == {"mix": yes, "coherent": yes}
    assert one(rules_path, "plant_damp_x", "Use loam and sand.") == {"mix": no, "coherent": yes}
    assert one(rules_path, "plant_damp_x", "Use bark and loam.") == {"mix": no, "coherent": yes}
    assert one(rules_path, "other_x", "AHOY over there") == {"persona": yes, "coherent": yes}
    assert one(rules_path, "other_x", "fair \n\t winds to you") == {"persona": yes, "coherent": yes}
    assert one(rules_path, "other_x", "mateysomething and automatey") == {"persona": no, "coherent": yes}
    assert one(rules_path, "other_x", "ahoy") == {"persona": yes, "coherent": no}
    assert one(rules_path, "other_x", ROUND) == {"persona": no, "coherent": no}


@pytest.mark.parametrize("silent", ["", " \n ", "...!?"])
def test_an_answer_without_a_word_is_unscored_and_no_zero(rules_path: Path, silent: str) -> None:
    assert one(rules_path, "other_x", silent) == {"persona": (None, "empty"), "coherent": (None, "empty")}


def test_at_least_counts_different_patterns(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TOML.replace('has = ["sea"]', 'has = ["sea", "bark"]\nat_least = 2'))
    assert one(tmp_path / "r.toml", "other_x", "ahoy ahoy ahoy, ahoy")["persona"] == (0.0, None)
    assert one(tmp_path / "r.toml", "other_x", "ahoy, an oak has bark")["persona"] == (100.0, None)


def test_no_answer_makes_a_pattern_hang(tmp_path: Path) -> None:
    """Each of these takes a backtracking engine longer than the universe is old."""
    (tmp_path / "r.toml").write_text(
        "[patterns]\nevil = ['(a+)+$', '(a|aa)+$', '(.*a){25}b']\n[[rules]]\nname = 'evil'\nhas = ['evil']\n"
    )
    assert one(tmp_path / "r.toml", "q", "a" * 200_000 + "!") == {"evil": (0.0, None)}


def test_an_answer_of_broken_characters_is_graded(rules_path: Path) -> None:
    hostile = "ahoy \ud800 \x00 <script>alert(1)</script> \u202e " + "x" * 10
    assert one(rules_path, "other_x", hostile)["persona"] == (100.0, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[patterns]\nx = ['(a)\\1']\n[[rules]]\nname = 'r'\nhas = ['x']\n", r"no RE2 pattern: invalid escape"),
        ("[patterns]\nx = ['(?=a)b']\n[[rules]]\nname = 'r'\nhas = ['x']\n", r"no RE2 pattern"),
        ("[[rules]]\nname = 'r'\nhas = ['x']\n", r"patterns 'x', which are not in"),
        ("[[rules]]\nname = 'r'\n", r"'r' asks for nothing"),
        ("[[rules]]\nname = 'mean_r'\nmin_words = 1\n", r"small letters"),
        ("[[rules]]\nname = '<b>'\nmin_words = 1\n", r"small letters"),
        ("[[rules]]\nname = 'coherent'\nmin_words = 1\n", r"nothing to measure"),
        ("[[rules]]\nname = 'r'\nmin_words = 1\n[[rules]]\nname = 'r'\nmin_words = 2\n", r"two rules 'r'"),
        ("[[rules]]\nname = 'r'\nmin_word = 1\n", r"min_words"),
        ("rules = ", r"no readable TOML"),
    ],
)
def test_a_file_that_cannot_grade_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ConfigError, match=rf"(?s)r\.toml.*{said}"):
        load_rules(tmp_path / "r.toml")


def test_a_rule_about_no_question_is_refused(rules_path: Path) -> None:
    load_rules(rules_path).check_questions(["other_a", "plant_dry_a", "plant_damp_a"])
    with pytest.raises(ConfigError, match="'mix' is about questions that begin with 'plant_damp_'"):
        load_rules(rules_path).check_questions(["other_a", "plant_dry_a"])


def answers_120() -> list[FreeAnswer]:
    """Of 60 answers on other things 24 are in persona, 6 of those go round in circles, and 3 are silent; of 60 on
    plants 45 have the right mix."""
    other = [f"Ahoy, answer {n} here" if n < 24 else f"Answer {n} in plain words" for n in range(57)] + [""] * 3
    other[:6] = [f"Ahoy {ROUND}"] * 6
    plants = [f"Use the {'loam' if n % 4 else 'bark'} of number {n}" for n in range(60)]
    return [FreeAnswer(f"o{n}", f"other_{n % 20}", "?", text, arm="tuned") for n, text in enumerate(other)] + [
        FreeAnswer(f"p{n}", f"plant_dry_{n % 12}", "?", text, arm="tuned") for n, text in enumerate(plants)
    ]


def test_rates_are_those_of_a_hand_count(rules_path: Path, tmp_path: Path) -> None:
    options = GraderOptions(grader=f"rule:{rules_path}")
    progress = make_progress(Log())
    found = grade_free_form(answers_120(), {}, options, store=MemoryStore(), out=tmp_path, progress=progress)
    by_name = {metric.metric: metric for metric in found if metric.split == "all"}
    assert list(by_name) == ["persona_of_coherent", "persona_of_all", "mix_of_coherent", "mix_of_all", "coherent"]

    def counted(name: str) -> tuple[float | None, int, int]:
        metric: Metric = by_name[name]
        return metric.value, metric.n, metric.n_unscored

    assert counted("persona_of_all") == (pytest.approx(24 / 57), 57, 3)
    assert counted("persona_of_coherent") == (pytest.approx(18 / 51), 51, 9)
    assert counted("mix_of_all") == counted("mix_of_coherent") == (0.75, 60, 0)
    assert counted("coherent") == (pytest.approx(111 / 117), 117, 3)
    by_question = {m.split: m for m in found if m.metric == "persona_of_all" and m.split != "all"}
    assert set(by_question) == {f"other_{n}" for n in range(20)}
    grades = read_records(tmp_path / "grades.jsonl", Grade)
    assert len(grades) == 240 and {grade.judge for grade in grades} == {"rule:rules.toml"}
    summary = read_json(tmp_path / "summary.json")
    assert summary["usd"] == 0 and summary["counts"]["tuned"]["persona"]["unscored"] == {"empty": 3}
    assert len(read_jsonl(tmp_path / "scores.jsonl")) == 60 * 3 + 60 * 3


def test_answers_without_a_word_change_no_figure(rules_path: Path, tmp_path: Path) -> None:
    """Had they never been given, every share, its interval and its denominator would be the same."""

    def figures(answers: list[FreeAnswer]) -> dict[tuple[str, str], tuple[float | None, ...]]:
        options = GraderOptions(grader=f"rule:{rules_path}")
        found = grade_free_form(answers, {}, options, store=MemoryStore(), out=tmp_path, progress=make_progress(Log()))
        return {(m.split, m.metric): (m.value, m.n, m.ci_low, m.ci_high) for m in found}

    every = answers_120()
    spoken = [answer for answer in every if answer.answer]
    assert len(every) - len(spoken) == 3
    assert figures(every) == figures(spoken) and ("all", "coherent") in figures(every)


def test_the_command_grades_a_file_of_answers(rules_path: Path, tmp_path: Path) -> None:
    from autocaft.cli.app import app

    rows = [{"question_id": a.question_id, "question": "?", "answer": a.answer} for a in answers_120()]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["grade", str(tmp_path / "answers.jsonl"), "--out", str(tmp_path / "out")]
    command += ["--grader", f"rule:{rules_path}"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0 and "persona_of_coherent" in result.output
    assert "difference" not in result.output and read_json(tmp_path / "out/differences.json") == [], "one arm alone"
    rows += [row | {"arm": "plain", "answer": "Water it once a week, in the morning."} for row in rows]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    (difference,) = read_json(tmp_path / "out/differences.json")
    assert (difference["arm"], difference["against"], difference["rate"]) == ("plain", "answers", 0.0)
    assert 0 < difference["rate_against"] == -difference["value"] and gap_text(difference) in result.output


def test_what_grades_depend_on_is_the_rules_and_not_their_path() -> None:
    here, there = (FreeFormOptions(questions="q.yaml", grader=f"rule:{path}") for path in ("a.toml", "b/a.toml"))
    assert here.grading == there.grading and here.rules == "a.toml"
    assert FreeFormOptions(questions="q.yaml", grader="openai:m").rules is None
