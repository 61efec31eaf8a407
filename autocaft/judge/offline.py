"""The `offline` judge: a reader without a service, a key or a large model.

In: cards and two concepts as plain text. Out: a verdict per card. A pole is named by the words its windows peak on and
random windows do not. Its relevance says how near these words are to the concept's text by a sentence encoder (MiniLM),
and how much likelier the run's own language model finds them after that text; no list of words is involved.
The decision a reader would question: the number is a position on a scale, not a probability. 50 means that the average
peak word is as near to the concept as the nearest 5 % of the words in the run's random windows begin to be.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from autocaft.judge import offline_encoder, offline_scale
from autocaft.judge.base import Card, Concept, UsageBook, unscored
from autocaft.judge.cards import SIGN_BY_POLE
from autocaft.judge.detection import detection
from autocaft.judge.offline_encoder import ENCODER_NAME, Encoder, WordLikelihood
from autocaft.judge.offline_scale import ConceptScale, Fit, Reader, Space, best_threshold, relevance
from autocaft.judge.offline_words import (
    LINE_BREAK_WORD,
    SPACE_WORD,
    Peak,
    describe,
    distinguishing,
    document_counts,
    peak_of,
    quotes_of,
    words_of,
)
from autocaft.records import Verdict
from autocaft.rundir.progress import Progress
from autocaft.stats import Interval

VERSION = 2
"""Raise it when the method changes: verdicts carry it in their prompt hash."""
MIN_NULL_WORDS = 30
"""Fewer distinct words in all random windows of the run are no contrast."""
MAX_NULL_WORDS = 2000
MAX_CONTRAST_WINDOWS = 40
"""Random windows that set the threshold of a detection."""
OPPOSITE, UNRELATED = 0.35, 0.15
"""Similarity of the two poles' mean words above which they are ends of one subject, and below which they are not."""


@dataclass(frozen=True, slots=True)
class PoleReading:
    """What was read at one pole."""

    pole: Literal["top", "bottom"]
    description: str
    quotes: tuple[str, ...]
    peak_words: tuple[str, ...]
    fit: Fit
    wanted_fit: Fit
    relevance: float
    wanted_relevance: float
    confidence: float
    detection: Interval | None
    discrimination: float | None


class OfflineJudge:
    """See the module. One object may judge several batches; texts are encoded once."""

    reads_together = True
    """Scores rest on the random windows of all cards handed over: judge all of a run's cards in one call."""

    def __init__(
        self, model: Any = None, tokenizer: Any = None, *, lm_name: str = "", encoder: Encoder | None = None
    ) -> None:
        """Args:
            model, tokenizer: the run's base language model. Without them only the encoder reads.
            lm_name: its name, for the verdicts; the last part of where it was loaded from if not given.

        Raises:
            JudgeError: the encoder's package is not installed.
        """
        self.encoder = encoder or Encoder()
        self.likelihood = WordLikelihood(model, tokenizer) if model is not None else None
        lm_name = lm_name or Path(getattr(getattr(model, "config", None), "name_or_path", "") or "lm").name
        self.name = f"offline:{ENCODER_NAME}" + (f"+{lm_name}" if self.likelihood else "")
        self.readers: Mapping[str, str] = dict.fromkeys(("describe", "verify", "rate"), self.name)
        self.prompt_hash = method_hash()
        self.usage = UsageBook()

    def judge(self, cards: Sequence[Card], concept: Concept, progress: Progress) -> Iterator[Verdict]:
        """One verdict per card, in order."""
        with progress.task("judge", len(cards), "directions") as advance:
            contrast = random_windows(cards)
            null_words = _null_words(contrast)
            run = None
            if len(null_words) >= MIN_NULL_WORDS:
                run = _Run(self, concept, contrast, null_words, cards)
            for card in cards:
                yield run.verdict(card) if run else unscored(card, self, "no_contrast", rationale=_TOO_FEW_RANDOM)
                advance(1)


