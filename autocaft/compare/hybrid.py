"""How good is the judge with some help? The judge reads all, a person only what the judge is least sure of.

In: a person's decisions as the truth, the judge's relevance, a threshold, and a SIMULATED reviewer: two chances of an
error and a speed that are stated, not measured. Out: F1 and kappa against the person's choice by minutes of human time;
and beside that simulation the gain of the models that were trained: nobody reads, the person reads what the judge is
not sure of, the person reads all.

The decision a reader would question: "least sure" is what has no score, then what the judge abstains on, then the
distance of the relevance to the threshold. The point where all of the first two are read is marked: there the arm
`hybrid` is trained. The last point, everything read, is the simulated person alone.

Key: R simulated reviews, N directions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autocaft.compare.raters import Rater
from autocaft.errors import ConfigError
from autocaft.records import Direction
from autocaft.stats.agreement import cell_measures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

N_SIMULATED = 400
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class SimulatedReviewer:
    """A person who is not one.

    Few candidates are the concept: one chance for both errors would make most of what is ablated a mistake.
    """

    misses: float = 0.2
    """Chance of keeping what the person ablates."""
    takes: float = 0.02
    """Chance of ablating what the person keeps."""
    seconds: float = 20.0
    """Time for one direction."""

    def __post_init__(self) -> None:
        if not (0 <= self.misses <= 1 and 0 <= self.takes <= 1 and self.seconds > 0):
            raise ConfigError(
                "--reviewer-misses and --reviewer-takes are shares (0 to 1) and --reviewer-seconds is more than 0, got "
                f"{self.misses:g}, {self.takes:g} and {self.seconds:g}"
            )


def hybrid_curve(
    truth: Mapping[str, bool],
    auto: Mapping[str, bool],
    relevance: Mapping[str, float | None],
    threshold: float,
    reviewer: SimulatedReviewer,
    abstained: Collection[str] = (),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One point a share of the directions that the reviewer reads: minutes, mean F1 and kappa with the middle 95 %.

    Args:
        abstained: directions on which the judge was not sure.
    """
    import numpy as np

    def doubt(direction_id: str) -> tuple[int, float, str]:
        score = relevance.get(direction_id)
        if score is None:
            return 0, 0.0, direction_id
        return (1 if direction_id in abstained else 2), abs(score - threshold), direction_id

    ids = sorted((i for i in truth if i in auto), key=doubt)  # the least sure first
    if not ids:
        return []
    n_in_doubt = sum(doubt(i)[0] < 2 for i in ids)
    truth_N = np.array([truth[i] for i in ids])
    auto_N = np.array([auto[i] for i in ids])
    chance_N = np.where(truth_N, reviewer.misses, reviewer.takes)
    wrong_RN = np.random.default_rng(seed).random((N_SIMULATED, len(ids))) < chance_N
    said_RN = truth_N ^ wrong_RN
    points = []
    for n_read in sorted({n_in_doubt, *(round(share * len(ids)) for share in SHARES)}):
        chosen_RN = np.where(np.arange(len(ids)) < n_read, said_RN, auto_N)
        measures = cell_measures(truth_N, chosen_RN)
        points.append(
            {
                "n_read": n_read,
                "minutes": n_read * reviewer.seconds / 60,
                "is_all_in_doubt": n_read == n_in_doubt > 0,
                **{name: _middle(measures[name]) for name in ("f1", "kappa")},
            }
        )
    return points


def gain_by_reading(
    outcomes: Sequence[Mapping[str, Any]],
    directions: Sequence[Direction],
    doubted: Set[str],
    reader: Rater,
    seconds: float,
) -> dict[str, Any] | None:
    """What trained models gained over tuned by how much the person read; None without a human arm.

    Pooled over sources if there are several. `hybrid` is None if no such arm was trained, and then nothing is known of
    what lies between.

    Args:
        outcomes: rows of `compare_outcomes`.
        reader: the person whose choice the arms were trained with.
        seconds: stated for a direction whose reading nobody timed.
    """
    whole = [row for row in outcomes if "gain_auto" in row]
    if not whole:
        return None
    row = next((row for row in whole if row["pooled"]), whole[0])
    read = reader.read & {direction.id for direction in directions if direction.source in row["sources"]}
    hybrid, everything = row["hybrid"], reading_time(read, reader, seconds)
    return {
        "split": row["split"],
        "seeds": row["seeds"],
        "nobody_reads": row["gain_auto"],
        "share_nobody_reads": row["share"],
        "person_reads_all": row["gain_human"],
        "all_read": everything,
        "hybrid": hybrid and {key: hybrid[key] for key in ("arm", "seeds", "gain_hybrid", "share", "by_seed")},
        "doubt_read": reading_time(read & doubted, reader, seconds),
    }


def reading_time(read: Set[str], reader: Rater, seconds: float) -> dict[str, Any]:
    """Minutes that reading these took: as recorded where it was, at the stated speed for the rest, which is counted.

    Without random directions and what was shown again.
    """
    recorded = [reader.seconds_by_id[i] for i in sorted(read) if i in reader.seconds_by_id]
    n_stated = len(read) - len(recorded)
    return {
        "n_read": len(read),
        "minutes": (sum(recorded) + n_stated * seconds) / 60,
        "n_recorded": len(recorded),
        "n_stated": n_stated,
        "stated_seconds": seconds,
    }


def _middle(values_R: Array) -> dict[str, float] | None:
    """Mean and middle 95 % of the reviews in which the measure exists."""
    import numpy as np

    known = values_R[~np.isnan(values_R)]
    if len(known) == 0:
        return None
    low, high = (float(bound) for bound in np.quantile(known, [0.025, 0.975]))
    return {"value": float(known.mean()), "low": low, "high": high}
