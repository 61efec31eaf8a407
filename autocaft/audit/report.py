"""What the steps of an audit left, as one report: audit.json, audit.html, cost.json, tables, a decision for each row.

In: the folders of an audit's steps. Out: files in the run folder. The decision a reader would question: time and cost
have a file of their own, so that audit.json is the same wherever and however fast it was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from autocaft.audit.duplicates import FOUND
from autocaft.audit.full_effect import add_effects, full_rule
from autocaft.audit.full_steps import trained_sets
from autocaft.audit.options import AuditSet
from autocaft.audit.outcome import FORMAT, SetFound, judged_sets, rule_of
from autocaft.audit.own import answers_of
from autocaft.audit.page import MAX_DETAILED, HeatMap, departing, heat_map, render_page, shown_row
from autocaft.audit.row_actions import row_decisions
from autocaft.audit.rows import FAULTS, load_rows
from autocaft.audit.run import Audit
from autocaft.audit.survey import EFFECTS, SUMMARY, read_concepts
from autocaft.audit.tables import write_tables
from autocaft.outcome import dollars, seconds_by_stage
from autocaft.records import Verdict
from autocaft.rundir.files import iter_jsonl, read_json, read_jsonl, read_records, write_json, write_jsonl, write_text
from autocaft.rundir.steps import StepContext

N_FAULTS = 5
"""Faults of a set that audit.json and the page tell."""


def write_report(audit: Audit, name: str, context: StepContext) -> None:
    """`audit.json`, `audit.html`, `cost.json`, tables and row decisions, in the run folder."""
    config, folder = audit.config, context.out.parent
    screened = context.dir_of("screen") if audit.asks_model else None
    survey = read_json(screened / SUMMARY) if screened else {"sets": [], "controls": None}
    peers = read_json(context.dir_of("peers") / "sets.json")
    duplicates = read_json(context.dir_of("duplicates") / FOUND)
    found = {
        "format": FORMAT,
        "name": name,
        "depth": config.depth,
        "model": {"spec": audit.weights.spec, "provenance": audit.weights.provenance},
        "layers": list(config.layers),
        "judge": config.judge.judge if audit.asks_model else None,
        "rule": rule_of(config) + (full_rule(config) if config.depth == "full" else []),
        "controls": survey["controls"],
        "sets": judged_sets([_found(s, survey, peers, audit, context) for s in audit.sets], config),
        "duplicates": config.duplicates.model_dump(),
        "shared": duplicates["shared"],
    }
    for item in found["sets"]:
        item["duplicates"] = duplicates["sets"].get(item["name"])
        item["faults"] = _faults(item["name"], context)
    if config.depth == "full":
        found["sets"] = add_effects(found["sets"], _effects(audit, context), config)
    cost = {"seconds_by_stage": seconds_by_stage(context), **_calls(audit, context), **dollars(context)}
    write_json(folder / "audit.json", found)
    write_json(folder / "cost.json", cost)
    write_jsonl(folder / "rows.jsonl", _decisions(found, audit, context))
    write_tables(found, folder)
    heat = heat_map(found, screened / EFFECTS) if screened else HeatMap([], [], [], "")
    departed = {
        item["name"]: departing(load_rows(context.dir_of(f"rows/{item['name']}")), _beside_peers(item["name"], context))
        for item in found["sets"]
        if item["departs"]
    }
    write_text(folder / "audit.html", render_page(found, _shown(found, context), heat, departed, cost))


def _faults(name: str, context: StepContext) -> list[dict[str, Any]]:
    """The first faults of a set: file, line, what is wrong; `faults.jsonl` of its rows has more."""
    return [fault for _, fault in islice(iter_jsonl(context.dir_of(f"rows/{name}") / FAULTS), N_FAULTS)]


def _calls(audit: Audit, context: StepContext) -> dict[str, int]:
    """Calls of a judge and their tokens, over all sets."""
    folders = [context.dir_of(f"judge/{s.name}") for s in audit.sets] if audit.asks_model else []
    judged = [read_json(path) for folder in folders if (path := folder / "summary.json").is_file()]
    return {key: sum(one.get(key, 0) for one in judged) for key in ("n_calls", "input_tokens", "output_tokens")}


def _effects(audit: Audit, context: StepContext) -> dict[str, dict[str, Any]]:
    """The causal check of each set that was trained on, with what the judge said of the flagged directions."""
    effects = {}
    for chosen in trained_sets(audit):
        effect = _effect(chosen.name, context)
        effect.pop("asks", None)  # a figure a row: rows.jsonl tells which of them matter
        path = context.dir_of(f"meanings/{chosen.name}") / "verdicts.jsonl"
        verdicts = {v.direction_id: v for v in read_records(path, Verdict)} if path.is_file() else {}
        effect["flagged"] = [
            {
                "direction_id": name,
                "description": verdicts[name].description,
                "wanted_relevance": verdicts[name].wanted_relevance,
                "relevance": verdicts[name].relevance,
            }
            for name in effect["flagged"]
        ]
        effects[chosen.name] = effect
    return effects


def _decisions(found: Mapping[str, Any], audit: Audit, context: StepContext) -> Iterator[dict[str, Any]]:
    """A line a row, set by set."""
    for item in found["sets"]:
        concepts = read_concepts(item["name"], context) if audit.asks_model else []
        strengths = {concept["direction_id"]: concept["strengths"] for concept in concepts}
        rows = load_rows(context.dir_of(f"rows/{item['name']}"))
        full = item.get("full")
        asks = _asks(item["name"], context) if full and full["is_cause"] else {}
        yield from row_decisions(item, rows, strengths, _beside_peers(item["name"], context), asks)


def _asks(name: str, context: StepContext) -> dict[int, float]:
    """How much each row of a set that was trained on asks for what was flagged, by its number."""
    return {int(number): value for number, value in _effect(name, context)["asks"].items()}


def _effect(name: str, context: StepContext) -> dict[str, Any]:
    effect: dict[str, Any] = read_json(context.dir_of(f"effect/{name}") / "effect.json")
    return effect


def _beside_peers(name: str, context: StepContext) -> dict[int, dict[str, Any]]:
    """What the peers say of each row of a set, by its number; nothing if it has too few."""
    path = context.dir_of("peers") / "rows" / f"{name}.jsonl"
    return {line["number"]: line for line in read_jsonl(path)} if path.is_file() else {}


def _found(
    chosen: AuditSet, survey: Mapping[str, Any], peers: Mapping[str, Any], audit: Audit, context: StepContext
) -> SetFound:
    """What the steps left of one set."""
    summary = read_json(context.dir_of(f"rows/{chosen.name}") / "summary.json")
    if not audit.asks_model:
        return SetFound(chosen, summary, None, (), {}, peers.get(chosen.name))
    line = next((line for line in survey["sets"] if line["set"] == chosen.name), None)
    path = context.dir_of(f"judge/{chosen.name}") / "verdicts.jsonl"
    verdicts = {verdict.direction_id: verdict for verdict in read_records(path, Verdict)} if path.is_file() else {}
    return SetFound(chosen, summary, line, read_concepts(chosen.name, context), verdicts, peers.get(chosen.name))


def _shown(found: Mapping[str, Any], context: StepContext) -> dict[tuple[str, str], list[Any]]:
    """Rows with marked tokens by (set, latent), for the sets that the page shows."""
    shown: dict[tuple[str, str], list[Any]] = {}
    for item in [item for item in found["sets"] if item["concepts"]][:MAX_DETAILED]:
        answers = answers_of(item["name"], context)
        own = answers.texts("own")
        change = {concept["direction_id"]: concept["change"] for concept in item["concepts"]}
        lines = read_jsonl(context.dir_of(f"mine/{item['name']}") / "rows.jsonl")
        for line in lines:
            direction, row = line["direction_id"], answers.rows[line["row"]]
            scale = max(max(other["projections"]) for other in lines if other["direction_id"] == direction)
            other = own[line["row"]] if change[direction] == "amplified" else row.answer
            place = f"{Path(row.file).name}:{row.line}"
            shown.setdefault((item["name"], direction), []).append(
                shown_row(line, row.id, place, row.prompt_text, other, scale)
            )
    return shown
