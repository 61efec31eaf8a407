"""The search for dials, for the report: its trials in a table, and what it does not show.

In: `search.json` of each searched source. Out: cells and sentences. The decision a reader would question: the plain
training stands in the table as a line of its own, because every other figure is held against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SEARCH_FIGURES = (("concept left", "left"), ("loss", "loss"), ("loss above plain", "loss_rise"), ("KL", "kl"),
                  ("KL above plain", "kl_rise"))  # fmt: skip
"""Head and key of each figure of a trial."""
SEARCH_NOTE = (
    "Short trainings that set where, how much (@) and how strongly (x) the searched arm ablates. Concept left: the "
    "squared length of the difference from the base model along the judged directions, weighed by relevance, as a "
    "share of plain training's. Loss and KL in nats a token. The choice was made on these figures, so they are no "
    "evidence for it: the arm is."
)


def search_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The plain training and each trial: `name`, and `cells` of value and interval, from directions to guards."""
    plain = {"name": "plain", "left": {"value": 1.0, "low": None, "high": None}, **found["plain"]}
    return [_row(plain, "0", ""), *(_row(line, str(line["n_directions"]), _verdict(line)) for line in found["trials"])]


def search_reasons(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name of each trial that was not within the guards, and why."""
    return [
        (line["name"], f"unscored: {line['unscored']}" if "unscored" in line else "; ".join(line["broken"]))
        for line in found["trials"]
        if not line["passes"]
    ]


def _row(line: Mapping[str, Any], n_directions: str, verdict: str) -> dict[str, Any]:
    figures = [_figure(line.get(key)) for _, key in SEARCH_FIGURES]
    return {"name": line["name"], "cells": [(n_directions, ""), *figures, (verdict, "")]}


def _verdict(line: Mapping[str, Any]) -> str:
    return "unscored" if "unscored" in line else "yes" if line["passes"] else "no"


def _figure(figure: Mapping[str, Any] | None) -> tuple[str, str]:
    if figure is None:
        return "\N{EN DASH}", ""
    interval = "" if figure["low"] is None else f"[{figure['low']:.3f}, {figure['high']:.3f}]"
    return f"{figure['value']:.3f}", interval


def search_limits(searches: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a search does not show, or that it found nothing."""
    nothing = [
        f"The search among {found['source']} dials found nothing: no trial kept within the guards, so the searched arm "
        "has the recipe's own setting."
        for found in searches
        if found["chosen"] is None
    ]
    unscored = [
        f"{found['n_unscored']} of {found['n_candidates']} {found['source']} candidates have no relevance; what is "
        "left of the concept along them the search did not see."
        for found in searches
        if found["n_unscored"]
    ]
    seeds = "The search made its choice with one training seed and trials shorter than the arms."
    return [*nothing, *unscored, seeds]
