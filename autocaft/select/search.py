"""Which part of the judge's choice is ablated, and how strongly: decided by short trainings, without a broken cue.

In: the dials to try, and what a short training with each of them left behind once its hooks were off: how far it moved
from the base model along the judged directions on the run's own texts, its loss on rows with the cue intact, its KL to
the base model on generic text; the same of a plain training of that length. Out: the choice with its reasons.

What is made small is the concept left: squared length of the difference from the base model along each candidate,
weighed by the judge's relevance (a hundredth of it), as a share of plain training's: 1 is as much as plain training
moves there, 0 none. Each layer counts alike, since later ones are longer; one that plain training does not move says
nothing and is left out. The decision a reader would question: the guards compare values, not intervals. A trial that
learned nothing moves nothing, so without the guard on the loss the best of them would be the one that fails the task.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

from autocaft.arms import Dials
from autocaft.data.rows import TaskRow
from autocaft.errors import ConfigError, DataError
from autocaft.select.options import SearchOptions
from autocaft.stats import Interval, cluster_bootstrap, paired_cluster_bootstrap
from autocaft.stats.ratio import seed_cluster_ratio

MAX_HELD_OUT = 0.2
"""Of the training rows, where there is no split `val`."""
Measured = Mapping[str, Any]
"""What a trial leaves: `moved` (by layer one number a text: relevance-weighted squared length, summed over its tokens)
with `texts` (their clusters), `losses` with `rows` (their clusters), `kl` and `n_tokens` by document, and `ids` of the
directions that were ablated; `unscored`, why it could not be tried or measured, in the place of all else."""


def dials_to_try(options: SearchOptions, layers: Sequence[int]) -> list[Dials]:
    """Every layer set with every share and strength, in the order of the options."""
    sets = nested(layers) if options.layer_sets == "nested" else options.layer_sets
    return [Dials(tuple(own), share, force) for own, share, force in product(sets, options.shares, options.strengths)]


def nested(layers: Sequence[int]) -> list[tuple[int, ...]]:
    """All layers, and every part that begins with the first or ends with the last of them."""
    ordered = tuple(sorted(layers))
    starts = [ordered[:n] for n in range(len(ordered) - 1, 0, -1)]
    ends = [ordered[n:] for n in range(1, len(ordered))]
    return list(dict.fromkeys([ordered, *starts, *ends]))


def hold_out(rows: Sequence[TaskRow], n: int) -> tuple[list[TaskRow], list[TaskRow]]:
    """The rows to train on, and at most `n` (and a fifth of all) that are held out: whole templates, drawn by a hash of
    their names.

    Raises:
        DataError: no template is small enough.
    """
    room = min(n, int(MAX_HELD_OUT * len(rows)))
    size_by_template = Counter(row.template for row in rows)
    kept_back: set[str] = set()
    for template in sorted(size_by_template, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if size_by_template[template] <= room:
            kept_back.add(template)
            room -= size_by_template[template]
    if not kept_back:
        raise DataError(
            f"the search holds out training rows by whole templates, and each of the {len(size_by_template)} templates "
            f"has more than {room} rows (select.search.n_rows, a fifth of all at most). Give a split `val` whose cue "
            "is intact in data.splits"
        )
    return [r for r in rows if r.template not in kept_back], [r for r in rows if r.template in kept_back]


def choose_dials(
    trials: Sequence[tuple[Dials, Measured]], plain: Measured, options: SearchOptions, recipe: Dials
) -> dict[str, Any]:
    """The trial within the guards that leaves the least of the concept; `recipe` where none keeps within them.

    Returns:
        `dials` (the choice), `chosen` (the trial's name, None where the recipe's own setting is kept), `why`, `guards`,
        `layers` that were compared, `plain` and a line a trial.

    Raises:
        ConfigError: plain training moved nothing along the judged directions, so nothing can be compared with it.
    """
    layers = [layer for layer, moved in plain["moved"].items() if sum(moved) > 0]
    if not layers:
        raise ConfigError(
            "the search compares trials with a plain training of their length, and that moved nothing along the judged "
            "directions. Raise select.search.share_of_steps, or search among `layers` above the untrained blocks"
        )
    lines = [_line(dials, measured, plain, layers, options) for dials, measured in trials]
    within = [line for line in lines if line["passes"]]
    best = min(within, key=lambda line: (line["left"]["value"], line["n_directions"], line["strength"]), default=None)
    return {
        "chosen": None if best is None else best["name"],
        "dials": asdict(recipe) if best is None else {key: best[key] for key in ("layers", "share", "strength")},
        "why": _none_passed(lines, recipe) if best is None else _reason(best, within, len(lines)),
        "guards": options.guards,
        "layers": [int(layer) for layer in layers],
        "plain": {"loss": _mean_loss(plain), "kl": _mean_kl(plain)},
        "trials": lines,
    }


def _line(
    dials: Dials, trial: Measured, plain: Measured, layers: Sequence[str], options: SearchOptions
) -> dict[str, Any]:
    """One trial: what it left and cost, and which guard it breaks."""
    line: dict[str, Any] = {"name": dials.name, **asdict(dials), "n_directions": len(trial.get("ids", ()))}
    if "unscored" in trial:
        return {**line, "passes": False, "unscored": trial["unscored"]}
    loss_rise = paired_cluster_bootstrap(trial["losses"], plain["losses"], plain["rows"])
    kl_rise = paired_cluster_bootstrap(_by_token(trial), _by_token(plain), _documents(plain))
    broken = [
        f"{what} is {rise.value:.3g} above plain training's, more than {key} = {options.guards[key]:g}"
        for what, rise, key in (("its loss", loss_rise, "max_loss_rise"), ("its KL", kl_rise, "max_kl_rise"))
        if rise.value > options.guards[key]
    ]
    return {
        **line,
        "left": _interval(_left(trial, plain, layers)),
        "loss": _mean_loss(trial),
        "loss_rise": _interval(loss_rise),
        "kl": _mean_kl(trial),
        "kl_rise": _interval(kl_rise),
        "passes": not broken,
        "broken": broken,
    }


def _left(trial: Measured, plain: Measured, layers: Sequence[str]) -> Interval:
    """The mean over layers of what the trial moved as a share of what plain training did; texts are resampled."""

    total_by_layer = {layer: sum(plain["moved"][layer]) for layer in layers}

    def scaled(measured: Measured) -> list[float]:
        parts = [[value / total_by_layer[layer] for value in measured["moved"][layer]] for layer in layers]
        return [sum(values) / len(layers) for values in zip(*parts, strict=True)]

    found = seed_cluster_ratio(scaled(trial), scaled(plain), [0] * len(plain["texts"]), plain["texts"])
    assert found is not None, "plain training moved these layers"
    return found


def _reason(best: Mapping[str, Any], within: Sequence[Mapping[str, Any]], n_trials: int) -> str:
    left = best["left"]
    told = f"{left['value']:.3f}" + ("" if left["low"] is None else f" [{left['low']:.3f}, {left['high']:.3f}]")
    alike = [
        line["name"] for line in within if line is not best and Interval(**left).overlaps(Interval(**line["left"]))
    ]
    return (
        f"{best['name']} leaves the least of the {len(within)} trials within the guards, of {n_trials} in all: {told} "
        "of what plain training moves along the judged directions."
        + (f" Intervals overlap with those of {', '.join(alike)}." if alike else "")
    )


def _none_passed(lines: Sequence[Mapping[str, Any]], recipe: Dials) -> str:
    n_unscored = sum("unscored" in line for line in lines)
    return (
        f"NO TRIAL OF {len(lines)} KEPT WITHIN THE GUARDS ({n_unscored} had nothing to ablate), so nothing was found: "
        f"the recipe's own setting is kept, {recipe.name}. Longer trials (select.search.share_of_steps) learn the task "
        "better; or raise the guards."
    )


def _mean_loss(measured: Measured) -> dict[str, Any]:
    return _interval(cluster_bootstrap(measured["losses"], measured["rows"]))


def _mean_kl(measured: Measured) -> dict[str, Any]:
    return _interval(cluster_bootstrap(_by_token(measured), _documents(measured)))


def _by_token(measured: Measured) -> list[float]:
    """KL a token, each document's mean as often as it has tokens: documents are resampled, tokens weigh alike."""
    return [kl / n for kl, n in zip(measured["kl"], measured["n_tokens"], strict=True) for _ in range(n)]


def _documents(measured: Measured) -> list[int]:
    return [number for number, n in enumerate(measured["n_tokens"]) for _ in range(n)]


def _interval(found: Interval) -> dict[str, Any]:
    """Without bounds that an interval for shares would give: a loss and a KL are none."""
    has_bounds = found.method == "bootstrap"
    low, high = (found.low, found.high) if has_bounds else (None, None)
    return {"value": found.value, "low": low, "high": high}
