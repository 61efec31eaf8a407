"""The order of a run: which steps there are, what each needs, and what it runs.

    tune -> collect -> decompose -> mine -> judge -> select -> train (arms, seeds) -> evaluate (arms, seeds) -> report
                                `-> decoys (for a review) `-> trial -> search -^ (searched arms)
                                                          `-> choose ---------^ (arms with a person's say)
                                     answer -> free_form (arms, seeds); behind (arms, seeds), causes: if asked for ^

In: a config. Out: the steps, for the runner to skip, continue or run. Arms and seeds are steps too, so adding one to
a finished run trains that one alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from autocaft import search_stage, stages
from autocaft.arms import Arm, Dials
from autocaft.config import RunConfig, needs_person
from autocaft.data.corpus import corpus_identity
from autocaft.evaluate.options import EvaluateOptions
from autocaft.evaluate.questions import rubrics_of
from autocaft.judge.options import JudgeOptions
from autocaft.model.locate import locate, weights_identity
from autocaft.preflight import set_threads
from autocaft.resources import data_path, prompts_dir
from autocaft.run import Run
from autocaft.rundir.files import digest, sha256_of
from autocaft.rundir.progress import QuietProgress
from autocaft.rundir.runner import Elsewhere, Step, run_alone, worker_log
from autocaft.rundir.steps import step_of
from autocaft.select.search import dials_to_try
from autocaft.train.options import baseline_options

VERSION_BY_STAGE = {
    "tune": 1,
    "collect": 2,
    "decompose": 2,
    "mine": 3,
    "decoys": 1,
    "judge": 4,
    "select": 3,
    "trial": 2,
    "search": 1,
    "choose": 1,
    "train": 2,
    "evaluate": 2,
    "answer": 1,
    "free_form": 1,
    "behind": 3,
    "causes": 1,
    "report": 9,
}
"""Counted up when a stage's code changes what it writes: an older run folder is then refused, not mixed."""
_step = partial(step_of, VERSION_BY_STAGE)

DICTIONARY_ENDINGS = ("safetensors", "pt", "npz")
"""Of the files that hold a dictionary's weights, in any format."""


def build_steps(run: Run, *, final: bool = False) -> list[Step]:
    """All steps of a run, each after what it needs.

    Args:
        final: also evaluate the final splits, in steps of their own.
    """
    config, data = run.config, run.config.data
    first = f"tune/seed{config.seeds[0]}"
    weights = {"model": digest(run.weights.identity)}
    train_rows = _contents(run, {"data.train": data.train})

    # a key that is new since runs were made counts only where it says something
    reading: dict[str, object] = {"chat": data.chat} | ({} if data.turns == "last" else {"turns": data.turns})
    tuning: dict[str, object] = {"dtype": config.dtype, "tune": config.tune, "data": reading}
    tuning |= _drawn_apart(config)
    if config.tune.trained_blocks == "above":
        tuning["layers"] = config.layers
    # directions are sought in the first seed's tuned model; the others are trained as an arm, or not at all
    needs_all = any(arm.name == "tuned" or arm.how == "inference" for arm in config.parsed_arms)
    tuned_seeds = config.seeds if needs_all else config.seeds[:1]
    steps = [
        _step(f"tune/seed{seed}", partial(stages.tune, run, seed=seed), tuning, weights | train_rows)
        for seed in tuned_seeds
    ]
    look = {"collect": config.collect, "layers": config.layers, "data": {"n_held_out": data.n_held_out}}
    readers, pays = judge_inputs(config.judge, downloads=run.downloads), bool(config.judge.chat_readers)
    steps += [
        _step("collect", partial(stages.collect, run, tuned=first), look, _corpus(run), first),
        _step(
            "decompose",
            partial(stages.decompose, run, tuned=first),
            {"decompose": config.decompose},
            _dictionaries(run),
            "collect",
        ),
        *_mining(run, first),
        _step("judge", partial(stages.judge, run), {"judge": config.judge}, readers, "mine", uses_store=pays),
        *_selecting(run),
    ]
    steps += _searches(run, tuning, weights | train_rows)
    apart = [arm for arm in config.parsed_arms if arm.name not in ("base", "tuned")]
    steps += [_training(run, arm, seed, tuning, weights | train_rows) for arm in apart for seed in config.seeds]
    steps += _evaluations(run, "evaluate", data.splits, config.evaluate, weights)
    if final:
        # generic text is not split: its damage is measured once
        options = config.evaluate.model_copy(update={"n_damage_documents": 0})
        steps += _evaluations(run, "evaluate-final", data.final, options, weights)
    steps += _free_form(run, weights)
    steps += _looks_behind(run, first, weights)
    measured, graded, looked = (
        [step.name for step in steps if step.stage in names]
        for names in (("evaluate",), ("free_form",), ("behind", "causes"))
    )
    trained = [f"train/{arm.name}/seed{seed}" for arm in apart if arm.has_directions for seed in config.seeds]
    models = [
        (arm.name, seed, step)
        for arm in config.parsed_arms
        if arm.how != "inference"
        for seed in config.seeds
        if (step := _trained_in(arm, seed)) is not None
    ]
    report = partial(
        stages.report, run, measured=measured, trained=trained, looked=looked, graded=graded, models=models
    )
    chosen = [step.name for step in steps if step.stage == "choose"] if trained else []
    read = [*measured, *trained, *looked, *graded, *chosen]
    return [*steps, _step("report", report, {}, {}, *read, derived=True, uses_store=True, uses_model=False)]


