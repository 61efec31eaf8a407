"""The figures of a calibration: does the judge find what was planted, leave the rest, and mean what its numbers say?

In: one `Rated` for each direction and question. Out: plain numbers with 95 % intervals. The decision a reader would
question: F1 is the mean over concepts (macro), its interval resamples families. Twenty concepts in four families are
four independent draws, not twenty. An unscored direction is never selected, ranks last, and is counted; it has no place
in the reliability figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from autocaft.records import Direction, Verdict
from autocaft.select.options import SelectOptions
from autocaft.select.verdicts import decide
from autocaft.stats import Interval, average_precision, cluster_bootstrap, wilson

N_BINS = 10
THRESHOLDS = tuple(range(5, 100, 5))
MAX_RANDOM = 0.05
"""A threshold at which more of the random directions are selected is not taken."""
CONTROLS = ("random", "shuffled")


@dataclass(frozen=True, slots=True)
class Rated:
    """A verdict on one direction about one concept, and the right answer."""

    question: str
    family: str
    kind: str
    """A kind of planted direction, or `real`."""
    truth: bool | None
    direction: Direction
    verdict: Verdict
    n_calls: int
    input_tokens: int
    output_tokens: int
    usd: float | None = None
    """What the verdict costs at today's prices; None where one is not known."""

    @property
    def share(self) -> float | None:
        """Relevance as a probability; None if unscored."""
        scored = self.verdict.unscored_reason is None and self.verdict.relevance is not None
        return (self.verdict.relevance or 0.0) / 100 if scored else None


def selected(rated: Sequence[Rated], threshold: float) -> list[bool]:
    """What the selector takes at this threshold, question by question."""
    options = SelectOptions(threshold=threshold, per_layer_cap=len(rated) or 1)
    taken: dict[tuple[str, str], bool] = {}
    for question in dict.fromkeys(item.question for item in rated):
        own = [item for item in rated if item.question == question]
        decisions = decide([item.direction for item in own], [item.verdict for item in own], options, "")
        taken |= {(question, decision.direction_id): decision.ablate for decision in decisions}
    return [taken[item.question, item.direction.id] for item in rated]


