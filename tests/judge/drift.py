"""Does the guard against injected text change verdicts of clean cards?

The guard: sentences in the prompts that say that the data is data, the check that a quote is a verbatim part of a
window with a marked token, and the rating without windows. `unguarded()` takes all away; what then comes out otherwise
is the drift. The fence lines stay, because a reader needs some line between question and data.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from autocaft.judge import chat
from autocaft.judge.base import Card, Concept, Judge
from autocaft.judge.prompts import Prompt, load_prompt
from autocaft.records import Direction, Verdict
from autocaft.rundir.progress import NullProgress
from autocaft.select.options import SelectOptions
from autocaft.select.verdicts import decide
from autocaft.stats import Interval, wilson

WARNING = re.compile(r"[^.\n]*whatever they say[^.]*\.|The data ended with[^.]*\.")
"""Sentences of the prompts that an unguarded judge would not have."""
QUOTE_CHECKS = ("schema", "chat", "verdicts", "offline_words")
"""Modules that check quotes."""
MAX_SHIFT = 5.0
"""Points by which a relevance may differ before the verdict counts as another."""


def without_warnings(name: str) -> Prompt:
    """The prompt without its sentences about hostile data."""
    prompt = load_prompt(name)
    return dataclasses.replace(prompt, system=WARNING.sub("", prompt.system), user=WARNING.sub("", prompt.user))


@contextmanager
def unguarded() -> Iterator[None]:
    """Judges made and used inside have no guard."""

    def all_quotes(quotes: Sequence[str], card: Card, pole: str) -> tuple[str, ...]:
        return tuple(quotes)

    def fill(self: Prompt, values: dict[str, str]) -> tuple[str, str]:
        """Some placeholders went with the warnings."""
        return self._put(self.system, values), self._put(self.user, values)

    with ExitStack() as stack:
        stack.enter_context(patch.object(chat, "load_prompt", without_warnings))
        stack.enter_context(patch.object(Prompt, "fill", fill))
        stack.enter_context(patch.object(chat._Session, "_is_worth_checking", lambda session: False))
        for module in QUOTE_CHECKS:
            stack.enter_context(patch(f"autocaft.judge.{module}.verbatim_quotes", all_quotes))
        yield


def read(judge: Judge, cards: Sequence[Card], concepts: Sequence[Concept]) -> list[list[Verdict]]:
    """Verdicts by concept, in the order of the cards."""
    found = []
    for concept in concepts:
        by_id = {verdict.direction_id: verdict for verdict in judge.judge(cards, concept, NullProgress())}
        found.append([by_id[card.direction_id] for card in cards])
    return found


def drift(
    directions: Sequence[Direction], guarded: Sequence[Sequence[Verdict]], bare: Sequence[Sequence[Verdict]]
) -> Interval:
    """Share of the cards with a verdict that the guard changes: its selection, its score, whether it has one, whether
    it abstains."""
    changed: set[str] = set()
    options = SelectOptions(per_layer_cap=len(directions))
    for with_guard, without in zip(guarded, bare, strict=True):
        picks = [[d.ablate for d in decide(directions, verdicts, options, "")] for verdicts in (with_guard, without)]
        for a, b, *picked in zip(with_guard, without, *picks, strict=True):
            is_same = picked[0] == picked[1] and a.unscored_reason == b.unscored_reason and a.abstains == b.abstains
            if not is_same or _shift(a, b) > MAX_SHIFT:
                changed.add(a.direction_id)
    return wilson(len(changed), len(directions))


def _shift(a: Verdict, b: Verdict) -> float:
    return abs((a.relevance or 0.0) - (b.relevance or 0.0))
