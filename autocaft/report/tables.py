"""The figures of a report as tidy tables, for a spreadsheet or a data frame.

In: report.json. Out: rows, one dict each, all of a table with the same keys. The decision a reader would question:
pooled figures and single seeds are rows of one table; `seed` is empty where a figure is over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]


def arm_rows(report: Mapping[str, Any]) -> list[Row]:
    """One row an arm, hooks state, split and metric, over all seeds; then one a seed."""
    pooled = [row for line in report["arms"] for row in _pooled_rows(line)]
    single = [
        {
            "arm": metric["arm"],
            "hooks": metric["hooks"],
            "split": metric["split"],
            "metric": metric["metric"],
            "seed": metric["seed"],
            **{key: metric[key] for key in ("value", "ci_low", "ci_high", "n", "n_unscored")},
            "n_seeds": 1,
            "worst_seed": None,
        }
        for metric in report["metrics"]
    ]
    return [*pooled, *single]


def direction_rows(report: Mapping[str, Any]) -> list[Row]:
    """One row a candidate: what the judge said, and who ablates it."""
    return [_direction_row(card) for card in report["cards"]]


def contrast_rows(report: Mapping[str, Any]) -> list[Row]:
    """One row a pair of arms whose unwanted rates are held against each other."""
    return [
        {key: value for key, value in row.items() if key != "by_seed"} | {"n_seeds": len(row["by_seed"])}
        for row in report["contrasts"]
    ]


def _pooled_rows(line: Mapping[str, Any]) -> list[Row]:
    shared = {"arm": line["arm"], "hooks": line["hooks"]}
    rows = []
    for split, score in line["scores"].items():
        figures = {key: score[key] for key in ("value", "ci_low", "ci_high", "n", "n_unscored")}
        n_seeds = {"n_seeds": len(score["by_seed"]), "worst_seed": line["worst_seed"] if split == "ood" else None}
        rows.append({**shared, "split": split, "metric": "accuracy", "seed": None, **figures, **n_seeds})
    empty = dict.fromkeys(("ci_low", "ci_high", "n", "n_unscored"))
    for metric in ("perplexity", "perplexity_ratio", "kl_to_base"):
        if line[metric] is not None:
            row = {**shared, "split": "generic", "metric": metric, "seed": None, "value": line[metric], **empty}
            rows.append({**row, "n_seeds": len(line["seeds"]), "worst_seed": None})
    return rows


VERDICT_KEYS = (
    "description",
    "other_description",
    "relevance",
    "wanted_relevance",
    "detection",
    "detection_low",
    "detection_high",
    "discrimination",
    "confidence",
    "pole",
    "other_relevance",
    "abstains",
    "doubt",
    "unscored_reason",
    "judge",
)


def _direction_row(card: Mapping[str, Any]) -> Row:
    verdict = card["verdict"] or dict.fromkeys(VERDICT_KEYS)
    return {
        **{key: card[key] for key in ("id", "layer", "source", "strength", "rank_by", "state")},
        **{key: verdict[key] for key in VERDICT_KEYS},
        "ablated_by": "; ".join(decision["by"] for decision in card["decisions"] if decision["ablate"]),
        "reason": "; ".join(f"{d['by']}: {d['reason']}" for d in card["decisions"]),
    }
