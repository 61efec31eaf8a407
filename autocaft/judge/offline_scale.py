"""How much words are about a concept, on a scale with a stated meaning; and does a description tell windows apart?

In: words, the two small models, the words of the run's random windows. Out: numbers in units of the spread among
random words. The decision a reader would question: the null is the words of random windows, not the other cards. The
candidates of a run were ranked by what fine-tuning changed, so half of them may be about the concept, and a scale made
from them would hide that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import normalize

from autocaft.judge.offline_encoder import Encoder, WordLikelihood, clauses

NULL_SHARE = 0.05
"""Relevance 50 is where the nearest 5 % of the random windows' words begin. Chosen on other concepts than the recipes'
have: at 5 % up to 4 % of unrelated latents pass, at 10 % up to 15 %."""
SLOPE = 0.5
"""Half a standard deviation of the random words above that is 73, below it 27."""
CUT = 6.0
"""No single word counts more than this many standard deviations."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How much a pole is about a concept: mean over its windows, in standard deviations of random words."""

    both: float
    encoder: float
    language_model: float | None


class Space:
    """Word vectors of the encoder with the mean random word taken out: what all words share says nothing."""

    def __init__(self, encoder: Encoder, null_words: Sequence[str], other_words: Iterable[str]) -> None:
        self._encoder = encoder
        words = list(dict.fromkeys([*null_words, *other_words]))
        vectors_ND = encoder(words)
        self._row_by_word = {word: row for row, word in enumerate(words)}
        self._vectors_ND = normalize(vectors_ND - vectors_ND[: len(set(null_words))].mean(0), dim=-1)

    def words(self, words: Sequence[str]) -> Tensor:
        """Unit vectors (N, 384), centred, of words the space was made with."""
        return self._vectors_ND[[self._row_by_word[word] for word in words]]

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, 384) of concept texts, as the encoder gives them."""
        return self._encoder(texts)


class ConceptScale:
    """Ratings of words for one concept, standardised on the random words."""

    def __init__(
        self, concept: str, null_words: Sequence[str], space: Space, likelihood: WordLikelihood | None
    ) -> None:
        self._concepts = clauses(concept)
        self._space, self._likelihood = space, likelihood
        null_PN = self._parts(null_words)
        self._mean_P, self._sd_P = null_PN.mean(1), null_PN.std(1).clamp_min(1e-6)
        both_N = self._standardised(null_PN).mean(0)
        self._both_mean, self._both_sd = both_N.mean(), both_N.std().clamp_min(1e-6)
        scaled_N = ((both_N - self._both_mean) / self._both_sd).clamp(-CUT, CUT)
        self.pivot = float(scaled_N.quantile(1 - NULL_SHARE))
        """Where the nearest 5 % of random words begin, in their standard deviations."""

    def fit(self, words: Sequence[str]) -> Fit:
        """The mean over words (one a window)."""
        z_PN = self._standardised(self._parts(words))
        both_N = ((z_PN.mean(0) - self._both_mean) / self._both_sd).clamp(-CUT, CUT)
        lm = float(z_PN[2:].mean()) if self._likelihood else None
        return Fit(float(both_N.mean()), float(z_PN[:2].mean()), lm)

    def _standardised(self, parts_PN: Tensor) -> Tensor:
        return (parts_PN - self._mean_P[:, None]) / self._sd_P[:, None]

    def _parts(self, words: Sequence[str]) -> Tensor:
        """Evidence (P, N): similarity to the whole text and to its nearest clause; likelihood after either."""
        similarity_NC = self._space.words(words) @ self._space.texts(self._concepts).T
        parts = [similarity_NC[:, 0], _best_clause(similarity_NC)]
        if self._likelihood:
            ratio_NC = torch.stack([self._likelihood(words, text) for text in self._concepts], dim=1)
            parts += [ratio_NC[:, 0], _best_clause(ratio_NC)]
        return torch.stack(parts)


def _best_clause(by_clause_NC: Tensor) -> Tensor:
    """The first column is the whole text; its clauses follow, if it has several."""
    return by_clause_NC[:, 1:].amax(1) if by_clause_NC.shape[1] > 1 else by_clause_NC[:, 0]


def relevance(fit: Fit, scale: ConceptScale, rival: float | None = None) -> float:
    """0-100. 50: the peak words are on average as near to the concept as the nearest 5 % of random words begin.

    Args:
        rival: the fit to the concept that is to stay, counted from its own pivot. Where it is larger, the difference
            is taken off.
    """
    above = fit.both - scale.pivot
    if rival is not None:
        above -= max(0.0, rival - above)
    return round(100.0 / (1.0 + math.exp(-above / SLOPE)), 1)


class Reader:
    """A description at work on text: words named in it, or near their mean vector."""

    NAMED = 0.5
    """A named word counts this much on top of its similarity."""

    def __init__(self, peak_words: Sequence[str], space: Space) -> None:
        self._space = space
        self._named = {word.lower() for word in peak_words}
        self._centre_D = normalize(space.words(peak_words).mean(0), dim=-1)

    def score(self, words: Sequence[str]) -> float:
        """The text's best word; below any word's score for a text without words.

        Rounded: ten windows that peak on one word score alike but for the last bits, and a cut must not fall between.
        """
        if not words:
            return -1.0
        named_N = torch.tensor([float(word.lower() in self._named) for word in words])
        return round(float((self._space.words(words) @ self._centre_D + self.NAMED * named_N).max()), 4)


def best_threshold(positives: Sequence[float], negatives: Sequence[float]) -> tuple[float, float]:
    """The cut with the best balanced accuracy on the describe windows (the middle one of equals), and that accuracy."""
    values = sorted({*positives, *negatives})
    cuts = [(a + b) / 2 for a, b in pairwise(values)] or [values[0]]
    accuracy = [
        (sum(p >= cut for p in positives) / len(positives) + sum(n < cut for n in negatives) / len(negatives)) / 2
        for cut in cuts
    ]
    best = max(accuracy)
    equal = [cut for cut, value in zip(cuts, accuracy, strict=True) if value >= best - 1e-12]
    return equal[len(equal) // 2], best
