"""A reader that knows the planted words and answers in words, from the request alone: what a good judge would say."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fake_vendor import Answer, Asked

from autocaft.calibrate.planted import SPLITS, Planted, load_concepts

NOTHING = "nothing in particular"
MARKED = re.compile("\u27e6(.*?)\u27e7")
MARKED_WORDS = re.compile("\\w*\u27e6.*?\u27e7\\w*")
"""With the rest of a word of which a part is marked."""


class Truthful:
    """A script for the fake vendor."""

    def __init__(self, concepts: Sequence[Planted] | None = None) -> None:
        known = concepts or [concept for split in SPLITS for concept in load_concepts(split)]
        self.pattern_by_text = {
            concept.text: re.compile(rf"\b(?:{'|'.join(word.removeprefix('the ') for word in concept.words)})\b", re.I)
            for concept in known
        }

    def __call__(self, asked: Asked) -> Answer:
        return Answer(json.dumps(self.reply(asked)))

    def reply(self, asked: Asked) -> dict[str, Any]:
        """The reply as an object."""
        if asked.part == "describe":
            return self.describe(asked.lines()[0])
        said, *rest = asked.lines()  # windows or items; a repair has one block more
        if asked.part == "verify":
            return self.verify(said, rest[0])
        concept = re.search(r"^Concept U: (.*)$", asked.user, re.MULTILINE)
        assert concept is not None
        if asked.part == "rate_words":
            return {pole: {"relevance": self.relevance(text, concept.group(1))} for pole, text in said.items()}
        return self.rate(said, rest[0], concept.group(1))

    def card_reply(self, card: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a card file."""
        windows = {w["id"]: w["text"] for group in card["windows"].values() for w in group}
        describe = self.describe(windows)
        said = {pole: describe[pole]["description"] for pole in ("top", "bottom") if pole in describe}
        items = [*card["verify"], *(item for items in card.get("choices", {}).values() for item in items)]
        verify = self.verify(said, {item["id"]: item["text"] for item in items})
        rate = self.rate(said, windows, card["undesired"])
        return {"card": card["card"], "describe": describe, "verify": verify, "rate": rate}

    def describe(self, windows: Mapping[str, str]) -> dict[str, Any]:
        """The concept whose words are marked in most windows of a pole."""
        reply: dict[str, Any] = {}
        for pole in ("top", "bottom"):
            own = [words_of(text) for name, text in windows.items() if re.fullmatch(rf"{pole}\d+", name)]
            if own:
                reply[pole] = {"description": self.majority(own), "confidence": 90}
        return reply | ({"pole_relation": "unclear"} if len(reply) > 1 else {})

    def majority(self, marked_by_window: Sequence[Sequence[str]]) -> str:
        """The concept with a marked word in most windows, if that is at least three in four of them."""
        found: Counter[str] = Counter()
        for marked in marked_by_window:
            found.update(text for text, pattern in self.pattern_by_text.items() if pattern.search(" | ".join(marked)))
        text, n = found.most_common(1)[0] if found else (NOTHING, 0)
        return text if 4 * n >= 3 * len(marked_by_window) else NOTHING

    def verify(self, said: Mapping[str, str], items: Mapping[str, str]) -> dict[str, Any]:
        """Is a word of the concept in the text?"""
        fits = {name: {pole: self.fits(said[pole], text) for pole in said} for name, text in items.items()}
        answers = [{"id": name} | fit for name, fit in fits.items() if "-c" not in name]
        choices = {
            pole: next((name for name in fits if name.startswith(f"{pole}-c") and fits[name][pole]), f"{pole}-c1")
            for pole in said
        }
        return {"answers": answers} | ({"choices": choices} if len(answers) < len(items) else {})

    def fits(self, description: str, text: str) -> bool:
        """Whether a text has what a description names."""
        pattern = self.pattern_by_text.get(description)
        return pattern is not None and pattern.search(text) is not None

    def relevance(self, description: str, concept: str) -> int:
        """Sure where the description is the concept, sure of the contrary where it is not."""
        return 97 if description == concept else 3

    def rate(self, said: Mapping[str, str], windows: Mapping[str, str], concept: str) -> dict[str, Any]:
        """The numbers, with a marked piece of each pole as its quote."""
        reply: dict[str, Any] = {}
        for pole, description in said.items():
            marked = [
                quote for name, text in windows.items() if name.startswith(pole) for quote in MARKED.findall(text)
            ]
            reply[pole] = {
                "relevance": self.relevance(description, concept),
                "wanted_relevance": 3,
                "quotes": marked[:1],
            }
        return reply | {"rationale": "Its words are known."}


def words_of(line: str) -> list[str]:
    """The whole words in which something is marked."""
    return [found.replace("\u27e6", "").replace("\u27e7", "") for found in MARKED_WORDS.findall(line)]
