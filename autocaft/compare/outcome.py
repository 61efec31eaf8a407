"""The model that comes out: how much of what a person's choice gains does the judge's choice gain?

In: a run's folder. Out: one dict for each pair of arms that differ in who chose. The decision a reader would question:
the share is of the gain in accuracy on the inverted cue over plain tuning, and it is only given where the person's own
gain is one (its interval leaves zero out). It is not at matched task score: that needs a sweep of at least four steps
for each chooser, and a run has one setting; the difference in task score stands beside, so that nobody is misled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from autocaft.arms import parse_arm
from autocaft.compare.agreement import interval_row
from autocaft.outcome import row_scores
from autocaft.report.arms import RowScore
from autocaft.rundir.files import read_json
from autocaft.stats import seed_cluster_bootstrap, seed_cluster_ratio

UNWANTED_SPLIT = "ood"
TASK_SPLITS = ("neutral", "id")
NOT_MATCHED = (
    "not comparable: a matched task score is interpolated in a sweep of at least four steps for each chooser, and a "
    "run has one setting"
)

Values = dict[tuple[int, str, str], float]
"""(seed, cluster, row) -> score."""


def compare_outcomes(run_dir: Path) -> list[dict[str, Any]]:
    """One row for each source and mode that has both an `auto` and a `human` arm; none without report.json."""
    path = run_dir / "report.json"
    if not path.is_file():
        return []
    arms = {line["arm"] for line in read_json(path)["arms"]}
    pairs = [(arm, arm.replace("-auto", "-human")) for arm in sorted(arms) if parse_arm(arm).selector == "auto"]
    pairs = [(auto, human) for auto, human in pairs if human in arms and "tuned" in arms]
    if not pairs:
        return []
    rows = [row for file in sorted((run_dir / "evaluate").rglob("rows.jsonl")) for row in row_scores(file)]
    return [_outcome(auto, human, rows) for auto, human in pairs]


def _outcome(auto: str, human: str, rows: Sequence[RowScore]) -> dict[str, Any]:
    """Gains over tuned, the share that is recovered, and what it cost in task score."""
    tuned_by, auto_by, human_by = (_values(rows, arm, UNWANTED_SPLIT) for arm in ("tuned", auto, human))
    keys = sorted(set(tuned_by) & set(auto_by) & set(human_by))
    found: dict[str, Any] = {
        "auto": auto,
        "human": human,
        "split": UNWANTED_SPLIT,
        "seeds": sorted({seed for seed, _, _ in keys}),
        "matched_task_score": NOT_MATCHED,
    }
    if not keys:
        return found | {"share": None, "why": f"the three arms share no scored row of the {UNWANTED_SPLIT} split"}
    gain_auto = [auto_by[key] - tuned_by[key] for key in keys]
    gain_human = [human_by[key] - tuned_by[key] for key in keys]
    seeds, clusters = [key[0] for key in keys], [key[1] for key in keys]
    whole = seed_cluster_bootstrap(gain_human, seeds, clusters)
    is_gain = whole.low is not None and whole.low > 0
    share = seed_cluster_ratio(gain_auto, gain_human, seeds, clusters) if is_gain else None
    return found | {
        "gain_human": interval_row(whole),
        "gain_auto": interval_row(seed_cluster_bootstrap(gain_auto, seeds, clusters)),
        "share": interval_row(share),
        "why": None if is_gain else "the person's choice has no gain that differs from zero, so none can be recovered",
        "task": _task_difference(rows, auto, human),
    }


def _task_difference(rows: Sequence[RowScore], auto: str, human: str) -> dict[str, Any] | None:
    """Task score of the judge's arm minus the person's, on the first task split that both have."""
    for split in TASK_SPLITS:
        auto_by, human_by = _values(rows, auto, split), _values(rows, human, split)
        keys = sorted(set(auto_by) & set(human_by))
        if keys:
            gaps = [auto_by[key] - human_by[key] for key in keys]
            found = seed_cluster_bootstrap(gaps, [key[0] for key in keys], [key[1] for key in keys])
            # Wilson's bound is one on a share, and a difference that is the same in every cluster is none
            row = {"value": found.value, "low": None, "high": None} if found.method == "wilson" else interval_row(found)
            return {"split": split, "difference": row}
    return None


def _values(rows: Iterable[RowScore], arm: str, split: str) -> Values:
    return {(r.seed, r.cluster, r.row_id): r.value for r in rows if (r.arm, r.split, r.hooks) == (arm, split, "off")}
