"""audit.json as one HTML page: no request, no script, readable on a phone and on paper.

In: the audit's dict, the rows that carry each latent most, the map of latents over sets. Out: HTML text. The decision a
reader would question: everything that a data file or a model wrote is escaped by the template, and the content policy
forbids every script and every request; the same style sheet as a report's is the only one that its hash lets in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocaft.audit.duplicates import MAX_EXAMPLES
from autocaft.audit.row_actions import departure
from autocaft.audit.rows import AuditRow
from autocaft.report.figures import resource
from autocaft.report.html import N_LEVELS, content_policy, shade
from autocaft.report.plain import environment

if TYPE_CHECKING:
    from jinja2 import Template

MAX_DETAILED = 60
"""Sets whose latents are shown with their rows, the first of the ranking; audit.json has all."""
MAX_MAPPED = 40
"""Latents on the map, those that most sets share first."""
MANY_COPIES = 0.1
"""Part of a set's rows that have a copy in it from which on the page says so beside the verdicts."""
MAX_ANSWER = 400
"""Characters of an answer that are shown."""
MAX_DEPARTING = 8
"""Rows of a set that are shown because they depart from its peers, the strangest first."""
FULL_SHADE = 12.0
"""Standard deviations among the reference sets (or, without them, tenths of an effect) at the darkest shade."""


@dataclass(frozen=True)
class ShownRow:
    """A row that carries a latent, token by token."""

    id: str
    place: str
    prompt: str
    pieces: list[tuple[str, str, str]]
    """See `report.html.shade`."""
    other: str
    """The answer on the other side: the model's own, or of a suppressed latent the given one."""


@dataclass(frozen=True)
class DepartingRow:
    """A row that departs from what the set's peers answer."""

    id: str
    place: str
    prompt: str
    pieces: list[tuple[str, bool]]
    """The answer, in which what its peers do not say is marked."""
    why: str


@dataclass(frozen=True)
class HeatMap:
    """Latents over sets."""

    directions: list[str]
    sets: list[str]
    cells: list[list[tuple[str, str]]]
    """Set by set, latent by latent: css class and value."""
    unit: str


def heat_map(audit: Mapping[str, Any], effects: Path) -> HeatMap:
    """From the latents that were read, and what every set shows of them."""
    import pandas as pd

    counts: dict[str, int] = {}
    names = [item["name"] for item in audit["sets"] if item["survey"] is not None]
    for item in audit["sets"]:
        for concept in item["concepts"]:
            counts[concept["direction_id"]] = counts.get(concept["direction_id"], 0) + 1
    directions = sorted(counts, key=lambda direction: (-counts[direction], direction))[:MAX_MAPPED]
    if not directions:
        return HeatMap([], names, [], "effect")
    frame = pd.read_parquet(
        effects, columns=["set", "direction_id", "effect", "excess"], filters=[("direction_id", "in", directions)]
    )
    has_excess = bool(frame["excess"].notna().all())
    column, unit = ("excess", "standard deviations among the reference sets") if has_excess else ("effect", "effect")
    scale = FULL_SHADE if has_excess else FULL_SHADE / 10
    value_by_place = dict(zip(zip(frame["set"], frame["direction_id"], strict=True), frame[column], strict=True))
    cells = [[_cell(float(value_by_place[name, direction]), scale) for direction in directions] for name in names]
    return HeatMap(directions, names, cells, unit)


def _cell(value: float, scale: float) -> tuple[str, str]:
    level = round(N_LEVELS * min(1.0, abs(value) / scale))
    return (f"{'p' if value > 0 else 'n'}{level}" if level else "", f"{value:+.1f}")


def shown_row(line: Mapping[str, Any], row_id: str, place: str, prompt: str, other: str, scale: float) -> ShownRow:
    """One line of `rows.jsonl` of a mine step, shaded in steps of `scale`."""
    values = line["projections"]
    peak = max(range(len(values)), key=lambda i: values[i])
    window = {"tokens": line["tokens"], "projections": values, "peak": peak}
    return ShownRow(row_id, place, prompt, shade(window, scale), other)


def departing(rows: Sequence[AuditRow], beside_peers: Mapping[int, Mapping[str, Any]]) -> list[DepartingRow]:
    """The rows of a set that stand out among its peers', the strangest first."""
    found = [row for row in rows if beside_peers[row.number]["stands_out"]]
    found.sort(key=lambda row: -beside_peers[row.number]["distance"])
    return [
        DepartingRow(
            row.id,
            f"{Path(row.file).name}:{row.line}",
            row.prompt_text,
            marked(row.answer[:MAX_ANSWER], beside_peers[row.number]["spans"]),
            departure(beside_peers[row.number]),
        )
        for row in found[:MAX_DEPARTING]
    ]


def marked(text: str, spans: Sequence[Sequence[int]]) -> list[tuple[str, bool]]:
    """A text in pieces, those of the spans marked; spans are in order and do not overlap."""
    pieces: list[tuple[str, bool]] = []
    at = 0
    for start, stop in spans:
        pieces += [(text[at:start], False), (text[start:stop], True)]
        at = stop
    return [piece for piece in [*pieces, (text[at:], False)] if piece[0]]


def render_page(
    audit: Mapping[str, Any],
    shown: Mapping[tuple[str, str], Sequence[ShownRow]],
    heat: HeatMap,
    departed: Mapping[str, Sequence[DepartingRow]],
    cost: Mapping[str, Any],
) -> str:
    """The whole page; `shown` has the rows of each (set, direction id), `departed` those of each set that departs."""
    return render(
        "audit.html.jinja",
        audit=audit,
        shown=shown,
        heat=heat,
        departed=departed,
        cost=cost,
        faulty=[item for item in audit["sets"] if item["n_faults"]],
        with_copies=[item for item in audit["sets"] if item["duplicates"] and item["duplicates"]["n_copies"]],
        many_copies=MANY_COPIES,
        shared=audit["shared"][:MAX_EXAMPLES],
        detailed=[item for item in audit["sets"] if item["concepts"]][:MAX_DETAILED],
        counts={
            outcome: sum(item["outcome"] == outcome for item in audit["sets"])
            for outcome in ("block", "review", "pass", "unread")
        },
    )


def render(template: str, **values: Any) -> str:
    """A page of this room with the one style sheet, under a policy that lets nothing else in."""
    from markupsafe import Markup

    css = "".join(resource(f"{name}.css") for name in ("report", "shade")) + _resource("audit.css")
    return _template(template).render(css=Markup(css), policy=content_policy(css, ""), **values)  # the css is ours


def _resource(name: str) -> str:
    return resources.files("autocaft.audit").joinpath(name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> Template:
    return environment(_resource).get_template(name)
