"""What an arm ablates, found among what the stages left, and its ablation opened again for whoever measures it.

In: a `Run`, a `StepContext`, an arm. Out: subspaces, directions, an open `ablate`. The decision a reader would
question: an arm that a search has set keeps its dials in its own folder, beside its set. Whoever opens its ablation
later needs neither the search nor the config it was made with.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocaft.arms import Arm, Dials
from autocaft.config import needs_person
from autocaft.records import Decision, Verdict
from autocaft.run import Run
from autocaft.rundir.files import read_json, read_records, write_json
from autocaft.rundir.runner import StepContext

if TYPE_CHECKING:
    from autocaft.model.directions import DirectionSet, Subspace
    from autocaft.model.hooks import Ablation, Mode
    from autocaft.model.leace import LeastChange

SEARCH = "search.json"
"""What a search has found, in its folder."""
DIALS = "dials.json"
"""Its choice, in the folder of an arm that was trained with it."""


def arm_subspaces(run: Run, context: StepContext, arm: Arm, seed: int) -> tuple[list[Subspace], list[str]]:
    """What an arm ablates at each layer, and the directions behind it; these are in `set.json` too."""
    from autocaft.model.directions import build_subspaces

    found, ids = _arm_directions(run, context, arm, seed)
    if arm.how == "preventative":
        return _steering(run, context, ids), ids
    subspaces = build_subspaces(found, ids, mean_by_layer(run, context))
    if mode_of(run, arm) == "leace":
        subspaces = list(map(make_least_change(run, context), subspaces))
    return subspaces, ids


def ablation_of(run: Run, model: Any, arm: Arm, folder: Path | None) -> AbstractContextManager[Ablation] | None:
    """The ablation an arm was trained in or is used with, to measure it with its hooks on; towards the mean if it was
    resampled. None without a folder of subspaces."""
    if folder is None:
        return None
    from autocaft.model.directions import load_subspaces
    from autocaft.model.hooks import ablate

    options = run.config.train
    subspaces = load_subspaces(folder / "subspaces.safetensors")
    mode = measured_mode(mode_of(run, arm))
    dials = _saved_dials(folder) if arm.selector == "searched" else None
    strength = options.strength if dials is None else dials.strength
    return ablate(model, subspaces, mode=mode, strength=strength, exempt_first=options.exempt_first)


def with_found_dials(context: StepContext, arm: Arm) -> Arm:
    """The arm with what the search has chosen, which is kept beside its set for whoever opens the ablation again."""
    found = read_json(context.dir_of(f"search/{arm.source}") / SEARCH)["dials"]
    write_json(context.out / DIALS, found)
    return replace(arm, dials=_saved_dials(context.out))


def relevance_by_id(context: StepContext) -> dict[str, float]:
    """The judge's relevance of each direction that has one."""
    verdicts = read_records(context.dir_of("judge") / "verdicts.jsonl", Verdict)
    return {v.direction_id: v.relevance for v in verdicts if v.unscored_reason is None and v.relevance is not None}


def found_directions(context: StepContext) -> DirectionSet:
    """The candidates of the run."""
    from autocaft.model.directions import DirectionSet

    return DirectionSet.load(context.dir_of("decompose"))


def removed_directions(run: Run, context: StepContext) -> DirectionSet:
    """The candidates, each with the vector that ablating it removes."""
    from autocaft.discover.cross import load_cross

    found = found_directions(context)
    if run.config.train.basis == "direction":
        return found
    return replace(found, vectors_ND=load_cross(context.dir_of("mine")))


def mean_by_layer(run: Run, context: StepContext) -> dict[int, Any]:
    """What an ablation towards the mean keeps."""
    from autocaft.discover.collect import load_stats

    stats = load_stats(context.dir_of("collect"))
    return stats.train_mean if run.config.train.mean_of == "train" else stats.generic_mean


