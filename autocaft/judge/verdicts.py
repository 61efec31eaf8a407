"""From the three replies about a card to its verdict. Used by every judge whose replies come as JSON.

The decision a reader would question: a direction with two poles gets one verdict, that of the pole with the larger
relevance, because an ablation removes both ends at once. Scores of a pole whose quotes are all invented do not count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from autocaft.judge.base import Card, Judge, unscored
from autocaft.judge.detection import detection
from autocaft.judge.schema import Problem, verbatim_quotes
from autocaft.records import Verdict


def verdict_of(
    card: Card, judge: Judge, replies: Mapping[str, Mapping[str, Any]], problem: Problem | None = None
) -> tuple[Verdict, int]:
    """The verdict, and how many quotes were dropped because no window has them.

    Args:
        replies: `describe`, `verify`, `rate` as far as they came; each fits its schema.
        problem: why a part is missing; None when all three are there.
    """
    describe = replies.get("describe", {})
    quotes = {pole: verbatim_quotes(describe[pole]["quotes"], card, pole) for pole in card.poles if pole in describe}
    n_dropped = sum(len(set(describe[pole]["quotes"])) - len(kept) for pole, kept in quotes.items())
    if problem is not None:
        description = describe["top"]["description"] if "top" in describe else ""
        return unscored(card, judge, problem.reason, description=description, rationale=problem.detail), n_dropped
    rate, answers = replies["rate"], replies["verify"]["answers"]
    pole: Literal["top", "bottom"] = "top"
    if "bottom" in card.poles and rate["bottom"]["relevance"] > rate.get("top", {"relevance": -1})["relevance"]:
        pole = "bottom"
    said_yes = {answer["id"]: answer[pole] for answer in answers}
    found = detection(said_yes, {item: truth[pole] for item, truth in card.answer_key.items()})
    blank = unscored(card, judge, "no_quote", description=describe[pole]["description"], rationale=rate["rationale"])
    verdict = dataclasses.replace(
        blank,
        pole=pole,
        pole_relation=describe.get("pole_relation", "single"),
        confidence=float(describe[pole]["confidence"]),
        detection=found.value if found else None,
        detection_low=found.low if found else None,
        detection_high=found.high if found else None,
    )
    if not quotes[pole]:
        return verdict, n_dropped
    scored = dataclasses.replace(
        verdict,
        quotes=quotes[pole],
        relevance=float(rate[pole]["relevance"]),
        wanted_relevance=float(rate[pole]["wanted_relevance"]),
        unscored_reason=None if found else "no_verify_windows",
    )
    return scored, n_dropped