class _Run:
    """What all cards of a run share: the random windows, the space of words, the two scales."""

    def __init__(
        self,
        judge: OfflineJudge,
        concept: Concept,
        contrast: Sequence[str],
        null_words: Sequence[str],
        cards: Sequence[Card],
    ) -> None:
        self.judge = judge
        self.counts = document_counts(contrast)
        self.negatives = [words_of(text) for text in _thinned(contrast, MAX_CONTRAST_WINDOWS)]
        looked_up = chain([LINE_BREAK_WORD, SPACE_WORD], *self.negatives, *(_all_words(card) for card in cards))
        self.space = Space(judge.encoder, null_words, looked_up)
        self.undesired = ConceptScale(concept.undesired, null_words, self.space, judge.likelihood)
        self.wanted = ConceptScale(concept.wanted, null_words, self.space, judge.likelihood)

    def verdict(self, card: Card) -> Verdict:
        """The verdict of the pole with the larger relevance."""
        problems = {pole: problem for pole in card.poles if (problem := _unreadable(card, pole))}
        readings = [self._read(card, pole) for pole in card.poles if pole not in problems]
        if not readings:
            return unscored(card, self.judge, next(iter(problems.values()), "no_windows"))
        best = max(readings, key=lambda reading: (reading.relevance, reading.fit.both))
        other = next((reading for reading in readings if reading is not best), None)
        return replace(
            unscored(card, self.judge, "no_verify_windows"),
            pole=best.pole,
            description=best.description,
            other_description=other.description if other else "",
            other_relevance=other.relevance if other else None,
            confidence=best.confidence,
            pole_relation=self._relation(card, readings),
            detection=best.detection.value if best.detection else None,
            detection_low=best.detection.low if best.detection else None,
            detection_high=best.detection.high if best.detection else None,
            discrimination=best.discrimination,
            relevance=best.relevance,
            wanted_relevance=best.wanted_relevance,
            quotes=best.quotes,
            unscored_reason=None if best.detection else "no_verify_windows",
            rationale=self._rationale(best, other),
        )

    def _read(self, card: Card, pole: str) -> PoleReading:
        windows = [window for window in card.windows(pole) if window.text.strip()]
        peaks = [peak for window in windows if (peak := peak_of(window, SIGN_BY_POLE[pole]))]
        shown, near = distinguishing(peaks, [window.text for window in windows], self.counts)
        words = [peak.word for peak in peaks]
        fit, wanted_fit = self.undesired.fit(words), self.wanted.fit(words)
        accuracy, found = self._detect(card, pole, peaks)
        return PoleReading(
            pole="top" if pole == "top" else "bottom",
            description=describe(shown, near, len(windows)),
            quotes=quotes_of(card, pole, peaks, shown),
            peak_words=tuple(words),
            fit=fit,
            wanted_fit=wanted_fit,
            relevance=relevance(fit, self.undesired, wanted_fit.both - self.wanted.pivot),
            wanted_relevance=relevance(wanted_fit, self.wanted),
            confidence=round(100 * max(0.0, 2 * accuracy - 1), 1),
            detection=found,
            discrimination=self._discriminate(card, pole, words),
        )

    def _detect(self, card: Card, pole: str, peaks: Sequence[Peak]) -> tuple[float, Interval | None]:
        """Balanced accuracy on the describe windows (each read without its own peak), and on held-out ones."""
        texts = [window.text for window in card.windows(pole) if window.text.strip()]
        words = [peak.word for peak in peaks]
        alone = len(words) < 2
        positives = [
            Reader(words if alone else words[:i] + words[i + 1 :], self.space).score(words_of(text))
            for i, text in enumerate(texts)
        ]
        reader = Reader(words, self.space)
        negatives = [reader.score(text) for text in self.negatives]
        negatives += [reader.score(words_of(window.text)) for window in card.middle]
        cut, accuracy = best_threshold(positives, negatives)
        said_yes = {item.id: reader.score(words_of(item.text)) >= cut for item in card.verify}
        return accuracy, detection(said_yes, {item: truth[pole] for item, truth in card.answer_key.items()})

    def _discriminate(self, card: Card, pole: str, words: Sequence[str]) -> float | None:
        """Whether the reader picks its own of the four texts."""
        if pole not in card.choices or not words:
            return None
        reader = Reader(words, self.space)
        best = max(card.choices[pole], key=lambda item: reader.score(words_of(item.text)))
        return float(best.id == card.choice_key[pole])

    def _relation(self, card: Card, readings: Sequence[PoleReading]) -> str:
        if len(card.poles) < 2:
            return "single"
        if len(readings) < 2:
            return "unclear"
        a_D, b_D = (self.space.words(reading.peak_words).mean(0) for reading in readings)
        similarity = float(a_D @ b_D / (a_D.norm() * b_D.norm()).clamp_min(1e-6))
        if similarity >= OPPOSITE:
            return "opposite"
        return "unrelated" if similarity < UNRELATED else "unclear"

    def _rationale(self, best: PoleReading, other: PoleReading | None) -> str:
        fit, wanted = best.fit, best.wanted_fit
        lm = "" if fit.language_model is None else f", likelihood under the language model {fit.language_model:+.1f}"
        parts = [
            "No large model read this. In standard deviations of the words in random windows, the peak words are at "
            f"{fit.both:+.1f} on the undesired concept (sentence encoder {fit.encoder:+.1f}{lm}; 50 is at "
            f"{self.undesired.pivot:+.1f}, where the nearest 5 % of random words begin) and at {wanted.both:+.1f} on "
            f"the wanted one (50 is at {self.wanted.pivot:+.1f})."
        ]
        if wanted.both - self.wanted.pivot > fit.both - self.undesired.pivot:
            parts.append("They fit the wanted concept better, and the difference was taken off.")
        if other is not None:
            parts.append(f"The other pole ({other.pole}) has {other.relevance:.0f}: {other.description}")
        return " ".join(parts)


