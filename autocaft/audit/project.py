"""One dictionary for the audit, and each answer as the mean activation of every latent.

In: rows, given and own answers, generic text. Out, of `make_dictionary`: `sae/L14/` (if trained), `generic/`
(activations on some generic text, for windows), `columns.safetensors` (which latents are alive, what is known of them,
random directions). Out, of `project_set`: `given.npy` and `own.npy`, a row an answer, a column a live latent of the
first layer, of the second, ..., then a random direction of each layer; and `n_tokens.npy`.

The decision a reader would question: an answer counts with the mean over its tokens and not with its strongest token. A
longer answer has a stronger strongest token by chance alone, and given answers differ in length from the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autocaft.audit.options import DICTIONARY_KEY, DictionaryOptions, ScreenOptions
from autocaft.audit.own import SIDES, Answers, Read, read_answers
from autocaft.data.corpus import Document, write_documents
from autocaft.data.encode import Encoded, encode
from autocaft.discover.decompose import dictionary_place
from autocaft.discover.sae import Dictionary, load_dictionary, measure, rows_at_once, train_dictionary
from autocaft.discover.shards import ShardReader, ShardWriter, is_finished, shard_rows
from autocaft.errors import DataError
from autocaft.model.blocks import d_model
from autocaft.records import Direction
from autocaft.rundir.files import replacing
from autocaft.rundir.progress import Progress

COLUMNS, GENERIC, GENERIC_DOCS = "columns.safetensors", "generic", "generic.jsonl.gz"
N_WINDOW_DOCUMENTS = 100
"""Generic documents that windows are taken from."""
GENERIC_SHARE = 1 / 3
SHARD_MB = 32


@dataclass(frozen=True)
class Columns:
    """What is known of one layer's latents and random directions."""

    layer: int
    live_L: Tensor
    """Numbers of the latents that are neither dead nor always on."""
    peak_L: Tensor
    """Its largest activation on the pooled tokens."""
    mean_D: Tensor
    """Mean activation on the pooled tokens."""
    random_KD: Tensor
    """Random unit directions."""

    def latents(self, dictionary: Dictionary, acts_ND: Tensor) -> Tensor:
        """Activations of the live latents (N, L)."""
        n_rows = rows_at_once(dictionary.d_sae)
        return torch.cat([dictionary.encode(part)[:, self.live_L].cpu() for part in acts_ND.split(n_rows)])

    def projections(self, acts_ND: Tensor) -> Tensor:
        """Centred projections on the random directions (N, K)."""
        return (acts_ND - self.mean_D) @ self.random_KD.T

    def directions(self) -> list[Direction]:
        """A `Direction` for each live latent."""
        return [Direction(f"L{self.layer}.latent{i}", self.layer, "sae", i, 0.0, "audit") for i in self.live_L.tolist()]


def load_columns(folder: Path) -> list[Columns]:
    """The columns of a dictionary step, layer by layer."""
    tensors = load_file(folder / COLUMNS)
    layers = sorted(int(name[1:].split(".")[0]) for name in tensors if name.endswith("live_L"))
    names = ("live_L", "peak_L", "mean_D", "random_KD")
    return [Columns(i, *(tensors[f"L{i}.{name}"] for name in names)) for i in layers]


@dataclass(frozen=True)
class Lens:
    """What answers are read through."""

    model: Any
    tokenizer: Any
    screen: ScreenOptions
    columns: Sequence[Columns]
    dictionaries: Mapping[int, Dictionary]
    """By layer."""
    folder: Path
    """Of the dictionary step."""

    @classmethod
    def open(cls, model: Any, tokenizer: Any, folder: Path, options: DictionaryOptions, screen: ScreenOptions) -> Lens:
        """With the dictionaries of a dictionary step."""
        columns = load_columns(folder)
        places = {c.layer: dictionary_place(options.sae, c.layer, folder) for c in columns}
        width = len(columns[0].mean_D)
        how: dict[str, Any] = {"width": width, "key": DICTIONARY_KEY}
        dictionaries = {layer: load_dictionary(place, layer, **how) for layer, place in places.items()}
        return cls(model, tokenizer, screen, columns, dictionaries, folder)

    def read(self, encoded: Sequence[Encoded], layers: Sequence[int]) -> Iterator[Read]:
        """Activations at the answers' tokens."""
        return read_answers(self.model, self.tokenizer, encoded, layers, tokens_per_batch=self.screen.tokens_per_batch)


def make_dictionary(
    model: Any,
    tokenizer: Any,
    sets: Sequence[Callable[[], Answers]],
    generic: Sequence[Document],
    layers: Sequence[int],
    options: DictionaryOptions,
    screen: ScreenOptions,
    *,
    seed: int,
    out: Path,
    progress: Progress,
) -> None:
    """Pool text, train or load the dictionary of each layer, note which latents are alive, draw random directions.

    Args:
        sets: for each set that can be audited, a function that gives its answers.

    Raises:
        DataError: no set can be audited, or no latent is alive.
    """
    if not sets:
        raise DataError("no set can be audited; faults.jsonl of each set under rows/ says why")
    if not is_finished(out / "pool"):
        _pool(model, tokenizer, sets, generic, layers, options, screen, out, progress)
    reader = ShardReader(out / "pool")
    tensors: dict[str, Tensor] = {}
    for layer in reader.layers:
        mean_D = sum((acts_ND.sum(0) for acts_ND in reader.in_order(layer, 4096)), torch.zeros(reader.d_model))
        mean_D = mean_D / reader.n_rows
        place = dictionary_place(options.sae, layer, out)
        if options.sae == "train" and not Path(place).is_dir():
            decompose = options.as_decompose(seed)
            train_dictionary(reader, layer, mean_D, options=decompose, folder=Path(place), progress=progress)
        stats = measure(load_dictionary(place, layer, width=reader.d_model, key=DICTIONARY_KEY), reader, layer, mean_D)
        live_L = (~stats.dead_S() & ~stats.always_on_S(options.always_on_share)).nonzero()[:, 0]
        if not len(live_L):
            raise DataError(f"no latent of layer {layer} is alive; give the dictionary more text (dictionary.n_tokens)")
        random_KD = torch.randn(screen.n_random, reader.d_model, generator=torch.Generator().manual_seed(seed + layer))
        found = {
            "live_L": live_L,
            "peak_L": stats.peak_S[live_L],
            "mean_D": mean_D,
            "random_KD": torch.nn.functional.normalize(random_KD, dim=1),
        }
        tensors.update((f"L{layer}.{name}", tensor) for name, tensor in found.items())
    with replacing(out / COLUMNS) as path:
        save_file(tensors, path)


