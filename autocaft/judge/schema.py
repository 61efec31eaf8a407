"""The closed JSON schemas of the three replies, and the checks a schema cannot make.

In: which poles a card has. Out: schemas (no property may be added, all are required) and check functions that return
None or a `Problem`. The decision a reader would question: a quote must be a verbatim part of a shown window of its own
pole. It costs a few good replies, and it is what catches both invention and a reply that obeys a text inside the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from autocaft.judge.base import MARK_CLOSE, MARK_OPEN, Card

Schema = dict[str, Any]
SCORE: Schema = {"type": "number", "minimum": 0, "maximum": 100}
RELATIONS = ("opposite", "unrelated", "unclear")


class Problem(NamedTuple):
    """Why a reply cannot be used: a short reason for the verdict, a line for the repair request."""

    reason: str
    detail: str


def closed(properties: Mapping[str, Schema]) -> Schema:
    """An object with exactly these properties, in this order."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def describe_schema(poles: Sequence[str]) -> Schema:
    """Per pole a description, a confidence and quotes; with two poles also how they relate."""
    quotes: Schema = {"type": "array", "items": {"type": "string"}}
    pole = closed({"description": {"type": "string"}, "confidence": SCORE, "quotes": quotes})
    menu: Schema = {"type": "string", "enum": list(RELATIONS)}
    relation = {"pole_relation": menu} if len(poles) > 1 else {}
    return closed(dict.fromkeys(poles, pole) | relation)


def verify_schema(poles: Sequence[str]) -> Schema:
    """Per item: its id and yes or no for each pole's description."""
    answer = closed({"id": {"type": "string"}} | {pole: {"type": "boolean"} for pole in poles})
    return closed({"answers": {"type": "array", "items": answer}})


def rate_schema(poles: Sequence[str]) -> Schema:
    """Per pole two numbers, first of all; then the reasons."""
    pole = closed({"relevance": SCORE, "wanted_relevance": SCORE})
    return closed(dict.fromkeys(poles, pole) | {"rationale": {"type": "string"}})


def reply_schema(poles: Sequence[str]) -> Schema:
    """All three replies in one object: what `files:DIR` takes for one direction."""
    parts = {"describe": describe_schema(poles), "verify": verify_schema(poles), "rate": rate_schema(poles)}
    return closed({"card": {"type": "string"}} | parts)


def check_describe(value: Mapping[str, Any], card: Card) -> Problem | None:
    """Descriptions have words, and each pole has a quote that stands in its windows."""
    for pole in card.poles:
        if not value[pole]["description"].strip():
            return Problem("empty", f"{pole}.description is empty")
        if not verbatim_quotes(value[pole]["quotes"], card, pole):
            detail = f"{pole}.quotes has no verbatim part of a {pole} window; copy a few words exactly"
            return Problem("no_quote", detail)
    return None


def check_verify(value: Mapping[str, Any], card: Card) -> Problem | None:
    """Every item is answered exactly once and no other id appears."""
    known = [item.id for item in card.verify]
    given = [answer["id"] for answer in value["answers"]]
    if unknown := sorted(set(given) - set(known)):
        return Problem("off_menu", f"answers: there is no item {unknown[0]!r}")
    if missing := [item for item in known if item not in given]:
        return Problem("missing_item", f"answers: no answer for {', '.join(missing)}")
    if len(given) != len(known):
        return Problem("off_menu", "answers: an item is answered twice")
    return None


def verbatim_quotes(quotes: Iterable[str], card: Card, pole: str) -> tuple[str, ...]:
    """The quotes that stand in a window of the pole; marks and runs of white space do not count."""
    texts = [_plain(window.shown()) for window in card.windows(pole)]
    plain = dict.fromkeys(_plain(quote) for quote in quotes)
    return tuple(quote for quote in plain if quote and any(quote in text for text in texts))


def _plain(text: str) -> str:
    return " ".join(text.replace(MARK_OPEN, "").replace(MARK_CLOSE, "").split())
