"""What each arm has left of the unwanted behaviour (up) against its task score (right), with the frontier, as one SVG.

In: the arms' lines and the free-form part of report.json. Out: SVG text. The decision a reader would question: the
frontier runs through all arms without hooks, controls too. A control on it says that nobody had to read the directions
to do as well, and leaving it out would hide that. `base` has no place: it has not learned the task, and would stretch
the axis. Axes are cut to what was measured: rates of misalignment are small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from autocaft.report.arms import is_ablated_in_use
from autocaft.report.figure import WIDE, Frame, arm_style, fitted, marker, named, spread
from autocaft.report.free_form import TASK_RATES, unwanted_metric
from autocaft.report.plain import visible
from autocaft.report.words import fine_percent, interval_text, is_control, percent

Cell = Mapping[str, Any]
"""`value`, `ci_low`, `ci_high`: shares."""
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25)
MAX_STEPS = 4.5
TASK_SPLITS = ("neutral", "id")


@dataclass(frozen=True, slots=True)
class Place:
    """An arm on the plane."""

    arm: str
    task: Cell
    unwanted: Cell


@dataclass(frozen=True, slots=True)
class Plane:
    """What is drawn, and what the axes are called."""

    places: Sequence[Place]
    up: str
    across: str


@dataclass(frozen=True, slots=True)
class Axis:
    """The part of 0 to 1 that is shown; ends are multiples of half a step."""

    low: float
    high: float
    step: float

    def share(self, value: float) -> float:
        """Where on the axis a value lies, 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[float]:
        """Places of the grid."""
        first, last = math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)
        return [number * self.step for number in range(first, last + 1)]


def plane_of_choices(lines: Sequence[Mapping[str, Any]]) -> Plane | None:
    """Wrong answers on inverted cues against accuracy on the neutral split, or on `id`; None if no arm has both."""
    off = [line["scores"] | {"arm": line["arm"]} for line in lines if line["hooks"] == "off" and line["arm"] != "base"]
    for split in TASK_SPLITS:
        places = [
            Place(scores["arm"], scores[split], _wrong(scores["ood"]))
            for scores in off
            if _is_known(scores.get(split)) and _is_known(scores.get("ood"))
        ]
        if places:
            return Plane(places, "wrong where the cue is inverted, %", f"{split}: right, %")
    return None


def plane_of_answers(built: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Plane | None:
    """Unwanted answers against the task: vulnerable code, else accuracy on the task's splits, else coherence."""
    unwanted = unwanted_metric(built["metrics"])
    shown = [line for line in built["arms"] if line["arm"] != "base" and not is_ablated_in_use(line["arm"])]
    cells = {line["arm"]: line["cells"] for line in shown}
    rates = {arm: own[unwanted] for arm, own in cells.items() if unwanted and _is_known(own[unwanted])}
    scores = {line["arm"]: line["scores"] for line in lines if line["hooks"] == "off"}
    tasks = {
        **{f"{rate.replace('_', ' ')}, %": {arm: cells[arm].get(rate) for arm in rates} for rate in TASK_RATES},
        **{f"{split}: right, %": {arm: scores.get(arm, {}).get(split) for arm in rates} for split in TASK_SPLITS},
        "mean grade of coherence": {arm: _of_hundred(cells[arm].get("mean_coherent")) for arm in rates},
        "coherent, %": {arm: cells[arm].get("coherent") for arm in rates},
    }
    for across, task in tasks.items():
        if rates and all(_is_known(task[arm]) for arm in rates):
            places = [Place(arm, task[arm], rate) for arm, rate in rates.items()]
            return Plane(places, f"{(unwanted or '').replace('_', ' ')} answers, %", across)
    return None


def frontier(places: Sequence[Place]) -> list[Place]:
    """Arms that no other beats in one without being beaten in the other, the best task score first."""
    best: list[Place] = []
    for place in sorted(places, key=lambda p: (-p.task["value"], p.unwanted["value"])):
        if not best or place.unwanted["value"] < best[-1].unwanted["value"]:
            best.append(place)
    return best


def draw_pareto(plane: Plane, frame: Frame = WIDE, ident: str = "pareto") -> str:
    """The figure, or an empty text with fewer than two arms."""
    if len(plane.places) < 2:
        return ""
    places = plane.places
    frame = fitted(frame, 1 + max(len(place.arm) for place in places))  # bold is wider
    across, up = axis_over([p.task for p in places]), axis_over([p.unwanted for p in places], has_zero=True)
    at = {p.arm: (frame.x(across.share(p.task["value"])), frame.y(up.share(p.unwanted["value"]))) for p in places}
    best = frontier(places)
    gap = frame.font * (2.75 if len(places) <= 9 else 1.5)
    label_ys = spread([at[p.arm][1] for p in places], gap, frame.top + frame.font, frame.top + frame.side)
    bottom = max(frame.top + frame.side + 3.9 * frame.font, max(label_ys) + 2 * frame.font)
    parts = [
        f'<svg viewBox="0 0 {frame.width} {bottom:.0f}" role="img" aria-labelledby="{ident}-title {ident}-desc" '
        f'font-size="{frame.font}">',
        f'<title id="{ident}-title">Unwanted behaviour of each arm against its task score</title>',
        f'<desc id="{ident}-desc">{escape(visible(_in_words(plane)))}</desc>',
        *_grid(frame, across, up),
        *_axis_names(frame, plane),
        _staircase([at[p.arm] for p in best], frame),
        *(_point(p, at[p.arm], frame, across, up) for p in sorted(places, key=lambda p: not is_control(p.arm))),
        *(
            named(
                p.arm,
                _values(p) if gap > 2 * frame.font else "",
                at[p.arm],
                y,
                frame,
                is_hollow=is_control(p.arm),
                is_best=p in best,
            )
            for p, y in zip(places, label_ys, strict=True)
        ),
        "</svg>",
    ]
    return "\n".join(parts)


def _wrong(right: Cell) -> Cell:
    ends = [None if right[key] is None else 1 - right[key] for key in ("ci_high", "ci_low")]
    return {"value": 1 - right["value"], "ci_low": ends[0], "ci_high": ends[1]}


def _of_hundred(grade: Cell | None) -> Cell | None:
    if grade is None:
        return None
    return {key: None if grade[key] is None else grade[key] / 100 for key in ("value", "ci_low", "ci_high")}


def _is_known(cell: Cell | None) -> bool:
    return cell is not None and cell["value"] is not None


def axis_over(cells: Sequence[Cell], *, has_zero: bool = False) -> Axis:
    """From just below the lowest to just above the highest end of any interval, with a handful of ticks."""
    known = [cell[key] for cell in cells for key in ("value", "ci_low", "ci_high") if cell[key] is not None]
    low, high = 0.0 if has_zero else min(known), max(known)
    step = next((step for step in STEPS if high - low <= MAX_STEPS * step), STEPS[-1])
    half = step / 2
    start, end = math.floor(low / half + 1e-9), math.ceil(high / half - 1e-9)
    if end - start < 4:  # a single point still has an axis, within 0 to 1
        end = min(start + 4, round(1 / half))
        start = end - 4
    return Axis(start * half, end * half, step)


def _grid(frame: Frame, across: Axis, up: Axis) -> list[str]:
    left, right, top, bottom = frame.x(0), frame.x(1), frame.y(1), frame.y(0)
    parts = []
    for tick in up.ticks:
        y = frame.y(up.share(tick))
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{left - 8}" y="{y + frame.font / 3:.1f}" text-anchor="end">{100 * tick:.0f}</text>'
        )
    for tick in across.ticks:
        x, below = frame.x(across.share(tick)), bottom + 1.5 * frame.font
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{below:.1f}" text-anchor="middle">{100 * tick:.0f}</text>')
    return parts


