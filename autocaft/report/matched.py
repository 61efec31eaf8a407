"""What is left of the unwanted behaviour at the same cost to the task: choosers compared at matched task scores.

In: scored rows of arms that take a share of a choice each (`caft-sae-auto@25%`, ...), and of plain tuning stopped early
(`tuned-stop-25`, ...), which is a sweep that nobody chooses for. Out: one dict a source and mode: the steps of each
chooser's sweep and, at .90, .95 and 1.00 of tuned's task score, the unwanted rate of each with the differences. The
decision a reader would question: a sweep is read as a curve of the unwanted rate over the task score, not over the
dial. Two steps of one task score are averaged, and a score that a sweep does not reach on both sides is "not
comparable", never extrapolated. Tuned, of which nothing is ablated and nothing stopped, is no step: it costs nothing by
definition.

Key: R resamples (the first one is the data as they are), S seeds, G clusters, A arms of a sweep.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autocaft.arms import SELECTORS, Arm, parse_arm
from autocaft.report.arms import RowScore, hooks_in_use, interval_row
from autocaft.report.free_form import TASK_RATES, metrics_of, unwanted_metric
from autocaft.stats import Interval
from autocaft.stats.intervals import resample_weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

LEVELS = (0.90, 0.95, 1.00)
"""Shares of tuned's task score at which sweeps are compared."""
STOPPED = "tuned-stop"
"""Stands where a chooser does: the same sweep beside those of every source and manner of ablating."""
MIN_STEPS = 4
MAX_OUTSIDE = 0.05
"""Where more than this share of the resamples leaves the overlap, the figure stands without an interval."""
N_RESAMPLES = 2000
UNWANTED_SPLIT = "ood"
TASK_SPLITS = ("neutral", "id")


@dataclass(frozen=True, slots=True)
class Splits:
    """What is unwanted (one minus the score there), and where the task score is from: the first that all arms have."""

    unwanted: str
    tasks: tuple[str, ...]


CHOICES = Splits(UNWANTED_SPLIT, TASK_SPLITS)
ANSWER_TASKS = (*TASK_RATES, *TASK_SPLITS)


def build_matched(
    rows: Sequence[RowScore], scores: Sequence[Mapping[str, Any]], n_by_arm: Mapping[str, int]
) -> list[dict[str, Any]]:
    """What a report shows: the comparisons of choices and of free-form answers (`scores.jsonl`) for which some chooser
    was swept at all."""
    found = compare_at_matched_score(rows, n_by_arm)
    unwanted = unwanted_metric(metrics_of(scores))
    if unwanted is not None:
        answered = [_as_row(score, unwanted) for score in scores if score["value"] is not None]
        found += compare_at_matched_score([*rows, *answered], n_by_arm, Splits(unwanted, ANSWER_TASKS))
    return [sweep for sweep in found if max(sweep["n_steps"].values()) > 1]


def _as_row(score: Mapping[str, Any], unwanted: str) -> RowScore:
    """One answer under one metric, as a row whose split is the metric; an unwanted one is worth nothing, as a wrong
    choice is."""
    value = 1.0 - score["value"] if score["metric"] == unwanted else score["value"]
    arm = score["arm"]
    return RowScore(
        arm, score["metric"], hooks_in_use(arm), score["seed"], score["answer"], score["base_question"], value
    )


def compare_at_matched_score(
    rows: Sequence[RowScore], n_by_arm: Mapping[str, int], splits: Splits = CHOICES
) -> list[dict[str, Any]]:
    """One dict for each source and manner of ablating in which the judge's choice was trained, and another's or tuning
    with more than one early stop.

    Args:
        rows: answered rows of tuned and of all arms; those with hooks on are not looked at.
        n_by_arm: how many directions each arm ablates, as far as known.
    """
    rows = [row for row in rows if row.hooks == "off"]
    arms = [parse_arm(name) for name in dict.fromkeys(row.arm for row in rows)]
    stopped = sorted((arm for arm in arms if arm.how == "stop"), key=lambda arm: arm.stop_at or 1.0)
    sweeps: dict[tuple[str, str | None], dict[str, list[Arm]]] = defaultdict(lambda: defaultdict(list))
    for arm in sorted(arms, key=lambda arm: arm.share or 1.0):
        # a searched arm is no step of a sweep: its dials were chosen
        if arm.source is not None and arm.selector not in (None, "searched"):
            sweeps[arm.source, arm.manner][arm.selector].append(arm)
    if len(stopped) > 1:  # a single one is a rival, and no sweep was asked for
        for by_selector in sweeps.values():
            by_selector[STOPPED] = stopped
    return [
        {"source": source, "mode": manner, **_compare(by_selector, rows, n_by_arm, splits)}
        for (source, manner), by_selector in sorted(sweeps.items(), key=str)
        if "auto" in by_selector and len(by_selector) > 1
    ]


