"""The stages as steps of a run: load what the stage needs, call its room, leave the artifacts in its folder.

In: a `Run` (the settings and where the weights lie) and a `StepContext`. Out: files. Nothing is decided here: this is
where rooms that must not know each other meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocaft.arms import Arm
from autocaft.config import RunConfig
from autocaft.data.corpus import Document, load_corpus
from autocaft.data.cues import CuedRow, load_cued_rows
from autocaft.data.rows import TaskRow, load_rows
from autocaft.model.locate import Weights, locate
from autocaft.records import Decision, Example, Verdict
from autocaft.resources import data_path
from autocaft.rundir.files import read_json, read_records, write_json, write_jsonl
from autocaft.rundir.runner import StepContext

if TYPE_CHECKING:
    from autocaft.discover.pair import ModelPair
    from autocaft.evaluate.damage import BaseContext
    from autocaft.model.directions import DirectionSet, Subspace


@dataclass(frozen=True)
class Run:
    """What every stage of one run is handed."""

    config: RunConfig

    @cached_property
    def weights(self) -> Weights:
        """The base model."""
        return locate(self.config.model)

    @cached_property
    def train_rows(self) -> list[TaskRow]:
        """The rows every arm learns from."""
        return load_rows(data_path(self.config.data.train), chat=self.config.data.chat)

    def eval_rows(self, splits: dict[str, str]) -> dict[str, list[TaskRow]]:
        """Choice rows by split."""
        chat = self.config.data.chat
        return {split: load_rows(data_path(spec), choices_required=True, chat=chat) for split, spec in splits.items()}

    def cued_rows(self, splits: Sequence[str]) -> list[CuedRow]:
        """Rows of these splits with what the cue says in them: for the two steps that look behind the run alone."""
        assert self.config.data.cues is not None, "checked by the config"
        rows = self.eval_rows({split: self.config.data.splits[split] for split in splits})
        return load_cued_rows(data_path(self.config.data.cues), rows)

    @cached_property
    def _generic(self) -> list[Document]:
        data, collect = self.config.data, self.config.collect
        n_documents = data.n_held_out + max(collect.n_generic, collect.n_completions)
        return load_corpus(data.corpus, n_documents=n_documents, seed=data.corpus_seed)

    @property
    def held_out_documents(self) -> list[Document]:
        """Generic text for general damage; no other stage reads it."""
        return self._generic[: self.config.data.n_held_out]

    @property
    def generic_documents(self) -> list[Document]:
        """Generic text to read directions in."""
        return self._generic[self.config.data.n_held_out :]


def tune(run: Run, context: StepContext, seed: int) -> None:
    """Plain SFT: the arm `tuned`, and the model whose change is looked at."""
    _fine_tune(run, context, seed, label=f"tune, seed {seed}", subspaces=(), mode="mean")


def collect(run: Run, context: StepContext, tuned: str) -> None:
    """Texts, the base's activations on them, and the difference that tuning made."""
    from autocaft.discover.collect import collect as run_collect

    with _model_pair(run, context.dir_of(tuned)) as models:
        run_collect(
            models=models,
            tokenizer=_tokenizer(run),
            rows=run.train_rows,
            generic=run.generic_documents,
            layers=run.config.layers,
            options=run.config.collect,
            out=context.out,
            progress=context.progress,
        )


def decompose(run: Run, context: StepContext, tuned: str) -> None:
    """Directions: PCs of the difference, and the latents that rank highest."""
    from autocaft.discover.decompose import decompose as run_decompose

    with _model_pair(run, context.dir_of(tuned)) as models:
        run_decompose(
            models=models,
            tokenizer=_tokenizer(run),
            rows=run.train_rows,
            collected=context.dir_of("collect"),
            collect_options=run.config.collect,
            options=run.config.decompose,
            out=context.out,
            progress=context.progress,
        )


def mine(run: Run, context: StepContext, tuned: str, loss_split: str | None) -> None:
    """Windows of text for each direction, and what is known of it without a judge."""
    from autocaft.discover.mine import mine as run_mine

    with _model_pair(run, context.dir_of(tuned)) as models:
        run_mine(
            tokenizer=_tokenizer(run),
            rows=run.train_rows,
            collected=context.dir_of("collect"),
            decomposed=context.dir_of("decompose"),
            decompose_options=run.config.decompose,
            options=run.config.mine,
            out=context.out,
            progress=context.progress,
            models=models,
            loss_rows=run.eval_rows({"val": loss_split})["val"] if loss_split else run.train_rows,
        )


