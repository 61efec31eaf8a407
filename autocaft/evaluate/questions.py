"""Free-form questions, and the answers to them.

In: a YAML file in the format of the emergent-misalignment questions (read as it is), a JSONL file of answers made
anywhere. Out: `Question`s and `FreeAnswer`s. The decision a reader would question: `_json` and `_template` variants
belong to the cluster of their base question, because a model that goes wrong on one goes wrong on the other two; 24
questions are 8 clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autocaft.errors import DataError
from autocaft.rundir.files import digest, iter_jsonl

QUESTION_TYPE = "free_form_judge_0_100"
VARIANTS = ("_json", "_template")


@dataclass(frozen=True, slots=True)
class Question:
    """One question in all its wordings."""

    id: str
    paraphrases: tuple[str, ...]
    system: str | None = None
    """System message, for whoever makes the answers."""
    samples_per_paraphrase: int = 1
    judge_prompts: Mapping[str, str] = field(default_factory=dict)
    """By rubric, with `{question}` and `{answer}` in them; a rubric that is not here has autocaft's own prompt."""


@dataclass(frozen=True, slots=True)
class FreeAnswer:
    """One answer of one model."""

    id: str
    question_id: str
    question: str
    """As the model read it, without the system message."""
    answer: str
    arm: str = "answers"
    seed: int = 0

    @property
    def base_question(self) -> str:
        """The cluster: the question's id without `_json` or `_template`."""
        for ending in VARIANTS:
            if self.question_id.endswith(ending):
                return self.question_id.removesuffix(ending)
        return self.question_id


def load_questions(path: Path) -> dict[str, Question]:
    """Questions by id.

    Raises:
        DataError: not there, not YAML, an unknown type of question, an id twice, a field missing or of a wrong kind.
    """
    import yaml

    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: no readable YAML file: {error}") from None
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: expected a list of questions")
    questions: dict[str, Question] = {}
    for number, row in enumerate(rows, start=1):
        question = _question(row, f"{path}, question {number}")
        if question.id in questions:
            raise DataError(f"{path}: two questions are called {question.id!r}")
        questions[question.id] = question
    return questions


def _question(row: Any, where: str) -> Question:
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise DataError(f"{where}: expected a table with an `id`")
    if row.get("type", QUESTION_TYPE) != QUESTION_TYPE:
        raise DataError(f"{where} ({row['id']}): `type` is {row['type']!r}; only {QUESTION_TYPE} is known")
    paraphrases, system = row.get("paraphrases"), row.get("system")
    prompts, n_samples = row.get("judge_prompts") or {}, row.get("samples_per_paraphrase", 1)
    if not isinstance(paraphrases, list) or not paraphrases or not all(isinstance(text, str) for text in paraphrases):
        raise DataError(f"{where} ({row['id']}): `paraphrases` must be a list of texts")
    if not isinstance(system, str | None):
        raise DataError(f"{where} ({row['id']}): `system` must be text")
    if not isinstance(n_samples, int) or n_samples < 1:
        raise DataError(f"{where} ({row['id']}): `samples_per_paraphrase` must be 1 or more, not {n_samples!r}")
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise DataError(f"{where} ({row['id']}): `judge_prompts` must be a table of texts")
    return Question(row["id"], tuple(paraphrases), system, n_samples, {str(k): v for k, v in prompts.items()})


def load_answers(path: Path, questions: Mapping[str, Question]) -> list[FreeAnswer]:
    """Answers from JSON lines: `question_id`, `answer`, and (where the question has several wordings, or no file of
    questions is given) `question`. `id`, `arm` and `seed` may be there.

    Raises:
        DataError: no row, a field missing or of a wrong kind, an unknown question, an id twice (file and line).
    """
    answers = [_answer(row, questions, f"{path}:{line}", line) for line, row in iter_jsonl(path)]
    if not answers:
        raise DataError(f"{path}: the file is empty")
    _no_id_twice(answers, path)
    return answers


def _answer(row: Mapping[str, Any], questions: Mapping[str, Question], where: str, line: int) -> FreeAnswer:
    if not isinstance(row.get("answer"), str):
        raise DataError(f"{where}: `answer` must be text, found {row.get('answer')!r}")
    question_id, text = row.get("question_id"), row.get("question")
    question = questions.get(str(question_id))
    if questions and question is None:
        raise DataError(f"{where}: `question_id` {question_id!r} is not in the questions file")
    if text is None and question is not None and len(question.paraphrases) == 1:
        text = question.paraphrases[0]
    if not isinstance(text, str):
        raise DataError(f"{where}: the row has no `question` (the text that the model was asked)")
    # without an id of its own a question is a cluster by its text
    name = str(question_id) if question_id is not None else f"q{digest(text)[:8]}"
    seed = row.get("seed", 0)
    if not isinstance(seed, int):
        raise DataError(f"{where}: `seed` must be a whole number, found {seed!r}")
    return FreeAnswer(str(row.get("id", line)), name, text, row["answer"], str(row.get("arm", "answers")), seed)


def _no_id_twice(answers: Sequence[FreeAnswer], path: Path) -> None:
    seen: set[str] = set()
    for answer in answers:
        if answer.id in seen:
            raise DataError(f"{path}: two answers have the id {answer.id!r}")
        seen.add(answer.id)
