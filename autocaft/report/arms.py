"""Metrics to one line an arm: means over seeds, intervals, the worst seed, damage on generic text, differences.

In: Metric records, and the answered rows where they are at hand. Out: plain dicts for report.json. The decision a
reader would question: an interval over several seeds is only given when the rows are handed over, since it cannot be
computed from the seeds' own intervals; without rows the seeds are listed and the interval is left empty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from autocaft.records import Metric
from autocaft.stats import Interval, paired_seed_cluster_bootstrap, seed_cluster_bootstrap


class RowScore(NamedTuple):
    """One answered row: what an interval over seeds and a difference of two arms are made of."""

    arm: str
    split: str
    hooks: str
    seed: int
    row_id: str
    cluster: str
    value: float


SPLIT_ORDER = ("id", "ood", "neutral", "val", "final_id", "final_ood")
SELECTOR_ORDER = ("auto", "searched", "hybrid", "human", "oracle", "top", "random", "random-candidate", "random-live")


def is_ablated_in_use(arm: str) -> bool:
    """Whether an arm is ablated when it is used, and not while it trains: what it answers has hooks on."""
    return arm.partition("@")[0].endswith("-inference")


def hooks_in_use(arm: str) -> str:
    """`on` or `off`."""
    return "on" if is_ablated_in_use(arm) else "off"


def arm_order(arm: str) -> tuple[int, int, str]:
    """base, tuned, rivals without a direction, then the ablated arms: the judge's, that with a
    person's help, a person's, the oracle's, the controls; SAE before PCA."""
    if not arm.startswith("caft-"):
        return (0, 0 if arm == "base" else 1 if arm == "tuned" else 2, arm)
    selector = next((i for i, name in enumerate(SELECTOR_ORDER) if f"-{name}" in arm), len(SELECTOR_ORDER))
    return (1 if "-sae-" in arm else 2, selector, arm)


def summarize_arms(metrics: Sequence[Metric], rows: Sequence[RowScore] = ()) -> list[dict[str, Any]]:
    """One dict an arm and hooks state, arms in reading order, hooks off first."""
    groups: dict[tuple[str, str], list[Metric]] = defaultdict(list)
    for metric in metrics:
        groups[metric.arm, metric.hooks].append(metric)
    base_perplexity = _mean([m.value for m in metrics if (m.arm, m.metric) == ("base", "perplexity")])
    lines = []
    for arm, hooks in sorted(groups, key=lambda key: (arm_order(key[0]), key[1])):
        own = groups[arm, hooks]
        scores = _scores(own, [row for row in rows if (row.arm, row.hooks) == (arm, hooks)])
        perplexity = _mean([m.value for m in own if m.metric == "perplexity"])
        seeds = sorted({m.seed for m in own})
        ratio = perplexity / base_perplexity if perplexity is not None and base_perplexity else None
        lines.append(
            {
                "arm": arm,
                "hooks": hooks,
                "seeds": seeds,
                "worst_seed": _worst_seed(scores),
                "scores": scores,
                "perplexity": perplexity,
                "perplexity_ratio": ratio,
                "kl_to_base": _mean([m.value for m in own if m.metric == "kl_to_base"]),
            }
        )
    return lines


def split_order(lines: Iterable[dict[str, Any]]) -> list[str]:
    """Splits of any arm, in reading order."""
    found = {split for line in lines for split in line["scores"]}
    return [s for s in SPLIT_ORDER if s in found] + sorted(found - set(SPLIT_ORDER))


def difference(rows: Sequence[RowScore], arm_a: str, arm_b: str, split: str, hooks: str = "off") -> Interval | None:
    """Interval of accuracy of `arm_a` minus `arm_b` on the rows and seeds that both have; None if they share none."""
    values: dict[str, dict[tuple[int, str, str], float]] = {arm_a: {}, arm_b: {}}
    for row in rows:
        if row.arm in values and (row.split, row.hooks) == (split, hooks):
            values[row.arm][row.seed, row.cluster, row.row_id] = row.value
    keys = sorted(values[arm_a].keys() & values[arm_b].keys())
    if not keys:
        return None
    seeds, clusters, _ = zip(*keys, strict=True)
    a, b = ([values[arm][key] for key in keys] for arm in (arm_a, arm_b))
    return paired_seed_cluster_bootstrap(a, b, seeds, clusters)


def interval_row(interval: Interval | None) -> dict[str, float | None] | None:
    """An interval as JSON."""
    return None if interval is None else {"value": interval.value, "low": interval.low, "high": interval.high}


def _scores(metrics: Sequence[Metric], rows: Sequence[RowScore]) -> dict[str, Any]:
    """Accuracy by split; with more than one task the split is written `task/split`."""
    accuracy = [metric for metric in metrics if metric.metric == "accuracy"]
    several_tasks = len({metric.task for metric in accuracy}) > 1
    by_split: dict[str, list[Metric]] = defaultdict(list)
    for metric in accuracy:
        by_split[f"{metric.task}/{metric.split}" if several_tasks else metric.split].append(metric)
    return {split: _pooled(group, [r for r in rows if r.split == split]) for split, group in sorted(by_split.items())}


def _pooled(metrics: Sequence[Metric], rows: Sequence[RowScore]) -> dict[str, Any]:
    """Mean over seeds, its interval where one can be had, and every seed's own value."""
    low, high = None, None
    if len(metrics) == 1:
        low, high = metrics[0].ci_low, metrics[0].ci_high
    elif rows and len({row.seed for row in rows}) == len(metrics):
        interval = seed_cluster_bootstrap([r.value for r in rows], [r.seed for r in rows], [r.cluster for r in rows])
        low, high = interval.low, interval.high
    return {
        "value": _mean([metric.value for metric in metrics]),
        "ci_low": low,
        "ci_high": high,
        "n": sum(metric.n for metric in metrics),
        "n_unscored": sum(metric.n_unscored for metric in metrics),
        "by_seed": {str(metric.seed): metric.value for metric in sorted(metrics, key=lambda m: m.seed)},
    }


def _worst_seed(scores: dict[str, Any]) -> int | None:
    """The seed with the lowest ood accuracy, if there are several."""
    by_seed = scores.get("ood", {}).get("by_seed", {})
    known = {int(seed): value for seed, value in by_seed.items() if value is not None}
    return min(known, key=lambda seed: (known[seed], seed)) if len(known) > 1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
