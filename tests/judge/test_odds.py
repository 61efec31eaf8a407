"""Numbers weighted by what the model might have said."""

from __future__ import annotations

import json

import pytest

from autocaft.judge.odds import weigh
from autocaft.llm.odds import weighted_mean
from autocaft.llm.outcomes import TokenOdds

VALUE = {
    "top": {"relevance": 80, "wanted_relevance": 5, "quotes": ['says "relevance": 1']},
    "bottom": {"relevance": 10, "wanted_relevance": 0, "quotes": []},
    "rationale": "-",
}
Alternatives = tuple[tuple[str, float], ...]


def odds(alternatives: dict[tuple[str, str], Alternatives], value: object = VALUE) -> list[TokenOdds]:
    """The reply as tokens, with the alternatives of the numbers that have some; the others were certain."""
    tokens: list[TokenOdds] = []
    for pole, part in VALUE.items():
        if not isinstance(part, dict):
            tokens.append(TokenOdds(f'"{pole}": "-"}}', ()))
            continue
        tokens.append(TokenOdds(("{" if pole == "top" else "") + f'"{pole}": {{', ()))
        for name in ("relevance", "wanted_relevance"):
            number = str(part[name])
            tokens.append(TokenOdds(f'"{name}": ', ()))
            tokens.append(TokenOdds(number, alternatives.get((pole, name), ((number, 1.0),))))
            tokens.append(TokenOdds(", ", ()))
        tokens.append(TokenOdds(f'"quotes": {json.dumps(part["quotes"])}}}, ', ()))
    assert json.loads("".join(token.text for token in tokens)) == value
    return tokens


def test_a_number_is_the_mean_over_what_might_have_been_said() -> None:
    weighed = weigh(VALUE, odds({("top", "relevance"): (("80", 0.6), ("60", 0.2), ("high", 0.2))}))
    assert weighed["top"]["relevance"] == pytest.approx(75.0)
    assert weighed["bottom"] == VALUE["bottom"] and weighed["top"]["wanted_relevance"] == 5


def test_each_pole_gets_its_own_number() -> None:
    weighed = weigh(VALUE, odds({("bottom", "relevance"): (("10", 0.5), ("30", 0.5))}))
    assert (weighed["top"]["relevance"], weighed["bottom"]["relevance"]) == (80, pytest.approx(20.0))


def test_a_model_about_to_say_something_else_gives_no_number() -> None:
    weighed = weigh(VALUE, odds({("top", "relevance"): (('"', 0.8), ("80", 0.2))}))
    assert weighed["top"]["relevance"] is None


def test_without_odds_the_number_stands() -> None:
    assert weigh(VALUE, None) == VALUE


def test_a_number_of_several_tokens_stands() -> None:
    tokens = odds({})
    place = next(i for i, token in enumerate(tokens) if token.text == "80")
    split = [*tokens[:place], TokenOdds("8", (("8", 0.5), ("1", 0.5))), TokenOdds("0", (("0", 1.0),))]
    assert weigh(VALUE, [*split, *tokens[place + 1 :]])["top"]["relevance"] == 80


def test_numbers_beyond_the_scale_do_not_count() -> None:
    assert weighted_mean((("100", 0.5), ("900", 0.4), (" 50", 0.1))) == pytest.approx((50 + 5) / 0.6)
