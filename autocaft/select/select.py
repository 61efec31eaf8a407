"""The select stage: verdicts and choices in, decisions out; and from decisions, the set that an arm ablates.

In: candidates, verdicts, an oracle's words. Out: `decisions.jsonl` (append-only, the last decision of a decider on a
direction counts) and `summary.json`. A person's file is read by a stage of its own (`choose.py`).

The decision a reader would question: the sets of control arms are not stored here but drawn where an arm is trained
(`choose_set`, the same draw for the same seed), so that adding a control to a finished run trains that control alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autocaft.arms import ArmSource, Selector
from autocaft.errors import ConfigError, NothingSelectedError
from autocaft.records import Decision, Direction, Example, Verdict
from autocaft.resources import data_path
from autocaft.rundir.files import read_records, write_json, write_records
from autocaft.select import choices, controls, verdicts
from autocaft.select.options import SelectOptions

DECIDERS: dict[str, tuple[str, ...]] = {
    "auto": ("auto",),
    "searched": ("auto",),
    "human": ("human", "simulated"),
    "hybrid": ("auto", "human", "simulated"),
    "oracle": ("oracle",),
}
"""Whose decisions an arm ablates, by its selector. A search only says how much of the judge's; a choice that no person
made stands in for a person's, under its own name."""


@dataclass(frozen=True, slots=True)
class ArmSet:
    """The directions that one arm ablates at one seed."""

    source: ArmSource
    selector: Selector
    seed: int
    ids: tuple[str, ...]
    matching: tuple[controls.LayerMatch, ...] = ()
    """How well a matched control matches, layer by layer."""

    def to_row(self) -> dict[str, Any]:
        """As plain JSON types."""
        return dataclasses.asdict(self)


def select(
    directions: Sequence[Direction],
    judged: Sequence[Verdict],
    options: SelectOptions,
    *,
    examples: Iterable[Example],
    needed: Collection[tuple[ArmSource, Selector]],
    out: Path,
    at: str | None = None,
) -> verdicts.Counts:
    """Decide on every candidate and write `decisions.jsonl` and `summary.json` into `out`.

    Args:
        needed: source and selector of the arms that will be trained, without those that need a person.
        at: time of the decisions, UTC; default now.

    Raises:
        NothingSelectedError: the set behind an arm is empty. Nothing is written, so an option may change.
        DataError: an oracle's words cannot be used.
    """
    moment = at or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    decisions = verdicts.decide(directions, judged, options, moment)
    if options.oracle_words is not None:
        path = data_path(options.oracle_words)
        words = choices.read_words(path)
        decisions += choices.ask_oracle(directions, examples, words, path.stem, options.oracle_share, moment)
    for source in sorted({source for source, _ in needed}):
        selectors = {selector for arm_source, selector in needed if arm_source == source}
        _require_sets(source, selectors, directions, judged, decisions, options)
    counts = verdicts.count(directions, judged, chosen_ids(decisions, "auto"))
    append_decisions(out / "decisions.jsonl", decisions)
    write_json(out / "summary.json", dataclasses.asdict(counts))
    return counts


def append_decisions(path: Path, decisions: Sequence[Decision]) -> list[Decision]:
    """Add decisions that say something new to the log, and return the whole log. A rerun adds nothing."""
    log = read_records(path, Decision) if path.exists() else []
    latest = {(entry.direction_id, entry.by): (entry.ablate, entry.reason) for entry in log}
    news = [d for d in decisions if latest.get((d.direction_id, d.by)) != (d.ablate, d.reason)]
    if news or not path.exists():
        write_records(path, [*log, *news])
    return [*log, *news]


def candidates_of(directions: Sequence[Direction], source: ArmSource) -> list[Direction]:
    """The candidates of one source."""
    return [direction for direction in directions if direction.source == source]


def chosen_ids(log: Iterable[Decision], decider: str) -> list[str]:
    """Directions that the deciders of one kind (`auto`, `human`, `oracle`, or in a log of its own `hybrid`) ablate; the
    last decision counts."""
    kinds = DECIDERS[decider]
    latest = {decision.direction_id: decision.ablate for decision in log if decision.by.split(":")[0] in kinds}
    return [direction_id for direction_id, ablate in latest.items() if ablate]


