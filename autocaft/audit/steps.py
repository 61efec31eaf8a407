"""The order of an audit.

    rows/SET -> own/SET -> dictionary -> project/SET -> screen -> mine/SET -> judge/SET -> report
    rows/SET -> peers -> report
    shingles/SET -> duplicates -> report
    (depth full: full_steps.py) -> effect/SET -> report

In: an audit. Out: the steps, for the runner to skip, continue or run; those of different sets can run at the same time.

The decision a reader would question: adding a set changes the pooled text of the one dictionary, and with it everything
behind it (`--redo dictionary`). Rows and own answers of the other sets are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from autocaft.audit.full_steps import full_steps, trained_sets
from autocaft.audit.options import DICTIONARY_KEY, AuditConfig, AuditSet
from autocaft.audit.rows import load_rows, read_set
from autocaft.audit.run import Audit
from autocaft.data.corpus import corpus_identity
from autocaft.data.sets import content_hash
from autocaft.pipeline import dictionary_inputs, judge_inputs
from autocaft.preflight import set_threads
from autocaft.records import Verdict
from autocaft.rundir.files import (
    digest,
    read_json,
    read_jsonl,
    read_records,
    write_json,
    write_jsonl,
    write_text,
)
from autocaft.rundir.progress import QuietProgress
from autocaft.rundir.runner import Step, StepContext, run_alone, worker_log
from autocaft.rundir.steps import step_of

VERSION_BY_STAGE = {
    "rows": 1,
    "peers": 3,
    "shingles": 1,
    "duplicates": 1,
    "own": 1,
    "dictionary": 1,
    "project": 1,
    "screen": 1,
    "mine": 1,
    "judge": 1,
    "report": 5,
}
"""Counted up when a stage's code changes what it writes."""
_step = partial(step_of, VERSION_BY_STAGE)


def build_steps(audit: Audit, name: str) -> list[Step]:
    """All steps of an audit called `name`, each after what it needs."""
    config, sets = audit.config, audit.sets
    seed: dict[str, object] = {"seed": config.seed}
    reading = {key: getattr(config.screen, key) for key in ("n_rows", "min_rows", "max_prompt_tokens", "chat")}
    writing = {key: getattr(config.screen, key) for key in ("answer_tokens", "temperature")}
    testing = {key: getattr(config.screen, key) for key in ("q", "excess", "min_rows", "n_concepts", "n_null")}
    weights = {"model": digest(audit.weights.identity)}
    readers = _readers(audit)
    pooled = {f"corpus ({config.corpus})": corpus_identity(config.corpus, downloads=audit.downloads)}
    pooled |= dictionary_inputs(config.dictionary.sae, config.layers, DICTIONARY_KEY)
    steps = [
        _step(f"rows/{s.name}", partial(_rows, audit, s), {"screen": reading}, weights | _files(s), uses_model=False)
        for s in sets
    ]
    for s in sets:
        how = {"screen": writing, "dtype": config.dtype} | seed
        steps.append(_step(f"own/{s.name}", partial(_own, audit, s), how, {}, f"rows/{s.name}"))
    asked = {"purpose": [s.purpose for s in sets], "reference": [s.name for s in sets if s.is_reference]}
    steps.append(_step("peers", partial(_peers, audit), asked, {}, *(f"rows/{s.name}" for s in sets), uses_model=False))
    hashing = {"duplicates": {"words": config.duplicates.words}}
    for s in sets:
        call = partial(_shingles, audit, s)
        steps.append(_step(f"shingles/{s.name}", call, hashing, _files(s), uses_model=False))
    call, needs = partial(_duplicates, audit), [f"{stage}/{s.name}" for s in sets for stage in ("rows", "shingles")]
    alike = {"duplicates": config.duplicates}
    steps.append(_step("duplicates", call, alike, {}, *needs, derived=True, uses_model=False))
    rows_and_own = [f"{stage}/{s.name}" for s in sets for stage in ("rows", "own")]
    pooling = {key: getattr(config, key) for key in ("dictionary", "layers", "n_generic", "seed")}
    pooling["screen"] = {"n_random": config.screen.n_random}
    steps.append(_step("dictionary", partial(_dictionary, audit), pooling, pooled, *rows_and_own))
    for s in sets:
        steps.append(_step(f"project/{s.name}", partial(_project, audit, s), {}, {}, f"own/{s.name}", "dictionary"))
    against = {"screen": testing, "reference": [s.name for s in sets if s.is_reference]} | seed
    projected = [f"project/{s.name}" for s in sets]
    steps.append(_step("screen", partial(_screen, audit), against, {}, *projected, uses_model=False))
    for s in sets:
        steps.append(_step(f"mine/{s.name}", partial(_mine, audit, s), {}, {}, "screen"))
        about = {"judge": config.judge, "purpose": s.purpose, "concept": s.concept}
        call, pays = partial(_judge, audit, s), bool(config.judge.chat_readers)
        steps.append(_step(f"judge/{s.name}", call, about, readers, f"mine/{s.name}", uses_store=pays))
    steps += full_steps(audit, readers, pooled, weights)
    read = [f"judge/{s.name}" for s in sets] + [f"effect/{s.name}" for s in trained_sets(audit)]
    last = {"verdict": config.verdict, "name": name}
    last |= {"full": {"min_kept": config.full.min_kept}} if config.depth == "full" else {}
    call = partial(_report, audit, name)
    return [*steps, _step("report", call, last, {}, "peers", "duplicates", *read, derived=True, uses_model=False)]


