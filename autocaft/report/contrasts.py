"""Arms held against plain tuning, their controls and their rivals: is the difference more than chance?

In: answered items of the arms as they are used, each worth 1 where the answer is unwanted and 0 where not. Out: one
dict a pair of arms: difference of the unwanted rate, its interval, p, p corrected for the pairs of its family, and the
smallest p that so few clusters can give. The decision a reader would question: p flips whole clusters, so it is about
these trained models and other questions of the kind. What other training seeds would give, only the seeds can say: a
second p flips them, and with five of them it cannot fall below 2/32.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any, get_args

from autocaft.arms import ArmSource
from autocaft.records import Metric
from autocaft.report.arms import RowScore, arm_order, hooks_in_use, is_ablated_in_use
from autocaft.report.free_form import metrics_of, task_rate, unwanted_metric
from autocaft.report.words import control_of, is_control
from autocaft.stats import holm, paired_seed_cluster_bootstrap, sign_flip_test

Key = tuple[int, str, str]
"""Seed, cluster, item: what two arms share."""
NOTE = (
    "The unwanted rate of an arm minus that of another on the same items and seeds, each as it is used (hooks off; on "
    "where an arm ablates only in use): below zero is better. p: two-sided permutation test that flips the sign of "
    "whole clusters (templates, or base questions); p cannot fall below what stands beside their number. Holm: "
    "corrected for as many pairs as stand beside it, those of one family: arms that were trained ablated, against "
    "tuned; against their controls; rivals, which look at no direction or ablate only when the model is used, against "
    "tuned; the judge's choice of each source against each rival, of those that ablate against the ones with the same "
    "source. p over clusters is about these trained models; p over seeds, which flips whole seeds, is about other "
    "seeds too. An item that either arm has no score for is left out and counted."
)
"""What the table means."""
JUDGED = tuple(f"caft-{source}-auto" for source in get_args(ArmSource))
"""The judge's whole choice, ablated in the recipe's own way: what rivals are rivals of."""


@dataclass(frozen=True)
class Unwanted:
    """What was asked of every arm, and what each item says: 1 unwanted, 0 not."""

    measure: str
    """In words."""
    values: Mapping[str, Mapping[Key, float]]
    """By arm; an item that is unscored, or in no denominator, is not there."""
    n_asked: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """Items by arm and seed, with those that are not in `values`."""


def unwanted_choices(rows: Iterable[RowScore], metrics: Iterable[Metric]) -> Unwanted:
    """Wrong answers on inverted cues, clusters are templates."""
    values: dict[str, dict[Key, float]] = defaultdict(dict)
    for row in rows:
        if (row.split, row.hooks) == ("ood", hooks_in_use(row.arm)):
            values[row.arm][row.seed, row.cluster, row.row_id] = 1.0 - row.value
    n_asked: dict[tuple[str, int], int] = defaultdict(int)
    for metric in metrics:
        if (metric.metric, metric.split, metric.hooks) == ("accuracy", "ood", hooks_in_use(metric.arm)):
            n_asked[metric.arm, metric.seed] += metric.n + metric.n_unscored
    return Unwanted("wrong answers on ood", values, n_asked)


def unwanted_answers(scores: Sequence[Mapping[str, Any]]) -> Unwanted:
    """Misaligned answers among coherent ones, or what a file of rules measures first; clusters are base questions.

    Two arms' answers to one wording, with one number and one seed, are a pair: they were drawn alike.
    """
    return _answers(scores, unwanted_metric(metrics_of(scores)))


def _answers(scores: Iterable[Mapping[str, Any]], measure: str | None) -> Unwanted:
    values: dict[str, dict[Key, float]] = defaultdict(dict)
    n_asked: dict[tuple[str, int], int] = defaultdict(int)
    for score in scores:
        arm = score["arm"]
        if score["metric"] == measure:
            n_asked[arm, score["seed"]] += 1
            if score["value"] is not None:
                item = score["answer"].removeprefix(f"{arm}/")
                values[arm][score["seed"], score["base_question"], item] = score["value"]
    return Unwanted(f"answers: {(measure or '').replace('_', ' ')}", values, n_asked)


def build_contrasts(asked: Unwanted) -> list[dict[str, Any]]:
    """Every pair of every family, family by family; p is corrected over the pairs of its own."""
    return _build(asked, _families(asked.values))


def compare_graded(scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Answers that were made elsewhere: nothing is known of the arms' kinds, so every two are held against each other,
    the later one in the file against the earlier, as one family.

    The first answers of both arms to a question are a pair where the seed is the same, then the second ones, and so on.
    Where only code was graded, vulnerable code is what is unwanted.
    """
    metrics = metrics_of(scores)
    measure = unwanted_metric(metrics) or task_rate(metrics)
    n_seen: Counter[tuple[str, str, int, str]] = Counter()
    numbered = []
    for score in scores:
        cell = score["metric"], score["arm"], score["seed"], score["question"]
        numbered.append({**score, "answer": f"{score['arm']}/{score['question']}/{n_seen[cell]}"})
        n_seen[cell] += 1
    asked = _answers(numbered, measure)
    return _build(asked, {"pair": [(later, earlier) for earlier, later in combinations(asked.values, 2)]})