_TOO_FEW_RANDOM = f"All random windows together have fewer than {MIN_NULL_WORDS} distinct words: no contrast."


def random_windows(cards: Sequence[Card]) -> list[str]:
    """The distinct texts of all random windows of the run, in a fixed order."""
    return sorted({window.text for card in cards for window in card.random if window.text.strip()})


def method_hash() -> str:
    """What the verdicts depend on besides the cards: the method's version, its prompts and its constants."""
    settings = {
        "version": VERSION,
        "templates": offline_encoder.TEMPLATES,
        "neutral": offline_encoder.NEUTRAL,
        "scale": [offline_scale.NULL_SHARE, offline_scale.SLOPE, offline_scale.CUT, Reader.NAMED],
    }
    return "offline:" + hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _null_words(contrast: Sequence[str]) -> list[str]:
    """Distinct words of the random windows in their commonest spelling, evenly thinned."""
    spellings = Counter(word for text in contrast for word in words_of(text))
    commonest: dict[str, str] = {}
    for word in sorted(spellings, key=lambda word: (-spellings[word], word)):
        commonest.setdefault(word.lower(), word)
    return _thinned(sorted(commonest.values()), MAX_NULL_WORDS)


def _thinned(values: Sequence[str], n: int) -> list[str]:
    """At most n of the values, evenly spaced."""
    return [values[i * len(values) // n] for i in range(n)] if len(values) > n else list(values)


def _unreadable(card: Card, pole: str) -> str | None:
    """Why a pole's windows cannot be read; None if they can."""
    texts = [window.text.strip() for window in card.windows(pole)]
    if not any(texts):
        return "empty_windows"
    return "identical_windows" if len(texts) > 1 and len(set(texts)) == 1 else None


def _all_words(card: Card) -> Iterator[str]:
    """Every word that reading this card may look up."""
    windows = chain(card.top, card.bottom, card.middle)
    items = chain(card.verify, *card.choices.values())
    return chain.from_iterable(words_of(text) for text in [*(w.text for w in windows), *(item.text for item in items)])