def _compare(
    by_selector: Mapping[str, Sequence[Arm]],
    rows: Sequence[RowScore],
    n_by_arm: Mapping[str, int],
    splits: Splits,
) -> dict[str, Any]:
    """The sweeps of one source and mode; without `levels` and with a reason where there is nothing to compare."""
    selectors = [name for name in (*SELECTORS, STOPPED) if name in by_selector]
    short = [name for name in selectors if len(by_selector[name]) < MIN_STEPS]
    swept = [name for name in selectors if name not in short]
    found: dict[str, Any] = {"n_steps": {name: len(by_selector[name]) for name in selectors}, "levels": []}
    if "auto" in short or len(swept) < 2:
        return found | {"why": _too_short(short, by_selector)}
    names = ["tuned", *(arm.name for name in swept for arm in by_selector[name])]
    there = {split: {row.arm for row in rows if row.split == split} for split in (*splits.tasks, splits.unwanted)}
    task_split = next((split for split in splits.tasks if there[split].issuperset(names)), None)
    if task_split is None or not there[splits.unwanted].issuperset(names):
        asked = f"{' or '.join(splits.tasks)}, and on {splits.unwanted}"
        return found | {"why": f"not comparable: not every arm of the sweeps, and tuned, was measured on {asked}"}
    seeds = sorted(set.intersection(*({r.seed for r in rows if r.arm == name} for name in names)))
    if not seeds:
        return found | {"why": "the arms of the sweeps share no seed"}
    scores = _Scores.of(rows, names, seeds, task_split, splits.unwanted)
    steps: dict[str, list[str]] = {name: [arm.name for arm in by_selector[name]] for name in swept}
    return found | {
        "task_split": task_split,
        "unwanted_split": splits.unwanted,
        "seeds": seeds,
        "steps": {
            name: [scores.step(arm) | {"n_directions": n_by_arm.get(arm)} for arm in own] for name, own in steps.items()
        },
        "levels": [_at_level(level, scores, steps) for level in LEVELS],
        "why": None,
    }


def _too_short(short: Sequence[str], by_selector: Mapping[str, Sequence[Arm]]) -> str:
    counted = ", ".join(f"{name} has {len(by_selector[name])}" for name in short)
    first = by_selector["auto"][0].name.partition("@")[0]
    return (
        f"not comparable: a sweep of at least {MIN_STEPS} steps is needed for each chooser, and {counted}. Add arms "
        f"such as {first}@25%, @50% and @75%" + (f", or {STOPPED}-20, -40, -60 and -80" if STOPPED in short else "")
    )


@dataclass(frozen=True)
class _Scores:
    """Task score and unwanted rate of each arm in the data and in every resample of seeds and clusters."""

    task: Mapping[str, Array]
    unwanted: Mapping[str, Array]

    @classmethod
    def of(
        cls, rows: Sequence[RowScore], names: Sequence[str], seeds: Sequence[int], task_split: str, unwanted_split: str
    ) -> _Scores:
        """The same draw of seeds and of clusters for all arms, so that differences are paired."""
        import numpy as np

        rng = np.random.default_rng(0)
        drawn_RS = resample_weights(rng, N_RESAMPLES, len(seeds)) if len(seeds) > 1 else np.ones((N_RESAMPLES, 1))
        weights_RS = np.concatenate([np.ones((1, len(seeds))), drawn_RS])
        means: dict[str, dict[str, Array]] = {}
        for split in (task_split, unwanted_split):
            own = [row for row in rows if row.split == split and row.arm in names and row.seed in seeds]
            clusters = {name: i for i, name in enumerate(dict.fromkeys(row.cluster for row in own))}
            drawn_RG = resample_weights(rng, N_RESAMPLES, len(clusters))
            weights_RG = np.concatenate([np.ones((1, len(clusters))), drawn_RG])
            means[split] = {
                name: _means([row for row in own if row.arm == name], seeds, clusters, weights_RS, weights_RG)
                for name in names
            }
        unwanted = {name: 1.0 - right_R for name, right_R in means[unwanted_split].items()}
        return cls(means[task_split], unwanted)

    def step(self, arm: str) -> dict[str, Any]:
        """One step of a sweep, with its place on the curve."""
        return {"arm": arm, "task": float(self.task[arm][0]), "unwanted": float(self.unwanted[arm][0])}

    def at(self, arms: Sequence[str], target_R: Array) -> Array:
        """The unwanted rate (R,) of a sweep where its task score is the target; NaN outside of what it reaches."""
        import numpy as np

        task_RA = np.stack([self.task[arm] for arm in arms], axis=1)
        unwanted_RA = np.stack([self.unwanted[arm] for arm in arms], axis=1)
        return np.array([interpolated(*one) for one in zip(task_RA, unwanted_RA, target_R, strict=True)])


