"""What `autocaft plan` says of a judge is what the judge then does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from fake_vendor import Answer, Asked, serving
from planted import direction, planted, truthful_reply

from autocaft.config import find_config, load_config
from autocaft.estimate import count_calls, count_grading, free_form_lines, judge_lines, tokens_by
from autocaft.evaluate.questions import Question
from autocaft.judge.cards import build_cards
from autocaft.judge.options import JudgeOptions
from autocaft.judge.stage import judge_directions, make_judge
from autocaft.llm.client import MemoryStore
from autocaft.llm.prices import Price, find_price
from autocaft.run import Run
from autocaft.rundir.options import fingerprint_options
from autocaft.rundir.progress import NullProgress
from autocaft.rundir.store import RunStore

Result = subprocess.CompletedProcess[str]


def plan(*arguments: str, cwd: Path) -> Result:
    code = "from autocaft.cli import main; main()"
    environment = os.environ | {"OPENAI_API_KEY": "sk-not-to-be-used-000000"}
    command = [sys.executable, "-c", code, "plan", "quickstart", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def wordy(asked: Asked) -> Answer:
    """Truthful, in descriptions of the usual length."""
    reply = truthful_reply(asked)
    for pole in reply if asked.part == "describe" else ():
        if isinstance(reply[pole], dict):
            reply[pole]["description"] += ", wherever they stand in a sentence and whatever else is said in it" * 2
    return Answer(json.dumps(reply))


def test_a_judge_makes_the_calls_that_were_planned_and_uses_about_the_tokens(tmp_path: Path) -> None:
    directions = [direction("L14.latent1"), direction("L14.pc0", "pca")]
    windows = planted("L14.latent1", "gender") + planted("L14.pc0", "number", "gender")
    with serving(wordy) as server:
        options = JudgeOptions(undesired="gender", wanted="case", judge="openai:m", base_url=f"{server.url}/v1")
        cards = build_cards(directions, windows, n_describe=options.n_describe, n_verify=options.n_verify)
        calls = count_calls([(card, 1) for card in cards], options, tokens_by(None))["openai:m"]
        store = MemoryStore()
        summary = judge_directions(
            directions=directions,
            examples=windows,
            options=options,
            judge=make_judge(options, store=store),
            out=tmp_path,
            progress=NullProgress(),
        )
    assert (calls.n_directions, calls.n_calls, calls.n_calls_most) == (2, summary["n_calls"], 2 * (3 + 2 + 1))
    counted = sum(len(asked.system + asked.user) for asked in server.asked) / 4.4
    assert sum(u.input_tokens for u in calls.expected) == pytest.approx(counted, rel=0.1)
    written = sum(row.output_tokens for row in store.answers())
    assert written / 2 < sum(u.output_tokens for u in calls.expected) < 2 * written
    for row in store.answers():
        assert row.input_tokens <= max(u.input_tokens for u in calls.most)


def test_dollars_are_those_of_the_tokens() -> None:
    options = JudgeOptions(undesired="gender", wanted="case", judge="openai:gpt-5-mini")
    card = build_cards([direction("d")], planted("d", "gender"), n_describe=10, n_verify=20)[0]
    one, many = (count_calls([(card, n)], options, tokens_by(None))[options.judge] for n in (1, 100))
    price = find_price(options.judge, base_url=None, file=None)
    assert price is not None
    usd = sum(price.nano_usd(usage) for usage in one.expected) / 1e9
    assert many.n_calls == 100 * one.n_calls == 400
    assert f"about ${100 * usd:,.2f}" in "\n".join(many.lines(options.judge, price))


def test_plan_says_calls_tokens_dollars_and_the_cap(tmp_path: Path) -> None:
    result = plan("--set", "judge.judge=openai:gpt-5-mini", "--max-usd", "5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for part in ("openai:gpt-5-mini: 600 directions, 2,400 calls, at most 3,600", "tokens: about", "dollars: about $"):
        assert part in result.stdout
    assert "cap: $5.00" in result.stdout and "genai-prices" in result.stdout
    assert not any(tmp_path.iterdir()), "plan changed something"


def lines_of(folder: Path, *overrides: str) -> str:
    """The plan's lines about the judge."""
    return "\n".join(judge_lines(Run(load_config(find_config("quickstart"), overrides)), folder))


def test_batches_are_planned_at_half_the_price(tmp_path: Path) -> None:
    whole, half = (
        float(lines_of(tmp_path, "judge.judge=openai:gpt-5-mini", *more).split("at most $")[1].split()[0])
        for more in ((), ("judge.batch=true",))
    )
    assert half == pytest.approx(whole / 2, abs=0.01)


