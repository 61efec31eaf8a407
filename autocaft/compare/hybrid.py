"""How good is the judge with some help? The judge reads all, a person only what the judge is least sure of.

In: a person's decisions as the truth, the judge's relevance, a threshold, and a SIMULATED reviewer: an error rate and a
speed that are stated, not measured. Out: F1 against the person's choice by minutes of human time. The decision a reader
would question: "least sure" is the distance of the relevance to the threshold, and an unscored direction is the least
sure of all; the last point, everything read, is the simulated person alone.

Key: R simulated reviews, N directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autocaft.errors import ConfigError

N_SIMULATED = 400
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class SimulatedReviewer:
    """A person who is not one."""

    error: float = 0.1
    """Chance that an answer is the wrong one."""
    seconds: float = 20.0
    """Time for one direction."""

    def __post_init__(self) -> None:
        if not 0 <= self.error <= 1 or not self.seconds > 0:
            raise ConfigError(
                f"--reviewer-error is a share (0 to 1) and --reviewer-seconds more than 0, got {self.error:g} and "
                f"{self.seconds:g}"
            )


def hybrid_curve(
    truth: Mapping[str, bool],
    auto: Mapping[str, bool],
    relevance: Mapping[str, float | None],
    threshold: float,
    reviewer: SimulatedReviewer,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One point a share of the directions that the reviewer reads: minutes, and mean F1 with the middle 95 %."""
    import numpy as np

    ids = sorted(
        (i for i in truth if i in auto), key=lambda i: (_distance(relevance.get(i), threshold), i)
    )  # the least sure first
    if not ids:
        return []
    truth_N = np.array([truth[i] for i in ids])
    auto_N = np.array([auto[i] for i in ids])
    wrong_RN = np.random.default_rng(seed).random((N_SIMULATED, len(ids))) < reviewer.error
    said_RN = truth_N ^ wrong_RN
    points = []
    for n_read in _sizes(len(ids)):
        chosen_RN = np.where(np.arange(len(ids)) < n_read, said_RN, auto_N)
        both_R = (chosen_RN & truth_N).sum(axis=1)
        named_R = chosen_RN.sum(axis=1) + truth_N.sum()
        f1_R = 2 * both_R[named_R > 0] / named_R[named_R > 0]
        point: dict[str, Any] = {"n_read": n_read, "minutes": n_read * reviewer.seconds / 60, "f1": None}
        if len(f1_R):
            low, high = (float(bound) for bound in np.quantile(f1_R, [0.025, 0.975]))
            point["f1"] = {"value": float(f1_R.mean()), "low": low, "high": high}
        points.append(point)
    return points


def _distance(relevance: float | None, threshold: float) -> float:
    return -1.0 if relevance is None else abs(relevance - threshold)


def _sizes(n: int) -> Sequence[int]:
    return sorted({round(share * n) for share in SHARES})
