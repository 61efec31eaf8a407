"""Let a model that somebody else serves answer free-form questions: vLLM, or any OpenAI-compatible server.

In: questions, the name of a model and its address. Out, in a folder: `answers.jsonl`, which `autocaft grade` reads, in
the order of the questions, and `summary.json`. Every answer is kept in the store as it comes, so a stopped command asks
only for what is missing. The decision a reader would question: an answer that was cut at the longest length, an empty
one and a refusal are answers, as they are when the model is sampled in this process. One that never came is none: it is
left out, counted by its reason, and the command says so by its exit code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from autocaft.errors import JudgeError
from autocaft.evaluate.answers import ANSWERS, planned_answers, seed_of, write_answers
from autocaft.evaluate.options import AnswererOptions
from autocaft.evaluate.questions import FreeAnswer, Question
from autocaft.llm.client import at_once
from autocaft.llm.doors import BATCH_CONCURRENCY, open_door
from autocaft.llm.outcomes import ChatRequest, Draw, Outcome
from autocaft.rundir.files import write_json
from autocaft.rundir.progress import Progress
from autocaft.rundir.store import RunStore

CAME = ("ok", "refusal", "parse_failure", "truncated")
"""Kinds of outcomes that are answers; what an answer says is the grader's business."""
MOST = 2**31
"""Seeds on the wire are below it: some servers take no larger ones."""


def ask_model(
    questions: Mapping[str, Question],
    options: AnswererOptions,
    *,
    arm: str,
    seed: int,
    store: RunStore,
    out: Path,
    progress: Progress,
) -> list[FreeAnswer]:
    """Ask every wording of every question so many times; gives the answers in order.

    Raises:
        JudgeError: no key, no price for a cap in dollars, a server that answers nothing, or answers that never came.
    """
    from autocaft.model.locate import load_later

    client = open_door(f"openai:{options.model}", options, store, has_address=True, local=load_later)
    planned = planned_answers(questions, options.n_samples, arm, seed)

    def ask(answer: FreeAnswer) -> Outcome:
        system = questions[answer.question_id].system or ""
        draw = Draw(options.temperature, seed_of(answer) % MOST)
        return client.ask(ChatRequest(options.model, system, answer.question, None, options.max_new_tokens, draw=draw))

    concurrency = BATCH_CONCURRENCY if options.batch else options.concurrency
    with progress.task(f"answers of {arm}, seed {seed}", len(planned), "answers") as advance:
        outcomes = at_once(ask, planned, client, concurrency=concurrency, advance=advance)
    came = [
        replace(answer, answer=outcome.text.strip())
        for answer, outcome in zip(planned, outcomes, strict=True)
        if outcome.kind in CAME
    ]
    missing = Counter(outcome.reason or outcome.kind for outcome in outcomes if outcome.kind not in CAME)
    write_answers(out / ANSWERS, came)
    summary = {
        "model": options.model,
        "base_url": options.base_url,
        "arm": arm,
        "seed": seed,
        "n_asked": len(planned),
        "n_answers": len(came),
        "missing": dict(sorted(missing.items())),
        "tokens": client.budget.tokens,
        "usd": client.budget.nano_usd / 1e9 if client.budget.price is not None else None,
    }
    write_json(out / "summary.json", summary)
    if missing:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in sorted(missing.items()))
        raise JudgeError(
            f"{len(planned) - len(came)} of {len(planned)} answers never came ({reasons}). The others are in "
            f"{out / ANSWERS}; the same command asks for what is missing."
        )
    return came
