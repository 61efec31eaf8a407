"""Several judges on the same cards."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from autocaft.judge.base import Card, Concept, JudgeUsage, UsageBook, unscored
from autocaft.judge.options import JudgeOptions
from autocaft.judge.panel import PanelJudge, agreement, alpha, combined
from autocaft.judge.stage import judge_directions
from autocaft.records import Direction, Example, Verdict
from autocaft.rundir.files import read_records
from autocaft.rundir.progress import NullProgress, Progress

Planted = tuple[list[Direction], list[Example]]


class Says:
    """A judge with one number for everything, or none."""

    reads_together = False
    prompt_hash = "p"

    def __init__(self, name: str, relevance: float | None) -> None:
        self.name, self.relevance = name, relevance
        self.readers: Mapping[str, str] = {"rate": name}
        self.usage = UsageBook()

    def judge(self, cards: Sequence[Card], concept: Concept, progress: Progress) -> Iterator[Verdict]:
        for card in cards:
            self.usage.by_direction[card.direction_id] = JudgeUsage(n_calls=3)
            verdict = unscored(card, self, "refusal")
            if self.relevance is not None:
                verdict = dataclasses.replace(verdict, relevance=self.relevance, unscored_reason=None, detection=0.9)
            yield verdict


def run(data: Planted, out: Path, *scores: float | None) -> tuple[list[Verdict], dict[str, Any]]:
    panel = PanelJudge([Says(f"j{number}", score) for number, score in enumerate(scores)])
    options = JudgeOptions(undesired="a", wanted="b")
    summary = judge_directions(
        directions=data[0], examples=data[1], options=options, judge=panel, out=out, progress=NullProgress()
    )
    return read_records(out / "verdicts.jsonl", Verdict), summary


def test_judges_that_agree_are_sure(two_directions: Planted, tmp_path: Path) -> None:
    verdicts, summary = run(two_directions, tmp_path, 90.0, 84.0, 70.0)
    assert [(v.relevance, v.ratings, v.abstains) for v in verdicts] == [(84.0, (90.0, 84.0, 70.0), False)] * 2
    assert summary["judge"] == "panel of j0, j1, j2" and summary["n_calls"] == 18
    assert verdicts[0].judge == summary["judge"]


def test_judges_that_disagree_abstain_and_keep_the_median(two_directions: Planted, tmp_path: Path) -> None:
    verdicts, summary = run(two_directions, tmp_path, 90.0, 5.0, 80.0)
    assert [(v.relevance, v.abstains) for v in verdicts] == [(80.0, True)] * 2 and summary["n_abstain"] == 2
    assert verdicts[0].doubt == "rated 90, 5, 80: not clear of 40 to 60"


def test_a_member_without_a_score_does_not_count_but_one_alone_is_not_sure(
    two_directions: Planted, tmp_path: Path
) -> None:
    two, _ = run(two_directions, tmp_path / "two", 90.0, None, 80.0)
    one, _ = run(two_directions, tmp_path / "one", 90.0, None)
    none, _ = run(two_directions, tmp_path / "none", None, None)
    assert (two[0].ratings, two[0].abstains) == ((90.0, 80.0), False)
    assert (one[0].relevance, one[0].abstains) == (90.0, True)
    assert one[0].doubt == "only one judge of the panel has a score"
    assert (none[0].relevance, none[0].unscored_reason) == (None, "refusal")


def test_a_doubt_of_one_member_is_the_panels(two_directions: Planted, tmp_path: Path) -> None:
    sure = run(two_directions, tmp_path, 90.0, 95.0)[0][0]
    unsure = dataclasses.replace(sure, judge="j1", abstains=True, doubt="rated otherwise without windows")
    found = combined([sure, unsure])
    assert (found.abstains, found.doubt) == (True, "j1: rated otherwise without windows")


def test_alpha_is_one_for_equal_ratings_and_near_zero_for_random_ones() -> None:
    rng = random.Random(0)
    equal = [[value, value, value] for value in (10.0, 50.0, 90.0, 30.0)]
    chance = [[rng.uniform(0, 100) for _ in range(3)] for _ in range(60)]
    assert alpha(equal) == pytest.approx(1.0)
    assert abs(alpha(chance)) < 0.15


def test_alpha_is_krippendorffs_own_example() -> None:
    """Four observers, twelve units, missing values, interval data: 0.849 (Krippendorff 2011)."""
    rows = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[float(value) for row in rows if (value := row[unit]) is not None] for unit in range(12)]
    assert alpha([unit for unit in units if len(unit) > 1]) == pytest.approx(0.849, abs=0.001)


def test_agreement_has_an_interval_over_directions(two_directions: Planted) -> None:
    from autocaft.judge.cards import build_cards

    card = build_cards(*two_directions, n_describe=10, n_verify=20)[0]
    rng, judge = random.Random(1), Says("j", 1.0)
    verdicts = []
    for _ in range(20):
        centre = rng.uniform(0, 100)
        ratings = tuple(centre + rng.uniform(-8, 8) for _ in range(3))
        verdicts.append(dataclasses.replace(unscored(card, judge, "x"), ratings=ratings))
    found = agreement(verdicts)
    assert found is not None and 0.8 < found["low"] < found["alpha"] < found["high"] <= 1.0
    assert agreement(verdicts[:1] * 0) is None


def test_the_verdict_nearest_the_median_lends_its_words(two_directions: Planted, tmp_path: Path) -> None:
    verdicts = [dataclasses.replace(v, description=str(v.relevance)) for score in (10.0, 60.0, 90.0)
                for v in run(two_directions, tmp_path / str(score), score)[0][:1]]  # fmt: skip
    assert combined(verdicts).description == "60.0"
