"""Several judges on the same cards, and how far they agree.

In: judges. Out: one verdict a card with the median relevance and every member's rating. The decision a reader would
question: disagreement changes no score. It makes the verdict abstain (`stage.with_abstention`), so that a person sees
it first; a mean that hides a 90 and a 5 would look like a sure 48.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autocaft.judge.base import Card, Concept, Judge, JudgeUsage, UsageBook
from autocaft.records import Verdict
from autocaft.rundir.progress import Progress
from autocaft.stats import cluster_bootstrap

N_RESAMPLES = 200
"""Of the interval of alpha: each is a call of a library that walks over all pairs of ratings."""


class PanelJudge:
    """Asks each member about all cards, one member after the other."""

    def __init__(self, members: Sequence[Judge]) -> None:
        self.members = members
        self.name = "panel of " + ", ".join(member.name for member in members)
        self.prompt_hash = " | ".join(dict.fromkeys(member.prompt_hash for member in members))
        self.readers: Mapping[str, str] = {
            part: ", ".join(member.readers[part] for member in members) for part in members[0].readers
        }
        self.reads_together = True
        """A member's verdicts are wanted together; what was paid for is in the store."""
        self.usage = UsageBook()

    def judge(self, cards: Sequence[Card], concept: Concept, progress: Progress) -> Iterator[Verdict]:
        """One verdict per card, in order, once the last member has read it."""
        by_member = []
        for member in self.members:
            by_member.append({verdict.direction_id: verdict for verdict in member.judge(cards, concept, progress)})
            for direction_id, usage in member.usage.by_direction.items():
                before = self.usage.by_direction.get(direction_id, JudgeUsage())
                self.usage.by_direction[direction_id] = before + usage
        for card in cards:
            own = [verdicts[card.direction_id] for verdicts in by_member]
            yield dataclasses.replace(combined(own), judge=self.name, prompt_hash=self.prompt_hash)


def combined(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict nearest to the median relevance, with that median; it abstains if only one member has a score, or if
    one of them abstains.

    If none has, the first stands, with its reason.
    """
    scored = [verdict for verdict in verdicts if verdict.unscored_reason is None and verdict.relevance is not None]
    if not scored:
        return verdicts[0]
    ratings = tuple(verdict.relevance for verdict in scored if verdict.relevance is not None)
    median = statistics.median(ratings)
    nearest = min(scored, key=lambda verdict: abs((verdict.relevance or 0.0) - median))
    doubts = [f"{verdict.judge}: {verdict.doubt}" for verdict in scored if verdict.abstains]
    doubts += ["only one judge of the panel has a score"] if len(scored) < 2 else []
    return dataclasses.replace(
        nearest, relevance=median, ratings=ratings, abstains=bool(doubts), doubt="; ".join(doubts)
    )


def agreement(verdicts: Sequence[Verdict]) -> dict[str, Any] | None:
    """Krippendorff's alpha of the ratings (interval scale) with a 95 % interval over directions.

    None where it does not exist: no two ratings of one direction, or all ratings equal.
    """
    units = [verdict.ratings for verdict in verdicts if len(verdict.ratings) > 1]
    if len({rating for unit in units for rating in unit}) < 2:
        return None
    numbers = list(range(len(units)))

    def of_units(chosen: Any) -> float:
        return alpha([units[int(number)] for number in chosen])

    found = cluster_bootstrap(numbers, numbers, statistic=of_units, n=N_RESAMPLES)
    return {"alpha": found.value, "low": found.low, "high": found.high, "n_directions": len(units)}


def alpha(units: Sequence[Sequence[float]]) -> float:
    """Krippendorff's alpha; raters are interchangeable and may be missing (Krippendorff 2011)."""
    from nltk.metrics.agreement import AnnotationTask
    from nltk.metrics.distance import interval_distance

    if len({rating for unit in units for rating in unit}) < 2:
        return 1.0  # a resample of equal ratings: nothing to disagree about
    data = [(rater, unit, rating) for unit, ratings in enumerate(units) for rater, rating in enumerate(ratings)]
    return float(AnnotationTask(data, distance=interval_distance).alpha())
