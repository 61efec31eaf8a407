"""The stages as steps of a run: load what the stage needs, call its room, leave the artifacts in its folder.

In: a `Run` (the settings and where the weights lie) and a `StepContext`. Out: files. Nothing is decided here: this is
where rooms that must not know each other meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocaft.ablations import (
    ablation_of,
    arm_subspaces,
    found_directions,
    make_least_change,
    mean_by_layer,
    measured_mode,
    mode_of,
    removed_directions,
    with_found_dials,
)
from autocaft.arms import Arm, ArmSource, Selector
from autocaft.config import needs_person
from autocaft.records import Decision, Example, Verdict
from autocaft.run import Run
from autocaft.rundir.files import read_json, read_records, write_json, write_jsonl
from autocaft.rundir.runner import StepContext
from autocaft.trainings import fine_tune_step

if TYPE_CHECKING:
    from autocaft.evaluate.options import EvaluateOptions
    from autocaft.model.directions import Subspace
    from autocaft.model.hooks import Ablation


def tune(run: Run, context: StepContext, seed: int) -> None:
    """Plain SFT: the arm `tuned`, and the model whose change is looked at."""
    fine_tune_step(run, context, seed, label=f"tune, seed {seed}", subspaces=(), mode="mean")


def collect(run: Run, context: StepContext, tuned: str) -> None:
    """Texts, the base's activations on them, and the difference that tuning made."""
    from autocaft.discover.collect import collect as run_collect

    with run.model_pair(context.dir_of(tuned)) as models:
        run_collect(
            models=models,
            tokenizer=run.tokenizer(),
            rows=run.read_rows,
            generic=run.generic_documents,
            layers=run.config.layers,
            options=run.config.collect,
            out=context.out,
            progress=context.progress,
        )


def decompose(run: Run, context: StepContext, tuned: str) -> None:
    """Directions: PCs of the difference, and the latents that rank highest."""
    from autocaft.discover.decompose import decompose as run_decompose

    with run.model_pair(context.dir_of(tuned)) as models:
        run_decompose(
            models=models,
            tokenizer=run.tokenizer(),
            rows=run.read_rows,
            collected=context.dir_of("collect"),
            collect_options=run.config.collect,
            options=run.config.decompose,
            out=context.out,
            progress=context.progress,
        )


def mine(run: Run, context: StepContext, tuned: str, loss_split: str | None) -> None:
    """Windows of text for each direction, and what is known of it without a judge."""
    from autocaft.discover.mine import mine as run_mine

    with run.model_pair(context.dir_of(tuned)) as models:
        run_mine(models=models, options=run.config.mine, **_mined_from(run, context, loss_split))


def decoys(run: Run, context: StepContext, tuned: str, loss_split: str | None) -> None:
    """Random directions for the review page, mined like candidates."""
    from autocaft.discover.decoys import mine_decoys

    with run.model_pair(context.dir_of(tuned)) as models:
        mine_decoys(
            models=models,
            options=run.config.decoys,
            mine_options=run.config.mine,
            **_mined_from(run, context, loss_split),
        )


def judge(run: Run, context: StepContext) -> None:
    """A verdict on each direction."""
    from autocaft.judge.stage import judge_directions, make_judge

    def local_model() -> tuple[Any, Any]:
        return run.load_base(), run.tokenizer()

    judge_directions(
        directions=found_directions(context).directions,
        examples=read_records(context.dir_of("mine") / "examples.jsonl", Example),
        options=run.config.judge,
        judge=make_judge(run.config.judge, store=context.opened, local_model=local_model),
        out=context.out,
        progress=context.progress,
    )


def select(run: Run, context: StepContext) -> None:
    """Decisions: which directions are ablated, by whom, and why."""
    from autocaft.select.select import select as run_select

    run_select(
        directions=found_directions(context).directions,
        judged=read_records(context.dir_of("judge") / "verdicts.jsonl", Verdict),
        options=run.config.select,
        examples=read_records(context.dir_of("mine") / "examples.jsonl", Example),
        needed=_needed(run, with_person=False),
        out=context.out,
    )


def choose(run: Run, context: StepContext) -> None:
    """What a person decided, and the judge's choice with that person's help."""
    from autocaft.select.choose import choose as run_choose

    run_choose(
        directions=found_directions(context).directions,
        judged=read_records(context.dir_of("judge") / "verdicts.jsonl", Verdict),
        decided=read_records(context.dir_of("select") / "decisions.jsonl", Decision),
        options=run.config.select,
        needed=_needed(run, with_person=True),
        out=context.out,
    )


