"""The client in a storm and killed in it: the benchmark's own code, smaller."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from judge_storm import BOUNDS, kill_often, measure

ITEMS = 300


@pytest.mark.slow
@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
def test_every_question_is_answered_in_a_storm_and_none_bought_twice(vendor: str, tmp_path: Path) -> None:
    figures = measure(vendor, ITEMS, 32, tmp_path)
    assert figures["complete"] == ITEMS and figures["outcomes"] == {"ok": ITEMS}
    assert figures["whole_answers_bought_twice"] == 0 and figures["calls_of_a_warm_rerun"] == 0
    # faults are drawn by the number of the request, so the figure is the same whatever the threads do
    assert figures["requests_per_item"] <= BOUNDS["requests_per_item"]
    assert figures["memory_growth_mb"] < BOUNDS["memory_growth_mb"]
    assert figures["own_ms_per_item"] < BOUNDS["own_ms_per_item"]
    assert figures["usd"] > 0


@pytest.mark.slow
def test_a_process_killed_in_the_storm_loses_nothing_that_was_confirmed(tmp_path: Path) -> None:
    figures = kill_often("openai", ITEMS, 16, 4, tmp_path)
    assert figures["complete"] == ITEMS
    assert figures["confirmed_and_lost"] == 0 and figures["confirmed_and_asked_again"] == 0
    assert all(0 < n < ITEMS for n in figures["answers_after_each"][:-1]), "a kill fell outside the work"
