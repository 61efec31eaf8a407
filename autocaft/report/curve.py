"""What another threshold would do: one or more curves over relevance, with the run's threshold marked.

In: points. Out: SVG text. The decision a reader would question: how many would be selected counts relevance alone, not
the other conditions of the selection, so it lies above the number that was selected; the caption says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of steps: its name, its colour variable, (threshold, value) points from the highest threshold down."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]


def draw_curves(
    curves: Sequence[Curve], *, threshold: float | None, up: str, top: float, width: int, ident: str
) -> str:
    """Curves over relevance 0 to 100; an empty text if none has two points."""
    curves = [curve for curve in curves if len(curve.points) > 1]
    if not curves:
        return ""
    font = 13.0 if width > 400 else 11.5
    left, high, height = 3.2 * font, 2.2 * font, 0.2 * width + 50
    right = width - 6.5 * font if len(curves) > 1 else width - font

    def x(share: float) -> float:
        return left + (right - left) * share / 100

    def y(value: float) -> float:
        return high + height * (1 - value / top)

    parts = [
        f'<svg viewBox="0 0 {width} {high + height + 3.6 * font:.0f}" role="img" aria-labelledby="{ident}-title" '
        f'font-size="{font}">',
        f'<title id="{ident}-title">{escape(up)}, by threshold of relevance</title>',
        f'<text class="axis" x="2" y="{0.9 * font:.1f}">{escape(up)}</text>',
    ]
    for tick in (0.0, 0.5, 1.0):
        at = y(tick * top)
        text = f"{tick * top:.0f}" if top > 1 else f"{tick:g}"
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 7:.1f}" y="{at + font / 3:.1f}" text-anchor="end">{text}</text>')
    for share in (0, 25, 50, 75, 100):
        below = high + height + 1.5 * font
        parts.append(f'<text class="tick" x="{x(share):.1f}" y="{below:.1f}" text-anchor="middle">{share}</text>')
    label = high + height + 3.1 * font
    parts.append(f'<text class="axis" x="{right:.1f}" y="{label:.1f}" text-anchor="end">threshold of relevance</text>')
    if threshold is not None:
        parts.append(f'<line class="mark" x1="{x(threshold):.1f}" x2="{x(threshold):.1f}" y1="{high:.1f}" '
                     f'y2="{high + height:.1f}"/>')  # fmt: skip
        parts.append(
            f'<text class="tick" x="{x(threshold) + 6:.1f}" y="{high + font:.1f}">this run: {threshold:g}</text>'
        )
    for curve in curves:
        parts.append(f'<path class="curve" d="{_path(curve, x, y)}" stroke="var(--{curve.colour})"/>')
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


def _path(curve: Curve, x: Any, y: Any) -> str:
    parts: list[str] = []
    for share, value in curve.points:
        if not parts:
            parts.append(f"M{x(share):.1f} {y(value):.1f}")
        else:  # what holds at a threshold holds down to the next relevance below it
            parts.append(f"H{x(share):.1f}V{y(value):.1f}")
    return "".join(parts)


def _names(curves: Sequence[Curve], right: float, high: float, font: float) -> list[str]:
    """The key, in the upper right."""
    parts = []
    for place, curve in enumerate(curves):
        at = high + (0.8 + 1.5 * place) * font
        parts.append(f'<line x1="{right + 8:.1f}" x2="{right + 22:.1f}" y1="{at:.1f}" y2="{at:.1f}" '
                     f'stroke="var(--{curve.colour})" stroke-width="2"/>')  # fmt: skip
        parts.append(f'<text x="{right + 27:.1f}" y="{at + font / 3:.1f}">{escape(curve.name)}</text>')
    return parts
