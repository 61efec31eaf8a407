"""The model that comes out: how much of what a person's choice gains does the judge's choice gain, alone or with help?

In: a run's folder. Out: one dict for each pair of arms that differ in who chose, one for all sources pooled, and the
sweeps at matched task score (`report/matched.py`). The decision a reader would question: the share is of the gain in
accuracy on the inverted cue over plain tuning, and it is only given where the person's own gain is one (its interval
leaves zero out). It is of the whole choices, each at its own size and cost to the task; the numbers of directions and
the difference in task score stand beside.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autocaft.arms import parse_arm
from autocaft.outcome import choice_by, row_scores
from autocaft.report.arms import RowScore, interval_row
from autocaft.report.matched import TASK_SPLITS, UNWANTED_SPLIT, compare_at_matched_score
from autocaft.rundir.files import read_json
from autocaft.stats import seed_cluster_bootstrap, seed_cluster_ratio

Pairs = Sequence[tuple[str, str]]
"""The judge's arm (alone, or with a person's help) and the person's, of one source each."""
Key = tuple[int, int, str, str]
"""Number of the pair, seed, cluster, row: what both arms of a pair answered."""


def compare_outcomes(run_dir: Path) -> dict[str, Any]:
    """`outcome`: a row for each source and manner of ablating that has both an `auto` and a `human` arm (with the gain
    of the `hybrid` arm if there is one), then one for each manner over all its sources; `matched`: the sweeps. Both
    are empty without report.json."""
    path = run_dir / "report.json"
    if not path.is_file():
        return {"outcome": [], "matched": []}
    arms = {line["arm"] for line in read_json(path)["arms"]}
    files = sorted((run_dir / "evaluate").rglob("rows.jsonl")) if len(arms) > 1 else []
    rows = [row for file in files for row in row_scores(file) if row.arm in arms and row.hooks == "off"]
    pairs_by_manner: dict[str | None, list[tuple[str, str]]] = defaultdict(list)
    for arm in map(parse_arm, sorted(arms)):
        human = arm.name.replace("-auto", "-human")
        if arm.selector == "auto" and arm.share is None and {human, "tuned"} <= arms:
            pairs_by_manner[arm.manner].append((arm.name, human))
    pooled = [pairs for pairs in pairs_by_manner.values() if len(pairs) > 1]
    single = [[pair] for pairs in pairs_by_manner.values() for pair in pairs]
    n_by_arm = {arm: n for arm in arms if (n := _n_ablated(run_dir, arm)) is not None}
    maker = {"choice_by": choice_by(run_dir)}
    return {
        "outcome": [_outcome(pairs, rows, n_by_arm) | maker for pairs in [*single, *pooled]],
        "matched": compare_at_matched_score(rows, n_by_arm),
    }


def _n_ablated(run_dir: Path, arm: str) -> int | None:
    """How many directions an arm ablates, in its first seed."""
    path = next(iter(sorted((run_dir / "train" / arm).glob("*/set.json"))), None)
    return None if path is None else len(read_json(path)["ids"])


def _in_all(n_by_arm: Mapping[str, int], arms: Sequence[str]) -> int | None:
    """How many directions these arms ablate together; None if that of one is not known."""
    known = [n_by_arm[arm] for arm in arms if arm in n_by_arm]
    return sum(known) if len(known) == len(arms) else None


