"""Grade free-form answers, made anywhere (`autocaft grade`) or by the arms of a run (`[free_form]`).

In: answers, the questions they answer, a grader. Out, in a folder: `grades.jsonl`, `metrics.jsonl`, `scores.jsonl`
(what each answer adds to each metric) and `summary.json`.
Every reply of a model is kept in the store before it is read, so an interrupted grading goes on without paying twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autocaft.errors import DataError
from autocaft.evaluate.grade import grade_answers
from autocaft.evaluate.misalignment import (
    MEASURES,
    Measures,
    answer_scores,
    count_grades,
    free_form_metrics,
    measures_of_rules,
)
from autocaft.evaluate.options import GradingOptions
from autocaft.evaluate.questions import FreeAnswer, Question, load_prompts, rubrics_of, with_prompts
from autocaft.evaluate.rules import COHERENT, grade_by_rules, load_rules
from autocaft.llm.client import LanguageClient
from autocaft.records import Grade, Metric
from autocaft.resources import data_path
from autocaft.rundir.files import write_json, write_jsonl, write_records
from autocaft.rundir.progress import Progress
from autocaft.rundir.store import RunStore

TASK = "free_form"
Graded = tuple[list[Grade], Measures, dict[str, Any]]
"""Grades, what can be measured with them, and what they cost."""


def grade_free_form(
    answers: Sequence[FreeAnswer],
    questions: Mapping[str, Question],
    options: GradingOptions,
    *,
    store: RunStore,
    out: Path,
    progress: Progress,
) -> list[Metric]:
    """Grade the answers and write the four files.

    Raises:
        JudgeError: no key, no price for a cap in dollars, or a grader that answers nothing.
        ConfigError: a file of rules that cannot be read.
        DataError: a file of judge prompts that cannot be read, or has none for what is asked.
    """
    grades, measures, spent = _by_rules(answers, options) or _by_asking(answers, questions, options, store, progress)
    metrics = free_form_metrics(answers, grades, task=TASK, n_bootstrap=options.n_bootstrap, measures=measures)
    write_records(out / "grades.jsonl", grades)
    write_records(out / "metrics.jsonl", metrics)
    write_jsonl(out / "scores.jsonl", answer_scores(answers, grades, measures))
    summary = {
        "grader": options.grader,
        "prompt_hashes": sorted({f"{grade.rubric}:{grade.prompt_hash}" for grade in grades}),
        "n_answers": len(answers),
        "n_base_questions": len({answer.base_question for answer in answers}),
        "counts": count_grades(answers, grades),
        **spent,
    }
    write_json(out / "summary.json", summary)
    return metrics


def _by_rules(answers: Sequence[FreeAnswer], options: GradingOptions) -> Graded | None:
    """By a file of rules, if that is the grader: nobody is asked and nothing is spent."""
    if options.rules is None:
        return None
    rules = load_rules(data_path(options.rules))
    measures = measures_of_rules(rules.names, COHERENT)
    return grade_by_rules(answers, rules), measures, {"tokens": 0, "usd": 0.0}


def _by_asking(
    answers: Sequence[FreeAnswer],
    questions: Mapping[str, Question],
    options: GradingOptions,
    store: RunStore,
    progress: Progress,
) -> Graded:
    """By a language model."""
    from autocaft.llm.doors import BATCH_CONCURRENCY

    if options.prompts_file is not None:
        found = (rubrics_of(questions.get(answer.question_id), options.rubrics) for answer in answers)
        asked = list(dict.fromkeys(name for names in found for name in names))
        questions = with_prompts(questions, answers, _asked_prompts(options.prompts_file, asked))
    client = open_grader(options, store)
    grades = grade_answers(
        answers,
        options.rubrics,
        questions,
        client,
        model=options.grader.partition(":")[2],
        max_output_tokens=options.max_output_tokens,
        concurrency=BATCH_CONCURRENCY if options.batch else options.concurrency,
        progress=progress,
    )
    usd = client.budget.nano_usd / 1e9 if client.budget.price is not None else None
    return grades, MEASURES, {"tokens": client.budget.tokens, "usd": usd}


def _asked_prompts(file: str, rubrics: Sequence[str]) -> dict[str, str]:
    """The prompts of a file, one of which at least is asked."""
    prompts = load_prompts(data_path(file))
    if not prompts.keys() & set(rubrics):
        raise DataError(
            f"{file}: its prompts are for {', '.join(prompts)}, and `rubrics` asks {', '.join(rubrics)}; name one there"
        )
    return prompts


def open_grader(options: GradingOptions, store: RunStore) -> LanguageClient:
    """The door to the grader."""
    from autocaft.llm.doors import open_door
    from autocaft.model.locate import load_later

    return open_door(options.grader, options, store, has_address=True, local=load_later)


def metrics_table(metrics: Sequence[Metric]) -> str:
    """One line an arm, seed and metric over all questions."""
    shown = [metric for metric in metrics if metric.split == "all"]
    arm_width = max(len(text) for text in ("arm", *(m.arm for m in shown)))
    name_width = max(len(text) for text in ("metric", *(m.metric for m in shown)))
    lines = [
        f"{'arm':<{arm_width}}{'seed':>6}  {'metric':<{name_width}}{'value':>8}  {'95 %':<16}{'n':>6}{'unscored':>10}"
    ]
    for m in shown:
        value = "-" if m.value is None else f"{m.value:.3f}"
        interval = "" if m.ci_low is None or m.ci_high is None else f"[{m.ci_low:.3f}, {m.ci_high:.3f}]"
        figures = f"{value:>8}  {interval:<16}{m.n:6}{m.n_unscored:10}"
        lines.append(f"{m.arm:<{arm_width}}{m.seed:6}  {m.metric:<{name_width}}{figures}")
    return "\n".join(lines)