def train(run: Run, context: StepContext, arm: Arm, seed: int) -> None:
    """CAFT: the same SFT with the arm's directions ablated; or a rival, which departs from plain SFT otherwise. For an
    arm that is ablated only when it is used, the directions alone."""
    from autocaft.model.directions import save_subspaces

    if arm.selector == "searched":
        arm = with_found_dials(context, arm)
    subspaces: list[Subspace] = []
    if arm.has_directions:
        subspaces, _ = arm_subspaces(run, context, arm, seed)
        save_subspaces(context.out / "subspaces.safetensors", subspaces)
    if arm.is_trained_apart:
        mode = mode_of(run, arm)
        label = f"train {arm.name}, seed {seed}"
        fine_tune_step(run, context, seed, label=label, subspaces=subspaces, mode=mode, arm=arm)


def evaluate(
    run: Run,
    context: StepContext,
    arm: Arm,
    seed: int,
    trained: str | None,
    ablated: str | None,
    splits: dict[str, str],
    options: EvaluateOptions,
    is_final: bool,
) -> None:
    """One arm on every split, hooks off (and on), and on generic text. A look at final splits is noted before it."""
    from autocaft.evaluate.evaluate import evaluate_arm
    from autocaft.report.looks import LOOKS, note_look
    from autocaft.rundir.lock import one_at_a_time

    if is_final:
        with one_at_a_time(context.out.parents[2], "looks"):
            note_look(LOOKS, context.out)
    folder = None if trained is None else context.dir_of(trained)
    removed = None if ablated is None else context.dir_of(ablated)
    model = run.load_base() if folder is None else run.load_trained(folder)
    evaluate_arm(
        model,
        run.base_of(model, is_base=folder is None),
        run.tokenizer(),
        run.eval_rows(splits),
        run.held_out_documents,
        options,
        arm=arm.name,
        task=run.config.data.task,
        seed=seed,
        ablated=ablation_of(run, model, arm, removed),
        used="on" if arm.how == "inference" else "off",
        out=context.out,
        progress=context.progress,
    )


def answer(run: Run, context: StepContext, arm: Arm, seed: int, trained: str | None, ablated: str | None) -> None:
    """Free-form answers of one arm, as it is used."""
    from autocaft.evaluate.answers import make_answers

    model = run.load_base() if trained is None else run.load_trained(context.dir_of(trained))
    is_used_ablated = arm.how == "inference" and ablated is not None
    make_answers(
        model,
        run.tokenizer(),
        run.questions,
        run.config.free_form,
        arm=arm.name,
        seed=seed,
        ablated=ablation_of(run, model, arm, context.dir_of(ablated)) if is_used_ablated and ablated else None,
        bf16=run.config.evaluate.autocast == "bf16",
        out=context.out,
        progress=context.progress,
    )


def free_form(run: Run, context: StepContext, answered: str) -> None:
    """Grades of one arm's answers, and its rates."""
    from autocaft.evaluate.answers import ANSWERS
    from autocaft.evaluate.free_form import grade_free_form
    from autocaft.evaluate.questions import load_answers
    from autocaft.rundir.lock import one_at_a_time

    folder = context.dir_of(answered)
    answers = load_answers(folder / ANSWERS, run.questions)
    with one_at_a_time(folder.parents[2], "grading"):
        grade_free_form(
            answers,
            run.questions,
            run.config.free_form,
            store=context.store,
            out=context.out,
            progress=context.progress,
        )


def behind(run: Run, context: StepContext, arm: Arm, seed: int, trained: str | None) -> None:
    """Is the cue still readable in this arm, and where did the arm move instead?"""
    from autocaft.behind.probe import probe_arm

    options = run.config.behind
    folder = None if trained is None else context.dir_of(trained)
    model = run.load_base() if folder is None else run.load_trained(folder)
    readings = probe_arm(
        model,
        run.tokenizer(),
        run.cued_rows(options.splits),
        run.config.layers,
        options,
        ablated=ablation_of(run, model, arm, folder if arm.is_ablated else None),
        label=f"{arm.name}, seed {seed}",
        progress=context.progress,
    )
    del model  # its base is loaded beside it next
    if folder is not None:
        _look_at_moves(run, context, arm, seed, folder)
    write_jsonl(context.out / "probe.jsonl", ({"arm": arm.name, "seed": seed, **r.to_row()} for r in readings))