def run_step(config: AuditConfig, name: str, run_dir: Path, step: str) -> None:
    """One step of an audit in a process of its own."""
    set_threads(config.threads)
    progress = QuietProgress(worker_log(run_dir))
    run_alone(build_steps(Audit(config, downloads=False), name), step, run_dir, progress)


def _files(chosen: AuditSet) -> dict[str, str]:
    """Content of a set's files; one that is not there is a fault of the set, and stays one until it is."""
    return {f"file {i} ({path})": _identity(path) for i, path in enumerate(chosen.files)}


def _identity(path: Path) -> str:
    return content_hash(path) if path.is_file() else "not there"


def _readers(audit: Audit) -> dict[str, str]:
    """What a run's judge is made from, and the policy where a language model reads it."""
    asked = {} if audit.config.judge.judge == "offline" else {"policy": digest(audit.policy)}
    return judge_inputs(audit.config.judge) | asked


def _rows(audit: Audit, chosen: AuditSet, context: StepContext) -> None:
    summary = read_set(chosen, audit.tokenizer(), audit.config.screen, context.out)
    if summary["n_faults"] or summary["unread"]:
        why = f"; not audited: {summary['unread']}" if summary["unread"] else ""
        context.progress.say(f"{chosen.name}: {summary['n_faults']} faults, {context.out / 'faults.jsonl'}{why}")


def _own(audit: Audit, chosen: AuditSet, context: StepContext) -> None:
    from autocaft.audit.own import write_own_answers

    rows = load_rows(context.dir_of(f"rows/{chosen.name}"))
    if rows:
        write_own_answers(
            audit.base(),
            audit.tokenizer(),
            rows,
            audit.config.screen,
            seed=audit.config.seed,
            label=f"own answers, {chosen.name}",
            out=context.out,
            progress=context.progress,
        )


def _answers(name: str, context: StepContext) -> Any:
    """A set's rows and own answers."""
    from autocaft.audit.own import Answers

    return Answers(load_rows(context.dir_of(f"rows/{name}")), context.dir_of(f"own/{name}"))


def _readable(audit: Audit, context: StepContext) -> list[AuditSet]:
    """The sets that can be audited."""
    return [s for s in audit.sets if read_json(context.dir_of(f"rows/{s.name}") / "summary.json")["unread"] is None]


def _peers(audit: Audit, context: StepContext) -> None:
    from autocaft.audit.purposes import write_peers

    write_peers(_readable(audit, context), lambda name: context.dir_of(f"rows/{name}"), context.out, context.progress)


def _shingles(audit: Audit, chosen: AuditSet, context: StepContext) -> None:
    from autocaft.audit.shingles import write_shingles

    write_shingles(chosen, audit.config.duplicates.words, context.out)


def _duplicates(audit: Audit, context: StepContext) -> None:
    from autocaft.audit.duplicates import write_duplicates
    from autocaft.audit.shingles import HashedSet

    sets = [HashedSet.open(s.name, context.dir_of(f"shingles/{s.name}")) for s in _readable(audit, context)]
    write_duplicates(sets, audit.config.duplicates, context.out, context.progress)


def _dictionary(audit: Audit, context: StepContext) -> None:
    from autocaft.audit.project import make_dictionary

    config = audit.config
    make_dictionary(
        audit.base(),
        audit.tokenizer(),
        [partial(_answers, s.name, context) for s in _readable(audit, context)],
        audit.generic,
        config.layers,
        config.dictionary,
        config.screen,
        seed=config.seed,
        out=context.out,
        progress=context.progress,
    )


def _lens(audit: Audit, context: StepContext) -> Any:
    from autocaft.audit.project import Lens

    config = audit.config
    folder = context.dir_of("dictionary")
    return Lens.open(audit.base(), audit.tokenizer(), folder, config.dictionary, config.screen)


def _project(audit: Audit, chosen: AuditSet, context: StepContext) -> None:
    from autocaft.audit.project import project_set

    answers = _answers(chosen.name, context)
    if answers.rows:
        lens = _lens(audit, context)
        project_set(lens, answers, label=chosen.name, out=context.out, progress=context.progress)


def _screen(audit: Audit, context: StepContext) -> None:
    from autocaft.audit.project import load_columns
    from autocaft.audit.survey import Projected, survey

    sets = [Projected(s.name, context.dir_of(f"project/{s.name}"), s.is_reference) for s in _readable(audit, context)]
    survey(
        sets,
        load_columns(context.dir_of("dictionary")),
        audit.config.screen,
        seed=audit.config.seed,
        out=context.out,
        progress=context.progress,
    )


def _concepts(name: str, context: StepContext) -> list[dict[str, Any]]:
    """The latents of a set that the survey chose."""
    path = context.dir_of("screen") / "concepts" / f"{name}.jsonl"
    return read_jsonl(path) if path.is_file() else []


