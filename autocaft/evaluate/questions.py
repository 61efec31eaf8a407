"""Free-form questions, and the answers to them.

In: YAML files in emergent-misalignment's two formats, of questions and of judge prompts alone (read as they are), a
JSONL file of answers made anywhere. Out: `Question`s and `FreeAnswer`s. The decision a reader would question: `_json`
and `_template` variants belong to the cluster of their base question, because a model that goes wrong on one goes wrong
on the other two; 24 questions are 8 clusters.

One field is autocaft's own. `rubrics: [vulnerable]` says what is asked about the answers to a question; those to a
question without it are asked what the grader's options say, whatever other questions name. So a coding task can stand
beside talk, each is graded as what it is, and a file without the field means what it always meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autocaft.errors import DataError
from autocaft.evaluate.options import RUBRICS
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
    rubrics: tuple[str, ...] = ()
    """What is asked about its answers; nothing for what the grader's options say."""


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


def load_questions(*paths: Path) -> dict[str, Question]:
    """Questions by id, of one file after the other.

    Raises:
        DataError: not there, not YAML, an unknown type of question, an id twice, a field missing or of a wrong kind, or
            a file of judge prompts alone.
    """
    questions: dict[str, Question] = {}
    for path in paths:
        found = _load_file(path)
        twice = sorted(questions.keys() & found.keys())
        if twice:
            raise DataError(f"{path}: the question {twice[0]!r} is in a file before it too")
        questions |= found
    return questions


def rubrics_of(question: Question | None, asked: Sequence[str]) -> tuple[str, ...]:
    """What is asked about an answer to this question, given what is asked where a question says nothing."""
    own = question.rubrics if question is not None else ()
    return own or tuple(asked)


def _load_file(path: Path) -> dict[str, Question]:
    rows = _read_yaml(path)
    if isinstance(rows, dict) and "judge_prompts" in rows:
        raise DataError(
            f"{path}: judge prompts and no questions. They grade answers to any question: `autocaft grade ANSWERS "
            f"--set judge_prompts={path}`, without --questions where each answer has its `question`"
        )
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: expected a list of questions")
    questions: dict[str, Question] = {}
    for number, row in enumerate(rows, start=1):
        question = _question(row, f"{path}, question {number}")
        if question.id in questions:
            raise DataError(f"{path}: two questions are called {question.id!r}")
        questions[question.id] = question
    return questions


def load_prompts(path: Path) -> dict[str, str]:
    """Judge prompts by rubric, of a file that has no questions: `judge_prompts: {RUBRIC: PROMPT}`.

    Raises:
        DataError: not there, not YAML, no such table, or a prompt that shows no answer.
    """
    table = _read_yaml(path)
    prompts = table.get("judge_prompts") if isinstance(table, dict) else None
    if not prompts:
        raise DataError(f"{path}: expected a table `judge_prompts`, with a prompt by rubric")
    found = _prompts(prompts, str(path))
    for name, text in found.items():
        if "{answer}" not in text:
            raise DataError(f"{path}: the prompt of {name!r} has no {{answer}}, so the answer would not be shown")
    return found


def with_prompts(
    questions: Mapping[str, Question], answers: Sequence[FreeAnswer], prompts: Mapping[str, str]
) -> dict[str, Question]:
    """The questions that were answered, in a file or not, each with these prompts where it has none of its own."""
    asked = {answer.question_id: Question(answer.question_id, (answer.question,)) for answer in answers} | dict(
        questions
    )
    return {name: replace(q, judge_prompts={**prompts, **q.judge_prompts}) for name, q in asked.items()}


def _read_yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: no readable YAML file: {error}") from None


def _prompts(prompts: Any, where: str) -> dict[str, str]:
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise DataError(f"{where}: `judge_prompts` must be a table of texts")
    return {str(name): text for name, text in prompts.items()}


def _question(row: Any, where: str) -> Question:
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise DataError(f"{where}: expected a table with an `id`")
    if row.get("type", QUESTION_TYPE) != QUESTION_TYPE:
        raise DataError(f"{where} ({row['id']}): `type` is {row['type']!r}; only {QUESTION_TYPE} is known")
    paraphrases, system = row.get("paraphrases"), row.get("system")
    n_samples = row.get("samples_per_paraphrase", 1)
    if not isinstance(paraphrases, list) or not paraphrases or not all(isinstance(text, str) for text in paraphrases):
        raise DataError(f"{where} ({row['id']}): `paraphrases` must be a list of texts")
    if not isinstance(system, str | None):
        raise DataError(f"{where} ({row['id']}): `system` must be text")
    if not isinstance(n_samples, int) or n_samples < 1:
        raise DataError(f"{where} ({row['id']}): `samples_per_paraphrase` must be 1 or more, not {n_samples!r}")
    prompts = _prompts(row.get("judge_prompts") or {}, f"{where} ({row['id']})")
    return Question(row["id"], tuple(paraphrases), system, n_samples, prompts, _rubrics(row, where))


def _rubrics(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The rubrics that a question names: none of them twice, and each one that a grader can be asked."""
    if "rubrics" not in row:
        return ()
    named = row["rubrics"]
    is_list = isinstance(named, list) and all(isinstance(name, str) for name in named)
    if not is_list or not named or len(set(named)) < len(named) or not set(named) <= set(RUBRICS):
        raise DataError(
            f"{where} ({row['id']}): `rubrics` must be a list of {', '.join(RUBRICS)} or some of them, not {named!r}"
        )
    return tuple(named)


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
