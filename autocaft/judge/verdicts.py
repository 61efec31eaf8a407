"""From the replies about a card to its verdict. Used by every judge whose replies come as JSON.

The decision a reader would question: a direction with two poles gets one verdict, that of the pole with the larger
relevance, because an ablation removes both ends at once. A pole whose quotes are all invented has no score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from autocaft.judge.base import Card, Judge, unscored
from autocaft.judge.cards import SIGN_BY_POLE
from autocaft.judge.detection import detection
from autocaft.judge.schema import Problem, verbatim_quotes
from autocaft.records import Verdict
from autocaft.stats import Interval

Reply = Mapping[str, Any]


def verdict_of(
    card: Card,
    judge: Judge,
    replies: Mapping[str, Reply],
    ratings: Sequence[Reply] = (),
    problem: Problem | None = None,
) -> tuple[Verdict, int]:
    """The verdict, and how many quotes were dropped because no window has them.

    Args:
        replies: `describe` and `verify` as far as they came; each fits its schema.
        ratings: the replies about relevance; their numbers are averaged.
        problem: why a part is missing; None when all are there.
    """
    describe = replies.get("describe", {})
    quotes = {pole: _quotes(card, pole, ratings) for pole in card.poles}
    n_dropped = sum(
        len(set(rating[pole]["quotes"])) - len(_quotes(card, pole, [rating]))
        for rating in ratings
        for pole in card.poles
    )
    if problem is not None:
        own, other = _descriptions(describe, "top")
        nothing = unscored(card, judge, problem.reason, rationale=problem.detail)
        return dataclasses.replace(nothing, description=own, other_description=other), n_dropped
    pole = strongest_pole(card, ratings)
    own, other = _descriptions(describe, pole)
    other_relevance = [_mean(numbers(ratings, name, "relevance")) for name in card.poles if name != pole]
    relevance, wanted = (numbers(ratings, pole, name) for name in ("relevance", "wanted_relevance"))
    verify = replies["verify"]
    found = detection_of(card, verify, pole)
    verdict = dataclasses.replace(
        unscored(card, judge, "no_quote", rationale=ratings[0]["rationale"]),
        description=own,
        other_description=other,
        other_relevance=next(iter(other_relevance), None),
        pole=pole,
        pole_relation=describe.get("pole_relation", "single"),
        confidence=float(describe[pole]["confidence"]),
        detection=found.value if found else None,
        detection_low=found.low if found else None,
        detection_high=found.high if found else None,
        discrimination=float(verify["choices"][pole] == card.choice_key[pole]) if card.choices else None,
    )
    if not quotes[pole]:
        return verdict, n_dropped
    if not relevance:
        return dataclasses.replace(verdict, unscored_reason="no_number"), n_dropped
    scored = dataclasses.replace(
        verdict,
        quotes=quotes[pole],
        relevance=_mean(relevance),
        wanted_relevance=_mean(wanted),
        ratings=tuple(relevance),
        unscored_reason=None if found else "no_verify_windows",
    )
    return scored, n_dropped


def detection_of(card: Card, verify: Reply, pole: str) -> Interval | None:
    """How well the description of a pole told the card's held-out windows apart."""
    said_yes = {answer["id"]: answer[pole] for answer in verify["answers"]}
    return detection(said_yes, {item: truth[pole] for item, truth in card.answer_key.items()})


def strongest_pole(card: Card, ratings: Sequence[Reply]) -> Literal["top", "bottom"]:
    """The pole with the larger mean relevance; the top of two equal ones."""
    means = {pole: _mean(numbers(ratings, pole, "relevance")) for pole in card.poles}
    best = max(card.poles, key=lambda pole: -1.0 if means[pole] is None else means[pole] or 0.0)
    return "bottom" if best == "bottom" else "top"


def numbers(ratings: Sequence[Reply], pole: str, name: str) -> list[float]:
    """One number of each rating that has one."""
    return [float(rating[pole][name]) for rating in ratings if rating[pole][name] is not None]


def _descriptions(describe: Reply, pole: str) -> tuple[str, str]:
    """Of the pole that counts and of the other one; empty as far as they did not come."""
    texts = {name: part["description"] for name, part in describe.items() if name in SIGN_BY_POLE}
    return texts.pop(pole, ""), next(iter(texts.values()), "")


def _quotes(card: Card, pole: str, ratings: Sequence[Reply]) -> tuple[str, ...]:
    return verbatim_quotes([quote for rating in ratings for quote in rating[pole]["quotes"]], card, pole)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
