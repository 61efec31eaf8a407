"""A fifth of all attempts fail, and no verdict changes: real SDKs, real HTTP, both wire formats."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from fake_vendor import Answer, Asked, Script, serving, storm
from planted import direction, planted, truthful
from test_chat import VENDORS, run

from autocaft.llm.client import MemoryStore
from autocaft.records import Direction, Example

FAMILIES = ("gender", "colour", "number")
N_DIRECTIONS = 24
FAULTS = {"p_429": 0.08, "p_500": 0.06, "p_reset": 0.03, "p_cut": 0.03}
"""Shares of all attempts, a fifth together."""


def many() -> tuple[list[Direction], list[Example]]:
    """Latents and PCs of three families."""
    directions, examples = [], []
    for number in range(N_DIRECTIONS):
        top, bottom = FAMILIES[number % 3], FAMILIES[(number + 1) % 3] if number % 2 else None
        directions.append(direction(f"L14.d{number}", "pca" if bottom else "sae"))
        examples += planted(directions[-1].id, top, bottom)
    return directions, examples


def truncating(script: Script, share: float) -> Script:
    """Also cuts some replies off at the longest length allowed, which only a repair can mend."""

    def cut(asked: Asked) -> Answer:
        answer = script(asked)
        is_cut = "could not be used" not in asked.outside() and random.Random(asked.user).random() < share
        return replace(answer, text=answer.text[:-9], stop="length") if answer.status == 200 and is_cut else answer

    return cut


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_fifth_of_failures_changes_no_verdict(vendor: str, tmp_path: Path) -> None:
    with serving(truthful) as server:
        calm, _ = run(many(), server, tmp_path / "calm", vendor)
    store = MemoryStore()
    with serving(storm(truncating(truthful, 0.02), **FAULTS)) as server:
        stormy, summary = run(many(), server, tmp_path / "storm", vendor, store)
    n_whole = sum(server.n_answered.values())
    assert server.n_asked > 1.1 * n_whole, "the storm was no storm"
    assert summary["n_repairs"] > 0 and summary["unscored"] == {}
    assert stormy == calm
    assert summary["n_calls"] == len(store.answers()) == n_whole == len(server.n_answered), "bought twice or lost"