def run_step(config: RunConfig, final: bool, run_dir: Path, name: str, elsewhere: Elsewhere | None = None, /) -> None:
    """One step of a run in a process of its own, which the run's own process has started and waits for."""
    set_threads(config.threads)
    progress = QuietProgress(worker_log(run_dir))
    run_alone(build_steps(Run(config), final=final), name, run_dir, progress, elsewhere)


def _training(run: Run, arm: Arm, seed: int, tuning: Mapping[str, object], files: Mapping[str, str]) -> Step:
    """One arm besides base and tuned. One that looks at no direction waits for nothing."""
    config = run.config
    call = partial(stages.train, run, arm=arm, seed=seed)
    name, own = f"train/{arm.name}/seed{seed}", baseline_options(config.baselines, arm.how)
    if arm.has_directions:
        options: dict[str, object] = {"train": config.train, "tune": config.tune}
        options |= _drawn_apart(config, arm.mode or config.train.mode)
        needs = ["select", *(["choose"] if needs_person(config, arm) else [])]
        needs += [f"tune/seed{seed}"] if arm.how == "inference" else []
        needs += [f"search/{arm.source}"] if arm.selector == "searched" else []
        return _step(name, call, options | own, {}, *needs)
    benign = config.baselines.benign
    read = _contents(run, {"baselines.benign": benign}) if arm.how == "benign" else {}
    return _step(name, call, {**tuning, **own}, {**files, **read})


def _searches(run: Run, tuning: Mapping[str, Any], files: Mapping[str, str]) -> list[Step]:
    """Trials, a plain training of their length, and the choice, for each source that a searched arm is of. They read
    the split `val`, if there is one, and no other: nothing here may know how the cue is broken."""
    config, options = run.config, run.config.select.search
    val = config.data.splits.get("val")
    read = _contents(run, {"data.val": val})
    measuring = {
        "data": {**tuning["data"], "n_held_out": config.data.n_held_out},
        "evaluate": {key: getattr(config.evaluate, key) for key in ("autocast", "damage_max_tokens")},
        "train": config.train,
        "select": {"search": options.trying},
    }
    steps = []
    for source in config.searched_sources:
        own: dict[Dials | None, str] = {None: f"trial/{source}/plain"}
        own |= {dials: f"trial/{source}/{dials.name}" for dials in dials_to_try(options, config.layers)}
        for dials, name in own.items():
            call = partial(search_stage.trial, run, source=source, dials=dials, val=val)
            dialled = {"dials": {} if dials is None else asdict(dials)}
            settings = {**tuning, **_drawn_apart(config, config.train.mode), **measuring, **dialled}
            steps.append(_step(name, call, settings, {**files, **read, **_corpus(run)}, "select"))
        plain = own.pop(None)
        trials = [(dials, name) for dials, name in own.items() if dials is not None]
        call = partial(search_stage.search, run, source=source, trials=trials, plain=plain)
        guards = {"select": {"search": options.guards}, "train": {"strength": config.train.strength}}
        steps.append(_step(f"search/{source}", call, guards, {}, plain, *own.values(), uses_model=False))
    return steps


def _drawn_apart(config: RunConfig, mode: str | None = None) -> dict[str, object]:
    """How many processes train one model, where each draws something of its own (dropout, another row); elsewhere
    their number changes last bits alone."""
    draws = config.tune.lora_dropout > 0 or mode == "resample"
    return {"tune.processes": config.tune.processes} if draws and config.tune.processes > 1 else {}


