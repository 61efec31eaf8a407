"""The arms as ood (up) against id (right), with 95 % intervals, as one inline SVG.

In: the arms' lines of report.json. Out: SVG text. The decision a reader would question: names stand in a column on the
right with leader lines, since points of good arms fall on top of each other and labels beside them would too. Colours
are CSS variables of the page (Okabe and Ito's set, so they hold for colour-blind readers, by day and by night); the
marker's shape says the same as its colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from xml.sax.saxutils import escape

from autocaft.report.plain import visible
from autocaft.report.words import interval_text, percent

STYLES = (
    ("base", "muted", "circle"),
    ("tuned", "tuned", "square"),
    ("auto", "auto", "circle"),
    ("searched", "auto", "diamond"),
    ("hybrid", "human", "circle"),
    ("human", "human", "diamond"),
    ("oracle", "oracle", "up"),
    ("top", "top", "square"),
    ("random", "random", "down"),
)
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
MAX_ARMS_WITH_HOOKS = 8
"""With more arms than this, figures with hooks on are left to the figure of all arms, where each has a line."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the plot and its labels lie, in SVG units."""

    width: int
    left: int
    top: int
    side: int
    """The plot is a square: both axes are shares."""
    label_x: int
    font: float
    two_lines: bool

    def x(self, share: float) -> float:
        return self.left + share * self.side

    def y(self, share: float) -> float:
        return self.top + (1 - share) * self.side


WIDE = Frame(width=640, left=40, top=40, side=404, label_x=490, font=13, two_lines=True)
NARROW = Frame(width=368, left=34, top=40, side=206, label_x=262, font=11.5, two_lines=True)


def draw_figure(lines: Sequence[dict[str, Any]], frame: Frame = WIDE, ident: str = "figure") -> str:
    """The figure, or an empty text if no arm has both splits.

    Args:
        ident: prefix of the ids in the SVG, so that two figures can share a page.
    """
    points = [line for line in lines if has_both(line)]
    if not points:
        return ""
    if sum(line["hooks"] == "off" for line in points) > MAX_ARMS_WITH_HOOKS:
        points = [line for line in points if line["hooks"] == "off" or not _has_off(points, line["arm"])]
    labelled = [line for line in points if line["hooks"] == "off" or not _has_off(points, line["arm"])]
    frame = fitted(frame, max(len(line["arm"]) for line in labelled))
    gap = frame.font * (2.75 if frame.two_lines and len(labelled) <= 9 else 1.5)
    label_ys = spread([_ood(line, frame) for line in labelled], gap, frame.top + frame.font, frame.top + frame.side)
    bottom = max(frame.top + frame.side + 3.9 * frame.font, max(label_ys) + 2 * frame.font)
    parts = [
        f'<svg viewBox="0 0 {frame.width} {bottom:.0f}" role="img" aria-labelledby="{ident}-title {ident}-desc" '
        f'font-size="{frame.font}">',
        f'<title id="{ident}-title">Accuracy of each arm on inverted cues against accuracy as trained</title>',
        f'<desc id="{ident}-desc">{escape(visible(_description(points)))}</desc>',
        *_axes(frame),
        *_links(points, frame),
        *(_seeds(line, frame) for line in points if line["hooks"] == "off"),
        *(_point(line, frame) for line in sorted(points, key=lambda line: line["hooks"] == "off")),
        *(_label(line, y, frame, gap > 2 * frame.font) for line, y in zip(labelled, label_ys, strict=True)),
        "</svg>",
    ]
    return "\n".join(parts)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, at least `gap` apart, in the same order; past `high` only if they do not fit."""
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    placed = [max(low, wanted[i]) for i in order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    ceiling = max(high, low + gap * (len(placed) - 1))
    for i in range(len(placed) - 1, -1, -1):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    positions = [0.0] * len(wanted)
    for place, i in zip(placed, order, strict=True):
        positions[i] = place
    return positions


def arm_style(arm: str) -> tuple[str, str]:
    """(colour variable, marker shape) of an arm."""
    return next(((colour, shape) for key, colour, shape in STYLES if key in arm), ("muted", "diamond"))


def marker(shape: str, x: float, y: float, r: float, attributes: str) -> str:
    """One marker of about the same area, whatever its shape."""
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" {attributes}/>'
    corners = {
        "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "up": [(0, -1.25), (1.2, 0.9), (-1.2, 0.9)],
        "down": [(0, 1.25), (1.2, -0.9), (-1.2, -0.9)],
    }[shape]
    points = " ".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" stroke-linejoin="round" {attributes}/>'


def fitted(frame: Frame, n_characters: int) -> Frame:
    """The frame with a plot small enough that the longest name stays within the width."""
    overflow = frame.label_x + 0.6 * frame.font * n_characters - frame.width
    shrink = max(0, round(overflow))
    return replace(frame, side=frame.side - shrink, label_x=frame.label_x - shrink)


def named(
    arm: str,
    values: str,
    at: tuple[float, float],
    y: float,
    frame: Frame,
    *,
    is_hollow: bool = False,
    is_best: bool = False,
) -> str:
    """An arm's name, and its values if there is room, in the right column, joined to its point by a thin line that
    keeps clear of the plot's points."""
    colour, shape = arm_style(arm)
    px, py, elbow = at[0] + 0.55 * frame.font, at[1], min(frame.x(1) + 8, frame.label_x - 22)
    leader = f'<path class="leader" d="M{px:.1f} {py:.1f}H{max(elbow, px):.1f}L{frame.label_x - 18} {y - 4:.1f}"/>'
    fill = "var(--page)" if is_hollow else f"var(--{colour})"
    look = f'fill="{fill}" stroke="var(--{colour})" stroke-width="{1.4 if is_hollow else 0}"'
    mark = marker(shape, frame.label_x - 9, y - 4, 0.36 * frame.font, look)
    kind = ' class="best"' if is_best else ""
    text = f'<text{kind} x="{frame.label_x}" y="{y:.1f}">{escape(visible(arm))}</text>'
    if values:
        text += f'<text class="value" x="{frame.label_x}" y="{y + 1.2 * frame.font:.1f}">{values}</text>'
    return leader + mark + text