def judge(run: Run, context: StepContext) -> None:
    """A verdict on each direction."""
    from autocaft.judge.stage import judge_directions, make_judge

    def local_model() -> tuple[Any, Any]:
        return _load_base(run), _tokenizer(run)

    judge_directions(
        directions=_directions(context).directions,
        examples=read_records(context.dir_of("mine") / "examples.jsonl", Example),
        options=run.config.judge,
        judge=make_judge(run.config.judge, store=context.store, local_model=local_model),
        out=context.out,
        progress=context.progress,
    )


def select(run: Run, context: StepContext) -> None:
    """Decisions: which directions are ablated, by whom, and why."""
    from autocaft.select.select import select as run_select

    run_select(
        directions=_directions(context).directions,
        judged=read_records(context.dir_of("judge") / "verdicts.jsonl", Verdict),
        options=run.config.select,
        examples=read_records(context.dir_of("mine") / "examples.jsonl", Example),
        needed={(arm.source, arm.selector) for arm in run.config.parsed_arms if arm.source and arm.selector},
        out=context.out,
    )


def train(run: Run, context: StepContext, arm: Arm, seed: int) -> None:
    """CAFT: the same SFT with the arm's directions ablated."""
    from autocaft.model.directions import build_subspaces, save_subspaces

    found, ids = _arm_directions(run, context, arm, seed)
    subspaces = build_subspaces(found, ids, _mean_by_layer(context))
    save_subspaces(context.out / "subspaces.safetensors", subspaces)
    mode = arm.mode or run.config.train.mode
    _fine_tune(run, context, seed, label=f"train {arm.name}, seed {seed}", subspaces=subspaces, mode=mode)


def evaluate(run: Run, context: StepContext, arm: Arm, seed: int, trained: str | None, splits: dict[str, str]) -> None:
    """One arm on every split, hooks off (and on), and on generic text."""
    from autocaft.evaluate.evaluate import evaluate_arm

    folder = None if trained is None else context.dir_of(trained)
    model = _load_base(run) if folder is None else _load_trained(run, folder)
    evaluate_arm(
        model,
        _base_of(run, model, is_base=folder is None),
        _tokenizer(run),
        run.eval_rows(splits),
        run.held_out_documents,
        run.config.evaluate,
        arm=arm.name,
        task=run.config.data.task,
        seed=seed,
        ablated=_ablation(run, model, arm, folder),
        out=context.out,
        progress=context.progress,
    )


