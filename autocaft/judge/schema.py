"""The closed JSON schemas of the replies, and the checks a schema cannot make.

In: which poles a card has. Out: schemas (no property may be added, all are required) and check functions that return
None or a `Problem`. The decision a reader would question: a quote must be a verbatim part of a shown window of its own
pole, and hold a token in which the direction is strong. It costs a few good replies, and it catches invention as well
as a reply whose evidence is a text that somebody put beside the pattern.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from autocaft.judge.base import MARK_CLOSE, MARK_OPEN, N_CHOICES, Card, Window

Schema = dict[str, Any]
SCORE: Schema = {"type": "number", "minimum": 0, "maximum": 100}
RELATIONS = ("one_sided", "opposite", "unrelated", "unclear")
"""Of two poles: only one has a pattern; two values of one concept; two concepts; the judge cannot tell."""


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
    """Per pole a description and a confidence; with two poles also how they relate."""
    pole = closed({"description": {"type": "string"}, "confidence": SCORE})
    menu: Schema = {"type": "string", "enum": list(RELATIONS)}
    relation = {"pole_relation": menu} if len(poles) > 1 else {}
    return closed(dict.fromkeys(poles, pole) | relation)


def verify_schema(poles: Sequence[str], *, has_choices: bool) -> Schema:
    """Per item its id and yes or no for each pole's description; per pole the text it fits best, if that is asked."""
    answer = closed({"id": {"type": "string"}} | {pole: {"type": "boolean"} for pole in poles})
    menus = {pole: {"type": "string", "enum": [f"{pole}-c{n + 1}" for n in range(N_CHOICES)]} for pole in poles}
    answers: Schema = {"answers": {"type": "array", "items": answer}}
    return closed(answers | ({"choices": closed(menus)} if has_choices else {}))


def rate_schema(poles: Sequence[str]) -> Schema:
    """Per pole two numbers, first of all; then quotes for them, and the reasons."""
    quotes: Schema = {"type": "array", "items": {"type": "string"}}
    pole = closed({"relevance": SCORE, "wanted_relevance": SCORE, "quotes": quotes})
    return closed(dict.fromkeys(poles, pole) | {"rationale": {"type": "string"}})


def rate_words_schema(poles: Sequence[str]) -> Schema:
    """Per pole one number, of its description alone."""
    return closed(dict.fromkeys(poles, closed({"relevance": SCORE})))


def reply_schema(poles: Sequence[str], *, has_choices: bool) -> Schema:
    """All three replies in one object: what `files:DIR` takes for one direction."""
    parts = {
        "describe": describe_schema(poles),
        "verify": verify_schema(poles, has_choices=has_choices),
        "rate": rate_schema(poles),
    }
    return closed({"card": {"type": "string"}} | parts)


def check_describe(value: Mapping[str, Any], card: Card) -> Problem | None:
    """Descriptions have words."""
    empty = [pole for pole in card.poles if not value[pole]["description"].strip()]
    return Problem("empty", f"{empty[0]}.description is empty") if empty else None


def check_verify(value: Mapping[str, Any], card: Card) -> Problem | None:
    """Every item is answered exactly once, no other id appears."""
    known = [item.id for item in card.verify]
    given = [answer["id"] for answer in value["answers"]]
    if unknown := sorted(set(given) - set(known)):
        return Problem("off_menu", f"answers: there is no item {unknown[0]!r}")
    if missing := [item for item in known if item not in given]:
        return Problem("missing_item", f"answers: no answer for {', '.join(missing)}")
    if len(given) != len(known):
        return Problem("off_menu", "answers: an item is answered twice")
    return None


def check_rate(value: Mapping[str, Any], card: Card) -> Problem | None:
    """Each pole has a quote that stands in its windows."""
    for pole in card.poles:
        if not verbatim_quotes(value[pole]["quotes"], card, pole):
            detail = f"{pole}.quotes has no verbatim part of a {pole} window with a marked token; copy a few words"
            return Problem("no_quote", detail)
    return None


def verbatim_quotes(quotes: Iterable[str], card: Card, pole: str) -> tuple[str, ...]:
    """The quotes that stand in a window of the pole and reach a marked token; white space and marks do not count."""
    windows = [_plain_with_marks(window) for window in card.windows(pole)]
    plain = dict.fromkeys(_plain(quote) for quote in quotes)
    return tuple(quote for quote in plain if quote and any(_holds_mark(quote, *window) for window in windows))


def _holds_mark(quote: str, text: str, is_marked: Sequence[bool]) -> bool:
    """Whether the quote stands somewhere in the text where a character of it is marked."""
    start = text.find(quote)
    while start >= 0:
        if any(is_marked[start : start + len(quote)]):
            return True
        start = text.find(quote, start + 1)
    return False


def _plain_with_marks(window: Window) -> tuple[str, list[bool]]:
    """The window as a reader sees it, without marks and runs of white space, and which characters were marked."""
    kept: list[tuple[str, bool]] = []
    inside = False
    for char in window.shown():
        if char in (MARK_OPEN, MARK_CLOSE):
            inside = char == MARK_OPEN
        elif not char.isspace():
            kept.append((char, inside))
        elif kept and kept[-1][0] != " ":
            kept.append((" ", False))
    return "".join(char for char, _ in kept), [marked for _, marked in kept]


def _plain(text: str) -> str:
    return " ".join(text.replace(MARK_OPEN, "").replace(MARK_CLOSE, "").split())
