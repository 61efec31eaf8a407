"""The client in a storm and killed in it: the benchmark's own code, smaller."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import judge_storm
from bars import missed
from judge_storm import BARS, kill_often, main, measure

ITEMS = 300
COUNTED = {name: bar for name, bar in BARS.items() if name != "own_ms_per_item"}
"""Processor time is another one on each machine: that bar is the benchmark's alone."""


@pytest.mark.slow
@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
def test_every_question_is_answered_in_a_storm_and_none_bought_twice(vendor: str, tmp_path: Path) -> None:
    figures = measure(vendor, ITEMS, 32, tmp_path)
    assert figures["outcomes"] == {"ok": ITEMS} and figures["usd"] > 0
    # faults are drawn by the number of the request, so requests an item are the same whatever the threads do
    assert missed(figures, COUNTED) == []
    assert len(set(COUNTED) & set(figures)) == 5


@pytest.mark.slow
def test_a_process_killed_in_the_storm_loses_nothing_that_was_confirmed(tmp_path: Path) -> None:
    figures = kill_often("openai", ITEMS, 16, 4, tmp_path)
    assert missed(figures, COUNTED) == []
    assert len(set(COUNTED) & set(figures)) == 3
    assert all(0 < n < ITEMS for n in figures["answers_after_each"][:-1]), "a kill fell outside the work"


def test_a_missed_bar_is_said_and_ends_the_benchmark_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"missing": 0, "requests_per_item": 2.5, "seconds": 9.0}
    monkeypatch.setattr(judge_storm, "measure", lambda *arguments: found)
    assert main([]) == 1
    assert "missed: requests_per_item: 2.500   (at most 1.895)" in capsys.readouterr().err
    found["requests_per_item"] = 1.8
    assert main([]) == 0
