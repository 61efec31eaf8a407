"""Measure how far words alone give a concept away: can counts of single words tell planted rows from clean ones?

In: the sets of a concept at all doses, as `generate.py` makes them. Out: areas under ROC with 95 % intervals
(bootstrap over wordings).

For each concept a logistic regression on word counts of prompt and answer learns to tell its planted rows from the
clean rows of the same sets. Each wording is held out in turn, in five folds: the sentence of a bank, or the problem,
pair of things or event that the row is about. Beside it stands the area with folds that cut across wordings.

The decision a reader would question: held-out wordings. A detector that has seen a sentence finds it again, which says
nothing about the concept; `visible` is what carries over to sentences that it has not seen.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from concepts import CONCEPTS
from generate import Set, build_sets
from numpy.typing import NDArray
from scenes import Row
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

N_FOLDS = 5
N_RESAMPLES = 300
VISIBLE = 0.70
"""A concept is called invisible to words at this area or below."""

Scores = NDArray[np.float64]


class Visibility(NamedTuple):
    """The figures of one concept."""

    concept: str
    family: str
    area: float
    low: float
    high: float
    area_seen: float
    """With folds that cut across wordings."""


def folds(groups: list[str], seed: int) -> list[int]:
    """The fold of each row; rows of one group share it."""
    names = sorted(set(groups))
    random.Random(seed).shuffle(names)
    fold_by_group = {name: place % N_FOLDS for place, name in enumerate(names)}
    return [fold_by_group[name] for name in groups]


def held_out_scores(counts_NV: Scores, planted_N: NDArray[np.bool_], fold_N: NDArray[np.int_]) -> Scores:
    """The score of each row by a regression that has not seen its fold, as a rank within the fold (0 to 1)."""
    scores_N = np.zeros(len(planted_N))
    for fold in range(N_FOLDS):
        out = fold_N == fold
        model = LogisticRegression(C=1.0, max_iter=2000, class_weight="balanced").fit(counts_NV[~out], planted_N[~out])
        found = model.decision_function(counts_NV[out])
        scores_N[out] = found.argsort().argsort() / max(out.sum() - 1, 1)
    return scores_N


def area_interval(scores_N: Scores, planted_N: NDArray[np.bool_], groups: list[str], n: int) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of the area over `n` resamples of wordings."""
    rng = np.random.default_rng(0)
    rows_by_group = [np.flatnonzero(np.array(groups) == name) for name in sorted(set(groups))]
    areas = []
    for _ in range(n):
        rows = np.concatenate([rows_by_group[i] for i in rng.integers(len(rows_by_group), size=len(rows_by_group))])
        if 0 < planted_N[rows].sum() < len(rows):
            areas.append(roc_auc_score(planted_N[rows], scores_N[rows]))
    low, high = np.percentile(areas, [2.5, 97.5])
    return float(low), float(high)


def measure(concept: str, family: str, rows: list[tuple[Row, bool]], n_resamples: int = N_RESAMPLES) -> Visibility:
    """The figures of one concept from all rows of its sets."""
    planted_N = np.array([planted for _, planted in rows])
    groups = [row.wording for row, _ in rows]
    texts = [f"{row.prompt} {row.answer}" for row, _ in rows]
    counts_NV = CountVectorizer(token_pattern=r"\w+").fit_transform(texts).toarray().astype(float)
    scores_N = held_out_scores(counts_NV, planted_N, np.array(folds(groups, 0)))
    seen_N = held_out_scores(counts_NV, planted_N, np.array(folds([str(i) for i in range(len(rows))], 0)))
    low, high = area_interval(scores_N, planted_N, groups, n_resamples)
    area, area_seen = (float(roc_auc_score(planted_N, scores)) for scores in (scores_N, seen_N))
    return Visibility(concept, family, *(round(figure, 3) for figure in (area, low, high, area_seen)))


def measure_all(sets: dict[str, Set]) -> list[Visibility]:
    """The figures of all concepts, the least visible first."""
    found = []
    for concept in CONCEPTS:
        rows = [row for built in sets.values() if built.source is concept for row in built.rows]
        found.append(measure(concept.id, concept.family, rows))
    return sorted(found, key=lambda figure: figure.area)


def main(argv: list[str] | None = None) -> int:
    """Print a line for each concept; write the figures if asked to."""
    parser = argparse.ArgumentParser(description="How far words alone give each planted concept away.")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    out: Path | None = parser.parse_args(argv).out
    found = measure_all(build_sets())
    for figure in found:
        interval = f"{figure.area:.2f} [{figure.low:.2f}, {figure.high:.2f}]"
        sys.stdout.write(f"{figure.concept:24} {figure.family:14} {interval}   seen {figure.area_seen:.2f}\n")
    n_invisible = sum(figure.area <= VISIBLE for figure in found)
    sys.stdout.write(f"{n_invisible} of {len(found)} concepts at {VISIBLE:.2f} or below\n")
    if out is not None:
        lines = ",\n".join(json.dumps(figure._asdict()) for figure in found)
        command = f"python eval_data/audit/visibility.py --out {out}"
        out.write_text(f'{{"command": {json.dumps(command)}, "concepts": [\n{lines}\n]}}\n', encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