def make_least_change(run: Run, context: StepContext) -> LeastChange:
    """What makes mode `leace` of a subspace, of the covariance of the activations that directions were sought in."""
    from autocaft.discover.decompose import load_covariances
    from autocaft.model.leace import LeastChange

    return LeastChange(load_covariances(context.dir_of("decompose")), spans=run.config.train.basis)


def mode_of(run: Run, arm: Arm) -> Mode:
    """How an arm ablates while it trains."""
    return "mean-shift" if arm.how == "preventative" else arm.mode or run.config.train.mode


def measured_mode(mode: Mode) -> Mode:
    """Rows that are measured are not drawn at random, so none of them can lend another one anything."""
    return "mean" if mode == "resample" else mode


def _steering(run: Run, context: StepContext, ids: Sequence[str]) -> list[Subspace]:
    """What preventative steering adds: the chosen directions themselves, towards the pole that the judge rated."""
    from autocaft.model.directions import steering_subspaces

    verdicts = read_records(context.dir_of("judge") / "verdicts.jsonl", Verdict)
    signs = {verdict.direction_id: -1.0 if verdict.pole == "bottom" else 1.0 for verdict in verdicts}
    return steering_subspaces(found_directions(context), ids, signs, run.config.baselines.steering)


def _saved_dials(folder: Path) -> Dials:
    found = read_json(folder / DIALS)
    return Dials(tuple(found["layers"]), found["share"], found["strength"])


def _arm_directions(run: Run, context: StepContext, arm: Arm, seed: int) -> tuple[DirectionSet, list[str]]:
    """The directions an arm ablates, in a set that holds what is removed for them; the choice is in `set.json` too."""
    from autocaft.discover.decompose import latents_as_directions, live_latents, load_covariances
    from autocaft.model.directions import random_orthogonal
    from autocaft.select.select import choose_set

    assert arm.source is not None and arm.selector is not None
    decomposed = context.dir_of("decompose")
    found = removed_directions(run, context)
    share = arm.share if arm.dials is None else arm.dials.share
    chosen = choose_set(
        arm.source,
        arm.selector,
        seed=seed,
        share=share,
        layers=None if arm.dials is None else arm.dials.layers,
        relevance=relevance_by_id(context) if share is not None else None,
        directions=found.directions,
        vectors_ND=found.vectors_ND,
        decisions=_decisions(run, context, arm),
        live_by_layer=live_latents(decomposed),
        covariance_by_layer=load_covariances(decomposed),
        options=run.config.select,
    )
    if arm.selector == "random-orthogonal":
        found = random_orthogonal(found, chosen.ids, seed=(run.config.select.random_seed, seed))
        chosen = replace(chosen, ids=tuple(direction.id for direction in found.directions))
    write_json(context.out / "set.json", chosen.to_row())
    if arm.selector == "random-live":
        drawn = latents_as_directions(decomposed, run.config.decompose, chosen.ids, width=found.vectors_ND.shape[1])
        found = _removed_of_drawn(run, context, drawn)
    return found, list(chosen.ids)


def _decisions(run: Run, context: StepContext, arm: Arm) -> list[Decision]:
    """What an arm's set is made from."""
    from autocaft.select.choose import HYBRID

    if arm.selector == "hybrid":
        return read_records(context.dir_of("choose") / HYBRID, Decision)
    stages = ("select", "choose") if needs_person(run.config, arm) else ("select",)
    return [d for stage in stages for d in read_records(context.dir_of(stage) / "decisions.jsonl", Decision)]


def _removed_of_drawn(run: Run, context: StepContext, drawn: DirectionSet) -> DirectionSet:
    """The same for latents that need not be candidates."""
    from autocaft.discover.cross import cross_of_latents
    from autocaft.discover.decompose import open_dictionary
    from autocaft.discover.shards import ShardReader

    if run.config.train.basis == "direction":
        return drawn
    reader = ShardReader(context.dir_of("collect") / "acts")
    open_at = partial(open_dictionary, context.dir_of("decompose"), run.config.decompose, width=reader.d_model)
    return replace(drawn, vectors_ND=cross_of_latents(drawn, reader, open_at))
