"""Every arm on a line of its own: accuracy by split, one small dot a seed, the mean with its 95 % interval.

In: the arms' lines of report.json. Out: SVG text. The decision a reader would question: seeds lie in a row of their own
under their mean, since on its line they would hide behind it; hooks on stands hollow under its arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from autocaft.report.arms import split_order
from autocaft.report.figure import arm_style, marker
from autocaft.report.plain import visible
from autocaft.report.words import interval_text, percent

GAP = 34


@dataclass(frozen=True, slots=True)
class Sheet:
    """Size of the figure, in SVG units, and how many splits fit side by side."""

    width: int
    font: float
    n_panels: int


WIDE_SHEET = Sheet(width=1056, font=13, n_panels=3)
NARROW_SHEET = Sheet(width=368, font=11.5, n_panels=1)


def draw_dots(lines: Sequence[dict[str, Any]], sheet: Sheet = WIDE_SHEET, ident: str = "dots") -> str:
    """The figure, or an empty text if no arm has an accuracy; on a narrow sheet the inverted cue alone."""
    splits = [split for split in split_order(lines) if split in ("id", "ood", "neutral")] or split_order(lines)
    splits = (["ood"] if "ood" in splits else splits[:1]) if sheet.n_panels == 1 else splits[: sheet.n_panels]
    names = list(dict.fromkeys(line["arm"] for line in lines if line["scores"]))
    if not splits or not names:
        return ""
    f = sheet.font
    left = 32 + 0.6 * f * max(len(name) for name in names)
    side = (sheet.width - left - 12 - GAP * (len(splits) - 1)) / len(splits)
    starts = {split: left + i * (side + GAP) for i, split in enumerate(splits)}
    by_arm = {name: [line for line in lines if line["arm"] == name] for name in names}
    state_height = f * (1.35 if _several_seeds(lines) else 1.1)
    ys, y = {}, 3.2 * f
    for name, states in by_arm.items():
        ys[name] = y
        y += 0.7 * f + state_height * len(states)
    bottom = y - f
    parts = [
        f'<svg viewBox="0 0 {sheet.width} {bottom + 1.8 * f:.0f}" role="img" '
        f'aria-labelledby="{ident}-title {ident}-desc" font-size="{f}">',
        f'<title id="{ident}-title">Accuracy of every arm by split, with seeds</title>',
        f'<desc id="{ident}-desc">{escape(_in_words(lines, splits))}</desc>',
    ]
    for split, start in starts.items():
        parts += _panel(split, start, side, 1.9 * f, bottom, f)
    for name, states in by_arm.items():
        parts.append(_name(name, ys[name], f))
        for place, line in enumerate(states):
            at = ys[name] + place * state_height
            parts += [_state(line, split, start, side, at, f) for split, start in starts.items()]
    return "\n".join([*parts, "</svg>"])


def _several_seeds(lines: Sequence[dict[str, Any]]) -> bool:
    return any(len(line["seeds"]) > 1 for line in lines)


def _panel(split: str, start: float, side: float, top: float, bottom: float, f: float) -> list[str]:
    parts = [f'<text class="head" x="{start:.1f}" y="{f:.1f}">{escape(visible(split))}, % right</text>']
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = start + tick * side
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}"/>')
        if tick in (0.0, 0.5, 1.0):
            text = f'y="{bottom + 1.3 * f:.1f}" text-anchor="middle">{100 * tick:.0f}'
            parts.append(f'<text class="tick" x="{x:.1f}" {text}</text>')
    return parts


def _name(arm: str, y: float, f: float) -> str:
    colour, shape = arm_style(arm)
    mark = marker(shape, 7, y, 0.36 * f, f'fill="var(--{colour})"')
    return f'{mark}<text x="18" y="{y + 0.34 * f:.1f}">{escape(visible(arm))}</text>'


def _state(line: dict[str, Any], split: str, start: float, side: float, y: float, f: float) -> str:
    """Seeds, interval and mean of one arm, hooks state and split."""
    score = line["scores"].get(split)
    if score is None or score["value"] is None:
        return ""
    colour, shape = arm_style(line["arm"])
    is_off = line["hooks"] == "off"
    parts = [f'<line class="track" x1="{start:.1f}" x2="{start + side:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>']
    if score["ci_low"] is not None and score["ci_high"] is not None:
        low, high = (start + score[key] * side for key in ("ci_low", "ci_high"))
        parts.append(f'<path class="whisker {line["hooks"]}" d="M{low:.1f} {y:.1f}H{high:.1f}" '
                     f'stroke="var(--{colour})"/>')  # fmt: skip
    seeds = [value for value in score["by_seed"].values() if value is not None]
    if len(seeds) > 1:
        parts += [
            f'<circle class="seed" cx="{start + value * side:.1f}" cy="{y + 0.62 * f:.1f}" r="{0.18 * f:.1f}" '
            f'fill="var(--{colour})"/>'
            for value in seeds
        ]
    fill, edge = (f"var(--{colour})", "var(--page)") if is_off else ("var(--page)", f"var(--{colour})")
    attributes = f'fill="{fill}" stroke="{edge}" stroke-width="1.4"'
    parts.append(marker(shape, start + score["value"] * side, y, f * (0.4 if is_off else 0.3), attributes))
    title = f"{visible(line['arm'])}, hooks {line['hooks']}, {split}: {percent(score['value'])} {interval_text(score)}"
    return f"<g><title>{escape(title)}</title>{''.join(parts)}</g>"


def _in_words(lines: Sequence[dict[str, Any]], splits: Sequence[str]) -> str:
    return "; ".join(
        f"{visible(line['arm'])}, hooks {line['hooks']}: "
        + ", ".join(f"{s} {percent(line['scores'][s]['value'])}" for s in splits if s in line["scores"])
        for line in lines
    )
