"""Choice tasks: which option does the model find likelier at the place of the answer?

In: a model and rows with choices. Out: one `Answer` a row, and the accuracy of a split with its interval.

The options are compared by the logit of their first token at the last position of the prompt; rows whose options
share that token were refused when the data was read. No text is sampled, so nothing has to be parsed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from autocaft.data.encode import batches, encode_prompt
from autocaft.data.rows import TaskRow
from autocaft.model.blocks import last_logits
from autocaft.records import Hooks, Metric
from autocaft.rundir.progress import Advance
from autocaft.stats import cluster_bootstrap


@dataclass(frozen=True)
class Answer:
    """A model's answer to one row."""

    row_id: str
    split: str
    template: str
    hooks: Hooks
    chosen: str | None
    """None if a logit was not a number."""
    correct: bool | None
    margin: float | None
    """Logit of the right option minus that of the best wrong one."""

    def to_row(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


@torch.no_grad()
def answer_choices(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[TaskRow],
    *,
    split: str,
    hooks: Hooks,
    tokens_per_batch: int,
    advance: Advance,
) -> list[Answer]:
    """Answer every row, in the order given."""
    encoded = [encode_prompt(tokenizer, row.prompt, chat=False) for row in rows]
    answers: dict[int, Answer] = {}
    pad_id = int(tokenizer.pad_token_id)
    for numbers, batch in batches(encoded, tokens_per_batch=tokens_per_batch, pad_id=pad_id, device=model.device):
        logits_BV = model(**batch.inputs, **last_logits(model, 1), use_cache=False).logits[:, -1].float()
        for number, logits_V in zip(numbers, logits_BV, strict=True):
            answers[number] = _answer(rows[number], logits_V, tokenizer, split, hooks)
        advance(len(numbers))
    return [answers[number] for number in range(len(rows))]


def accuracy(answers: Sequence[Answer], *, arm: str, task: str, seed: int, n_bootstrap: int) -> Metric:
    """Share of right answers among the scored rows, interval over templates."""
    scored = [answer for answer in answers if answer.correct is not None]
    split, hooks = answers[0].split, answers[0].hooks
    n_unscored = len(answers) - len(scored)
    if not scored:
        return Metric(arm, task, split, "accuracy", hooks, None, None, None, 0, n_unscored, seed)
    interval = cluster_bootstrap(
        [float(bool(answer.correct)) for answer in scored], [answer.template for answer in scored], n=n_bootstrap
    )
    return Metric(
        arm, task, split, "accuracy", hooks, interval.value, interval.low, interval.high, len(scored), n_unscored, seed
    )


def _answer(
    row: TaskRow, logits_V: torch.Tensor, tokenizer: PreTrainedTokenizerBase, split: str, hooks: Hooks
) -> Answer:
    assert row.choices is not None, f"row {row.id} has no choices"
    logit_by_choice = {c: float(logits_V[tokenizer.encode(c, add_special_tokens=False)[0]]) for c in row.choices}
    if not all(math.isfinite(logit) for logit in logit_by_choice.values()):
        return Answer(row.id, split, row.template, hooks, None, None, None)
    best_wrong = max(logit for choice, logit in logit_by_choice.items() if choice != row.answer)
    margin = logit_by_choice[row.answer] - best_wrong
    chosen = max(logit_by_choice, key=lambda choice: logit_by_choice[choice])
    # An exact tie is no answer the model gave; it counts as wrong rather than as luck.
    return Answer(row.id, split, row.template, hooks, chosen, margin > 0, margin)
