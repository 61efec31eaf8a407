"""A training as a step does it: an arm's rows, model and options, in this process or in several that work together.

In: a `Run`, a `StepContext`, what is ablated. Out: `model/`, `losses.jsonl` and `summary.json` in the step's folder.
The decision a reader would question: each process of several reads rows and model itself. What was handed to it instead
would be pickled and held twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocaft.arms import Arm
from autocaft.run import Run
from autocaft.rundir.files import write_json
from autocaft.rundir.progress import Progress
from autocaft.rundir.runner import StepContext

if TYPE_CHECKING:
    from autocaft.config import RunConfig
    from autocaft.data.rows import TaskRow
    from autocaft.model.directions import Subspace
    from autocaft.model.hooks import Mode
    from autocaft.train.options import TuneOptions


def fine_tune_step(
    run: Run,
    context: StepContext,
    seed: int,
    *,
    label: str,
    subspaces: Sequence[Subspace],
    mode: Any,
    arm: Arm | None = None,
    rows: Sequence[TaskRow] | None = None,
    options: TuneOptions | None = None,
) -> None:
    """Fine-tune into the step's folder; on other rows and with other options than the recipe's where they are given."""
    tune, out = options or run.config.tune, context.out
    work = partial(_train_model, tune, rows, out=out, seed=seed, label=label, subspaces=subspaces, mode=mode, arm=arm)
    if tune.processes == 1:
        summary = work(run=run, progress=context.progress)
    else:
        from autocaft.train.processes import train_together

        summary = train_together(partial(_in_one_of_several, work, run.config), tune.processes, context.progress)
    write_json(out / "summary.json", summary)


def _in_one_of_several(work: Callable[..., dict[str, Any]], config: RunConfig, progress: Progress) -> dict[str, Any]:
    """A process's part: it reads rows and model itself."""
    return work(run=Run(config), progress=progress)


def _train_model(
    tune: TuneOptions,
    rows: Sequence[TaskRow] | None,
    *,
    run: Run,
    out: Path,
    seed: int,
    label: str,
    subspaces: Sequence[Subspace],
    mode: Mode,
    arm: Arm | None,
    progress: Progress,
) -> dict[str, Any]:
    """One training, or one process's part of it."""
    from autocaft.train.baselines import NO_DEPARTURE, departure_of
    from autocaft.train.sft import fine_tune

    train = run.config.train
    return fine_tune(
        # what is sharded must not lie on one card as a whole
        run.load_base(device="cpu" if tune.sharding == "fsdp" else None),
        run.tokenizer(),
        _rows_of(run, arm) if rows is None else rows,
        tune,
        seed=seed,
        out=out,
        progress=progress,
        label=label,
        subspaces=subspaces,
        mode=mode,
        strength=train.strength if arm is None or arm.dials is None else arm.dials.strength,
        exempt_first=train.exempt_first,
        frozen_up_to=min(run.config.layers) if tune.trained_blocks == "above" else None,
        departure=NO_DEPARTURE if arm is None else departure_of(arm.how, arm.stop_at, run.config.baselines),
    )


def _rows_of(run: Run, arm: Arm | None) -> Sequence[TaskRow]:
    """The training rows, or what a rival makes of them."""
    from autocaft.train.baselines import inoculated, with_benign

    options, how = run.config.baselines, None if arm is None else arm.how
    if how == "inoculation":
        assert options.inoculation is not None, "checked by the config"
        return inoculated(run.train_rows, options.inoculation)
    return with_benign(run.train_rows, run.benign_rows, options.benign_share) if how == "benign" else run.train_rows