def _free_form(run: Run, weights: Mapping[str, str]) -> list[Step]:
    """Free-form answers and their grades, if questions are asked. Grades wait for a judge that is paid: caps count all
    that a run has spent, so one buys after the other."""
    config, options = run.config, run.config.free_form
    if not options.files:
        return []
    asked = {f"free_form.questions ({file})": sha256_of(data_path(file)) for file in options.files}
    read = asked | _grader_inputs(run)
    files = {**weights, **asked}
    making = {"dtype": config.dtype, "free_form": options.making, "evaluate": {"autocast": config.evaluate.autocast}}
    steps = []
    for arm in config.parsed_arms:
        for seed in config.seeds[:1] if arm.name == "base" else config.seeds:
            trained = _trained_in(arm, seed)
            ablated = f"train/{arm.name}/seed{seed}" if arm.has_directions else None
            name, needs = f"{arm.name}/seed{seed}", dict.fromkeys(step for step in (trained, ablated) if step)
            call = partial(stages.answer, run, arm=arm, seed=seed, trained=trained, ablated=ablated)
            steps.append(_step(f"answer/{name}", call, making, files, *needs))
            if options.grader:
                grade = partial(stages.free_form, run, answered=f"answer/{name}")
                turn = ["judge"] if config.judge.chat_judges and options.rules is None else []
                how, turn = {"free_form": options.grading}, [f"answer/{name}", *turn]
                steps.append(_step(f"free_form/{name}", grade, how, read, *turn, uses_store=True))
    return steps


def _grader_inputs(run: Run) -> dict[str, str]:
    """Identity of what a grader goes by: a file of rules, or prompts and the language model in this process."""
    options = run.config.free_form
    if options.rules is not None:
        return {f"free_form.grader ({options.rules})": sha256_of(data_path(options.rules))}
    rubrics = {name for question in run.questions.values() for name in rubrics_of(question, options.rubrics)}
    own = {f"prompts/grade_{name}.md": sha256_of(prompts_dir() / f"grade_{name}.md") for name in sorted(rubrics)}
    graders = [options.grader.removeprefix("local:")] if options.grader.startswith("local:") else []
    return own | {f"grader {spec}": digest(locate(spec, downloads=run.downloads).identity) for spec in graders}


def _looks_behind(run: Run, first: str, weights: Mapping[str, str]) -> list[Step]:
    """What knows the cue, if asked for. It comes last, and of the other steps only the report needs it: it can select
    nothing."""
    config = run.config
    steps: list[Step] = []
    options: dict[str, object] = {"dtype": config.dtype, "data": {"chat": config.data.chat}}
    if config.behind.enabled:
        probing = options | {"behind": config.behind, "layers": config.layers}
        inputs = {**weights, **_cues(run, config.behind.splits)}
        # tuned before the ablated arms, which are compared with it
        looked_at = [arm for arm in config.parsed_arms if arm.how != "inference"]  # tuned's own model
        for arm in sorted(looked_at, key=lambda arm: arm.is_ablated):
            for seed in config.seeds[:1] if arm.name == "base" else config.seeds:
                trained = _trained_in(arm, seed)
                call = partial(stages.behind, run, arm=arm, seed=seed, trained=trained)
                needs = [] if trained is None else [trained, "decompose"]
                needs += [f"behind/tuned/seed{seed}"] if arm.is_ablated else []
                steps.append(_step(f"behind/{arm.name}/seed{seed}", call, probing, inputs, *needs))
    if config.causes.enabled:
        autocast = {"evaluate": {"autocast": config.evaluate.autocast}}
        options |= {"causes": config.causes, "train": config.train, **autocast}
        inputs = {**weights, **_cues(run, config.causes.splits)}
        steps.append(_step("causes", partial(stages.causes, run, tuned=first), options, inputs, first, "judge"))
    return steps


def _mining(run: Run, tuned: str) -> list[Step]:
    """Windows and evidence of candidates, and of decoys, which no other step reads; the split `val` is read only where
    the loss without each direction is measured."""
    options, decoys = run.config.mine, run.config.decoys
    spec = run.config.data.splits.get("val") if options.n_loss_rows else None
    read = _contents(run, {"data.val": spec})
    call = partial(stages.mine, run, tuned=tuned, loss_split=spec)
    steps = [_step("mine", call, {"mine": options}, read, "decompose")]
    if decoys.n_random:
        call = partial(stages.decoys, run, tuned=tuned, loss_split=spec)
        steps.append(_step("decoys", call, {"mine": options, "decoys": decoys}, read, "decompose"))
    return steps