def _pool(
    model: Any,
    tokenizer: Any,
    sets: Sequence[Callable[[], Answers]],
    generic: Sequence[Document],
    layers: Sequence[int],
    options: DictionaryOptions,
    screen: ScreenOptions,
    out: Path,
    progress: Progress,
) -> None:
    """Activations on the answers of all sets, each its share, and on generic text."""
    width = d_model(model)
    n_rows = shard_rows(width, torch.bfloat16, SHARD_MB)
    size: dict[str, Any] = {"d_model": width, "dtype": torch.bfloat16, "rows_per_shard": n_rows}
    pool, windows = ShardWriter(out / "pool", layers, **size), ShardWriter(out / GENERIC, layers, **size)
    how = {"tokens_per_batch": screen.tokens_per_batch}
    with progress.task("text for the dictionary", len(sets) + 1, "sets") as advance:
        max_tokens = screen.max_prompt_tokens + screen.answer_tokens
        chat = screen.chat and tokenizer.chat_template is not None
        encoded = [encode(tokenizer, d.prompt, d.text, chat=chat, max_tokens=max_tokens) for d in generic]
        encoded = _first_tokens(encoded, int(options.n_tokens * GENERIC_SHARE))
        for read in read_answers(model, tokenizer, encoded, layers, **how):
            _append(pool, read, 0)
            _append(windows, read, 0, below=N_WINDOW_DOCUMENTS)
        write_documents(out / GENERIC_DOCS, generic[:N_WINDOW_DOCUMENTS])
        advance(1)
        share, number = int(options.n_tokens * (1 - GENERIC_SHARE) / len(sets)), len(generic)
        for load in sets:
            answers = load()
            pairs = zip(*(answers.encoded(tokenizer, side, screen) for side in SIDES), strict=True)
            mixed = _first_tokens([text for pair in pairs for text in pair], share)
            for read in read_answers(model, tokenizer, mixed, layers, **how):
                _append(pool, read, number)
            number += len(mixed)
            advance(1)
    windows.close()
    pool.close()


def _first_tokens(encoded: Sequence[Encoded], n_tokens: int) -> list[Encoded]:
    """The first texts that together have about so many answer tokens; at least one."""
    kept: list[Encoded] = []
    total = 0
    for text in encoded:
        if kept and total >= n_tokens:
            break
        kept.append(text)
        total += len(text.input_ids) - text.n_prompt
    return kept


def _append(writer: ShardWriter, read: Read, first: int, below: int | None = None) -> None:
    """Write the texts of a batch, numbered from `first`; only those with a number under `below`."""
    for place, number in enumerate(read.numbers):
        mine_N = read.owner_N == place
        if mine_N.any() and (below is None or number < below):
            acts = {layer: acts_ND[mine_N] for layer, acts_ND in read.acts_by_layer.items()}
            writer.append(first + number, read.tokens_N[mine_N], acts)


def project_set(lens: Lens, answers: Answers, *, label: str, out: Path, progress: Progress) -> None:
    """Mean activations of every answer, given and own, into memory-mapped arrays (row, column)."""
    n_rows, layers = len(answers.rows), [c.layer for c in lens.columns]
    width = sum(len(c.live_L) + len(c.random_KD) for c in lens.columns)
    n_tokens_R2 = np.zeros((n_rows, 2), dtype=np.int32)
    with progress.task(f"latents of {label}", 2 * n_rows, "answers") as advance:
        for at, side in enumerate(SIDES):
            with replacing(out / f"{side}.npy") as path:
                means_RC = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n_rows, width))
                for read in lens.read(answers.encoded(lens.tokenizer, side, lens.screen), layers):
                    sums_BC, count_B = _sums(read, lens.columns, lens.dictionaries)
                    means_RC[read.numbers] = (sums_BC / count_B.clamp_min(1)[:, None]).numpy()
                    n_tokens_R2[read.numbers, at] = count_B.numpy()
                    advance(len(read.numbers))
                means_RC.flush()
    with replacing(out / "n_tokens.npy") as path:
        np.save(path, n_tokens_R2)


@torch.no_grad()
def _sums(read: Read, columns: Sequence[Columns], dictionaries: Mapping[int, Dictionary]) -> tuple[Tensor, Tensor]:
    """Sum over each answer's tokens (B, C), and their number (B,)."""
    n_texts = len(read.numbers)
    values = [c.latents(dictionaries[c.layer], read.acts_by_layer[c.layer]) for c in columns]
    values += [c.projections(read.acts_by_layer[c.layer]) for c in columns]
    values_NC = torch.cat(values, dim=1)
    sums_BC = torch.zeros(n_texts, values_NC.shape[1]).index_add_(0, read.owner_N, values_NC)
    return sums_BC, torch.bincount(read.owner_N, minlength=n_texts)