def choose_set(
    source: ArmSource,
    selector: Selector,
    *,
    seed: int,
    share: float | None = None,
    layers: Collection[int] | None = None,
    relevance: Mapping[str, float] | None = None,
    directions: Sequence[Direction],
    vectors_ND: Any,
    decisions: Sequence[Decision],
    live_by_layer: Mapping[int, Sequence[int]],
    covariance_by_layer: Mapping[int, Any],
    options: SelectOptions,
) -> ArmSet:
    """The directions of one arm at one training seed.

    Controls match the judge's selection, or a person's where that alone is among the decisions. Of `random-orthogonal`
    the matched selection itself is given: whoever trains draws as many vectors as it spans.

    Args:
        share: take only so much of the choice, the first of each layer; a control matches that part.
        layers: take only what was chosen at these.
        relevance: the judge's, by id, which puts its own choice in order; any other goes by the candidates' rank.
        decisions: the log of the select stage; where a person has a say that of the choose stage, too, and for
            `hybrid` its one decision a candidate alone.
        vectors_ND: the candidates' unit vectors in the order of `directions`.
        live_by_layer: live latents of each dictionary, for `random-live`.
        covariance_by_layer: (D, D) covariance of the base model's activations, to match variance removed.

    Raises:
        NothingSelectedError, ConfigError: there is nothing to ablate, or nothing left to draw a control from.
    """
    rows = [row for row, direction in enumerate(directions) if direction.source == source]
    candidates = [directions[row] for row in rows]
    ids = ids_for(selector, candidates, decisions)
    is_by_judge = ids == ids_for("auto", candidates, decisions)
    if layers is not None:
        at_layers = {direction.id for direction in candidates if direction.layer in layers}
        ids = [direction_id for direction_id in ids if direction_id in at_layers]
    if not ids:
        where = "" if layers is None else f" at layers {', '.join(map(str, layers))}"
        raise NothingSelectedError(
            f"caft-{source}-{selector}: none of {len(candidates)} candidates was selected{where}"
        )
    chosen = [direction for direction in candidates if direction.id in set(ids)]
    left_out: set[str] = set()
    if share is not None:
        chosen = _first_of_each_layer(chosen, share, (relevance or {}) if is_by_judge else {})
        left_out = set(ids) - {direction.id for direction in chosen}
        ids = [direction.id for direction in chosen]
    draw = (options.random_seed, seed)
    if selector == "random-live":
        return ArmSet(source, selector, seed, tuple(controls.draw_live(chosen, live_by_layer, draw)))
    if selector == "top":
        return ArmSet(source, selector, seed, tuple(controls.take_top(candidates, chosen)))
    if selector != "random":  # a decider's own, or what random-orthogonal is matched to
        return ArmSet(source, selector, seed, tuple(ids))
    rows = [row for row in rows if directions[row].id not in left_out]  # what was chosen is no control of a part of it
    drawn, matching = controls.draw_matched(
        [directions[row] for row in rows],
        chosen,
        seed=draw,
        n_draws=options.control_draws,
        vectors_ND=controls.as_array(vectors_ND)[rows],
        covariance_by_layer=covariance_by_layer,
    )
    if not drawn:
        raise ConfigError(
            f"caft-{source}-random: every candidate was chosen, so none is left to draw from. Raise select.threshold, "
            "or shortlist more directions (decompose.n_candidates)"
        )
    return ArmSet(source, selector, seed, tuple(drawn), tuple(matching))


def _first_of_each_layer(chosen: Sequence[Direction], share: float, relevance: Mapping[str, float]) -> list[Direction]:
    """The most relevant `share` of each layer's directions, at least one; by rank where nothing says how relevant."""

    def order(direction: Direction) -> tuple[float, float, int]:
        return -relevance.get(direction.id, 0.0), -direction.strength, direction.index

    taken: list[Direction] = []
    for layer in sorted({direction.layer for direction in chosen}):
        own = sorted((direction for direction in chosen if direction.layer == layer), key=order)
        taken += own[: math.ceil(round(share * len(own), 9))]
    return taken


def ids_for(selector: str, candidates: Sequence[Direction], decisions: Sequence[Decision]) -> list[str]:
    """The selection an arm ablates, or that its control matches."""
    known = {direction.id for direction in candidates}
    deciders = (selector,) if selector in DECIDERS else ("auto", "human")  # what a control matches
    found = ([i for i in chosen_ids(decisions, decider) if i in known] for decider in deciders)
    return next((ids for ids in found if ids), [])


def _require_sets(
    source: ArmSource,
    selectors: Collection[Selector],
    directions: Sequence[Direction],
    judged: Sequence[Verdict],
    decisions: Sequence[Decision],
    options: SelectOptions,
) -> None:
    """Stop where the set behind an arm is empty: an ablation of nothing would look like a result."""
    candidates = candidates_of(directions, source)
    known = {direction.id for direction in candidates}
    for selector in sorted(selectors):
        if ids_for(selector, candidates, decisions):
            continue
        if selector == "oracle":
            raise NothingSelectedError(
                f"caft-{source}-oracle: select.oracle_words finds none of the {len(candidates)} {source} candidates"
            )
        own = [verdict for verdict in judged if verdict.direction_id in known]
        raise verdicts.nothing_selected(candidates, own, options, {"sae": "SAE", "pca": "PCA"}[source])
