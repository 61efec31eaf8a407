"""Grade free-form answers, made anywhere (`autocaft grade`) or by the arms of a run (`[free_form]`).

In: answers, the questions they answer, a grader. Out, in a folder: `grades.jsonl`, `metrics.jsonl`, `scores.jsonl`
(what each answer adds to each metric) and `summary.json`.
Every reply is kept in the store before it is read, so an interrupted grading goes on without paying twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from autocaft.evaluate.grade import grade_answers
from autocaft.evaluate.misalignment import answer_scores, count_grades, free_form_metrics
from autocaft.evaluate.options import GraderOptions
from autocaft.evaluate.questions import FreeAnswer, Question
from autocaft.llm.client import LanguageClient
from autocaft.records import Metric
from autocaft.rundir.files import write_json, write_jsonl, write_records
from autocaft.rundir.progress import Progress
from autocaft.rundir.store import RunStore

TASK = "free_form"


def grade_free_form(
    answers: Sequence[FreeAnswer],
    questions: Mapping[str, Question],
    options: GraderOptions,
    *,
    store: RunStore,
    out: Path,
    progress: Progress,
) -> list[Metric]:
    """Grade the answers and write the four files.

    Raises:
        JudgeError: no key, no price for a cap in dollars, or a grader that answers nothing.
    """
    from autocaft.llm.doors import BATCH_CONCURRENCY

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
    metrics = free_form_metrics(answers, grades, task=TASK, n_bootstrap=options.n_bootstrap)
    write_records(out / "grades.jsonl", grades)
    write_records(out / "metrics.jsonl", metrics)
    write_jsonl(out / "scores.jsonl", answer_scores(answers, grades))
    summary = {
        "grader": options.grader,
        "prompt_hashes": sorted({f"{grade.rubric}:{grade.prompt_hash}" for grade in grades}),
        "n_answers": len(answers),
        "n_base_questions": len({answer.base_question for answer in answers}),
        "counts": count_grades(answers, grades),
        "tokens": client.budget.tokens,
        "usd": client.budget.nano_usd / 1e9 if client.budget.price is not None else None,
    }
    write_json(out / "summary.json", summary)
    return metrics


def open_grader(options: GraderOptions, store: RunStore) -> LanguageClient:
    """The door to the grader."""
    from autocaft.llm.doors import open_door
    from autocaft.model.locate import load_later

    return open_door(options.grader, options, store, has_address=True, local=load_later)


def metrics_table(metrics: Sequence[Metric]) -> str:
    """One line an arm, seed and metric over all questions."""
    lines = [f"{'arm':<20}{'seed':>5}  {'metric':<24}{'value':>8}  {'95 %':<16}{'n':>6}{'unscored':>10}"]
    for m in metrics:
        if m.split == "all":
            value = "-" if m.value is None else f"{m.value:.3f}"
            interval = "" if m.ci_low is None or m.ci_high is None else f"[{m.ci_low:.3f}, {m.ci_high:.3f}]"
            lines.append(f"{m.arm:<20}{m.seed:5}  {m.metric:<24}{value:>8}  {interval:<16}{m.n:6}{m.n_unscored:10}")
    return "\n".join(lines)