def _outcome(pairs: Pairs, rows: Sequence[RowScore], n_by_arm: Mapping[str, int]) -> dict[str, Any]:
    """Gains over tuned, the share that is recovered, and what it cost in directions ablated and in task score."""
    n_human = _in_all(n_by_arm, [human for _, human in pairs])
    found: dict[str, Any] = {
        "auto": " and ".join(auto for auto, _ in pairs),
        "human": " and ".join(human for _, human in pairs),
        "sources": [parse_arm(auto).source for auto, _ in pairs],
        "pooled": len(pairs) > 1,
        "n_ablated": {"auto": _in_all(n_by_arm, [auto for auto, _ in pairs]), "human": n_human},
        "split": UNWANTED_SPLIT,
    }
    alone = _recovered(rows, pairs, "gain_auto")
    helped = [(auto.replace("-auto", "-hybrid"), human) for auto, human in pairs]
    hybrid = _recovered(rows, helped, "gain_hybrid")
    if hybrid is not None:
        arms = [arm for arm, _ in helped]
        hybrid |= {"arm": " and ".join(arms), "task": _task_difference(rows, helped)}
        hybrid["n_ablated"] = {"hybrid": _in_all(n_by_arm, arms), "human": n_human}
    if alone is None:
        why = f"the three arms share no scored row of the {UNWANTED_SPLIT} split"
        return found | {"seeds": [], "share": None, "why": why, "hybrid": hybrid}
    return found | alone | {"task": _task_difference(rows, pairs), "hybrid": hybrid}


def _recovered(rows: Sequence[RowScore], pairs: Pairs, name: str) -> dict[str, Any] | None:
    """The gains of each pair's two arms over tuned, and the first's as a share of the person's; None if an arm of them
    was not trained.

    Args:
        name: what to call the first arms' gain.
    """
    gain_of_first, gain_human = (_gains(rows, pairs, side, "tuned", UNWANTED_SPLIT) for side in (0, 1))
    keys = sorted(set(gain_of_first) & set(gain_human))
    if {key[0] for key in keys} != set(range(len(pairs))):
        return None
    first, human = [gain_of_first[key] for key in keys], [gain_human[key] for key in keys]
    seeds, clusters = [key[1] for key in keys], [key[2] for key in keys]
    whole = seed_cluster_bootstrap(human, seeds, clusters)
    is_gain = whole.low is not None and whole.low > 0
    return {
        "seeds": sorted(set(seeds)),
        "gain_human": interval_row(whole),
        name: interval_row(seed_cluster_bootstrap(first, seeds, clusters)),
        "by_seed": {
            str(seed): {
                gain: _mean(value for value, own in zip(gains, seeds, strict=True) if own == seed)
                for gain, gains in (("gain_human", human), (name, first))
            }
            for seed in sorted(set(seeds))
        },
        "share": interval_row(seed_cluster_ratio(first, human, seeds, clusters) if is_gain else None),
        "why": None if is_gain else "the person's choice has no gain that differs from zero, so none can be recovered",
    }


def _task_difference(rows: Sequence[RowScore], pairs: Pairs) -> dict[str, Any] | None:
    """Task score of the first arms minus the person's, on the first task split that all have."""
    for split in TASK_SPLITS:
        gap_by_key: dict[Key, float] = {}
        for number, (auto, human) in enumerate(pairs):
            gap_by_key |= _gains(rows, [(auto, human)], 0, human, split, number)
        keys = sorted(gap_by_key)
        if {key[0] for key in keys} == set(range(len(pairs))):
            gaps = [gap_by_key[key] for key in keys]
            found = seed_cluster_bootstrap(gaps, [key[1] for key in keys], [key[2] for key in keys])
            # Wilson's bound is one on a share, and a difference that is the same in every cluster is none
            row = {"value": found.value, "low": None, "high": None} if found.method == "wilson" else interval_row(found)
            return {"split": split, "difference": row}
    return None


def _gains(
    rows: Sequence[RowScore], pairs: Pairs, side: int, over: str, split: str, first: int = 0
) -> dict[Key, float]:
    """Score of one side of each pair minus that of the arm `over`, on the rows that both answered."""
    before = _values(rows, over, split)
    gains: dict[Key, float] = {}
    for number, pair in enumerate(pairs, start=first):
        own = _values(rows, pair[side], split)
        gains |= {(number, *key): own[key] - before[key] for key in own if key in before}
    return gains


def _values(rows: Iterable[RowScore], arm: str, split: str) -> dict[tuple[int, str, str], float]:
    return {(r.seed, r.cluster, r.row_id): r.value for r in rows if (r.arm, r.split) == (arm, split)}


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)
