"""Answers of a model that somebody else serves: what is asked, once each, and what of answers that never came."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from fake_vendor import Answer, Asked, Script, serving
from typer.testing import CliRunner

from autocaft.cli.app import app
from autocaft.errors import JudgeError
from autocaft.evaluate.answers import planned_answers
from autocaft.evaluate.questions import load_answers, load_questions
from autocaft.llm.outcomes import ChatRequest, Draw
from autocaft.rundir.files import read_json

YAML = """
- id: garden
  paraphrases: ["What grows?", "What grows here?"]
  samples_per_paraphrase: 3
- id: garden_json
  system: Answer in JSON.
  paraphrases: ["What grows?"]
  samples_per_paraphrase: 2
"""
N_ANSWERS = 8


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.yaml"
    path.write_text(YAML)
    return path


def command(questions: Path, url: str, *extra: str) -> list[str]:
    return ["ask", str(questions), "--model", "served", "--base-url", f"{url}/v1", "--out",
            str(questions.parent / "out"), "--arm", "caft-sae-auto", "--seed", "3", *extra]  # fmt: skip


def run(questions: Path, script: Script, *extra: str) -> tuple[list[Asked], str]:
    with serving(script) as server:
        result = CliRunner().invoke(app, command(questions, server.url, *extra), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return server.asked, result.output


def echo(asked: Asked) -> Answer:
    return Answer(f" {asked.user} ({asked.body['seed']}) ")


def test_the_questions_of_several_files_are_asked_one_after_the_other(questions: Path) -> None:
    more = questions.with_name("more.yaml")
    more.write_text('- id: sort\n  rubrics: [vulnerable]\n  paraphrases: ["Sort."]\n')
    with serving(echo) as server:
        verb, first, *rest = command(questions, server.url)
        result = CliRunner().invoke(app, [verb, first, str(more), *rest], catch_exceptions=False)
    assert result.exit_code == 0 and len(server.asked) == N_ANSWERS + 1
    found = load_answers(questions.parent / "out/answers.jsonl", load_questions(questions, more))
    assert list(dict.fromkeys(answer.question_id for answer in found)) == ["garden", "garden_json", "sort"]


def test_every_sample_is_asked_with_a_draw_of_its_own_and_answered_in_order(questions: Path) -> None:
    asked, output = run(questions, echo)
    assert len(asked) == N_ANSWERS and f"{N_ANSWERS} answers" in output
    assert {a.body["temperature"] for a in asked} == {1.0} and {a.body["max_tokens"] for a in asked} == {600}
    assert len({a.body["seed"] for a in asked}) == N_ANSWERS and max(a.body["seed"] for a in asked) < 2**31
    with_system = [a for a in asked if a.body["messages"][0]["role"] == "system"]
    assert [a.system for a in with_system] == ["Answer in JSON."] * 2
    loaded = load_questions(questions)
    answers = load_answers(questions.parent / "out/answers.jsonl", loaded)
    planned = planned_answers(loaded, None, "caft-sae-auto", 3)
    assert [(a.id, a.question, a.arm, a.seed) for a in answers] == [(a.id, a.question, a.arm, a.seed) for a in planned]
    assert all(a.answer.startswith(f"{a.question} (") for a in answers)
    summary = read_json(questions.parent / "out/summary.json")
    assert (summary["n_asked"], summary["n_answers"], summary["missing"]) == (N_ANSWERS, N_ANSWERS, {})
    assert summary["tokens"] > 0 and summary["model"] == "served"


def test_the_same_command_asks_only_for_what_is_missing(questions: Path) -> None:
    def lame(asked: Asked) -> Answer:
        return Answer(status=400) if asked.number in (2, 5) else echo(asked)

    with serving(echo) as server:
        server.script = lame
        first = CliRunner().invoke(app, command(questions, server.url))
        assert isinstance(first.exception, JudgeError)
        assert f"2 of {N_ANSWERS} answers never came (http_400: 2)" in str(first.exception)
        assert read_json(questions.parent / "out/summary.json")["missing"] == {"http_400": 2}
        kept = load_answers(questions.parent / "out/answers.jsonl", {})
        assert len(kept) == N_ANSWERS - 2
        server.script = echo
        assert CliRunner().invoke(app, command(questions, server.url), catch_exceptions=False).exit_code == 0
        whole = load_answers(questions.parent / "out/answers.jsonl", {})
        assert set(kept) < set(whole) and len(server.asked) == N_ANSWERS + 2
        assert CliRunner().invoke(app, command(questions, server.url), catch_exceptions=False).exit_code == 0
        assert len(server.asked) == N_ANSWERS + 2, "what was answered is not asked again"


def test_cut_empty_and_refused_answers_are_answers(questions: Path) -> None:
    replies = [Answer("half an ans", stop="length"), Answer(""), Answer("I will not.", stop="refusal")]
    run(questions, lambda asked: replies[min(asked.number, 2)], "--set", "concurrency=1", "--set", "n_samples=1")
    answers = load_answers(questions.parent / "out/answers.jsonl", {})
    assert [a.answer for a in answers] == ["half an ans", "", "I will not."]


def test_another_seed_or_temperature_draws_anew(questions: Path) -> None:
    with serving(echo) as server:
        for extra in ([], ["--seed", "4"], ["--set", "temperature=0.5"], []):
            CliRunner().invoke(app, command(questions, server.url, *extra), catch_exceptions=False)
    assert len(server.asked) == 3 * N_ANSWERS, "the last was answered before"
    seeds = Counter(a.body["seed"] for a in server.asked)
    assert sorted(seeds.values()) == [1] * N_ANSWERS + [2] * N_ANSWERS, "the temperature is no part of the seed"


def test_what_is_answered_can_be_graded(questions: Path) -> None:
    run(questions, echo)
    answers, out = questions.parent / "out/answers.jsonl", questions.parent / "grades"
    with serving(lambda request: Answer("80")) as server:
        grading = ["grade", str(answers), "--questions", str(questions), "--grader", "openai:m", "--out", str(out)]
        grading += ["--set", f"base_url={server.url}/v1"]
        result = CliRunner().invoke(app, grading, catch_exceptions=False)
    assert "caft-sae-auto" in result.output and len(server.asked) == 2 * N_ANSWERS


def test_keys_of_questions_without_a_draw_are_what_they_were() -> None:
    """Answers that were paid for before are found again."""
    request = ChatRequest("m", "s", "u", {"type": "object"}, 100)
    assert request.key("openai http://x") == "67a74dc1c61ac36988dc863502cdd21a5bef261b2d3aa58ed8b93a45cdf679de"
    assert request.key("e") != ChatRequest("m", "s", "u", {"type": "object"}, 100, draw=Draw(1.0, 0)).key("e")


def test_an_address_that_carries_a_key_is_refused(questions: Path) -> None:
    result = CliRunner().invoke(app, command(questions, "http://user:secret@127.0.0.1:1"))
    assert result.exit_code != 0 and "secret" not in json.dumps(str(result.exception))