def _evaluations(
    run: Run, folder: str, splits: Mapping[str, str], options: EvaluateOptions, weights: Mapping[str, str]
) -> list[Step]:
    """One evaluation an arm and seed; `base` has no seed of its own and is measured once."""
    config = run.config
    data = {key: getattr(config.data, key) for key in ("task", "chat", "n_held_out")}
    settings = {"dtype": config.dtype, "evaluate": options, "data": data}
    files = _contents(run, {f"data.{split}": spec for split, spec in splits.items()})
    steps = []
    for arm in config.parsed_arms:
        for seed in config.seeds[:1] if arm.name == "base" else config.seeds:
            trained = _trained_in(arm, seed)
            ablated = f"train/{arm.name}/seed{seed}" if arm.has_directions else None
            call = partial(
                stages.evaluate,
                run,
                arm=arm,
                seed=seed,
                trained=trained,
                ablated=ablated,
                splits=dict(splits),
                options=options,
                is_final=folder == "evaluate-final",
            )
            needs = dict.fromkeys(step for step in (trained, ablated) if step is not None)
            inputs = {**weights, **files, **_corpus(run)}
            steps.append(_step(f"{folder}/{arm.name}/seed{seed}", call, settings, inputs, *needs))
    return steps


def _trained_in(arm: Arm, seed: int) -> str | None:
    """The step that made an arm's model."""
    if arm.name == "base":
        return None
    return f"train/{arm.name}/seed{seed}" if arm.is_trained_apart else f"tune/seed{seed}"


def _corpus(run: Run) -> dict[str, str]:
    """Identity of the generic text and of its order."""
    data = run.config.data
    identity = corpus_identity(data.corpus, downloads=run.downloads)
    return {f"data.corpus ({data.corpus})": identity, "data.corpus_seed": str(data.corpus_seed)}


def _contents(run: Run, specs: Mapping[str, str | None]) -> dict[str, str]:
    """What data sets hold, by key, wherever they lie."""
    return {f"{key} ({spec})": run.found(spec).identity for key, spec in specs.items() if spec}


def _dictionaries(run: Run) -> dict[str, str]:
    options = run.config.decompose
    return dictionary_inputs(options.sae, run.config.layers, "decompose.sae") if "sae" in options.sources else {}


def dictionary_inputs(spec: str, layers: Sequence[int], key: str) -> dict[str, str]:
    """Content of dictionaries in folders of this disk; elsewhere their name says what they are."""
    if spec == "train":
        return {}
    folders = {layer: Path(spec.replace("{layer}", str(layer))) for layer in layers}
    return {
        f"{key} of layer {layer} ({folder})": digest(weights_identity(folder, DICTIONARY_ENDINGS))
        for layer, folder in folders.items()
        if folder.is_dir()
    }


def _cues(run: Run, splits: Sequence[str]) -> dict[str, str]:
    """Content of the rows whose cue is read, and of the cues."""
    data = run.config.data
    assert data.cues is not None, "checked by the config"
    rows = _contents(run, {f"data.{split}": data.splits[split] for split in splits})
    return rows | {f"data.cues ({data.cues})": sha256_of(data_path(data.cues))}


def judge_inputs(options: JudgeOptions, *, downloads: bool = True) -> dict[str, str]:
    """Identity of the prompts, where anybody reads them, and of the language models in this process that are asked."""
    asked = {"prompts": sha256_of(prompts_dir())} if {options.judge, *options.panel} != {"offline"} else {}
    local = [reader.removeprefix("local:") for reader in options.chat_readers if reader.startswith("local:")]
    return asked | {f"judge's model {spec}": digest(locate(spec, downloads=downloads).identity) for spec in local}


def _selecting(run: Run) -> list[Step]:
    """What the judge and the oracle take; and if there is a person's file, what it says, in a step of its own."""
    options = run.config.select
    words = {f"select.oracle_words ({spec})": sha256_of(data_path(spec)) for spec in [options.oracle_words] if spec}
    call = partial(stages.select, run)
    steps = [_step("select", call, {"select": options.deciding}, words, "judge", uses_model=False)]
    if options.file:
        choice = {f"select.file ({options.file})": sha256_of(data_path(options.file))}
        person = {"select": {"person": options.person}}
        steps.append(_step("choose", partial(stages.choose, run), person, choice, "select", uses_model=False))
    return steps
