"""The stage: measure one arm on every split and on generic text, with its hooks off and, if asked, on.

In: a trained arm, its base, rows by split, generic documents. Out: `metrics.jsonl` and `rows.jsonl` in its folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from autocaft.data.corpus import Document
from autocaft.data.rows import TaskRow
from autocaft.evaluate.choices import Answer, accuracy, answer_choices
from autocaft.evaluate.damage import BaseContext, damage_metrics, measure_damage
from autocaft.evaluate.options import EvaluateOptions
from autocaft.model.hooks import Ablation
from autocaft.model.load import autocast_bf16
from autocaft.records import Hooks, Metric
from autocaft.rundir.files import write_jsonl, write_records
from autocaft.rundir.progress import Advance, Progress


def evaluate_arm(
    model: PreTrainedModel,
    base: BaseContext,
    tokenizer: PreTrainedTokenizerBase,
    rows_by_split: Mapping[str, Sequence[TaskRow]],
    documents: Sequence[Document],
    options: EvaluateOptions,
    *,
    arm: str,
    task: str,
    seed: int,
    ablated: AbstractContextManager[Ablation] | None,
    out: Path,
    progress: Progress,
    used: Hooks = "off",
) -> list[Metric]:
    """Measure one arm.

    Args:
        base: opens on the base model, for KL.
        ablated: opens the ablation the arm was trained in; None for arms that had none, which have no `on` rows.
        used: `on` for an arm that is ablated when it is used: it is measured so alone, general damage too.
    """
    passes: list[tuple[Hooks, AbstractContextManager[Ablation | None]]] = []
    if "off" in options.hooks and used == "off":
        passes.append(("off", nullcontext()))
    if ("on" in options.hooks or used == "on") and ablated is not None:
        passes.append(("on", ablated))
    documents = documents[: options.n_damage_documents] if used in dict(passes) else []
    n_items = len(passes) * sum(len(rows) for rows in rows_by_split.values()) + len(documents)
    metrics: list[Metric] = []
    answers: list[Answer] = []
    with (
        progress.task(f"evaluate {arm}, seed {seed}", n_items, "rows") as advance,
        autocast_bf16(model.device, enabled=options.autocast == "bf16"),
    ):
        damage: list[Metric] = []
        for hooks, context in passes:
            with context as ablation:
                found = _answer_splits(model, tokenizer, rows_by_split, options, hooks, advance)
                if documents and hooks == used:
                    unablated = base if ablation is None else _without(ablation, base)
                    damage = _damage(model, unablated, tokenizer, documents, options, arm, seed, hooks, advance)
            answers += [answer for split in found for answer in split]
            n_bootstrap = options.n_bootstrap
            metrics += [accuracy(split, arm=arm, task=task, seed=seed, n_bootstrap=n_bootstrap) for split in found]
        metrics += damage
    write_jsonl(out / "rows.jsonl", ({"arm": arm, "seed": seed, **answer.to_row()} for answer in answers))
    write_records(out / "metrics.jsonl", metrics)
    return metrics


def _without(ablation: Ablation, base: BaseContext) -> BaseContext:
    """The base without the ablation, which may hang on the very same blocks; generic text may open with any token."""
    ablation.allows_any_first = True

    @contextmanager
    def opened() -> Iterator[PreTrainedModel]:
        with ablation.paused(), base() as model:
            yield model

    return opened


def _answer_splits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows_by_split: Mapping[str, Sequence[TaskRow]],
    options: EvaluateOptions,
    hooks: Hooks,
    advance: Advance,
) -> list[list[Answer]]:
    return [
        answer_choices(
            model,
            tokenizer,
            rows,
            split=split,
            hooks=hooks,
            tokens_per_batch=options.tokens_per_batch,
            advance=advance,
        )
        for split, rows in rows_by_split.items()
    ]


def _damage(
    model: PreTrainedModel,
    base: BaseContext,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    options: EvaluateOptions,
    arm: str,
    seed: int,
    hooks: Hooks,
    advance: Advance,
) -> list[Metric]:
    found = measure_damage(
        model,
        base,
        tokenizer,
        documents,
        max_tokens=options.damage_max_tokens,
        # Two full tables of logits over the vocabulary stand side by side here, and nowhere else.
        tokens_per_batch=max(1, options.tokens_per_batch // 4),
        advance=advance,
    )
    return damage_metrics(found, arm=arm, seed=seed, hooks=hooks, n_bootstrap=options.n_bootstrap)