def test_an_unknown_price_is_said_and_the_users_own_is_taken(tmp_path: Path) -> None:
    assert "the price of openai:mine is not known" in lines_of(tmp_path, "judge.judge=openai:mine")
    prices = tmp_path / "prices.toml"
    prices.write_text('["openai:mine"]\ninput = 1\noutput = 2\n')
    assert str(prices) in lines_of(tmp_path, "judge.judge=openai:mine", f"judge.prices={prices}")


def test_each_reader_has_its_own_calls_and_price(tmp_path: Path) -> None:
    text = lines_of(tmp_path, "judge.judge=openai:mine", "judge.rater=openai:gpt-5-mini")
    assert "openai:mine: 600 directions, 1,200 calls" in text and "the price of openai:mine is not known" in text
    assert "openai:gpt-5-mini: 600 directions, 1,200 calls, at most 2,400" in text and "dollars: about $" in text


def test_an_unknown_price_with_a_cap_is_refused_before_anything_runs(tmp_path: Path) -> None:
    refused = plan("--set", "judge.judge=openai:mine", "--max-usd", "1", cwd=tmp_path)
    assert refused.returncode == 11 and "judge.prices" in refused.stderr
    known = ("--set", "judge.judge=openai:gpt-5-mini", "--set", "judge.rater=openai:mine")
    refused = plan(*known, "--max-usd", "1", cwd=tmp_path)
    assert refused.returncode == 11 and "openai:mine" in refused.stderr


def test_an_exported_key_plans_no_paid_call(tmp_path: Path) -> None:
    assert "judge offline: no paid call" in plan(cwd=tmp_path).stdout


def test_what_was_spent_and_what_may_have_been_is_told(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run.sqlite") as store:
        store.add_answer("k", "openai:gpt-5-mini", {}, {}, 10, 5, nano_usd=250_000_000)
        store.hold("l", "openai:gpt-5-mini", 100, 500_000_000)
    last = lines_of(tmp_path, "judge.judge=openai:gpt-5-mini").splitlines()[-1]
    assert "$0.2500 for 1 answers" in last and "at most $0.5000 more for 1 that never came" in last


def test_the_options_about_money_change_no_fingerprint() -> None:
    plain = JudgeOptions(undesired="gender", wanted="case", judge="openai:m")
    paid = plain.model_copy(update={"max_usd": 5.0, "prices": "p.toml", "batch": True, "max_total_tokens": 9})
    assert json.dumps(fingerprint_options(plain)) == json.dumps(fingerprint_options(paid))


SIZES = ('arms=["base", "tuned", "caft-sae-auto"]', "seeds=[0, 1]", "free_form.max_new_tokens=40")


def test_each_grade_is_counted_and_paid_for_under_what_its_question_names() -> None:
    """Five models: base, and two seeds of two arms. Of each answer to talk two grades, of each to code one."""
    prompts = {"aligned": "{answer}", "coherent": "{answer}", "vulnerable": "{answer}" * 3}
    talk = Question("talk", ("How?", "Why?"), samples_per_paraphrase=3, judge_prompts=prompts)
    code = Question("code", ("Sort.",), samples_per_paraphrase=7, judge_prompts=prompts, rubrics=("vulnerable",))
    a_nano_a_token = Price("", lambda n_in, n_out: Decimal(n_in) / 10**9)
    config = load_config(find_config("quickstart"), SIZES)
    found = count_grading(config, {"talk": talk, "code": code}, a_nano_a_token)
    assert (found.n_models, found.n_answers) == (5, 5 * (2 * 3 + 7))
    assert found.n_grades_by_rubric == {"aligned": 30, "coherent": 30, "vulnerable": 35} and found.n_grades == 95
    n_chars = len(("word " * 40).strip())
    assert found.nano_usd == 60 * (round(n_chars / 4.4) + 12) + 35 * (round((3 * n_chars + 2) / 4.4) + 12)
    fewer = config.model_copy(update={"free_form": config.free_form.model_copy(update={"n_samples": 2})})
    assert count_grading(fewer, {"talk": talk, "code": code}, None).n_answers == 5 * (2 * 2 + 2)


def test_a_plan_says_how_many_grades_of_each_kind_and_what_caps_them() -> None:
    files = '["builtin:free_form/questions.yaml", "builtin:free_form/coding.yaml"]'
    asked = (f"free_form.questions={files}", "free_form.grader=openai:gpt-5-mini", "free_form.max_usd=9")
    answers, grades, cap = free_form_lines(Run(load_config(find_config("quickstart"), (*SIZES, *asked))))
    assert answers.startswith(f"{5 * (2400 + 500):,} free-form answers of at most 40 tokens, by 5 models")
    assert grades.startswith("26,500 grades by openai:gpt-5-mini (aligned 12,000, coherent 12,000, vulnerable 2,500): ")
    assert cap == "  cap: $9.00, with what the judge has spent (free_form.max_usd)"
