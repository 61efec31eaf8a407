"""A number that a reply gives, weighted by what the model might have said instead.

In: the checked reply of a rating and the odds of its tokens. Out: the reply with each number replaced by the
probability-weighted mean over the whole numbers 0-100 among the alternatives. The decision a reader would question:
where a number is written with several tokens, the sampled one stands, because the first token of 85 says nothing about
whether 8 or 85 was meant; and where less than a quarter of the probability is on numbers, there is no number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from autocaft.llm.odds import weighted_mean
from autocaft.llm.outcomes import TokenOdds

FIELDS = ("relevance", "wanted_relevance")


def weigh(value: Mapping[str, Any], odds: Sequence[TokenOdds] | None) -> dict[str, Any]:
    """The rating with weighted numbers; a number is None where the model was about to say something else."""
    weighed = {key: dict(part) if isinstance(part, Mapping) else part for key, part in value.items()}
    poles = [key for key, part in value.items() if isinstance(part, Mapping)]
    for name in FIELDS if odds else ():
        for pole, alternatives in zip(poles, _alternatives(odds or (), name), strict=False):
            if alternatives is not None:
                weighed[pole][name] = weighted_mean(alternatives)
    return weighed


def _alternatives(odds: Sequence[TokenOdds], name: str) -> list[Sequence[tuple[str, float]] | None]:
    """For each `"name": number` of the reply, in order, the alternatives; None where several tokens make it."""
    text = "".join(token.text for token in odds)
    ends = list(accumulate(len(token.text) for token in odds))
    found: list[Sequence[tuple[str, float]] | None] = []
    for match in re.finditer(rf'"{name}"\s*:\s*(\d+(?:\.\d+)?)', text):
        token = next(token for token, end in zip(odds, ends, strict=True) if end > match.start(1))
        found.append(token.alternatives if token.text.strip() == match.group(1) else None)
    return found