def _means(
    rows: Sequence[RowScore],
    seeds: Sequence[int],
    clusters: Mapping[str, int],
    weights_RS: Array,
    weights_RG: Array,
) -> Array:
    """Mean (R,) over seeds of each seed's mean; NaN where a resample has no row."""
    import numpy as np

    place = {seed: i for i, seed in enumerate(seeds)}
    sums_SG, counts_SG = np.zeros((len(seeds), len(clusters))), np.zeros((len(seeds), len(clusters)))
    for row in rows:
        sums_SG[place[row.seed], clusters[row.cluster]] += row.value
        counts_SG[place[row.seed], clusters[row.cluster]] += 1
    counts_RS = weights_RG @ counts_SG.T
    means_RS = np.divide(weights_RG @ sums_SG.T, counts_RS, out=np.zeros_like(counts_RS), where=counts_RS > 0)
    left_RS = weights_RS * (counts_RS > 0)
    totals_R = left_RS.sum(axis=1)
    return np.divide((left_RS * means_RS).sum(axis=1), totals_R, out=np.full(len(totals_R), np.nan), where=totals_R > 0)


def interpolated(task_A: Array, unwanted_A: Array, target: float) -> float:
    """The unwanted rate at a task score between two steps; NaN outside of the steps' own scores.

    Steps of the same task score count with their mean.
    """
    import numpy as np

    scores, place_A = np.unique(np.round(task_A, 9), return_inverse=True)
    rates = np.bincount(place_A, weights=unwanted_A) / np.bincount(place_A)
    target = round(float(target), 9)
    if not scores[0] <= target <= scores[-1]:  # NaN is outside too
        return float("nan")
    return float(np.interp(target, scores, rates))


def _at_level(level: float, scores: _Scores, steps: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Every chooser's unwanted rate at this task score, and the judge's against each other chooser's."""
    target_R = level * scores.task["tuned"]
    rate_by = {name: scores.at(arms, target_R) for name, arms in steps.items()}
    found: dict[str, Any] = {"level": level, "task_score": float(target_R[0])}
    found["rates"] = {name: interval_row(_interval(rate_R)) for name, rate_R in rate_by.items()}
    found["outside"] = [name for name, row in found["rates"].items() if row is None]
    gain_by = {name: scores.unwanted["tuned"] - rate_R for name, rate_R in rate_by.items()}
    found["against"] = {
        name: {
            "difference": interval_row(_interval(rate_by["auto"] - rate_by[name])),
            "share_of_gain": interval_row(_share(gain_by["auto"], gain_by[name])),
        }
        for name in steps
        if name != "auto"
    }
    return found


def _share(gain_R: Array, whole_R: Array) -> Interval | None:
    """The judge's gain over tuned as a share of another's, where that is one (its interval leaves zero out)."""
    import numpy as np

    whole = _interval(whole_R)
    if whole is None or whole.low is None or whole.low <= 0:
        return None
    return _interval(np.divide(gain_R, whole_R, out=np.full(len(gain_R), np.nan), where=whole_R != 0))


def _interval(values_R: Array) -> Interval | None:
    """The first value with the middle 95 % of the others; None outside the overlap, no bounds near its edge."""
    import numpy as np

    value, draws = float(values_R[0]), values_R[1:]
    if np.isnan(value):
        return None
    inside = draws[~np.isnan(draws)]
    if len(inside) < (1 - MAX_OUTSIDE) * len(draws) or float(np.ptp(inside)) < 1e-12:
        return Interval(value, None, None, "none")
    low, high = (float(bound) for bound in np.quantile(inside, [0.025, 0.975]))
    return Interval(value, low, high)
