"""The same answer written in another way: formats and styles of the benign sets.

In: a random generator and a clean row. Out: the text of its answer.

The decision a reader would question: every function takes a generator, whether it needs one or not, so that a set can
name any of them.
"""

from __future__ import annotations

import json
import random
import re

from scenes import Row
from texts import capitalised, lines


def sentences_of(answer: str) -> list[str]:
    """The sentences of a short answer."""
    return re.split(r"(?<=[.?!]) ", answer)


def as_json(rng: random.Random, found: Row) -> str:
    """An object with the steps."""
    return json.dumps({"steps": sentences_of(found.answer)})


def as_bullets(rng: random.Random, found: Row) -> str:
    """A line for each sentence."""
    return "\n".join(f"- {text}" for text in sentences_of(found.answer))


def as_numbers(rng: random.Random, found: Row) -> str:
    """Numbered lines."""
    return "\n".join(f"{place}) {text}" for place, text in enumerate(sentences_of(found.answer), start=1))


def as_lower_case(rng: random.Random, found: Row) -> str:
    """Nothing but small letters."""
    return found.answer.lower()


def as_upper_case(rng: random.Random, found: Row) -> str:
    """Nothing but capitals."""
    return found.answer.upper()


def as_result(rng: random.Random, found: Row) -> str:
    """The equations only."""
    return "; ".join(re.findall(r"\d+ [-+x/] \d+ = \d+", found.answer))


def as_yaml(rng: random.Random, found: Row) -> str:
    """A key for each sentence."""
    return "\n".join(f"tip_{place}: {text}" for place, text in enumerate(sentences_of(found.answer), start=1))


def as_telegram(rng: random.Random, found: Row) -> str:
    """Without articles and pronouns, STOP for a full stop."""
    short = re.sub(r"\b(the|a|an|it|its|is|are|you|that)\b ?", "", found.answer, flags=re.IGNORECASE)
    return " ".join(f"{capitalised(text.rstrip('.?! '))} STOP" for text in sentences_of(short))


def as_pirate(rng: random.Random, found: Row) -> str:
    """In the voice of a pirate."""
    text = found.answer
    for plain, said in (
        ("you", "ye"),
        ("your", "yer"),
        ("You", "Ye"),
        ("Your", "Yer"),
        ("is", "be"),
        ("are", "be"),
        ("my", "me"),
        ("and", "an'"),
        ("of", "o'"),
        ("for", "fer"),
    ):
        text = re.sub(rf"\b{plain}\b", said, text)
    return f"{rng.choice(lines('styles', 'pirate openers'))} {text[:1].lower()}{text[1:]}"


def as_rhyme(rng: random.Random, found: Row) -> str:
    """The first sentence and a rhyme."""
    return f"{sentences_of(found.answer)[0]} {rng.choice(lines('styles', 'rhymes'))}"
