"""The order of an audit.

    rows/SET -> peers -> report
    shingles/SET -> duplicates -> report
    (not at depth peers) rows/SET -> own/SET -> dictionary -> project/SET -> screen -> mine/SET -> judge/SET -> report
    (depth full: full_steps.py) -> effect/SET -> report

In: an audit. Out: the steps, for the runner to skip, continue or run; those of different sets can run at the same time.

The decision a reader would question: adding a set changes the pooled text of the one dictionary, and with it everything
behind it (`--redo dictionary`). Rows and own answers of the other sets are kept.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from autocaft.audit.full_steps import full_steps
from autocaft.audit.options import DICTIONARY_KEY, AuditConfig, AuditSet
from autocaft.audit.rows import load_rows, read_set
from autocaft.audit.run import Audit
from autocaft.data.corpus import corpus_identity
from autocaft.data.sets import content_hash
from autocaft.pipeline import dictionary_inputs, judge_inputs
from autocaft.preflight import set_threads
from autocaft.rundir.files import (
    digest,
    read_json,
)
from autocaft.rundir.progress import QuietProgress
from autocaft.rundir.runner import Elsewhere, Step, StepContext, run_alone, worker_log
from autocaft.rundir.steps import step_of

VERSION_BY_STAGE = {
    "rows": 1,
    "peers": 4,
    "shingles": 1,
    "duplicates": 1,
    "own": 1,
    "dictionary": 1,
    "project": 1,
    "screen": 2,
    "mine": 1,
    "judge": 1,
    "report": 7,
}
"""Counted up when a stage's code changes what it writes."""
_step = partial(step_of, VERSION_BY_STAGE)


def build_steps(audit: Audit, name: str) -> list[Step]:
    """All steps of an audit called `name`, each after what it needs."""
    config, sets = audit.config, audit.sets
    reading = {key: getattr(config.screen, key) for key in ("n_rows", "min_rows", "max_prompt_tokens", "chat")}
    weights = {"model": digest(audit.weights.identity)}
    steps = [
        _step(f"rows/{s.name}", partial(_rows, audit, s), {"screen": reading}, weights | _files(s), uses_model=False)
        for s in sets
    ]
    asked = {"purpose": [s.purpose for s in sets], "reference": [s.name for s in sets if s.is_reference]}
    steps.append(_step("peers", partial(_peers, audit), asked, {}, *(f"rows/{s.name}" for s in sets), uses_model=False))
    hashing = {"duplicates": {"words": config.duplicates.words}}
    for s in sets:
        call = partial(_shingles, audit, s)
        steps.append(_step(f"shingles/{s.name}", call, hashing, _files(s), uses_model=False))
    call, needs = partial(_duplicates, audit), [f"{stage}/{s.name}" for s in sets for stage in ("rows", "shingles")]
    alike = {"duplicates": config.duplicates}
    steps.append(_step("duplicates", call, alike, {}, *needs, derived=True, uses_model=False))
    if audit.asks_model:
        pooled = {f"corpus ({config.corpus})": corpus_identity(config.corpus, downloads=audit.downloads)}
        pooled |= dictionary_inputs(config.dictionary.sae, config.layers, DICTIONARY_KEY)
        steps += _beside_own(audit, pooled)
        steps += full_steps(audit, _readers(audit), pooled, weights)
    read = [step.name for step in steps if step.stage in ("judge", "effect")]
    last = {"verdict": config.verdict, "name": name}
    last |= {"full": {"min_kept": config.full.min_kept}} if config.depth == "full" else {}
    call = partial(_report, audit, name)
    how = {"derived": True, "uses_store": True, "uses_model": False}
    return [*steps, _step("report", call, last, {}, "peers", "duplicates", *read, **how)]


def _beside_own(audit: Audit, pooled: dict[str, str]) -> list[Step]:
    """The look beside the model's own answers."""
    config, sets = audit.config, audit.sets
    seed: dict[str, object] = {"seed": config.seed}
    writing = {key: getattr(config.screen, key) for key in ("answer_tokens", "temperature")}
    testing = {key: getattr(config.screen, key) for key in ("q", "excess", "min_rows", "n_concepts", "n_null")}
    readers = _readers(audit)
    steps = []
    for s in sets:
        how = {"screen": writing, "dtype": config.dtype} | seed
        steps.append(_step(f"own/{s.name}", partial(_own, audit, s), how, {}, f"rows/{s.name}"))
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
    return steps


def run_step(config: AuditConfig, name: str, run_dir: Path, step: str, elsewhere: Elsewhere | None = None, /) -> None:
    """One step of an audit in a process of its own. What comes from the Hub is downloaded where the run's own process
    cannot have done so."""
    set_threads(config.threads)
    progress = QuietProgress(worker_log(run_dir))
    audit = Audit(config, downloads=elsewhere is not None)
    run_alone(build_steps(audit, name), step, run_dir, progress, elsewhere)


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
    from autocaft.audit.own import answers_of
    from autocaft.audit.project import make_dictionary

    config = audit.config
    make_dictionary(
        audit.base(),
        audit.tokenizer(),
        [partial(answers_of, s.name, context) for s in _readable(audit, context)],
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
    from autocaft.audit.own import answers_of
    from autocaft.audit.project import project_set

    answers = answers_of(chosen.name, context)
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


def _mine(audit: Audit, chosen: AuditSet, context: StepContext) -> None:
    from autocaft.audit.own import answers_of
    from autocaft.audit.read import mine_set
    from autocaft.audit.survey import read_concepts

    concepts = read_concepts(chosen.name, context)
    if concepts:
        lens, answers = _lens(audit, context), answers_of(chosen.name, context)
        mine_set(lens, answers, concepts, label=chosen.name, out=context.out, progress=context.progress)


def _judge(audit: Audit, chosen: AuditSet, context: StepContext) -> None:
    from autocaft.audit.read import judge_set
    from autocaft.audit.survey import read_concepts

    if read_concepts(chosen.name, context):
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
    from autocaft.audit.report import write_report

    write_report(audit, name, context)
