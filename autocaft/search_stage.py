"""The search as steps of a run: short trainings with different dials, what each leaves, and the choice among them.

In: a `Run` and a `StepContext`. Out: `trial.json` a trial, `search.json`. The decision a reader would question: what a
trial is measured on. The texts that tuned and base were compared on, rows with the cue intact (the split `val`, or
training rows that no trial learns from) and generic text that directions were sought in: no other split is read, so
nothing here can know how the cue is broken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from autocaft.ablations import SEARCH, arm_subspaces, relevance_by_id
from autocaft.arms import ArmSource, Dials, parse_arm
from autocaft.data.rows import TaskRow, chosen_rows
from autocaft.errors import NothingSelectedError, TrainingError
from autocaft.records import Direction
from autocaft.run import Run
from autocaft.rundir.files import read_json, read_records, remove_folder, write_json
from autocaft.rundir.runner import StepContext
from autocaft.select.search import choose_dials, hold_out
from autocaft.trainings import fine_tune_step

TRIAL = "trial.json"


def trial(run: Run, context: StepContext, source: ArmSource, dials: Dials | None, val: str | None) -> None:
    """One short training (without dials: plain) and what it leaves with its hooks off; its weights are dropped then.

    Args:
        source: whose candidates are ablated, and looked along.
        val: the file of the split `val`; None holds training rows out.
    """
    path = context.out / TRIAL
    if not path.is_file():
        try:
            found = _tried(run, context, source, dials, val)
        except NothingSelectedError as error:
            found = {"unscored": str(error)}
        write_json(path, found)
    if not run.config.select.search.keep_models:
        remove_folder(context.out / "model")


def search(run: Run, context: StepContext, source: ArmSource, trials: Sequence[tuple[Dials, str]], plain: str) -> None:
    """The choice among the trials, in `search.json`; a line for whoever watches."""
    config = run.config
    recipe = Dials(config.layers, 1.0, config.train.strength)
    measured = [(dials, read_json(context.dir_of(step) / TRIAL)) for dials, step in trials]
    found = choose_dials(measured, read_json(context.dir_of(plain) / TRIAL), config.select.search, recipe)
    relevance = relevance_by_id(context)
    own = [direction.id for direction in _candidates(context) if direction.source == source]
    found |= {
        "source": source,
        "seed": config.seeds[0],
        "share_of_steps": config.select.search.share_of_steps,
        "n_candidates": len(own),
        "n_unscored": sum(direction_id not in relevance for direction_id in own),
    }
    write_json(context.out / SEARCH, found)
    context.progress.say(f"search, {source}: {found['why']}")


def _tried(run: Run, context: StepContext, source: ArmSource, dials: Dials | None, val: str | None) -> dict[str, Any]:
    """Train, unless a killed attempt has done so, and measure."""
    learned, read = _rows(run, val)
    seed, options = run.config.seeds[0], run.config.tune
    arm = None if dials is None else replace(parse_arm(f"caft-{source}-searched"), dials=dials)
    subspaces, ids = ([], []) if arm is None else arm_subspaces(run, context, arm, seed)
    label = f"trial {'plain' if dials is None else dials.name}"
    if not (context.out / "summary.json").is_file():
        fine_tune_step(
            run,
            context,
            seed,
            label=label,
            subspaces=subspaces,
            mode=run.config.train.mode,
            arm=arm,
            rows=learned,
            options=options.model_copy(update={"epochs": options.epochs * run.config.select.search.share_of_steps}),
        )
    found = {**_moved(run, context, source, label), **_costs(run, context, read)}
    numbers = [*found["losses"], *found["kl"], *(value for moved in found["moved"].values() for value in moved)]
    if not all(map(math.isfinite, numbers)):
        if dials is None:
            raise TrainingError("plain training for the search left a model whose loss or KL is no number")
        return {"unscored": "what it left is no number", "ids": ids}
    return {**found, "ids": ids}


def _rows(run: Run, val: str | None) -> tuple[list[TaskRow], list[TaskRow]]:
    """Rows that trials learn from, and rows that their loss is taken on."""
    n_rows = run.config.select.search.n_rows
    if val is None:
        return hold_out(run.train_rows, n_rows)
    return run.train_rows, chosen_rows(run.eval_rows({"val": val})["val"], n_rows)


def _moved(run: Run, context: StepContext, source: ArmSource, label: str) -> dict[str, Any]:
    """How far the trial's model moved from the base along the source's judged directions, text by text."""
    from autocaft.discover.collect import read_compared
    from autocaft.discover.weighed import weighed_moves
    from autocaft.model.directions import DirectionSet

    config, tokenizer = run.config, run.tokenizer()
    own = {direction.id for direction in _candidates(context) if direction.source == source}
    scratch = context.out / "compared"
    with run.model_pair(context.out) as models:
        moved = weighed_moves(
            models,
            read_compared(tokenizer, run.read_rows, config.collect, context.dir_of("collect")),
            DirectionSet.load(context.dir_of("decompose")),
            {name: relevance / 100 for name, relevance in relevance_by_id(context).items() if name in own},
            config.collect,
            pad_id=tokenizer.pad_token_id or 0,
            scratch=scratch,
            label=label,
            progress=context.progress,
        )
    remove_folder(scratch)
    n_texts = len(next(iter(moved.values()), []))
    is_rows = config.collect.diff_text == "train"
    texts = [row.template for row in run.read_rows] if is_rows else [str(number) for number in range(n_texts)]
    return {"moved": {str(layer): values for layer, values in moved.items()}, "texts": texts}


def _costs(run: Run, context: StepContext, rows: Sequence[TaskRow]) -> dict[str, Any]:
    """The trial's loss on rows with the cue intact, and its KL to the base model on generic text."""
    from autocaft.evaluate.damage import measure_damage
    from autocaft.model.load import autocast_bf16
    from autocaft.train.held_out import row_losses

    config, tokenizer, model = run.config, run.tokenizer(), run.load_trained(context.out)
    documents = run.generic_documents[: config.select.search.n_documents]
    losses = row_losses(model, tokenizer, rows, config.tune)
    with (
        context.progress.task("KL to the base model", len(documents), "documents") as advance,
        autocast_bf16(model.device, enabled=config.evaluate.autocast == "bf16"),
    ):
        damage = measure_damage(
            model,
            run.base_of(model, is_base=False),
            tokenizer,
            documents,
            max_tokens=config.evaluate.damage_max_tokens,
            tokens_per_batch=max(1, config.evaluate.tokens_per_batch // 4),  # two tables of logits stand side by side
            advance=advance,
        )
    return {
        "losses": losses,
        "rows": [row.template for row in rows],
        "kl": [document.kl for document in damage],
        "n_tokens": [document.n_tokens for document in damage],
    }


def _candidates(context: StepContext) -> list[Direction]:
    return read_records(context.dir_of("decompose") / "directions.jsonl", Direction)
