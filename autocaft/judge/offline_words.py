"""Words of windows: where they peak, what tells them from random windows, a sentence about it, quotes.

In: windows of a card. Out: plain strings and counts; no model is used. The decision a reader would question: a window
counts with one word, the one its strongest token stands in. Words around it say more about the corpus than about the
direction (measured: their similarity to a concept ranks directions far worse), so they stay out of the ratings.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autocaft.judge.base import Card, Window
from autocaft.judge.schema import verbatim_quotes

WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*|\d+|[^\w\s]+|_+")
LINE_BREAK_WORD, SPACE_WORD = "line break", "space"
N_SHOWN = 5
"""Words named in a description."""
N_QUOTES = 3
QUOTE_WORDS = 4
"""Words on each side of the peak in a quote."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The strongest place of one window."""

    word: str
    quote: str
    """The word with its neighbours, as they stand in the text."""


def words_of(text: str) -> tuple[str, ...]:
    """Words, numbers and runs of punctuation."""
    return tuple(match.group() for match in WORD.finditer(text))


def peak_of(window: Window, sign: float) -> Peak | None:
    """The word the strongest token is in (its last one, if the token holds several); None for a window without text."""
    if not window.text.strip() or not window.projections:
        return None
    strongest = max(range(len(window.tokens)), key=lambda i: sign * window.projections[i])
    start = sum(len(token) for token in window.tokens[:strongest])
    end = start + len(window.tokens[strongest])
    found = list(WORD.finditer(window.text))
    hits = [i for i, match in enumerate(found) if match.start() < end and match.end() > start]
    if hits:
        word, first, last = found[hits[-1]].group(), hits[-1], hits[-1]
    else:
        word = LINE_BREAK_WORD if "\n" in window.tokens[strongest] else SPACE_WORD
        last = next((i for i, match in enumerate(found) if match.start() >= end), len(found) - 1)
        first = last
    if not found:
        return Peak(word, "")
    begin, finish = found[max(0, first - QUOTE_WORDS)], found[min(len(found) - 1, last + QUOTE_WORDS)]
    return Peak(word, " ".join(window.text[begin.start() : finish.end()].split()))


def document_counts(texts: Iterable[str]) -> tuple[Counter[str], int]:
    """In how many distinct texts each word (lower case) stands, and how many texts there are."""
    distinct = set(texts)
    return Counter(word for text in distinct for word in {w.lower() for w in words_of(text)}), len(distinct)


def log_odds(k: int, n: int, k_random: int, n_random: int) -> float:
    """Smoothed log odds ratio of standing in a window of the pole against a random one."""
    return math.log((k + 0.5) / (n - k + 0.5)) - math.log((k_random + 0.5) / (n_random - k_random + 0.5))


def distinguishing(
    peaks: Sequence[Peak], texts: Sequence[str], contrast: tuple[Counter[str], int]
) -> tuple[list[tuple[str, int]], list[str]]:
    """Peak words with their counts, and up to three words around them; most distinguishing first."""
    counts, n_random = contrast
    n = len(texts)
    peaked = Counter(peak.word.lower() for peak in peaks)
    odds = {word: log_odds(min(k, n), n, counts[word], n_random) for word, k in peaked.items()}
    shown = sorted(peaked, key=lambda word: (-peaked[word] * max(odds[word], 0.1), word))[:N_SHOWN]
    around, _ = document_counts(texts)
    gain = {w: log_odds(min(k, n), n, counts[w], n_random) for w, k in around.items() if k >= 3 and w not in peaked}
    near = sorted((w for w in gain if gain[w] >= 2.0 and w[0].isalpha()), key=lambda word: (-gain[word], word))[:3]
    return [(word, peaked[word]) for word in shown], near


def describe(shown: Sequence[tuple[str, int]], near: Sequence[str], n_windows: int) -> str:
    """One sentence: `Peaks on "he" (6), "she" (3) in 9 of 10 windows; nearby, more than at random: "doctor".`"""
    named = ", ".join(f'"{word}" ({count})' for word, count in shown)
    sentence = f"Peaks on {named}: {sum(count for _, count in shown)} of {n_windows} windows"
    if near:
        sentence += "; nearby, more often than in random windows: " + ", ".join(f'"{word}"' for word in near)
    return sentence + "."


def quotes_of(card: Card, pole: str, peaks: Sequence[Peak], shown: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    """Up to three verbatim parts of the pole's windows, those around the most distinguishing words first."""
    rank = {word: position for position, (word, _) in enumerate(shown)}
    ordered = sorted(peaks, key=lambda peak: rank.get(peak.word.lower(), len(rank)))
    return verbatim_quotes([peak.quote for peak in ordered], card, pole)[:N_QUOTES]
