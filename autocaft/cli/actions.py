"""What each command does, one function each: build the run, hand it to the runner, print what came out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from autocaft.config import RunConfig, find_config, lay_over, load_config, recipe_names, to_toml
from autocaft.errors import ConfigError
from autocaft.execute.choose import Executor
from autocaft.execute.quiet import quiet_libraries
from autocaft.rundir.files import read_json, read_jsonl, write_json, write_text

HERE = Executor()
CONFIG = "config.toml"
TO_TRAIN = "To train on this choice, in the same run folder (arms that do not use it stay as they are):"


def run_all(
    name_or_path: str,
    *,
    overrides: Sequence[str],
    redo: set[str],
    name: str | None,
    runs: Path,
    final: bool,
    executor: Executor,
    source: Path | None,
) -> None:
    """`autocaft run`."""
    if final and executor.mirror is not None:
        raise ConfigError(
            "--final with --mirror: a look at a final split is written down where the run is started, which a node "
            "cannot reach. Run without --final first; then the same with --final and without --mirror looks from here"
        )
    path = find_config(name_or_path)
    config, run_dir = load_config(path, overrides), runs / (name or path.stem)
    _execute(config, run_dir, redo=redo, final=final, only=None, executor=executor, source=source)


def run_stage(stage: str, run_dir: Path, *, overrides: Sequence[str], redo: bool) -> None:
    """`autocaft STAGE RUN_DIR`: the stage alone, with the settings the folder was made with."""
    path = run_dir / CONFIG
    if not path.is_file():
        raise ConfigError(f"{run_dir} is no run folder: it has no {CONFIG}. Make one with `autocaft run`")
    _execute(load_config(path, overrides), run_dir, redo={stage} if redo else set(), final=False, only={stage})


def report_run(
    run_dir: Path, *, form: str | None, figures: str | None, out: Path | None, overrides: Sequence[str], redo: bool
) -> None:
    """`autocaft report`: the stage; or other forms of the report that is there, made first if there is none."""
    if form is None and figures is None:
        if out is not None:
            raise ConfigError("--out says where --format or --figures write; give one of them")
        run_stage("report", run_dir, overrides=overrides, redo=redo)
        return
    from autocaft.report.build import FORMAT
    from autocaft.report.export import check_forms, export_figures, export_report

    check_forms(form, figures)
    path = run_dir / "report.json"
    if overrides or redo or not path.is_file() or read_json(path).get("format") != FORMAT:
        run_stage("report", run_dir, overrides=overrides, redo=redo)
    found, folder = read_json(path), out or run_dir
    paths = [] if form is None else export_report(found, form, folder)
    paths += [] if figures is None else export_figures(found, figures, folder)
    for written in paths:
        print_text(f"{written}")


def _execute(
    config: RunConfig,
    run_dir: Path,
    *,
    redo: set[str],
    final: bool,
    only: set[str] | None,
    executor: Executor = HERE,
    source: Path | None = None,
) -> None:
    from autocaft.pipeline import build_steps, run_step
    from autocaft.preflight import check_inputs, set_threads, step_bytes
    from autocaft.run import Run, pin_sets, write_lock
    from autocaft.rundir.progress import Log, make_progress
    from autocaft.rundir.runner import LOG_NAME, run_steps

    quiet_libraries()
    pinned = pin_sets(config.hub_sets, run_dir, downloads=True)
    config = config.with_sets(pinned)
    run = Run(config)
    check_inputs(run, final=final)
    steps = build_steps(run, final=final)
    progress = make_progress(Log(run_dir / LOG_NAME))

    def begin() -> None:
        write_text(run_dir / CONFIG, to_toml(config))
        write_lock(pinned, run_dir)
        set_threads(config.threads)

    with executor.workers(
        partial(run_step, config, final),
        steps,
        run_dir,
        threads=config.threads,
        model_bytes=step_bytes(run.weights, config.dtype),
        n_devices=config.tune.processes,
        key_names=[name for name in (config.judge.api_key_env, config.free_form.api_key_env) if name],
        say=progress.say,
    ) as workers:
        ran = run_steps(steps, run_dir, redo, progress, only, on_checked=begin, workers=workers, source=source)
    _print_outcome(run_dir, ran)


def _print_outcome(run_dir: Path, ran: Sequence[str]) -> None:
    from autocaft.report.build import summary_table

    report = run_dir / "report.json"
    if not ran:
        print_text(f"{run_dir}: everything is done, nothing was run again")
    if report.is_file():
        told = read_json(report)
        print_text(summary_table(told))
        for search in told.get("searches", ()):
            print_text(f"search, {search['source']}: {search['why']}")
        print_text(f"{run_dir / 'report.html'}")


def show_plan(
    name_or_path: str,
    *,
    overrides: Sequence[str],
    redo: set[str],
    name: str | None,
    runs: Path,
    final: bool,
    source: Path | None,
) -> None:
    """`autocaft plan`."""
    from autocaft.estimate import estimate
    from autocaft.pipeline import build_steps
    from autocaft.preflight import check_inputs
    from autocaft.run import Run, pin_sets
    from autocaft.rundir.runner import plan_steps

    path = find_config(name_or_path)
    run_dir = runs / (name or path.stem)
    config = load_config(path, overrides)
    run = Run(config.with_sets(pin_sets(config.hub_sets, run_dir, downloads=False)), downloads=False)
    check_inputs(run, final=final)
    plan = plan_steps(build_steps(run, final=final), run_dir, redo, source=source)
    width = max(len(step) for step in plan.actions)
    print_text(f"{path} -> {run_dir}")
    for step, action in plan.actions.items():
        print_text(f"  {step:<{width}}  {'done' if action == 'skip' else action}")
    print_text("\n".join(estimate(run, run_dir)))


def write_config(path: Path, recipe: str) -> None:
    """`autocaft init`."""
    if path.exists():
        raise ConfigError(f"{path} exists; name another file")
    config = load_config(find_config(recipe))
    head = f"# autocaft: every key of the recipe {recipe!r}, with what it does. Run it: autocaft run {path}\n\n"
    write_text(path, head + to_toml(config, documented=True))
    print_text(f"{path} written; edit it, then: autocaft run {path}")


def list_recipes() -> None:
    """`autocaft recipes`: each with the first comment line of its file."""
    for name in recipe_names():
        first = find_config(name).read_text(encoding="utf-8").splitlines()[0]
        print_text(f"{name:<14} {first.lstrip('# ')}")


def compare_choices(
    first: Path,
    second: Path | None,
    *,
    candidates: int | None,
    as_json: bool,
    out: bool,
    reviewer_misses: float,
    reviewer_takes: float,
    reviewer_seconds: float,
) -> None:
    """`autocaft compare`."""
    from autocaft.compare.table import run_table, selections_table

    if second is not None:
        from autocaft.compare.selections import compare_selections

        if out:
            raise ConfigError("--out writes into a run folder, and two selection files have none. Use --json > FILE")
        found = compare_selections(first, second, candidates)
    else:
        from autocaft.compare.compare import compare_run
        from autocaft.compare.hybrid import SimulatedReviewer

        if candidates is not None:
            raise ConfigError("--candidates is for two selection files; a run folder knows its candidates")
        found = compare_run(first, SimulatedReviewer(reviewer_misses, reviewer_takes, reviewer_seconds))
        if out:
            from autocaft.report.build import add_comparison

            write_json(first / "compare.json", found)
            if not add_comparison(found, first):
                sys.stderr.write(
                    f"{first} has no report of this version, so the figures are in compare.json alone. "
                    f"`autocaft report {first} --redo` makes one that shows them.\n"
                )
    if as_json:
        from autocaft.report.plain import json_text

        print_text(json_text(found))
    else:
        print_text(run_table(found) if second is None else selections_table(found))


def review_run(
    run_dir: Path,
    name: str,
    *,
    host: str,
    port: int,
    export: Path | None,
    import_: Path | None,
    doubtful: bool = False,
) -> None:
    """`autocaft review`."""
    if export is not None and import_ is not None:
        raise ConfigError("--export and --import are two commands; give one of them")
    if doubtful and import_ is not None:
        raise ConfigError("--doubtful says what is shown or exported; --import takes whatever the file has")
    if export is not None:
        from autocaft.review.files import export_answers, training_command

        paths = export_answers(run_dir, name, export, doubtful=doubtful)
        command = training_command(run_dir, name, paths[-1], doubtful=doubtful)
        print_text("\n".join(map(str, paths)))
        print_text("Nothing is chosen, so there is no arm to train." if command is None else f"{TO_TRAIN}\n  {command}")
    elif import_ is not None:
        from autocaft.review.files import import_answers

        news = import_answers(run_dir, name, import_)
        print_text(f"{len(news)} new {'answer' if len(news) == 1 else 'answers'} of {name} from {import_}")
        copied = sorted({act.copied_from for act in news if act.copied_from})
        if copied:
            print_text(
                f"The sheet has answers of {', '.join(copied)}: `compare` does not count them as {name}'s. A sheet of "
                f"{name}'s own: autocaft review {run_dir} --name {name} --export DIR"
            )
    else:
        from autocaft.review.server import serve

        serve(run_dir, name, host=host, port=port, announce=_announce, doubtful=doubtful)


def _announce(url: str) -> None:
    """At once, also into a pipe: whoever started the server waits for the address."""
    print_text(f"{url}\nOpen this address in a browser on this machine. Ctrl-C stops; what is answered is saved.")
    sys.stdout.flush()


def calibrate_judge(
    judge: str,
    *,
    model: str,
    split: str,
    out: Path,
    run_dir: Path | None,
    overrides: Sequence[str],
    only_plan: bool = False,
) -> None:
    """`autocaft calibrate`."""
    from autocaft.calibrate.planted import SPLITS
    from autocaft.calibrate.run import calibrate, plan, text_of
    from autocaft.judge.options import JudgeOptions
    from autocaft.rundir.lock import lock_run
    from autocaft.rundir.options import make_options
    from autocaft.rundir.progress import Log, make_progress
    from autocaft.rundir.store import RunStore

    chosen = next((name for name in SPLITS if name == split), None)
    if chosen is None:
        raise ConfigError(f"--split {split!r}: must be {' or '.join(SPLITS)}")
    values: dict[str, Any] = {"judge": judge, "undesired": "asked by calibrate", "wanted": "asked by calibrate"}
    for override in overrides:
        lay_over(values, override)
    options = make_options(JudgeOptions, values, "the judge")
    quiet_libraries()
    with lock_run(out), RunStore(out / "answers.sqlite") as store:
        progress = make_progress(Log(out / "log.txt"))
        if only_plan:
            lines = plan(model=model, options=options, split=chosen, out=out, progress=progress, run_dir=run_dir)
            print_text("\n".join(lines))
            return
        found = calibrate(
            model=model, options=options, split=chosen, out=out, store=store, progress=progress, run_dir=run_dir
        )
    print_text(f"{judge} on {split}\n{text_of(found)}\n{out / 'calibration.json'}")


def ask_server(
    questions: Sequence[str],
    model: str,
    *,
    base_url: str | None,
    out: Path,
    arm: str,
    seed: int,
    overrides: Sequence[str],
    max_usd: float | None,
) -> None:
    """`autocaft ask`."""
    from autocaft.evaluate.ask import ask_model
    from autocaft.evaluate.options import AnswererOptions
    from autocaft.evaluate.questions import load_questions
    from autocaft.resources import data_path
    from autocaft.rundir.lock import lock_run
    from autocaft.rundir.options import make_options
    from autocaft.rundir.progress import Log, make_progress
    from autocaft.rundir.store import RunStore

    values: dict[str, Any] = {"model": model, "base_url": base_url, "max_usd": max_usd}
    values = {key: value for key, value in values.items() if value is not None}
    for override in overrides:
        lay_over(values, override)
    options = make_options(AnswererOptions, values, "the answerer")
    asked = load_questions(*map(data_path, questions))
    quiet_libraries()
    with lock_run(out), RunStore(out / "answers.sqlite") as store:
        progress = make_progress(Log(out / "log.txt"))
        found = ask_model(asked, options, arm=arm, seed=seed, store=store, out=out, progress=progress)
    print_text(f"{len(found):,} answers\n{out / 'answers.jsonl'}")


def grade_file(
    answers: Path, grader: str, *, out: Path, questions: Sequence[str], overrides: Sequence[str], max_usd: float | None
) -> None:
    """`autocaft grade`."""
    from autocaft.evaluate.free_form import grade_free_form, metrics_table
    from autocaft.evaluate.options import GraderOptions
    from autocaft.evaluate.questions import load_answers, load_questions
    from autocaft.report.contrasts import compare_graded, differences_text
    from autocaft.resources import data_path
    from autocaft.rundir.lock import lock_run
    from autocaft.rundir.options import make_options
    from autocaft.rundir.progress import Log, make_progress
    from autocaft.rundir.store import RunStore

    values: dict[str, Any] = {"grader": grader} | ({} if max_usd is None else {"max_usd": max_usd})
    for override in overrides:
        lay_over(values, override)
    options = make_options(GraderOptions, values, "the grader")
    asked = load_questions(*map(data_path, questions))
    rows = load_answers(answers, asked)
    quiet_libraries()
    with lock_run(out), RunStore(out / "answers.sqlite") as store:
        progress = make_progress(Log(out / "log.txt"))
        metrics = grade_free_form(rows, asked, options, store=store, out=out, progress=progress)
        differences = compare_graded(read_jsonl(out / "scores.jsonl"))
        write_json(out / "differences.json", differences)
    parts = (metrics_table(metrics), differences_text(differences), str(out / "summary.json"))
    print_text("\n\n".join(part for part in parts if part))


def merge_step(folder: Path, out: Path) -> None:
    """`autocaft merge`."""
    run_dir = next((parent for parent in folder.resolve().parents if (parent / CONFIG).is_file()), None)
    if run_dir is None:
        raise ConfigError(f"{folder} lies in no run folder; give a step of one, as runs/my/train/caft-sae-auto/seed0")
    quiet_libraries()
    import torch

    from autocaft.model.locate import locate
    from autocaft.model.merge import merge_model
    from autocaft.report.model_card import merged_card

    config = load_config(run_dir / CONFIG)
    step = folder.parent if folder.name == "model" else folder
    merge_model(locate(config.model), step / "model", out, dtype=getattr(torch, config.dtype))
    card = step / "model" / "README.md"
    if card.is_file():  # the report writes it
        name = f"{run_dir.name}/{step.resolve().relative_to(run_dir).as_posix()}"
        write_text(out / "README.md", merged_card(card.read_text(encoding="utf-8"), name))
    print_text(f"{out}")


def reproduce_run(run_dir: Path, again: Path | None) -> None:
    """`autocaft reproduce`."""
    from autocaft.reproduce import compare_runs, compare_with_now, describe

    quiet_libraries()
    found = compare_with_now(run_dir) if again is None else compare_runs(run_dir, again)
    print_text("\n".join(describe(found, run_dir, again)))


def print_text(text: str) -> None:
    sys.stdout.write(text + "\n")
