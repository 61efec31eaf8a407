"""The planted concepts: words, the sentences that make a direction, and the documents that show it.

In: `eval_data/planted/concepts.json`. Out: concepts of one split, their build sentences and mining documents. The
decision a reader would question: both kinds use the same words but never the same sentence. A direction that only knew
its sentences would find nothing in the documents; one that knows the words is what a judge meets in a run.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from autocaft.data.corpus import Document
from autocaft.resources import eval_data_dir

Split = Literal["tuning", "held_out"]
SPLITS: tuple[Split, ...] = ("tuning", "held_out")
SENTENCES_PER_WORD = 4


@dataclass(frozen=True, slots=True)
class Planted:
    """One concept."""

    name: str
    family: str
    text: str
    """How a user would put it in a recipe."""
    words: tuple[str, ...]
    build: tuple[str, ...]
    """Sentences with a `{w}` that directions are made from, and ..."""
    mine: tuple[str, ...]
    """... others that windows are mined from."""


class Sentence(NamedTuple):
    """A text, and where in it the concept's word ends."""

    text: str
    stop: int


def load_concepts(split: Split) -> list[Planted]:
    """The concepts of one half, family by family."""
    found = []
    for family, table in _file()["families"].items():
        if table["split"] != split:
            continue
        build, mine = tuple(table["build"]), tuple(table["mine"])
        for row in table["concepts"]:
            found.append(Planted(row["name"], family, row["text"], tuple(row["words"]), build, mine))
    return found


def build_sentences(concept: Planted) -> list[Sentence]:
    """What the concept's direction is made from: each word in several sentences."""
    return [
        Sentence(frame.format(w=word), frame.index("{w}") + len(word)) for word, frame in _pairs(concept, concept.build)
    ]


def mining_documents(concepts: Sequence[Planted], seed: int = 0) -> list[Document]:
    """What windows are mined from: each word in several other sentences, between two neutral ones."""
    neutral, rng = _file()["neutral"], random.Random(seed)
    documents = []
    for number, concept in enumerate(concepts):
        for place, (word, frame) in enumerate(_pairs(concept, concept.mine)):
            before, after = rng.sample(neutral, 2)
            text = f"{before} {frame.format(w=word)} {after}"
            documents.append(Document(f"planted-{number}-{place}", "generic", None, text))
    return documents


def _pairs(concept: Planted, frames: Sequence[str]) -> list[tuple[str, str]]:
    """(word, sentence): each word in `SENTENCES_PER_WORD` of them, all sentences equally often."""
    return [
        (word, frames[(number + turn * (len(frames) // SENTENCES_PER_WORD)) % len(frames)])
        for turn in range(SENTENCES_PER_WORD)
        for number, word in enumerate(concept.words)
    ]


def _file() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((eval_data_dir() / "planted" / "concepts.json").read_text(encoding="utf-8"))
    return found