def best_threshold(rated: Sequence[Rated]) -> float:
    """The threshold with the best macro-F1 among those that leave the random directions alone; the middle of equals."""
    f1_by_threshold = {}
    for threshold in THRESHOLDS:
        picks = selected(rated, threshold)
        if random_selected(rated, picks).value <= MAX_RANDOM or threshold == THRESHOLDS[-1]:
            f1_by_threshold[threshold] = mean(f1_by_question(rated, picks).values())
    best = max(f1_by_threshold.values())
    equal = [threshold for threshold, value in f1_by_threshold.items() if value >= best - 1e-9]
    return float(equal[len(equal) // 2])


def tuned(rated: Sequence[Rated]) -> dict[str, Any]:
    """What is chosen on the tuning split alone: the threshold, and the map from relevance to probability."""
    return {"threshold": best_threshold(rated), "probability": fit_probability(*_said_and_true(rated))}


def figures(rated: Sequence[Rated], chosen: dict[str, Any], seconds: float) -> dict[str, Any]:
    """All figures of one split with what `tuned` chose."""
    picks = selected(rated, chosen["threshold"])
    known = [item for item in rated if item.truth is not None]
    shares, truths = _said_and_true(rated)
    mapped = probabilities(shares, chosen["probability"])
    family_by_question = {item.question: item.family for item in rated}
    f1 = f1_by_question(rated, picks)
    ap = [_average_precision([item for item in known if item.question == question]) for question in f1]
    families = [family_by_question[question] for question in f1]
    mixtures = [item.share for item in rated if item.kind == "mixture" and item.share is not None]
    return {
        **chosen,
        "n_questions": len(f1),
        "n_rated": len(rated),
        "n_unscored": sum(item.share is None for item in rated),
        "n_abstain": sum(item.verdict.abstains for item in rated),
        **_row("f1", cluster_bootstrap(list(f1.values()), families)),
        "f1_by_family": {
            family: _row("f1", cluster_bootstrap(own, range(len(own))))
            for family in dict.fromkeys(families)
            if (own := [value for question, value in f1.items() if family_by_question[question] == family])
        },
        **_row("average_precision", cluster_bootstrap(ap, families)),
        **_row("random_selected", random_selected(rated, picks)),
        "by_threshold": {str(threshold): _at(rated, threshold, families) for threshold in THRESHOLDS},
        "brier_skill": brier_skill(shares, truths),
        "ece": calibration_error(shares, truths),
        "mapped_brier_skill": brier_skill(mapped, truths),
        "mapped_ece": calibration_error(mapped, truths),
        "reliability": reliability(shares, truths),
        "mixture_relevance": 100 * mean(mixtures) if mixtures else None,
        "selected_by_kind": {
            kind: mean(pick for item, pick in zip(rated, picks, strict=True) if item.kind == kind and not item.truth)
            for kind in dict.fromkeys(item.kind for item in rated if not item.truth)
        },
        "detection": {
            kind: mean(d for item in rated if item.kind == kind and (d := item.verdict.detection) is not None)
            for kind in dict.fromkeys(item.kind for item in rated if item.verdict.detection is not None)
        },
        "discrimination": mean(d for item in known if (d := item.verdict.discrimination) is not None),
        "calls_per_direction": mean(item.n_calls for item in rated),
        "input_tokens_per_direction": mean(item.input_tokens for item in rated),
        "output_tokens_per_direction": mean(item.output_tokens for item in rated),
        "usd_per_direction": _usd_per_direction(rated),
        "seconds_per_direction": seconds / len(rated),
    }


def _usd_per_direction(rated: Sequence[Rated]) -> float | None:
    """None unless the price of every call is known."""
    dollars = [item.usd for item in rated if item.usd is not None]
    return mean(dollars) if len(dollars) == len(rated) else None


def _at(rated: Sequence[Rated], threshold: float, families: Sequence[str]) -> dict[str, Any]:
    """F1 and the share of random directions at one threshold: a run may use another than the tuned one."""
    picks = selected(rated, threshold)
    f1 = cluster_bootstrap(list(f1_by_question(rated, picks).values()), families)
    return _row("f1", f1) | _row("random_selected", random_selected(rated, picks))


def f1_by_question(rated: Sequence[Rated], picks: Sequence[bool]) -> dict[str, float]:
    """F1 of the selection for each concept, over the directions whose right answer is known."""
    found: dict[str, float] = {}
    for question in dict.fromkeys(item.question for item in rated):
        own = [(pick, item.truth) for item, pick in zip(rated, picks, strict=True) if item.question == question]
        n_hit = sum(pick and truth is True for pick, truth in own)
        n_wrong = sum((pick and truth is False) or (not pick and truth is True) for pick, truth in own)
        found[question] = 2 * n_hit / (2 * n_hit + n_wrong) if n_hit + n_wrong else 1.0
    return found


def random_selected(rated: Sequence[Rated], picks: Sequence[bool]) -> Interval:
    """Share of the random and shuffled directions that were selected."""
    own = [pick for item, pick in zip(rated, picks, strict=True) if item.kind in CONTROLS]
    return wilson(sum(own), len(own))


def fit_probability(shares: Sequence[float], truths: Sequence[bool]) -> list[float]:
    """Offset and slope of a logistic map from the judge's log odds to those of the truth (Platt 1999)."""
    import numpy as np
    from scipy.optimize import minimize

    odds, truth = _log_odds(shares), np.asarray(truths, dtype=float)

    def loss(weights: Any) -> float:
        value = weights[0] + weights[1] * odds
        # a small pull towards "as said", or a judge without a mistake would get an infinite slope
        pull = 0.01 * (weights[0] ** 2 + (weights[1] - 1) ** 2)
        return float(np.mean(np.logaddexp(0.0, value) - truth * value) + pull)

    return [float(weight) for weight in minimize(loss, [0.0, 1.0]).x]


def probabilities(shares: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Relevances as probabilities by a fitted map."""
    import numpy as np

    return [float(value) for value in 1 / (1 + np.exp(-(weights[0] + weights[1] * _log_odds(shares))))]


def _log_odds(shares: Sequence[float]) -> Any:
    import numpy as np

    clipped = np.clip(np.asarray(shares, dtype=float), 0.005, 0.995)
    return np.log(clipped / (1 - clipped))


def _said_and_true(rated: Sequence[Rated]) -> tuple[list[float], list[bool]]:
    """Relevance as a share, and the right answer, where both are known."""
    pairs = [(item.share, item.truth) for item in rated if item.share is not None and item.truth is not None]
    return [share for share, _ in pairs], [truth for _, truth in pairs]


def brier_skill(shares: Sequence[float], truths: Sequence[bool]) -> float:
    """How much better than always saying the base rate; 0 is no better, 1 is perfect."""
    base = mean(truths)
    error = mean((share - truth) ** 2 for share, truth in zip(shares, truths, strict=True))
    reference = mean((base - truth) ** 2 for truth in truths)
    return 1 - error / reference if reference else 0.0


def reliability(shares: Sequence[float], truths: Sequence[bool]) -> list[dict[str, float]]:
    """Bins of equal width: how many, what was said on average, what was true."""
    rows = []
    for number in range(N_BINS):
        own = [pair for pair in zip(shares, truths, strict=True) if min(int(pair[0] * N_BINS), N_BINS - 1) == number]
        if own:
            said, true = mean(share for share, _ in own), mean(truth for _, truth in own)
            rows.append({"from": number / N_BINS, "n": len(own), "said": said, "true": true})
    return rows


def calibration_error(shares: Sequence[float], truths: Sequence[bool]) -> float:
    """Expected calibration error: mean distance of said and true over the bins, weighted by their size."""
    rows = reliability(shares, truths)
    return sum(row["n"] * abs(row["said"] - row["true"]) for row in rows) / len(shares)


def _average_precision(known: Sequence[Rated]) -> float:
    scores = [-1.0 if item.share is None else item.share for item in known]
    return average_precision(scores, [item.truth is True for item in known])


def _row(name: str, interval: Interval) -> dict[str, Any]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def mean(values: Iterable[float | bool]) -> float:
    """The mean; 0 of nothing."""
    listed = [float(value) for value in values]
    return sum(listed) / len(listed) if listed else 0.0