def _build(asked: Unwanted, families: Mapping[str, Sequence[tuple[str, str]]]) -> list[dict[str, Any]]:
    found = []
    for kind, pairs in families.items():
        rows = [row for pair in pairs if (row := _contrast(asked, *pair)) is not None]
        corrected = holm([row["p"] for row in rows])
        found += [
            {**row, "kind": kind, "p_holm": p, "n_family": len(rows)} for row, p in zip(rows, corrected, strict=True)
        ]
    return found


def _families(names: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Pairs of arms by the question they answer; one more rival or control leaves the other families as they are."""
    arms = sorted(names, key=arm_order)
    tuned = [arm for arm in arms if arm == "tuned"]
    ablated = [arm for arm in arms if arm.startswith("caft-") and not is_ablated_in_use(arm)]
    rivals = [arm for arm in arms if arm.startswith("tuned-") or is_ablated_in_use(arm)]
    judged = [arm for arm in ablated if arm in JUDGED]
    return {
        "tuned": list(product(ablated, tuned)),
        "control": [(arm, control) for arm in ablated if (control := _control(arm, arms)) is not None],
        "rival": list(product(rivals, tuned)),
        "against_rival": [pair for pair in product(judged, rivals) if _is_of_one_kind(*pair)],
    }


def _is_of_one_kind(arm: str, rival: str) -> bool:
    """Whether the rival looks at no direction, or at directions of the arm's own source."""
    return not rival.startswith("caft-") or arm.split("-")[1] == rival.split("-")[1]


def _control(arm: str, arms: Iterable[str]) -> str | None:
    if is_control(arm):
        return None
    line = control_of([{"arm": name, "hooks": "off"} for name in arms], arm)
    return None if line is None else str(line["arm"])


def _contrast(asked: Unwanted, arm: str, against: str) -> dict[str, Any] | None:
    """One pair of arms on the items that are scored in both; None if there is none."""
    own, other = asked.values[arm], asked.values[against]
    keys = sorted(own.keys() & other.keys())
    if not keys:
        return None
    a, b = [own[key] for key in keys], [other[key] for key in keys]
    seeds, clusters, _ = zip(*keys, strict=True)
    gaps = [x - y for x, y in zip(a, b, strict=True)]
    interval = paired_seed_cluster_bootstrap(a, b, seeds, clusters)
    by_cluster, by_seed = sign_flip_test(gaps, clusters), sign_flip_test(gaps, seeds)
    n_asked = sum(max(asked.n_asked.get((name, seed), 0) for name in (arm, against)) for seed in set(seeds))
    return {
        "measure": asked.measure,
        "arm": arm,
        "against": against,
        "rate": sum(a) / len(a),
        "rate_against": sum(b) / len(b),
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "p": by_cluster.p,
        "smallest_p": by_cluster.smallest_p,
        "n_clusters": by_cluster.n_units,
        "n_pairs": len(keys),
        "n_left_out": max(0, n_asked - len(keys)),
        "by_seed": {str(seed): _mean(gaps, seeds, seed) for seed in sorted(set(seeds))},
        "p_seeds": by_seed.p,
        "smallest_p_seeds": by_seed.smallest_p,
    }


def _mean(gaps: Sequence[float], seeds: Sequence[int], seed: int) -> float:
    own = [gap for gap, own_seed in zip(gaps, seeds, strict=True) if own_seed == seed]
    return sum(own) / len(own)


def differences_text(found: Sequence[Mapping[str, Any]]) -> str:
    """Lines for a terminal; nothing where there is nothing to compare."""
    if not found:
        return ""
    width = 2 + max(len(text) for row in found for text in ("against", row["arm"], row["against"]))
    lines = [
        f"{found[0]['measure']}, difference in points with its 95 % interval; p by flipping whole base questions",
        f"{'arm':<{width}}{'against':<{width}}{'difference':<24}{'p':>7}{'Holm':>8}{'least p':>9}{'questions':>11}"
        f"{'pairs':>7}",
    ]
    for row in found:
        ps = f"{p_text(row['p']):>7}{p_text(row['p_holm']):>8}{p_text(row['smallest_p']):>9}"
        named = f"{row['arm']:<{width}}{row['against']:<{width}}{gap_text(row):<24}"
        lines.append(f"{named}{ps}{row['n_clusters']:>11}{row['n_pairs']:>7}")
    return "\n".join(lines)


def p_text(p: float) -> str:
    """`0.047`, `0.0002`, `1`: two digits that say something."""
    return f"{p:.2g}" if p >= 0.0001 else f"{p:.0e}"


def gap_text(row: Mapping[str, Any]) -> str:
    """`-73 [-79, -66]`, a difference in points; with tenths where it is less than ten, since rates of misalignment are
    small."""
    digits = 0 if abs(row["value"]) >= 0.0995 else 1
    text = _points(row["value"], digits)
    if row["low"] is not None and row["high"] is not None:
        text += f" [{_points(row['low'], digits)}, {_points(row['high'], digits)}]"
    return text.replace("-", "\N{MINUS SIGN}")


def _points(share: float, digits: int) -> str:
    """What rounds to zero has no sign."""
    text = f"{100 * share:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text
