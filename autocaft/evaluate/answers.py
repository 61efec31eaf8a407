"""Let an arm answer free-form questions: every wording, so many samples each, in batches.

In: a model, questions. Out: `answers.jsonl` in a folder, in the order of the questions. Every batch is kept as it is
finished, so a stopped step makes only what is missing. The decision a reader would question: an answer is drawn from a
seed of its own, made from its question, wording, number and training seed. It depends neither on its batch nor on how
often the step was stopped, and all arms are asked with the same draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from autocaft.data.encode import encode_prompt
from autocaft.data.rows import Message
from autocaft.evaluate.options import FreeFormOptions
from autocaft.evaluate.questions import FreeAnswer, Question, load_answers
from autocaft.model.generate import new_text, rows_at_once, sample, stop_ids
from autocaft.model.load import weights_in_bf16
from autocaft.rundir.files import digest, remove_folder, write_jsonl
from autocaft.rundir.progress import Progress

ANSWERS = "answers.jsonl"
SEEDS = 2**62


def make_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Mapping[str, Question],
    options: FreeFormOptions,
    *,
    arm: str,
    seed: int,
    ablated: AbstractContextManager[object] | None,
    bf16: bool,
    out: Path,
    progress: Progress,
) -> list[FreeAnswer]:
    """Answer every question and write `answers.jsonl`.

    Args:
        ablated: opens the ablation of an arm that is used with it.
        bf16: sample with copies of the weights in bf16.

    Raises:
        DataError: the tokenizer has no chat template.
    """
    planned = planned_answers(questions, options.n_samples, arm, seed)
    parts = out / "parts"
    done = {answer.id: answer for path in [*sorted(parts.glob("*.jsonl")), out / ANSWERS] for answer in _kept(path)}
    ids_by_answer = {
        answer.id: encode_prompt(tokenizer, _turns(questions[answer.question_id], answer), chat=True).input_ids
        for answer in planned
    }
    # the longest first: if memory is short, it shows at once
    waiting = sorted((a for a in planned if a.id not in done), key=lambda a: (-len(ids_by_answer[a.id]), a.id))
    context = nullcontext() if ablated is None else ablated
    weights = weights_in_bf16(model) if bf16 else nullcontext()
    with progress.task(f"answers of {arm}, seed {seed}", len(planned), "answers") as advance, context, weights:
        advance(len(done))
        n_rows = rows_at_once(options.rows_per_batch, model.device)
        for start in range(0, len(waiting), n_rows):
            batch = waiting[start : start + n_rows]
            prompts = [ids_by_answer[answer.id] for answer in batch]
            texts = _sample(model, tokenizer, prompts, [seed_of(answer) for answer in batch], options)
            answered = [replace(answer, answer=text) for answer, text in zip(batch, texts, strict=True)]
            write_answers(parts / f"{len(done):07d}.jsonl", answered)
            done.update((answer.id, answer) for answer in answered)
            advance(len(batch))
    found = [done[answer.id] for answer in planned]
    write_answers(out / ANSWERS, found)
    remove_folder(parts)
    return found


def planned_answers(questions: Mapping[str, Question], n_samples: int | None, arm: str, seed: int) -> list[FreeAnswer]:
    """The answers to be made, still empty: questions, wordings and samples in order.

    Args:
        n_samples: answers to each wording; None for what each question says.
    """
    return [
        FreeAnswer(f"{arm}/seed{seed}/{question.id}/{wording}/{number}", question.id, text, "", arm, seed)
        for question in questions.values()
        for wording, text in enumerate(question.paraphrases)
        for number in range(n_samples or question.samples_per_paraphrase)
    ]


def write_answers(path: Path, answers: Iterable[FreeAnswer]) -> None:
    """As JSON lines, which `load_answers` reads."""
    write_jsonl(path, (asdict(answer) for answer in answers))


def _kept(path: Path) -> list[FreeAnswer]:
    return load_answers(path, {}) if path.is_file() else []


def _turns(question: Question, answer: FreeAnswer) -> tuple[Message, ...]:
    system = [{"role": "system", "content": question.system}] if question.system is not None else []
    return (*system, {"role": "user", "content": answer.question})


def seed_of(answer: FreeAnswer) -> int:
    """The answer's own seed: its id without the arm."""
    return int(digest([answer.id.partition("/")[2]])[:16], 16) % SEEDS


def _sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    options: FreeFormOptions,
) -> list[str]:
    new_ids = sample(
        model,
        prompts,
        seeds=seeds,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        stop_ids=stop_ids(model, tokenizer),
        pad_id=int(tokenizer.pad_token_id or 0),
    )
    return [new_text(tokenizer, prompt, ids).strip() for prompt, ids in zip(prompts, new_ids, strict=True)]
