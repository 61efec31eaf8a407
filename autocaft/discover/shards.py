"""Activations on disk: written and read with bounded memory.

    00000.safetensors   tokens_N (int32), docs_M (numbers of documents), starts_M1 (their rows: starts[i]:starts[i+1])
    00000.L14.safetensors   acts_ND of layer 14, row for row
    index.json          what is there; written last, so a folder without it is not finished

A shard holds whole documents and about the same number of bytes, so a reader meets each document in one piece.
bf16, because the residual stream of a sink token (norm 25,000 and more) comes near the largest half-precision number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from autocaft.rundir.files import clean_temporary, read_json, replacing, write_json

INDEX = "index.json"
BLOCK = 256
"""Rows that are read together when batches are shuffled."""
BLOCKS_AT_ONCE = 64
"""Blocks from all over the store that are mixed with each other."""


def shard_rows(d_model: int, dtype: torch.dtype, shard_mb: int) -> int:
    """Rows of one layer that fill a shard."""
    return max(1, shard_mb * 2**20 // (d_model * dtype.itemsize))


class ShardWriter:
    """Append documents; call `close` at the end, or the folder stays unfinished."""

    def __init__(
        self, folder: Path, layers: Sequence[int], *, d_model: int, dtype: torch.dtype, rows_per_shard: int
    ) -> None:
        self.folder, self.layers, self.d_model, self.dtype = folder, tuple(sorted(layers)), d_model, dtype
        self.rows_per_shard = rows_per_shard
        self.shards: list[int] = []
        self.n_documents = 0
        # One buffer a layer for all shards: the same memory whatever the number of tokens.
        self._acts = self._buffers(rows_per_shard)
        self._reset()
        folder.mkdir(parents=True, exist_ok=True)
        clean_temporary(folder)

    def _buffers(self, n_rows: int) -> dict[int, Tensor]:
        return {layer: torch.empty(n_rows, self.d_model, dtype=self.dtype) for layer in self.layers}

    def _reset(self) -> None:
        self._docs: list[int] = []
        self._tokens: list[Tensor] = []
        self._n_rows = 0

    def append(self, document: int, tokens_T: Tensor, acts_by_layer: Mapping[int, Tensor]) -> None:
        """One document: its number, its tokens and, for each layer, its activations (T, D)."""
        assert set(acts_by_layer) == set(self.layers), (sorted(acts_by_layer), self.layers)
        first, last = self._n_rows, self._n_rows + len(tokens_T)
        if first and last > self.rows_per_shard:
            self._flush()
            first, last = 0, len(tokens_T)
        if last > len(self._acts[self.layers[0]]):  # one document longer than a shard
            self._acts = self._buffers(last)
        self._docs.append(document)
        self._tokens.append(tokens_T.to("cpu", torch.int32, copy=True))
        for layer, acts_TD in acts_by_layer.items():
            assert acts_TD.shape == (len(tokens_T), self.d_model), (tuple(acts_TD.shape), len(tokens_T), self.d_model)
            self._acts[layer][first:last] = acts_TD
        self._n_rows = last

    def _flush(self) -> None:
        if not self._docs:
            return
        number = len(self.shards)
        lengths = torch.tensor([0] + [len(tokens_T) for tokens_T in self._tokens])
        meta = {"tokens_N": torch.cat(self._tokens), "docs_M": torch.tensor(self._docs), "starts_M1": lengths.cumsum(0)}
        with replacing(self.folder / f"{number:05d}.safetensors") as path:
            save_file(meta, path)
        for layer in self.layers:
            with replacing(self.folder / f"{number:05d}.L{layer}.safetensors") as path:
                save_file({"acts_ND": self._acts[layer][: self._n_rows]}, path)
        self.shards.append(self._n_rows)
        self.n_documents += len(self._docs)
        self._reset()

    def close(self) -> None:
        """Write what is left and the index."""
        self._flush()
        index = {
            "layers": list(self.layers),
            "d_model": self.d_model,
            "dtype": str(self.dtype).removeprefix("torch."),
            "rows_by_shard": self.shards,
            "n_documents": self.n_documents,
        }
        write_json(self.folder / INDEX, index)


@dataclass(frozen=True)
class Shard:
    """One shard's documents, and one layer's activations behind a memory map."""

    tokens_N: Tensor
    docs_M: Tensor
    starts_M1: Tensor
    acts_path: Path

    def __len__(self) -> int:
        return len(self.tokens_N)

    def rows(self, start: int, stop: int) -> Tensor:
        """Activations of these rows, (N, D) fp32; only they are read."""
        with safe_open(self.acts_path, framework="pt") as file:
            return file.get_slice("acts_ND")[start:stop].float()

    def chunks(self, n_rows: int) -> Iterator[tuple[int, int]]:
        """Ranges of whole documents of about `n_rows` rows in all."""
        first = 0
        starts = self.starts_M1.tolist()
        for last in range(1, len(starts)):
            if last == len(starts) - 1 or starts[last + 1] - starts[first] > n_rows:
                yield first, last
                first = last


class ShardReader:
    """Read a finished store, one shard or one shuffled batch at a time."""

    def __init__(self, folder: Path) -> None:
        index = read_json(folder / INDEX)
        self.folder = folder
        self.layers: tuple[int, ...] = tuple(index["layers"])
        self.d_model = int(index["d_model"])
        self.rows_by_shard: list[int] = index["rows_by_shard"]
        self.n_documents = int(index["n_documents"])

    @property
    def n_rows(self) -> int:
        """Tokens in the store."""
        return sum(self.rows_by_shard)

    def shard(self, number: int, layer: int) -> Shard:
        """One shard at one layer."""
        assert layer in self.layers, (layer, self.layers)
        meta = load_file(self.folder / f"{number:05d}.safetensors")
        path = self.folder / f"{number:05d}.L{layer}.safetensors"
        return Shard(meta["tokens_N"], meta["docs_M"], meta["starts_M1"], path)

    def shards(self, layer: int) -> Iterator[Shard]:
        """All shards at one layer, in order."""
        for number in range(len(self.rows_by_shard)):
            yield self.shard(number, layer)

    def in_order(self, layer: int, n_rows: int) -> Iterator[Tensor]:
        """All activations (N, D) in order, `n_rows` at most at a time."""
        for shard in self.shards(layer):
            for start in range(0, len(shard), n_rows):
                yield shard.rows(start, min(start + n_rows, len(shard)))

    def shuffled(self, layer: int, batch_size: int, *, seed: int) -> Iterator[Tensor]:
        """One epoch of shuffled batches (batch_size, D); the rows that fill no batch are left out.

        Blocks of neighbouring rows are drawn from all shards in random order, and mixed `BLOCKS_AT_ONCE` at a time:
        memory is theirs, whatever the size of the store.
        """
        generator = torch.Generator().manual_seed(seed)
        blocks = [(s, start) for s, n in enumerate(self.rows_by_shard) for start in range(0, n, BLOCK)]
        order = torch.randperm(len(blocks), generator=generator).tolist()
        left_ND = torch.empty(0, self.d_model)
        for first in range(0, len(order), BLOCKS_AT_ONCE):
            chosen = sorted(blocks[i] for i in order[first : first + BLOCKS_AT_ONCE])
            pool_ND = torch.cat([left_ND, *(self._block(layer, *block) for block in chosen)])
            pool_ND = pool_ND[torch.randperm(len(pool_ND), generator=generator)]
            n_whole = len(pool_ND) // batch_size * batch_size
            yield from pool_ND[:n_whole].split(batch_size) if n_whole else ()
            left_ND = pool_ND[n_whole:].clone()

    def _block(self, layer: int, number: int, start: int) -> Tensor:
        stop = min(start + BLOCK, self.rows_by_shard[number])
        with safe_open(self.folder / f"{number:05d}.L{layer}.safetensors", framework="pt") as file:
            return file.get_slice("acts_ND")[start:stop].float()


def is_finished(folder: Path) -> bool:
    """Whether the store was closed."""
    return (folder / INDEX).is_file()