def _axis_names(frame: Frame, plane: Plane) -> list[str]:
    right, below = frame.x(1), frame.y(0) + 3.2 * frame.font
    return [
        f'<text class="axis" x="2" y="{frame.top - 16:.1f}">{escape(plane.up)}</text>',
        f'<text class="axis" x="{right}" y="{below:.1f}" text-anchor="end">{escape(plane.across)}</text>',
    ]


def _staircase(best: Sequence[tuple[float, float]], frame: Frame) -> str:
    """The frontier, and shading over all that it beats: worse in both, up and to the left."""
    (x_first, y_first), *rest = best
    line = f"M{x_first:.1f} {frame.y(1):.1f}V{y_first:.1f}"
    line += "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)
    line += f"H{frame.x(0):.1f}"
    return (
        f'<path class="beaten" d="{line}V{frame.y(1):.1f}Z" fill="var(--muted)"/>'
        f'<path class="frontier" d="{line}" stroke="var(--soft)"/>'
    )


def _point(place: Place, at: tuple[float, float], frame: Frame, across: Axis, up: Axis) -> str:
    """Marker and both intervals; a control is hollow."""
    colour, shape = arm_style(place.arm)
    (x, y), bars = at, []
    if place.task["ci_low"] is not None:
        low, high = (frame.x(across.share(place.task[key])) for key in ("ci_low", "ci_high"))
        bars.append(f"M{low:.1f} {y:.1f}H{high:.1f}")
    if place.unwanted["ci_low"] is not None:
        low, high = (frame.y(up.share(place.unwanted[key])) for key in ("ci_low", "ci_high"))
        bars.append(f"M{x:.1f} {low:.1f}V{high:.1f}")
    fill, edge = f"var(--{colour})", "var(--page)"
    if is_control(place.arm):
        fill, edge = edge, fill
    mark = marker(shape, x, y, 0.48 * frame.font, f'fill="{fill}" stroke="{edge}" stroke-width="1.6"')
    whiskers = f'<path class="whisker" d="{"".join(bars)}" stroke="var(--{colour})"/>' if bars else ""
    name = escape(visible(place.arm), {'"': "&quot;"})
    return f'<g class="arm" data-arm="{name}"><title>{escape(visible(_told(place)))}</title>{whiskers}{mark}</g>'


def _values(place: Place) -> str:
    return f"{fine_percent(place.unwanted['value'])} at {percent(place.task['value'])}"


def _told(place: Place) -> str:
    unwanted = f"{fine_percent(place.unwanted['value'])} {interval_text(place.unwanted)}".strip()
    task = f"{percent(place.task['value'])} {interval_text(place.task)}".strip()
    kind = " (control)" if is_control(place.arm) else ""
    return f"{place.arm}{kind}: unwanted {unwanted}, task {task}"


def _in_words(plane: Plane) -> str:
    best = ", ".join(place.arm for place in frontier(plane.places))
    told = "; ".join(_told(place) for place in plane.places)
    return f"Up: {plane.up}. Right: {plane.across}. {told}. On the frontier: {best}"
