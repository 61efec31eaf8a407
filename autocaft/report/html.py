"""report.json as one HTML page: no request, readable without script, on a phone, by night and on paper.

In: the report dict. Out: HTML text. The decision a reader would question: tokens and descriptions are an attacker's
channel (they come from training data), so the template escapes everything; the only markup passed through unescaped is
the style sheet, the script and the figures, which are made here, and a content policy that names the hashes of the
first two forbids every other script and style, and all requests.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from autocaft.report.arms import split_order
from autocaft.report.contrasts import NOTE, gap_text, p_text
from autocaft.report.figure import arm_style, marker
from autocaft.report.figures import figures_of, pair_figures, resource
from autocaft.report.free_form import figure_text
from autocaft.report.plain import environment, readable
from autocaft.report.reading import is_simulated, read_in_part, reading_points, sized, timing
from autocaft.report.search import SEARCH_FIGURES, SEARCH_NOTE, search_reasons, search_rows
from autocaft.report.words import agreement_text, costs, duration, fine_percent, interval_text, percent, points_text

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

N_LEVELS = 8
"""Steps of shading; 0 is none."""
NOT_SURE = "The judge is not sure: look at these first"
MAX_CARDS = 1000
"""Directions on the page, in the order of the report; a browser opens that many at once without a wait."""


def render_html(report: Mapping[str, Any]) -> str:
    """The whole page."""
    from markupsafe import Markup

    lines, cards = report["arms"], report["cards"]
    css, script = "".join(resource(f"{name}.css") for name in ("report", "figure", "shade")), resource("report.js")
    # Markup on these only: style sheet and script are ours, and the figures escape every name they write
    figures = ({name: Markup(svg) for name, svg in figures_of(report, narrow=n).items()} for n in (False, True))
    wide, narrow = figures
    return _template().render(
        report=report,
        css=Markup(css),
        script=Markup(script),
        policy=content_policy(css, script),
        wide=wide,
        narrow=narrow,
        arms=[(arm, list(states)) for arm, states in groupby(lines, key=lambda line: line["arm"])],
        has_hooks_on=any(line["hooks"] == "on" for line in lines),
        has_controls=any(line["against_control"] for line in lines),
        several_seeds=any(len(line["seeds"]) > 1 for line in lines),
        splits=split_order(lines),
        shown_cards=cards[:MAX_CARDS],
        shown_ids={card["id"] for card in cards[:MAX_CARDS]},
        n_left_out=max(0, len(cards) - MAX_CARDS),
        agreement=agreement_text(report["judge"].get("agreement")),
        has_selected=any(card["state"] == "selected" for card in cards),
        card_groups=_groups(cards[:MAX_CARDS]),
        sources=sorted({card["source"] for card in cards}),
        layers=sorted({card["layer"] for card in cards}),
        matching=_matching(report["matching"]),
        costs=costs(report["cost"]),
        makers=_makers(report["model"], report["judge"]),
        rows_a_split=_rows_a_split,
        shaded=shade,
        swatch=_swatch,
        percent=percent,
        interval=interval_text,
        points=points_text,
        duration=duration,
        figure_text=figure_text,
        contrast_note=NOTE,
        p_text=p_text,
        gap_text=gap_text,
        fine=fine_percent,
        search_note=SEARCH_NOTE,
        search_figures=[name for name, _ in SEARCH_FIGURES],
        search_rows=search_rows,
        read_in_part=read_in_part,
        reading_points=reading_points,
        timing=timing,
        is_simulated=is_simulated,
        sized=sized,
        pair_figures=pair_figures(report),
        search_reasons=search_reasons,
    )


def _groups(cards: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Title and cards of each part of the list, each card once and in order."""
    titles = {"selected": "Selected", "near": "Near misses", "rest": "All others", "unscored": "All others"}
    groups: dict[str, list[Mapping[str, Any]]] = {title: [] for title in (NOT_SURE, *titles.values())}
    for card in cards:
        is_unsure = card["verdict"] is not None and card["verdict"]["abstains"]
        groups[NOT_SURE if is_unsure else titles[card["state"]]].append(card)
    return list(groups.items())


def content_policy(css: str, script: str) -> str:
    """This style sheet and this script, by hash, and nothing else from anywhere."""
    style_hash, script_hash = (base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in (css, script))
    return (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'"
    )


def shade(window: Mapping[str, Any], scale: float) -> list[tuple[str, str, str]]:
    """(text, css class, projection) of each token; neighbours in which the direction is silent are joined.

    Classes: `p1`..`p8` for positive, `n1`..`n8` for negative, in steps of `scale`, none for what rounds to nothing;
    `peak` on the strongest, which has a sign however weak it is. The white space before a token has none: a mark should
    hold the word and nothing else.
    """
    pieces: list[tuple[str, str, str]] = []
    for i, (token, projection) in enumerate(zip(window["tokens"], window["projections"], strict=True)):
        level = round(N_LEVELS * min(1.0, abs(projection) / scale)) if scale > 0 else 0
        if i == window["peak"] and projection:
            level = max(level, 1)
        kind = f"{'p' if projection > 0 else 'n'}{level}" if level else ""
        if i == window["peak"]:
            kind += " peak"
        value = f"{projection:.3g}" if kind or projection else ""
        text = readable(token) if i else readable(token).lstrip()
        body = text.lstrip(" ") or text
        plain = text if not value else text[: len(text) - len(body)]
        if plain and pieces and not pieces[-1][2]:
            pieces[-1] = (pieces[-1][0] + plain, "", "")
        elif plain:
            pieces.append((plain, "", ""))
        if value:
            pieces.append((body, kind.strip(), value))
    return pieces


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


def _rows_a_split(line: Mapping[str, Any]) -> str:
    """`240`, or `240, 120` where the splits differ."""
    sizes = [score["n"] // len(score["by_seed"]) for score in line["scores"].values()]
    return ", ".join(str(size) for size in dict.fromkeys(sizes)) or "\N{EN DASH}"


def _makers(model: Mapping[str, Any], judge: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which weights and which judge, with what changes if they do."""
    named = [
        ("model", model.get("spec")),
        ("weights", model.get("provenance")),
        ("weights, hash", model.get("identity")),
        ("judge", judge.get("name")),
        ("judge's prompts, hash", judge.get("prompt_hash")),
        ("threshold", judge.get("threshold")),
    ]
    return [(label, f"{value:g}" if isinstance(value, float) else str(value)) for label, value in named if value]


@cache
def _template() -> Template:
    return environment(resource).get_template("report.html.jinja")