def has_both(line: dict[str, Any]) -> bool:
    """Whether an arm has a place in the figure."""
    return all(line["scores"].get(split, {}).get("value") is not None for split in ("id", "ood"))


def _has_off(lines: Sequence[dict[str, Any]], arm: str) -> bool:
    return any((line["arm"], line["hooks"]) == (arm, "off") for line in lines)


def _ood(line: dict[str, Any], frame: Frame) -> float:
    return frame.y(line["scores"]["ood"]["value"])


def _description(lines: Sequence[dict[str, Any]]) -> str:
    return "; ".join(
        f"{line['arm']}, hooks {line['hooks']}: "
        + ", ".join(
            f"{s} {percent(line['scores'][s]['value'])} {interval_text(line['scores'][s])}" for s in ("id", "ood")
        )
        for line in lines
    )


def _axes(frame: Frame) -> list[str]:
    left, right, top, bottom = frame.x(0), frame.x(1), frame.y(1), frame.y(0)
    parts = [f'<line class="diagonal" x1="{left}" y1="{bottom}" x2="{right}" y2="{top}"/>']
    for tick in TICKS:
        x, y = frame.x(tick), frame.y(tick)
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        text = f"{100 * tick:.0f}"
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + frame.font / 3:.1f}" text-anchor="end">{text}</text>')
        below = bottom + 1.5 * frame.font
        parts.append(f'<text class="tick" x="{x:.1f}" y="{below:.1f}" text-anchor="middle">{text}</text>')
    wide = frame.width == WIDE.width
    up = "ood: right where the cue is inverted, %" if wide else "ood, % right"
    across = "id: right where the cue holds as in training, %" if wide else "id, % right"
    parts.append(f'<text class="axis" x="2" y="{top - 16:.1f}">{up}</text>')
    parts.append(
        f'<text class="axis" x="{right}" y="{bottom + 3.2 * frame.font:.1f}" text-anchor="end">{across}</text>'
    )
    return parts


def _links(lines: Sequence[dict[str, Any]], frame: Frame) -> list[str]:
    """A dotted line from an arm with its hooks to the same arm without: what removing them did."""
    parts = []
    for on in (line for line in lines if line["hooks"] == "on"):
        off = next((line for line in lines if (line["arm"], line["hooks"]) == (on["arm"], "off")), None)
        if off is not None:
            (x1, y1), (x2, y2) = ((frame.x(p["scores"]["id"]["value"]), _ood(p, frame)) for p in (on, off))
            colour = arm_style(on["arm"])[0]
            parts.append(
                f'<line class="link" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="var(--{colour})"/>'
            )
    return parts


def _seeds(line: dict[str, Any], frame: Frame) -> str:
    """One small dot a seed, where there are several."""
    by_id, by_ood = (line["scores"][split]["by_seed"] for split in ("id", "ood"))
    both = [(by_id[seed], by_ood[seed]) for seed in by_id if by_ood.get(seed) is not None and by_id[seed] is not None]
    if len(both) < 2:
        return ""
    colour = arm_style(line["arm"])[0]
    return "".join(
        f'<circle class="seed" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.2" fill="var(--{colour})"/>'
        for x, y in both
    )


def _point(line: dict[str, Any], frame: Frame) -> str:
    """Marker and both intervals; hollow with hooks on."""
    colour, shape = arm_style(line["arm"])
    scores = line["scores"]
    x, y = frame.x(scores["id"]["value"]), _ood(line, frame)
    bars = []
    if scores["id"]["ci_low"] is not None:
        bars.append(f"M{frame.x(scores['id']['ci_low']):.1f} {y:.1f}H{frame.x(scores['id']['ci_high']):.1f}")
    if scores["ood"]["ci_low"] is not None:
        bars.append(f"M{x:.1f} {frame.y(scores['ood']['ci_low']):.1f}V{frame.y(scores['ood']['ci_high']):.1f}")
    is_off = line["hooks"] == "off"
    fill = f"var(--{colour})" if is_off else "var(--page)"
    edge = "var(--page)" if is_off else f"var(--{colour})"
    radius = frame.font * (0.48 if is_off else 0.4)
    mark = marker(shape, x, y, radius, f'fill="{fill}" stroke="{edge}" stroke-width="1.6"')
    values = f"id {percent(scores['id']['value'])}, ood {percent(scores['ood']['value'])}"
    title = f"{line['arm']}, hooks {line['hooks']}: {values}"
    whiskers = f'<path class="whisker {line["hooks"]}" d="{"".join(bars)}" stroke="var(--{colour})"/>' if bars else ""
    name = escape(visible(line["arm"]), {'"': "&quot;"})
    return f'<g class="arm" data-arm="{name}"><title>{escape(visible(title))}</title>{whiskers}{mark}</g>'


def _label(line: dict[str, Any], y: float, frame: Frame, two_lines: bool) -> str:
    """Name and figure of one arm beside the plot."""
    ood = line["scores"]["ood"]
    values = f"ood {percent(ood['value'])} {interval_text(ood)}".strip() if two_lines else ""
    return named(line["arm"], values, (frame.x(line["scores"]["id"]["value"]), _ood(line, frame)), y, frame)
