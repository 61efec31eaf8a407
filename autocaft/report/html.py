"""report.json as one HTML page: no script, no request, readable on a phone, by night and on paper.

In: the report dict. Out: HTML text. The decision a reader would question: tokens and descriptions are an attacker's
channel (they come from training data), so the template escapes everything; the only markup passed through unescaped is
the style sheet and the figure, which are made here, and a content policy forbids scripts and requests besides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from autocaft.report.arms import split_order
from autocaft.report.figure import NARROW, WIDE, arm_style, draw_figure, marker
from autocaft.report.plain import readable
from autocaft.report.words import interval_text, percent

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

STATES = ("selected", "near", "rest", "unscored")
N_LEVELS = 8
"""Steps of shading; 0 is none."""


def render_html(report: Mapping[str, Any]) -> str:
    """The whole page."""
    from markupsafe import Markup

    lines = report["arms"]
    cards = report["cards"]
    # Markup on these only: the style sheet is ours, and figure.py escapes every name it writes
    return _template().render(
        report=report,
        css=Markup(_resource("report.css")),
        wide_figure=Markup(draw_figure(lines, WIDE, "wide")),
        narrow_figure=Markup(draw_figure(lines, NARROW, "narrow")),
        has_hooks_on=any(line["hooks"] == "on" for line in lines),
        several_seeds=any(len(line["seeds"]) > 1 for line in lines),
        splits=split_order(lines),
        cards_by_state={
            state: [c for c in cards if c["state"] == state] for state in ("selected", "near", "rest", "unscored")
        },
        matching=_matching(report["matching"]),
        shaded=shade,
        swatch=_swatch,
        percent=percent,
        interval=interval_text,
        duration=duration,
        pretty=lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    )


def shade(window: Mapping[str, Any], scale: float) -> list[tuple[str, str, str]]:
    """(text, css class, projection) of each token; neighbours without shade are joined.

    Classes: `p1`..`p8` for positive, `n1`..`n8` for negative, in steps of `scale`; `peak` on the strongest.
    """
    pieces: list[tuple[str, str, str]] = []
    for i, (token, projection) in enumerate(zip(window["tokens"], window["projections"], strict=True)):
        level = round(N_LEVELS * min(1.0, abs(projection) / scale)) if scale > 0 else 0
        kind = f"{'p' if projection > 0 else 'n'}{level}" if level else ""
        if i == window["peak"]:
            kind += " peak"
        text = readable(token) if i else readable(token).lstrip()
        if not kind and pieces and not pieces[-1][1]:
            pieces[-1] = (pieces[-1][0] + text, "", "")
        else:
            pieces.append((text, kind.strip(), f"{projection:.3g}" if kind else ""))
    return pieces


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `1 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _matching(matching: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Variance removed by each matched control beside its chosen set, summed over layers, one line an arm and seed."""
    found = []
    for arm, by_seed in matching.items():
        for seed, layers in by_seed.items():
            chosen, control = (sum(layer[f"removed_{kind}"] for layer in layers) for kind in ("chosen", "control"))
            found.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "n_chosen": sum(layer["n_chosen"] for layer in layers),
                    "n_drawn": sum(layer["n_drawn"] for layer in layers),
                    "ratio": control / chosen if chosen else None,
                    "measured_by": layers[0]["measured_by"] if layers else "sum",
                }
            )
    return found


def _swatch(arm: str, hooks: str) -> Markup:
    """The arm's marker as in the figure. Nothing of the arm's name enters the markup."""
    from markupsafe import Markup

    colour, shape = arm_style(arm)
    fill = f"var(--{colour})" if hooks == "off" else "none"
    mark = marker(shape, 7, 7, 4.2, f'fill="{fill}" stroke="var(--{colour})" stroke-width="1.6"')
    return Markup(f'<svg class="swatch" viewBox="0 0 14 14" aria-hidden="true">{mark}</svg>')


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_resource("report.html.jinja"))


def _resource(name: str) -> str:
    return resources.files("autocaft.report").joinpath(name).read_text(encoding="utf-8")
