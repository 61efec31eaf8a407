"""The guard against injected text leaves clean cards alone, and the measurement would show if it did not."""

from __future__ import annotations

import json

import pytest
from drift import drift, read, unguarded, without_warnings
from fake_vendor import Answer, Asked, Script, serving
from planted import direction, planted, truthful, truthful_reply

from autocaft.judge.base import Card, Concept, Judge
from autocaft.judge.cards import build_cards
from autocaft.judge.offline import OfflineJudge
from autocaft.judge.options import JudgeOptions
from autocaft.judge.prompts import load_prompt
from autocaft.judge.stage import make_judge
from autocaft.llm.client import MemoryStore
from autocaft.records import Direction

CONCEPTS = [Concept("the gender of a person", "grammatical case")]


@pytest.fixture(scope="module")
def clean() -> tuple[list[Direction], list[Card]]:
    directions, examples = [], []
    for number in range(30):
        family = ("gender", "colour", "number")[number % 3]
        directions.append(direction(f"L14.latent{number}"))
        examples += planted(directions[-1].id, family)
    return directions, build_cards(directions, examples, n_describe=10, n_verify=20)


def drift_of(script: Script, clean: tuple[list[Direction], list[Card]]) -> float:
    directions, cards = clean
    with serving(script) as server:
        options = JudgeOptions(judge="openai:m", base_url=server.url + "/v1", undesired="-", wanted="-")

        def judge() -> Judge:
            return make_judge(options, store=MemoryStore())

        guarded = read(judge(), cards, CONCEPTS)
        with unguarded():
            return drift(directions, guarded, read(judge(), cards, CONCEPTS)).value


def test_a_truthful_reader_says_the_same_with_and_without_the_guard(clean: tuple[list[Direction], list[Card]]) -> None:
    assert drift_of(truthful, clean) == 0.0


def test_the_offline_judge_says_the_same_with_and_without_the_guard(clean: tuple[list[Direction], list[Card]]) -> None:
    directions, cards = clean
    guarded = read(OfflineJudge(), cards, CONCEPTS)
    with unguarded():
        assert drift(directions, guarded, read(OfflineJudge(), cards, CONCEPTS)).value == 0.0


def test_a_reader_that_the_warnings_scare_off_is_seen(clean: tuple[list[Direction], list[Card]]) -> None:
    def timid(asked: Asked) -> Answer:
        reply = truthful_reply(asked)
        if asked.part.startswith("rate") and "instruction" in asked.system and "words of gender" in asked.user:
            reply["top"]["relevance"] = 10
        return Answer(json.dumps(reply))

    assert drift_of(timid, clean) == pytest.approx(1 / 3)


def test_good_readers_whose_quotes_are_refused_are_seen(clean: tuple[list[Direction], list[Card]]) -> None:
    def loose(asked: Asked) -> Answer:
        reply = truthful_reply(asked)
        if asked.part == "rate" and "words of colour" in asked.user:
            reply["top"]["quotes"] = ["not in any window"]
        return Answer(json.dumps(reply))

    assert drift_of(loose, clean) == pytest.approx(1 / 3)


def test_cards_that_the_check_by_words_makes_abstain_are_seen(clean: tuple[list[Direction], list[Card]]) -> None:
    def vague(asked: Asked) -> Answer:
        reply = truthful_reply(asked)
        if asked.part == "rate_words" and "words of gender" in asked.user:
            reply["top"]["relevance"] = 30
        return Answer(json.dumps(reply))

    assert drift_of(vague, clean) == pytest.approx(1 / 3)


def test_the_warnings_are_really_in_the_prompts() -> None:
    for name in ("describe", "verify", "rate", "rate_words"):
        plain, bare = load_prompt(name), without_warnings(name)
        assert "instruction" in plain.system and "instruction" in plain.user
        assert "instruction" not in bare.system + bare.user