def behind(run: Run, context: StepContext, arm: Arm, seed: int, trained: str | None) -> None:
    """Is the cue still readable in this arm, and where did the arm move instead?"""
    from autocaft.behind.probe import probe_arm

    options = run.config.behind
    folder = None if trained is None else context.dir_of(trained)
    model = _load_base(run) if folder is None else _load_trained(run, folder)
    readings = probe_arm(
        model,
        _tokenizer(run),
        run.cued_rows(options.splits),
        run.config.layers,
        options,
        ablated=_ablation(run, model, arm, folder),
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

    options = run.config.train

    def ablate_one(model: Any, subspace: Subspace) -> AbstractContextManager[None]:
        return ablate(
            model, [subspace], mode=options.mode, strength=options.strength, exempt_first=options.exempt_first
        )

    run_causes(
        model=_load_trained(run, context.dir_of(tuned)),
        tokenizer=_tokenizer(run),
        rows=run.cued_rows(run.config.causes.splits),
        found=_directions(context),
        covariance_by_layer=load_covariances(context.dir_of("decompose")),
        mean_by_layer=_mean_by_layer(context),
        ablate_one=ablate_one,
        verdicts=read_records(context.dir_of("judge") / "verdicts.jsonl", Verdict),
        options=run.config.causes,
        bf16=run.config.evaluate.autocast == "bf16",
        out=context.out,
        progress=context.progress,
    )


def report(
    run: Run, context: StepContext, measured: Sequence[str], trained: Sequence[str], looked: Sequence[str]
) -> None:
    """`report.json` and `report.html` of the run, from artifacts only."""
    from autocaft.outcome import report_parts
    from autocaft.report.build import build_report, write_report

    write_report(build_report(**report_parts(run, context, measured, trained, looked)), context.out.parent)


def _fine_tune(
    run: Run, context: StepContext, seed: int, *, label: str, subspaces: Sequence[Subspace], mode: Any
) -> None:
    from autocaft.train.sft import fine_tune

    summary = fine_tune(
        _load_base(run),
        _tokenizer(run),
        run.train_rows,
        run.config.tune,
        seed=seed,
        out=context.out,
        progress=context.progress,
        label=label,
        subspaces=subspaces,
        mode=mode,
        strength=run.config.train.strength,
        exempt_first=run.config.train.exempt_first,
        frozen_up_to=min(run.config.layers) if run.config.tune.trained_blocks == "above" else None,
    )
    write_json(context.out / "summary.json", summary)


def _look_at_moves(run: Run, context: StepContext, arm: Arm, seed: int, folder: Path) -> None:
    """`moves.safetensors`: how the arm's model differs from the base; for an ablated arm `moved.json` beside tuned."""
    from autocaft.behind.moved import compare_moves, load_moves, measure_moves, save_moves
    from autocaft.discover.collect import read_compared
    from autocaft.discover.decompose import live_latents, load_dictionaries
    from autocaft.model.directions import load_subspaces

    collected, decomposed = context.dir_of("collect"), context.dir_of("decompose")
    found, tokenizer = _directions(context), _tokenizer(run)
    with _model_pair(run, folder) as models:
        own = measure_moves(
            models,
            read_compared(tokenizer, run.train_rows, run.config.collect, collected),
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


def _arm_directions(run: Run, context: StepContext, arm: Arm, seed: int) -> tuple[DirectionSet, list[str]]:
    """The directions an arm ablates, and a set that holds their vectors; the choice is also in `set.json`."""
    from autocaft.discover.decompose import latents_as_directions, live_latents, load_covariances
    from autocaft.select.select import choose_set

    assert arm.source is not None and arm.selector is not None
    decomposed = context.dir_of("decompose")
    found = _directions(context)
    chosen = choose_set(
        arm.source,
        arm.selector,
        seed=seed,
        directions=found.directions,
        vectors_ND=found.vectors_ND,
        decisions=read_records(context.dir_of("select") / "decisions.jsonl", Decision),
        live_by_layer=live_latents(decomposed),
        covariance_by_layer=load_covariances(decomposed),
        options=run.config.select,
    )
    write_json(context.out / "set.json", chosen.to_row())
    if arm.selector == "random-live":
        found = latents_as_directions(decomposed, run.config.decompose, chosen.ids, width=found.vectors_ND.shape[1])
    return found, list(chosen.ids)


def _tokenizer(run: Run) -> Any:
    from autocaft.model.load import load_tokenizer

    return load_tokenizer(run.weights)


def _load_base(run: Run) -> Any:
    from autocaft.model.load import load_model

    return load_model(run.weights, dtype=_dtype(run))


def _load_trained(run: Run, folder: Path) -> Any:
    from autocaft.model.load import load_trained

    return load_trained(run.weights, folder / "model", dtype=_dtype(run))


def _dtype(run: Run) -> Any:
    import torch

    return getattr(torch, run.config.dtype)


@contextmanager
def _model_pair(run: Run, tuned_dir: Path) -> Iterator[ModelPair]:
    """Base and tuned for as long as the context is open."""
    from autocaft.discover.pair import ModelPair

    models = ModelPair(lambda: _load_base(run), lambda: _load_trained(run, tuned_dir))
    try:
        yield models
    finally:
        models.release()


def _base_of(run: Run, model: Any, *, is_base: bool) -> BaseContext:
    """How to open the base behind a model: itself, its adapter off, or a second model."""
    from contextlib import nullcontext

    from autocaft.model.load import as_base, has_adapter

    if has_adapter(model):
        return lambda: as_base(model)
    base = model if is_base else _load_base(run)
    return lambda: nullcontext(base)


def _ablation(run: Run, model: Any, arm: Arm, folder: Path | None) -> AbstractContextManager[None] | None:
    """The ablation an arm was trained in, to measure it with its hooks on."""
    if not arm.is_ablated or folder is None:
        return None
    from autocaft.model.directions import load_subspaces
    from autocaft.model.hooks import ablate

    options = run.config.train
    subspaces = load_subspaces(folder / "subspaces.safetensors")
    mode = arm.mode or options.mode
    return ablate(model, subspaces, mode=mode, strength=options.strength, exempt_first=options.exempt_first)


def _directions(context: StepContext) -> DirectionSet:
    from autocaft.model.directions import DirectionSet

    return DirectionSet.load(context.dir_of("decompose"))


def _mean_by_layer(context: StepContext) -> dict[int, Any]:
    """The base model's mean on generic text."""
    from autocaft.discover.collect import load_stats

    return load_stats(context.dir_of("collect")).generic_mean
