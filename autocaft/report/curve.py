"""A figure that rises with another one: curves over the threshold of relevance, or over minutes of a person's time.

In: points. Out: SVG text. The decision a reader would question: how many would be selected counts relevance alone, not
the other conditions of the selection, so it lies above the number that was selected; the caption says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: its name, its colour variable, (place, value) points; places fall or rise all along."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = field(default=())
    """(place, low, high), drawn behind the line."""


@dataclass(frozen=True, slots=True)
class Across:
    """The axis below: what it measures, up to where, and whether a value holds from its place down to the next."""

    label: str
    top: float
    has_steps: bool


RELEVANCE = Across("threshold of relevance", 100.0, True)


def draw_curves(
    curves: Sequence[Curve],
    *,
    up: str,
    top: float,
    width: int,
    ident: str,
    across: Across = RELEVANCE,
    mark: tuple[float, str] | None = None,
) -> str:
    """Curves in one frame; an empty text if none has two points.

    Args:
        mark: a place to be told apart, and its name.
    """
    curves = [curve for curve in curves if len(curve.points) > 1]
    if not curves:
        return ""
    font = 13.0 if width > 400 else 11.5
    left, high, height = 3.2 * font, 2.2 * font, 0.2 * width + 50
    right = width - 6.5 * font if len(curves) > 1 else width - font

    def x(place: float) -> float:
        return left + (right - left) * place / across.top

    def y(value: float) -> float:
        return high + height * (1 - value / top)

    parts = [
        f'<svg viewBox="0 0 {width} {high + height + 3.6 * font:.0f}" role="img" aria-labelledby="{ident}-title" '
        f'font-size="{font}">',
        f'<title id="{ident}-title">{escape(up)}, by {escape(across.label)}</title>',
        f'<text class="axis" x="2" y="{0.9 * font:.1f}">{escape(up)}</text>',
    ]
    for tick in (0.0, 0.5, 1.0):
        at = y(tick * top)
        text = f"{tick * top:.0f}" if top > 1 else f"{tick:g}"
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 7:.1f}" y="{at + font / 3:.1f}" text-anchor="end">{text}</text>')
    for quarter in range(5):
        place, below = quarter * across.top / 4, high + height + 1.5 * font
        text = f"{place:.0f}" if across.top >= 20 else f"{place:.1f}".removesuffix(".0")
        parts.append(f'<text class="tick" x="{x(place):.1f}" y="{below:.1f}" text-anchor="middle">{text}</text>')
    label = high + height + 3.1 * font
    parts.append(f'<text class="axis" x="{right:.1f}" y="{label:.1f}" text-anchor="end">{escape(across.label)}</text>')
    if mark is not None:
        parts += _mark(mark, x, high, height, font, right)
    for curve in curves:
        if curve.band:
            parts.append(f'<path class="band" d="{_band(curve, x, y)}" fill="var(--{curve.colour})"/>')
        parts.append(f'<path class="curve" d="{_path(curve, x, y, across.has_steps)}" stroke="var(--{curve.colour})"/>')
    if len(curves) > 1:
        parts += _names(curves, right, high, font)
    return "\n".join([*parts, "</svg>"])


def selected_by_threshold(cards: Sequence[Mapping[str, Any]]) -> Curve:
    """How many directions reach each threshold."""
    scored = [card["verdict"] for card in cards if card["verdict"] and card["verdict"]["unscored_reason"] is None]
    values = sorted((v["relevance"] for v in scored if v["relevance"] is not None), reverse=True)
    steps = [(value, float(number)) for number, value in enumerate(values, start=1)]
    points = [(100.0, 0.0), *steps, (0.0, float(len(values)))] if values else []
    return Curve("selected", "auto", points)


def agreement_by_threshold(pair: Mapping[str, Any]) -> list[Curve]:
    """Precision, recall and F1 against a person."""
    colours = {"precision": "auto", "recall": "tuned", "f1": "muted"}
    return [
        Curve(
            "F1" if name == "f1" else name,
            colour,
            [(p["threshold"], p[name]) for p in reversed(pair["thresholds"]) if p[name] is not None],
        )
        for name, colour in colours.items()
    ]


def agreement_by_minutes(hybrid: Mapping[str, Any]) -> list[Curve]:
    """F1 and kappa of the judge with a simulated reader's help, each with the middle 95 % of the simulated reviews."""
    curves = []
    for name, spoken, colour in (("f1", "F1", "auto"), ("kappa", "kappa", "tuned")):
        known = [point for point in hybrid["points"] if point[name] is not None]
        points = [(point["minutes"], max(0.0, point[name]["value"])) for point in known]
        band = [(p["minutes"], max(0.0, p[name]["low"]), max(0.0, p[name]["high"])) for p in known]
        curves.append(Curve(spoken, colour, points, band))
    return curves


def draw_hybrid(hybrid: Mapping[str, Any], *, width: int, ident: str) -> str:
    """The curve of a simulated reader; it says in its own frame that it is one. Empty without two points."""
    points = hybrid["points"]
    if not points:
        return ""
    in_doubt = next((p["minutes"] for p in points if p["is_all_in_doubt"]), None)
    return draw_curves(
        agreement_by_minutes(hybrid),
        up="against the person, reader SIMULATED",
        top=1.0,
        across=Across("minutes of reading", points[-1]["minutes"], False),
        mark=None if in_doubt is None else (in_doubt, "all in doubt read"),
        width=width,
        ident=ident,
    )


def _path(curve: Curve, x: Any, y: Any, has_steps: bool) -> str:
    parts: list[str] = []
    for place, value in curve.points:
        if not parts:
            parts.append(f"M{x(place):.1f} {y(value):.1f}")
        elif has_steps:  # what holds at a threshold holds down to the next relevance below it
            parts.append(f"H{x(place):.1f}V{y(value):.1f}")
        else:
            parts.append(f"L{x(place):.1f} {y(value):.1f}")
    return "".join(parts)


def _band(curve: Curve, x: Any, y: Any) -> str:
    there = [f"{x(place):.1f} {y(high):.1f}" for place, _, high in curve.band]
    back = [f"{x(place):.1f} {y(low):.1f}" for place, low, _ in reversed(curve.band)]
    return f"M{'L'.join([*there, *back])}Z"


def _mark(mark: tuple[float, str], x: Any, high: float, height: float, font: float, right: float) -> list[str]:
    """A line at a place, its name on the side where there is room."""
    place, name = mark
    is_left = x(place) + 0.6 * font * len(name) > right
    end, shift = (' text-anchor="end"', -6) if is_left else ("", 6)
    return [
        f'<line class="mark" x1="{x(place):.1f}" x2="{x(place):.1f}" y1="{high:.1f}" y2="{high + height:.1f}"/>',
        f'<text class="tick" x="{x(place) + shift:.1f}" y="{high + font:.1f}"{end}>{escape(name)}</text>',
    ]


def _names(curves: Sequence[Curve], right: float, high: float, font: float) -> list[str]:
    """The key, in the upper right."""
    parts = []
    for place, curve in enumerate(curves):
        at = high + (0.8 + 1.5 * place) * font
        parts.append(f'<line x1="{right + 8:.1f}" x2="{right + 22:.1f}" y1="{at:.1f}" y2="{at:.1f}" '
                     f'stroke="var(--{curve.colour})" stroke-width="2"/>')  # fmt: skip
        parts.append(f'<text x="{right + 27:.1f}" y="{at + font / 3:.1f}">{escape(curve.name)}</text>')
    return parts
