"""Unwanted against task: who is on the frontier, what the axes show, and that nothing needs colour."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from autocaft.report.build import build_report
from autocaft.report.figure import NARROW, WIDE
from autocaft.report.figures import figures_of, standalone
from autocaft.report.html import render_html
from autocaft.report.pareto import Place, Plane, axis_over, draw_pareto, frontier, plane_of_answers, plane_of_choices

Make = Callable[..., dict[str, Any]]


def cell(value: float, half: float | None = None) -> dict[str, float | None]:
    ends = (None, None) if half is None else (max(0.0, value - half), min(1.0, value + half))
    return {"value": value, "ci_low": ends[0], "ci_high": ends[1]}


def places_of(by_arm: dict[str, tuple[float, float]]) -> list[Place]:
    """Task score and unwanted rate of each arm."""
    return [Place(arm, cell(task, 0.02), cell(unwanted, 0.02)) for arm, (task, unwanted) in by_arm.items()]


PLACES = places_of(
    {
        "tuned": (0.92, 0.07),
        "caft-pca-auto": (0.92, 0.012),
        "caft-pca-human": (0.85, 0.004),
        "caft-pca-random": (0.90, 0.045),
        "caft-pca-top": (0.45, 0.0),
        "caft-pca-auto@50%": (0.85, 0.02),
    }
)


def test_the_frontier_is_what_nobody_beats_controls_included() -> None:
    assert [place.arm for place in frontier(PLACES)] == ["caft-pca-auto", "caft-pca-human", "caft-pca-top"]
    for place in PLACES:
        beaten = any(
            other.task["value"] >= place.task["value"]
            and other.unwanted["value"] <= place.unwanted["value"]
            and other != place
            for other in PLACES
        )
        assert beaten != (place in frontier(PLACES)), place.arm


def test_the_line_passes_through_the_points_it_names() -> None:
    svg = draw_pareto(Plane(PLACES, "unwanted", "task"))
    line = re.search(r'class="frontier" d="([^"]+)"', svg)
    assert line is not None
    corners = re.findall(r"[MHV]([\d.]+)(?: ([\d.]+))?", line[1])
    (x, y_top), (y, _), *rest = corners
    found = [(float(x), float(y))]
    for (across, _), (up, _) in zip(rest[::2], rest[1::2], strict=False):
        found.append((float(across), float(up)))
    assert float(y_top) == WIDE.top and len(found) == 3
    for arm, at in zip(("caft-pca-auto", "caft-pca-human", "caft-pca-top"), found, strict=True):
        mark = re.search(rf'data-arm="{arm}".*?<(circle cx="([\d.]+)" cy="([\d.]+)"|polygon points="([^"]+)")', svg)
        assert mark is not None
        if mark[4] is None:
            centre = float(mark[2]), float(mark[3])
        else:
            xs, ys = zip(*(map(float, pair.split(",")) for pair in mark[4].split()), strict=True)
            centre = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
        assert centre == (pytest.approx(at[0], abs=0.2), pytest.approx(at[1], abs=0.2)), arm


def test_controls_are_hollow_and_the_best_are_bold_so_that_no_colour_is_needed() -> None:
    svg = draw_pareto(Plane(PLACES, "unwanted", "task"))
    groups = dict(re.findall(r'<g class="arm" data-arm="([^"]+)">(.*?)</g>', svg))
    hollow = {arm for arm, drawn in groups.items() if 'fill="var(--page)"' in drawn}
    assert hollow == {"caft-pca-random", "caft-pca-top"} and len(groups) == 6
    bold = set(re.findall(r'<text class="best"[^>]*>([^<]+)<', svg))
    assert bold == {place.arm for place in frontier(PLACES)}
    assert "caft-pca-top (control): unwanted 0% [0, 2], task 45% [43, 47]" in svg
    assert "On the frontier: caft-pca-auto, caft-pca-human, caft-pca-top" in svg


def test_every_point_and_interval_lies_within_the_plot() -> None:
    for places in (PLACES, places_of({"tuned": (1.0, 1.0), "caft-sae-auto": (1.0, 1.0)}), PLACES[:2]):
        for frame in (WIDE, NARROW):
            svg = draw_pareto(Plane(places, "unwanted", "task"), frame)
            bars = re.findall(r'class="whisker" d="M([\d.-]+) [\d.-]+H([\d.-]+)M[\d.-]+ ([\d.-]+)V([\d.-]+)"', svg)
            assert len(bars) == len(places)
            for low, high, down, up in (map(float, bar) for bar in bars):
                assert frame.left - 0.1 <= low < high <= frame.left + frame.side + 0.1
                assert frame.top - 0.1 <= up < down <= frame.top + frame.side + 0.1


@pytest.mark.parametrize(
    ("values", "has_zero", "ends", "ticks"),
    [
        ((0.0, 0.085), True, (0.0, 0.09), [0.0, 0.02, 0.04, 0.06, 0.08]),
        ((0.36, 1.0), False, (0.3, 1.0), [0.4, 0.6, 0.8, 1.0]),
        ((1.0, 1.0), False, (0.98, 1.0), [0.98, 0.99, 1.0]),
        ((0.0, 1.0), True, (0.0, 1.0), [0.0, 0.25, 0.5, 0.75, 1.0]),
        ((0.0, 0.0), True, (0.0, 0.02), [0.0, 0.01, 0.02]),
    ],
)
def test_an_axis_shows_what_was_measured_and_no_more_than_a_share(
    values: tuple[float, float], has_zero: bool, ends: tuple[float, float], ticks: list[float]
) -> None:
    axis = axis_over([cell(value) for value in values], has_zero=has_zero)
    assert (axis.low, axis.high) == pytest.approx(ends) and axis.ticks == pytest.approx(ticks)


def test_choices_are_drawn_on_neutral_or_id_without_base_and_hooks_on(make_inputs: Make) -> None:
    report = build_report(**make_inputs())
    plane = plane_of_choices(report["arms"])
    assert plane is not None and plane.across.startswith("neutral")
    assert [place.arm for place in plane.places] == ["tuned", "caft-sae-auto", "caft-sae-random"]
    tuned = next(line for line in report["arms"] if line["arm"] == "tuned")["scores"]
    place = plane.places[0]
    assert place.unwanted["value"] == pytest.approx(1 - tuned["ood"]["value"])
    assert place.unwanted["ci_low"] == pytest.approx(1 - tuned["ood"]["ci_high"])
    assert place.task == tuned["neutral"]
    without = [
        line | {"scores": {s: c for s, c in line["scores"].items() if s != "neutral"}} for line in report["arms"]
    ]
    assert (plane_of_choices(without) or plane).across.startswith("id")
    nothing = [line | {"scores": {}} for line in without]
    assert plane_of_choices(nothing) is None


def _answered(**extra: dict[str, Any]) -> dict[str, Any]:
    cells = {
        "misaligned_of_coherent": cell(0.05, 0.01),
        "mean_coherent": {"value": 90.0, "ci_low": 85.0, "ci_high": 95},
    }
    arms = ("base", "tuned", "caft-sae-auto", "caft-sae-auto-inference")
    return {"metrics": [*cells, *extra], "arms": [{"arm": arm, "cells": cells | extra} for arm in arms]}


def test_answers_are_held_against_vulnerable_code_or_the_task_or_coherence(make_inputs: Make) -> None:
    lines = build_report(**make_inputs())["arms"]
    for built, own, said, value in (
        (_answered(vulnerable_of_all=cell(0.9, 0.01)), lines, "vulnerable of all, %", 0.9),
        (_answered(), lines, "neutral: right, %", None),
        (_answered(), [], "mean grade of coherence", 0.9),
    ):
        plane = plane_of_answers(built, own)
        assert plane is not None and plane.across == said
        assert [place.arm for place in plane.places] == ["tuned", "caft-sae-auto"], "hooks off, and not base"
        assert value is None or plane.places[0].task["value"] == pytest.approx(value)
    cells = {"coherent": cell(0.8), "sea_talk_of_all": cell(0.3)}
    ruled = {"metrics": [*cells], "arms": [{"arm": arm, "cells": cells} for arm in ("tuned", "caft-sae-auto")]}
    plane = plane_of_answers(ruled, [])
    assert plane is not None and (plane.up, plane.across) == ("sea talk of all answers, %", "coherent, %")
    graded = {"metrics": ["mean_coherent"], "arms": [{"arm": "tuned", "cells": {"mean_coherent": cell(90)}}]}
    assert plane_of_answers(graded, []) is None, "nothing unwanted was measured"


def test_the_page_and_the_files_have_it_and_a_phone_only_with_few_arms(make_inputs: Make) -> None:
    report = build_report(**make_inputs())
    assert 'id="pareto"' in render_html(report) and "beaten" in standalone(figures_of(report)["pareto"])
    many = [line | {"arm": f"{line['arm']}@{share}%"} for line in report["arms"] for share in (10, 20, 30, 40)]
    crowded = report | {"arms": [*report["arms"], *many]}
    assert "pareto" in figures_of(crowded) and "pareto" not in figures_of(crowded, narrow=True)
    alone = report | {"arms": [line for line in report["arms"] if line["arm"] in ("base", "tuned")]}
    assert "pareto" not in figures_of(alone) and 'id="pareto"' not in render_html(alone)