def causes(run: Run, context: StepContext, tuned: str) -> None:
    """What each candidate alone does to the cue in the tuned model, and whether the judge knew. Validation only."""
    from autocaft.behind.causes import causes as run_causes
    from autocaft.discover.decompose import load_covariances
    from autocaft.model.hooks import ablate

    options, mode = run.config.train, measured_mode(run.config.train.mode)
    least_change = make_least_change(run, context) if mode == "leace" else None

    def ablate_one(model: Any, subspace: Subspace) -> AbstractContextManager[Ablation]:
        subspace = subspace if least_change is None else least_change(subspace)
        return ablate(model, [subspace], mode=mode, strength=options.strength, exempt_first=options.exempt_first)

    run_causes(
        model=run.load_trained(context.dir_of(tuned)),
        tokenizer=run.tokenizer(),
        rows=run.cued_rows(run.config.causes.splits),
        found=removed_directions(run, context),
        covariance_by_layer=load_covariances(context.dir_of("decompose")),
        mean_by_layer=mean_by_layer(run, context),
        ablate_one=ablate_one,
        verdicts=read_records(context.dir_of("judge") / "verdicts.jsonl", Verdict),
        options=run.config.causes,
        bf16=run.config.evaluate.autocast == "bf16",
        out=context.out,
        progress=context.progress,
    )


def report(
    run: Run,
    context: StepContext,
    measured: Sequence[str],
    trained: Sequence[str],
    looked: Sequence[str],
    graded: Sequence[str],
    models: Sequence[tuple[str, int, str]],
) -> None:
    """`report.json` and `report.html` of the run, from artifacts only, and a card beside each model (arm, seed, and the
    step that trained it)."""
    from autocaft.outcome import report_parts
    from autocaft.report.build import build_report, write_report
    from autocaft.report.model_card import model_card
    from autocaft.rundir.files import sha256_of, write_text

    built = build_report(**report_parts(run, context, measured, trained, looked, graded))
    for arm, seed, step in models:
        folder = context.dir_of(step)
        path = folder / "subspaces.safetensors"
        sha256 = sha256_of(path) if path.is_file() else None
        ids = read_json(folder / "set.json")["ids"] if sha256 else []
        card = model_card(built, arm, seed, ids=ids, subspaces_sha256=sha256)
        place = folder / "model/README.md"
        if not place.is_file() or place.read_text(encoding="utf-8") != card:  # the folder is another step's
            write_text(place, card)
    write_report(built, context.out.parent)


def _needed(run: Run, *, with_person: bool) -> set[tuple[ArmSource, Selector]]:
    """Source and selector of the arms with directions whose choice a person has a say in, or of the others."""
    arms = [arm for arm in run.config.parsed_arms if needs_person(run.config, arm) == with_person]
    return {(arm.source, arm.selector) for arm in arms if arm.source and arm.selector}


def _mined_from(run: Run, context: StepContext, loss_split: str | None) -> dict[str, Any]:
    """What mining reads and where it writes, whatever directions it is about."""
    return {
        "tokenizer": run.tokenizer(),
        "rows": run.read_rows,
        "collected": context.dir_of("collect"),
        "decomposed": context.dir_of("decompose"),
        "decompose_options": run.config.decompose,
        "out": context.out,
        "progress": context.progress,
        "loss_rows": run.eval_rows({"val": loss_split})["val"] if loss_split else run.read_rows,
    }


def _look_at_moves(run: Run, context: StepContext, arm: Arm, seed: int, folder: Path) -> None:
    """`moves.safetensors`: how the arm's model differs from the base; for an ablated arm `moved.json` beside tuned."""
    from autocaft.behind.moved import compare_moves, load_moves, measure_moves, save_moves
    from autocaft.discover.collect import read_compared
    from autocaft.discover.decompose import live_latents, load_dictionaries
    from autocaft.model.directions import load_subspaces

    collected, decomposed = context.dir_of("collect"), context.dir_of("decompose")
    found, tokenizer = found_directions(context), run.tokenizer()
    with run.model_pair(folder) as models:
        own = measure_moves(
            models,
            read_compared(tokenizer, run.read_rows, run.config.collect, collected),
            run.config.layers,
            load_dictionaries(decomposed, run.config.decompose, width=found.vectors_ND.shape[1]),
            run.config.collect,
            # two models that do not fit at once share the base's activations with decompose, batch by batch
            tokens_per_batch=run.config.decompose.tokens_per_batch,
            pad_id=tokenizer.pad_token_id or 0,
            scratch=collected / "compared",
            label=f"{arm.name}, seed {seed},",
            progress=context.progress,
        )
    save_moves(context.out / "moves.safetensors", own)
    if arm.is_ablated:
        lines = compare_moves(
            own,
            load_moves(context.dir_of(f"behind/tuned/seed{seed}") / "moves.safetensors"),
            {subspace.layer: subspace.basis_DK for subspace in load_subspaces(folder / "subspaces.safetensors")},
            live_latents(decomposed),
            found,
            read_records(context.dir_of("judge") / "verdicts.jsonl", Verdict),
            read_json(folder / "set.json")["ids"],
            n_top=run.config.behind.n_top,
        )
        write_json(context.out / "moved.json", {"arm": arm.name, "seed": seed, "layers": lines})