def _mine(audit: Audit, chosen: AuditSet, context: StepContext) -> None:
    from autocaft.audit.read import mine_set

    concepts = _concepts(chosen.name, context)
    if concepts:
        lens, answers = _lens(audit, context), _answers(chosen.name, context)
        mine_set(lens, answers, concepts, label=chosen.name, out=context.out, progress=context.progress)


def _judge(audit: Audit, chosen: AuditSet, context: StepContext) -> None:
    from autocaft.audit.read import judge_set

    if _concepts(chosen.name, context):
        judge_set(
            chosen,
            context.dir_of(f"mine/{chosen.name}"),
            audit.config.judge,
            audit.policy,
            store=context.opened,
            local_model=lambda: (audit.base(), audit.tokenizer()),
            out=context.out,
            progress=context.progress,
        )


def _report(audit: Audit, name: str, context: StepContext) -> None:
    """`audit.json`, `audit.html`, tables and row decisions, in the run folder."""
    from autocaft.audit.duplicates import FOUND
    from autocaft.audit.full_effect import add_effects, full_rule
    from autocaft.audit.outcome import FORMAT, judged_sets, rule_of
    from autocaft.audit.page import departing, heat_map, render_page
    from autocaft.audit.tables import write_tables

    config, folder, screened = audit.config, context.out.parent, context.dir_of("screen")
    survey, peers = read_json(screened / "summary.json"), read_json(context.dir_of("peers") / "sets.json")
    duplicates = read_json(context.dir_of("duplicates") / FOUND)
    found = {
        "format": FORMAT,
        "name": name,
        "depth": config.depth,
        "model": {"spec": audit.weights.spec, "provenance": audit.weights.provenance},
        "layers": list(config.layers),
        "judge": config.judge.judge,
        "rule": rule_of(config) + (full_rule(config) if config.depth == "full" else []),
        "controls": survey["controls"],
        "sets": judged_sets([_found(s, survey, peers, context) for s in audit.sets], config),
        "duplicates": config.duplicates.model_dump(),
        "shared": duplicates["shared"],
    }
    for item in found["sets"]:
        item["duplicates"] = duplicates["sets"].get(item["name"])
    if config.depth == "full":
        found["sets"] = add_effects(found["sets"], _effects(audit, context), config)
    write_json(folder / "audit.json", found)
    write_jsonl(folder / "rows.jsonl", _decisions(found, context))
    write_tables(found, folder)
    heat = heat_map(found, screened / "effects.parquet")
    departed = {
        item["name"]: departing(load_rows(context.dir_of(f"rows/{item['name']}")), _beside_peers(item["name"], context))
        for item in found["sets"]
        if item["departs"]
    }
    write_text(folder / "audit.html", render_page(found, _shown(found, context), heat, departed))


def _effects(audit: Audit, context: StepContext) -> dict[str, dict[str, Any]]:
    """The causal check of each set that was trained on, with what the judge said of the flagged directions."""
    effects = {}
    for chosen in trained_sets(audit):
        effect = read_json(context.dir_of(f"effect/{chosen.name}") / "effect.json")
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


def _decisions(found: Mapping[str, Any], context: StepContext) -> Iterator[dict[str, Any]]:
    """A line a row, set by set."""
    from autocaft.audit.row_actions import row_decisions

    for item in found["sets"]:
        strengths = {concept["direction_id"]: concept["strengths"] for concept in _concepts(item["name"], context)}
        rows = load_rows(context.dir_of(f"rows/{item['name']}"))
        yield from row_decisions(item, rows, strengths, _beside_peers(item["name"], context))


def _beside_peers(name: str, context: StepContext) -> dict[int, dict[str, Any]]:
    """What the peers say of each row of a set, by its number; nothing if it has too few."""
    path = context.dir_of("peers") / "rows" / f"{name}.jsonl"
    return {line["number"]: line for line in read_jsonl(path)} if path.is_file() else {}


def _found(chosen: AuditSet, survey: Mapping[str, Any], peers: Mapping[str, Any], context: StepContext) -> Any:
    """What the steps left of one set."""
    from autocaft.audit.outcome import SetFound

    line = next((line for line in survey["sets"] if line["set"] == chosen.name), None)
    path = context.dir_of(f"judge/{chosen.name}") / "verdicts.jsonl"
    verdicts = {verdict.direction_id: verdict for verdict in read_records(path, Verdict)} if path.is_file() else {}
    summary = read_json(context.dir_of(f"rows/{chosen.name}") / "summary.json")
    return SetFound(chosen, summary, line, _concepts(chosen.name, context), verdicts, peers.get(chosen.name))


def _shown(found: Mapping[str, Any], context: StepContext) -> dict[tuple[str, str], list[Any]]:
    """Rows with marked tokens by (set, latent), for the sets that the page shows."""
    from autocaft.audit.page import MAX_DETAILED, shown_row

    shown: dict[tuple[str, str], list[Any]] = {}
    for item in [item for item in found["sets"] if item["concepts"]][:MAX_DETAILED]:
        answers = _answers(item["name"], context)
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
