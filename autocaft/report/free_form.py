"""Free-form answers in the report: rates and means by arm, overall and by question.

In: what each answer adds to each rate (`scores.jsonl` of the steps). Out: plain dicts, and a sentence. By question one
rate is shown: of misaligned answers, or the first that a file of rules measures; and of code the task score. The
decision a reader would question: answers of all seeds are pooled by resampling seeds and base questions, and an answer
that is in no denominator of a rate is counted beside it and never as a zero. An answer that a rubric was not asked
about is not counted at all: code and talk of one run are rates apart, each with its own number of base questions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autocaft.report.arms import arm_order
from autocaft.report.words import fine_percent, interval_text
from autocaft.stats import seed_cluster_bootstrap

MEAN = "mean_"
"""How the names of means of grades from 0 to 100 begin; all other metrics are shares."""
MISALIGNED = "misaligned_of_coherent"
TASK_RATES = ("vulnerable_of_valid", "vulnerable_of_all")
"""The task score where the training rows teach vulnerable code, as in the paper: over code that is an attempt."""
Score = Mapping[str, Any]


def build_free_form(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the report shows.

    Args:
        found: `grader`, `metrics` in the order to show them (else as they come in the scores), `scores` (rows of arm,
            seed, question, base_question, answer, metric, value), `counts`.
    """
    scores: Sequence[Score] = found["scores"]
    metrics = list(found.get("metrics") or metrics_of(scores))
    by_cell: dict[tuple[str, str, str | None], list[Score]] = defaultdict(list)
    for score in scores:
        by_cell[score["arm"], score["metric"], None].append(score)
        by_cell[score["arm"], score["metric"], score["question"]].append(score)
    arms = sorted({score["arm"] for score in scores}, key=arm_order)
    shown = unwanted_metric(metrics) or metrics[0]
    task = task_rate(metrics)

    def by_question(rate: str) -> list[dict[str, Any]]:
        questions = dict.fromkeys(score["question"] for score in scores if score["metric"] == rate)
        return [
            {"question": name, "cells": {arm: _cell(by_cell[arm, rate, name]) for arm in arms}} for name in questions
        ]

    return {
        "grader": found["grader"],
        "caution": caution(found["grader"]),
        "metrics": metrics,
        "rests_on": _rests_on(scores, metrics),
        "arms": [
            {
                "arm": arm,
                "seeds": sorted({score["seed"] for score in scores if score["arm"] == arm}),
                "n_answers": len({score["answer"] for score in scores if score["arm"] == arm}),
                "cells": {metric: _cell(by_cell[arm, metric, None]) for metric in metrics},
            }
            for arm in arms
        ],
        "by_question": shown,
        "questions": by_question(shown),
        "task": task,
        "tasks": [] if task in (None, shown) else by_question(str(task)),
        "counts": list(found["counts"]),
    }


def metrics_of(scores: Iterable[Score]) -> list[str]:
    """The metrics of these scores, in the order in which they come."""
    return list(dict.fromkeys(score["metric"] for score in scores))


def unwanted_metric(metrics: Sequence[str]) -> str | None:
    """What arms should have little of: misaligned answers, or what a file of rules measures first besides coherence."""
    if MISALIGNED in metrics:
        return MISALIGNED
    wanted = ("coherent", "vulnerable_", MEAN)
    return next((metric for metric in metrics if not metric.startswith(wanted)), None)


def task_rate(metrics: Sequence[str]) -> str | None:
    """The task score among the metrics; None where no code was graded."""
    return next((rate for rate in TASK_RATES if rate in metrics), None)


def _rests_on(scores: Sequence[Score], metrics: Sequence[str]) -> str:
    """`8 base questions`, or where not all metrics have the same: `8 base questions for ..., 20 for ...`."""
    questions_by_metric: dict[str, set[str]] = defaultdict(set)
    for score in scores:
        questions_by_metric[score["metric"]].add(score["base_question"])
    metrics_by_n: dict[int, list[str]] = defaultdict(list)
    for metric in metrics:
        metrics_by_n[len(questions_by_metric[metric])].append(metric.replace("_", " "))
    if len(metrics_by_n) == 1:
        return f"{next(iter(metrics_by_n))} base questions"
    told = (f"{n} base questions for {', '.join(names)}" for n, names in metrics_by_n.items())
    return "; ".join(told)


def _cell(scores: Sequence[Score]) -> dict[str, Any]:
    """Mean over seeds with its interval, every seed's own value, and how many answers are behind it or are not."""
    scored = [score for score in scores if score["value"] is not None]
    values_by_seed: dict[int, list[float]] = defaultdict(list)
    for score in scored:
        values_by_seed[score["seed"]].append(score["value"])
    cell: dict[str, Any] = {"value": None, "ci_low": None, "ci_high": None}
    if scored:
        interval = seed_cluster_bootstrap(
            [s["value"] for s in scored], [s["seed"] for s in scored], [s["base_question"] for s in scored]
        )
        cell = {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high}
    by_seed = {str(seed): sum(values) / len(values) for seed, values in sorted(values_by_seed.items())}
    return {**cell, "n": len(scored), "n_unscored": len(scores) - len(scored), "by_seed": by_seed}


def caution(grader: str) -> str:
    """What to keep in mind about rates that this grader gave."""
    if grader.startswith("rule:"):
        return "by words and phrases: what its file does not list, it does not see"
    return "another grader can change these rates by an order of magnitude"


def figure_text(metric: str, cell: Mapping[str, Any] | None) -> str:
    """`4.2% [1, 9]` for a rate, `71.3 [60.2, 80.1]` for a mean; a dash without a value."""
    if cell is None or cell["value"] is None:
        return "\N{EN DASH}"
    if not metric.startswith(MEAN):
        return f"{fine_percent(cell['value'])} {interval_text(cell)}".strip()
    ends = "" if cell["ci_low"] is None else f" [{cell['ci_low']:.1f}, {cell['ci_high']:.1f}]"
    return f"{cell['value']:.1f}{ends}"


def headline(built: Mapping[str, Any]) -> str | None:
    """The rate of plain tuning beside that of the arm the judge chose for; None if one of the two is not there."""
    metric = built["by_question"]
    cells = {line["arm"]: line["cells"][metric] for line in built["arms"]}
    arm = next((arm for part in ("-auto", "") for arm in cells if arm.startswith("caft-") and part in arm), None)
    if "tuned" not in cells or arm is None:
        return None
    return (
        f"{metric.replace('_', ' ').capitalize()} answers: {figure_text(metric, cells['tuned'])} after plain "
        f"fine-tuning, {figure_text(metric, cells[arm])} with {arm}{_at_cost(built, arm)}, says {built['grader']}."
    )


def _at_cost(built: Mapping[str, Any], arm: str) -> str:
    """The task score beside it, where the answers give one: a rate that fell with the task is no gain."""
    rate = built["task"]
    if rate in (None, built["by_question"]):
        return ""
    of_tuned, own = (next(x["cells"][rate] for x in built["arms"] if x["arm"] == name) for name in ("tuned", arm))
    return f" (the task, {rate.replace('_', ' ')}: {figure_text(rate, of_tuned)} and {figure_text(rate, own)})"
