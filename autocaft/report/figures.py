"""All figures of a report by name, and a figure as a file of its own.

In: report.json. Out: SVG text. The decision a reader would question: colours are variables of the page, so a file of
its own gets the values of the page by day, and the rules it needs, written in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from itertools import count
from typing import Any

from autocaft.report.curve import agreement_by_threshold, draw_curves, draw_hybrid, selected_by_threshold
from autocaft.report.dots import NARROW_SHEET, WIDE_SHEET, draw_dots
from autocaft.report.figure import NARROW, WIDE, draw_figure
from autocaft.report.pareto import draw_pareto, plane_of_answers, plane_of_choices

VARIABLE = re.compile(r"var\(--([\w-]+)\)")
MAX_NARROW = 8
"""A phone has no room for the names of more arms beside their points; there, `arms` says it."""
NO_WORD = re.compile(r"\W+")
MAX_NAME = 40
"""Letters of a person's name in a file's name."""
SIZE = re.compile(r'<svg viewBox="0 0 (\d+) (\d+)"')


def figures_of(report: Mapping[str, Any], *, narrow: bool = False) -> dict[str, str]:
    """SVG by name, without those that have nothing to show; `narrow` is for a phone.

    Names: `id_ood` (the arms as points), `arms` (one line each), `pareto` and `pareto_free_form` (unwanted against
    task), `thresholds`; for each person `agreement_NAME` by threshold and `hybrid_NAME` by minutes of a simulated
    reader.
    """
    lines, judge = report["arms"], report["judge"]
    width, threshold = 368 if narrow else 640, judge.get("threshold")
    mark = None if threshold is None else (threshold, f"this run: {threshold:g}")
    end = "-narrow" if narrow else ""
    selected = selected_by_threshold(report["cards"])
    n_scored = max((value for _, value in selected.points), default=0.0)
    found = {
        "id_ood": draw_figure(lines, NARROW if narrow else WIDE, f"id-ood{end}"),
        "arms": draw_dots(lines, NARROW_SHEET if narrow else WIDE_SHEET, f"dots{end}"),
        **_paretos(report, narrow=narrow),
        "thresholds": draw_curves(
            [selected],
            up="directions that reach it",
            top=max(n_scored, 2.0),
            ident=f"thresholds{end}",
            width=width,
            mark=mark,
        ),
    }
    if narrow and len({line["arm"] for line in lines}) > MAX_NARROW:
        del found["id_ood"]
    for pair, (agreement, hybrid) in zip(_pairs(report), pair_figures(report), strict=True):
        curves, ident = agreement_by_threshold(pair), f"{agreement}{end}"
        found[agreement] = draw_curves(curves, up="against the person", top=1.0, ident=ident, width=width, mark=mark)
        found[hybrid] = draw_hybrid(pair["hybrid"], width=width, ident=f"{hybrid}{end}")
    return {name: svg for name, svg in found.items() if svg}


def pair_figures(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names of the two figures of each person, in the order of the comparison; no two are the same, and each can be
    the name of a file."""
    ends: list[str] = []
    for pair in _pairs(report):
        name = NO_WORD.sub("_", pair["human"].removeprefix("human:").casefold())[:MAX_NAME]
        ends.append(next(end for n in count(1) if (end := name if n == 1 else f"{name}_{n}") not in ends))
    return [(f"agreement_{end}", f"hybrid_{end}") for end in ends]


def _pairs(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The judge against each person."""
    return report["comparison"]["auto_against_human"] if report["comparison"] else []


def _paretos(report: Mapping[str, Any], *, narrow: bool) -> dict[str, str]:
    """Unwanted against task, of choices and of free-form answers."""
    lines, answered = report["arms"], report.get("free_form")
    planes = {
        "pareto": plane_of_choices(lines),
        "pareto_free_form": plane_of_answers(answered, lines) if answered else None,
    }
    frame, end = (NARROW, "-narrow") if narrow else (WIDE, "")
    return {
        name: draw_pareto(plane, frame, f"{name.replace('_', '-')}-figure{end}")
        for name, plane in planes.items()
        if plane is not None and not (narrow and len(plane.places) > MAX_NARROW)
    }


def standalone(svg: str) -> str:
    """The figure as a file that needs no page."""
    palette = _palette()
    size = SIZE.match(svg)
    assert size is not None, svg[:80]
    width, height = size.groups()
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    styled = svg.replace("</title>", f"</title><style>{resource('figure.css')}</style>", 1)
    # a name of an arm may look like a variable and is none
    return VARIABLE.sub(lambda match: palette.get(match[1], match[0]), head + styled[size.end() :]) + "\n"


@cache
def resource(name: str) -> str:
    """One of the files beside this one."""
    return resources.files("autocaft.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _palette() -> dict[str, str]:
    """The page's variables by day."""
    css = resource("report.css")
    block = css[css.index(":root {") : css.index("}")]
    return {name: value.strip() for name, value in re.findall(r"--([\w-]+):([^;]+);", block)}
