"""Planted directions: examples whose meaning is known, and a reader that tells the truth about them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fake_vendor import Answer, Asked

from autocaft.records import Direction, Example

WORDS = {
    "gender": ("she", "he", "her", "him"),
    "colour": ("red", "blue", "green", "brown"),
    "number": ("seven", "nine", "four", "two"),
}
NEUTRAL = ("the", "table", "stands", "by", "a", "wall", "in", "town", "today", "and", "rain", "falls")


def example(direction_id: str, pole: str, split: str, number: int, word: str | None, sign: float = 1.0) -> Example:
    """A window of eight tokens; the third is the word that fires, if there is one."""
    tokens = [f" {NEUTRAL[(number * 5 + i * (1 + number % 3)) % 12]}" for i in range(7)] + [f" n{number}{pole}{split}"]
    projections = [0.1 * sign] * 8
    if word is not None:
        tokens[2], projections[2] = f" {word}", sign * (9.0 - 0.1 * number)
    doc_id = f"{pole}-{split}-{number}"
    return Example(direction_id, pole, split, doc_id, tuple(tokens), tuple(projections))  # type: ignore[arg-type]


def planted(direction_id: str, top: str, bottom: str | None = None, n: int = 10) -> list[Example]:
    """Examples of a direction whose top is a family of words, and whose bottom is another (or there is none)."""
    rows = []
    for split in ("describe", "verify"):
        for number in range(n):
            rows.append(example(direction_id, "top", split, number, WORDS[top][number % 4]))
            if bottom is not None:
                rows.append(example(direction_id, "bottom", split, number, WORDS[bottom][number % 4], sign=-1.0))
            rows.append(example(direction_id, "random", split, number, None))
            rows.append(example(direction_id, "random", split, number + n, None))
    return rows


def direction(direction_id: str, source: str = "sae") -> Direction:
    return Direction(direction_id, 14, source, 1, 1.0, "attribution")  # type: ignore[arg-type]


def family_in(text: str) -> str | None:
    """The family a text has a word of."""
    words = set(re.findall(r"[a-z]+", text.lower()))
    return next((name for name, family in WORDS.items() if words & {*family, name}), None)


def truthful(asked: Asked) -> Answer:
    """What an honest reader with the word lists would say, from the request alone."""
    return Answer(json.dumps(truthful_reply(asked)))


def truthful_reply(asked: Asked) -> dict[str, Any]:
    if asked.part == "describe":
        return describe_truthfully(asked.lines()[0])
    families = {pole: family_in(text) for pole, text in asked.lines()[0].items()}
    if asked.part == "verify":
        return verify_truthfully(asked.lines()[1], families)
    if asked.part == "rate_words":
        return {pole: {"relevance": 95.0 if family == "gender" else 3.0} for pole, family in families.items()}
    return rate_truthfully(asked.lines()[1], families)


def describe_truthfully(windows: Mapping[str, str]) -> dict[str, Any]:
    reply: dict[str, Any] = {}
    for pole in ("top", "bottom"):
        if marked := marked_of(windows, pole):
            reply[pole] = {"description": f"words of {family_in(' '.join(marked))}", "confidence": 90}
    return reply | ({"pole_relation": "unrelated"} if len(reply) > 1 else {})


def verify_truthfully(items: Mapping[str, str], families: Mapping[str, str | None]) -> dict[str, Any]:
    fits = {name: {pole: family_in(text) == families[pole] for pole in families} for name, text in items.items()}
    answers = [{"id": name} | fit for name, fit in fits.items() if "-c" not in name]
    choices = {
        pole: next((name for name in fits if name.startswith(f"{pole}-c") and fits[name][pole]), f"{pole}-c1")
        for pole in families
    }
    return {"answers": answers} | ({"choices": choices} if len(answers) < len(items) else {})


def rate_truthfully(windows: Mapping[str, str], poles: Iterable[str]) -> dict[str, Any]:
    """Believes the windows, whatever a description says."""
    reply: dict[str, Any] = {}
    for pole in poles:
        marked = marked_of(windows, pole)
        relevance = 95.0 if family_in(" ".join(marked)) == "gender" else 3.0
        reply[pole] = {"relevance": relevance, "wanted_relevance": 5, "quotes": marked[:1]}
    return reply | {"rationale": "It fires on words of gender."}


def marked_of(windows: Mapping[str, str], pole: str) -> list[str]:
    """The marked pieces of a pole's windows."""
    return re.findall("\u27e6(.*?)\u27e7", " ".join(text for name, text in windows.items() if name.startswith(pole)))


def files_reply(card: Mapping[str, Any]) -> dict[str, Any]:
    """The truthful reader at work on a card file."""
    windows = {w["id"]: w["text"] for pole in ("top", "bottom") for w in card["windows"].get(pole, ())}
    describe = describe_truthfully(windows)
    families = {pole: family_in(describe[pole]["description"]) for pole in ("top", "bottom") if pole in describe}
    items = [*card["verify"], *(item for items in card.get("choices", {}).values() for item in items)]
    return {
        "card": card["card"],
        "describe": describe,
        "verify": verify_truthfully({item["id"]: item["text"] for item in items}, families),
        "rate": rate_truthfully(windows, families),
    }
