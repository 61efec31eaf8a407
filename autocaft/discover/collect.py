"""Stage 2, collect: the texts that directions are read in, the base's activations on them, and what tuning changed.

In: a `ModelPair`, training rows, generic documents, layers. Out, in `out`:
    texts/...               chunks of sampled text (a killed run goes on from them)
    compared.jsonl.gz       tuned's completions of generic prompts, where these are compared
    documents.jsonl.gz      every document that is read for mining, in the order of its number
    acts/                   the base model's activations on them (shards.py)
    stats.safetensors       by layer: base mean on GENERIC text and on the training rows (one of them mean-ablation
                            keeps), mean on all mining text, and the exact mean and scatter of the paired differences
                            tuned minus base
    stats.json, summary.json

The decision a reader would question: means come from the base model only. From the tuned model they would put back in
what it learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autocaft.data.corpus import Document, read_documents, write_documents
from autocaft.data.encode import Encoded, batches, encode
from autocaft.data.rows import TaskRow
from autocaft.discover.options import CollectOptions
from autocaft.discover.pair import ModelPair, device_of
from autocaft.discover.paired import paired_batches, read_positions, record_batch
from autocaft.discover.pca import CovarianceFitter
from autocaft.discover.shards import ShardWriter, is_finished, shard_rows
from autocaft.discover.texts import completion_requests, continuation_requests, write_texts
from autocaft.errors import DataError
from autocaft.model.blocks import d_model
from autocaft.rundir.files import read_json, replacing, write_json
from autocaft.rundir.progress import Progress


def collect(
    *,
    models: ModelPair,
    tokenizer: Any,
    rows: Sequence[TaskRow],
    generic: Sequence[Document],
    layers: Sequence[int],
    options: CollectOptions,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Run the stage; what a killed run finished is used again.

    Returns:
        Counts of documents and tokens, also in `summary.json`.
    """
    generic = generic[: options.n_generic]
    if not generic:
        raise DataError("collect needs generic documents, and the corpus gave none")
    documents = _mining_documents(models, tokenizer, rows, generic, options, out, progress)
    if options.diff_text == "completions":
        _write_completions(models, tokenizer, generic, options, out, progress)
    compared = read_compared(tokenizer, rows, options, out)
    stats = _collect_base(models, tokenizer, rows, documents, layers, options, out, progress)
    _collect_differences(models, tokenizer, compared, layers, options, out, progress)
    kinds = [document.kind for document in documents]
    summary = {
        "n_documents": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "n_tokens": stats["n_tokens"],
        "n_compared_rows": len(compared),
        "n_compared_tokens": load_stats(out).differences[layers[0]].n,
        "layers": list(layers),
    }
    write_json(out / "summary.json", summary)
    return summary


def _mining_documents(
    models: ModelPair,
    tokenizer: Any,
    rows: Sequence[TaskRow],
    generic: Sequence[Document],
    options: CollectOptions,
    out: Path,
    progress: Progress,
) -> list[Document]:
    """Generic text, task-seeded text, and the training rows themselves."""
    path = out / "documents.jsonl.gz"
    if path.is_file():
        return read_documents(path)
    seeded: list[Document] = []
    if options.n_continuations:
        with models.base() as base:
            seeded = write_texts(
                base,
                tokenizer,
                continuation_requests(tokenizer, rows, options),
                label="task-seeded text",
                max_new_tokens=options.continuation_tokens,
                options=options,
                folder=out / "texts" / "seeded",
                progress=progress,
            )
    train = [Document(row.id, "train", row.prompt_text, row.answer) for row in rows]
    documents = [*generic, *seeded, *train]
    write_documents(path, documents)
    return documents


def _write_completions(
    models: ModelPair,
    tokenizer: Any,
    generic: Sequence[Document],
    options: CollectOptions,
    out: Path,
    progress: Progress,
) -> None:
    """The tuned model's completions of generic prompts, in `compared.jsonl.gz`."""
    if (out / "compared.jsonl.gz").is_file():
        return
    with models.tuned() as tuned:
        documents = write_texts(
            tuned,
            tokenizer,
            completion_requests(tokenizer, generic, options),
            label="completions of the tuned model",
            max_new_tokens=options.completion_tokens,
            options=options,
            folder=out / "texts" / "completions",
            progress=progress,
        )
    write_documents(out / "compared.jsonl.gz", documents)


def read_compared(tokenizer: Any, rows: Sequence[TaskRow], options: CollectOptions, folder: Path) -> list[Encoded]:
    """The texts on which tuned and base are compared, as token ids, from a collect folder."""
    if options.diff_text == "train":
        return encode_rows(tokenizer, rows, options.max_tokens)
    chat = tokenizer.chat_template is not None
    max_tokens = options.max_tokens + options.completion_tokens
    documents = read_documents(folder / "compared.jsonl.gz")
    return [encode(tokenizer, d.prompt, d.text, chat=chat, max_tokens=max_tokens) for d in documents]


def encode_rows(tokenizer: Any, rows: Sequence[TaskRow], max_tokens: int | None = None) -> list[Encoded]:
    """Training rows as the model was trained on them: chats through the template, plain prompts as they are."""
    return [encode(tokenizer, row.prompt, row.answer, chat=False, max_tokens=max_tokens) for row in rows]


def _encode_documents(
    tokenizer: Any, documents: Sequence[Document], rows: Sequence[TaskRow], options: CollectOptions
) -> list[Encoded]:
    row_by_id = {row.id: row for row in rows}
    encoded = []
    for document in documents:
        prompt = row_by_id[document.id].prompt if document.kind == "train" else document.prompt
        chat = options.chat and document.kind == "generic"
        encoded.append(encode(tokenizer, prompt, document.text, chat=chat, max_tokens=options.max_tokens))
    return encoded


def _common_opening(encoded: Sequence[Encoded]) -> int:
    """Tokens that open every one of these documents, at least one: in chats, the template's."""
    first, n_common = encoded[0].input_ids, min(len(e.input_ids) for e in encoded)
    for other in encoded[1:]:
        n_common = next((i for i in range(n_common) if other.input_ids[i] != first[i]), n_common)
    return max(1, min(n_common, min(len(e.input_ids) for e in encoded) - 1))


class _BaseSums:
    """Sums by layer over tokens of generic text, of training rows and of all texts: a few vectors in all."""

    def __init__(self, layers: Sequence[int], width: int) -> None:
        self.n = {"generic": 0, "train": 0, "mining": 0}
        self.sums = {(name, i): torch.zeros(width, dtype=torch.float64) for name in self.n for i in layers}
        self.norms = dict.fromkeys(layers, 0.0)

    def add(self, kind: str, acts_by_layer: dict[int, Tensor]) -> None:
        names = ("mining", kind) if kind in self.n else ("mining",)
        for name in names:
            self.n[name] += len(next(iter(acts_by_layer.values())))
        for layer, acts_TD in acts_by_layer.items():
            sum_D = acts_TD.float().sum(dim=0).double().cpu()
            for name in names:
                self.sums[name, layer] += sum_D
            self.norms[layer] += float(acts_TD.float().norm(dim=1).sum()) if kind == "generic" else 0.0

    def means(self) -> dict[str, Tensor]:
        """`L14.generic_mean_D`, `L14.train_mean_D` and `L14.mining_mean_D`."""
        return {f"L{i}.{name}_mean_D": (s / max(1, self.n[name])).float() for (name, i), s in self.sums.items()}


@torch.no_grad()
def _collect_base(
    models: ModelPair,
    tokenizer: Any,
    rows: Sequence[TaskRow],
    documents: Sequence[Document],
    layers: Sequence[int],
    options: CollectOptions,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Base activations on the mining documents, to shards, with the means."""
    if is_finished(out / "acts"):
        stats: dict[str, Any] = read_json(out / "stats.json")
        return stats
    encoded = _encode_documents(tokenizer, documents, rows, options)
    n_opening = _common_opening([e for e, d in zip(encoded, documents, strict=True) if d.kind == "generic"])
    n_opening = n_opening if options.chat else 1
    dtype = getattr(torch, options.store)
    with models.base() as base, progress.task("base activations", len(documents), "documents") as advance:
        width = d_model(base)
        sums = _BaseSums(layers, width)
        rows_per_shard = shard_rows(width, dtype, options.shard_mb)
        writer = ShardWriter(out / "acts", layers, d_model=width, dtype=dtype, rows_per_shard=rows_per_shard)
        for chosen, batch in batches(
            encoded,
            tokens_per_batch=options.tokens_per_batch,
            pad_id=tokenizer.pad_token_id or 0,
            device=device_of(base),
        ):
            acts = {layer: acts_BTD.cpu() for layer, acts_BTD in record_batch(base, layers, batch).items()}
            read_BT = read_positions(batch, "all").cpu()
            ids_BT, positions_BT = batch.input_ids_BT.cpu(), batch.position_ids_BT.cpu()
            for row, number in enumerate(chosen):
                kind = documents[number].kind
                read_T = read_BT[row] & (positions_BT[row] >= (n_opening if kind == "generic" else 1))
                own = {layer: acts[layer][row, read_T] for layer in layers}
                sums.add(kind, own)
                writer.append(number, ids_BT[row, read_T], own)
            advance(len(chosen))
        with replacing(out / "base_means.safetensors") as path:
            save_file(sums.means(), path)
        stats = {
            "n_tokens": sums.n,
            "n_opening": n_opening,
            "mean_norm": {str(i): norm / max(1, sums.n["generic"]) for i, norm in sums.norms.items()},
        }
        write_json(out / "stats.json", stats)
        writer.close()
    return stats


def _collect_differences(
    models: ModelPair,
    tokenizer: Any,
    compared: Sequence[Encoded],
    layers: Sequence[int],
    options: CollectOptions,
    out: Path,
    progress: Progress,
) -> None:
    """Exact mean and scatter of tuned minus base at the compared tokens."""
    if (out / "stats.safetensors").is_file():
        return
    fitters: dict[int, CovarianceFitter] = {}
    with progress.task("tuned minus base", len(compared), "rows") as advance:
        for n_rows, paired in paired_batches(
            models,
            compared,
            layers,
            positions=options.positions,
            tokens_per_batch=options.tokens_per_batch,
            pad_id=tokenizer.pad_token_id or 0,
            scratch=out / "compared",
        ):
            for layer, (base_ND, tuned_ND) in paired.items():
                if layer not in fitters:
                    fitters[layer] = CovarianceFitter(base_ND.shape[1], base_ND.device)
                fitters[layer].update(tuned_ND.float() - base_ND.float())
            advance(n_rows)
    if any(fitter.n < 2 for fitter in fitters.values()):
        raise DataError(f"collect: no tokens to compare at positions = {options.positions!r}; the texts are too short")
    tensors = load_file(out / "base_means.safetensors")
    for layer, fitter in fitters.items():
        tensors.update(fitter.state(f"L{layer}.difference"))
    with replacing(out / "stats.safetensors") as path:
        save_file(tensors, path)


@dataclass(frozen=True)
class CollectStats:
    """What `stats.safetensors` and `stats.json` hold, by layer."""

    generic_mean: dict[int, Tensor]
    """Base mean (D,) on generic text."""
    train_mean: dict[int, Tensor]
    """Base mean (D,) on the training rows, answers included."""
    mining_mean: dict[int, Tensor]
    """Base mean (D,) over all mining tokens."""
    mean_norm: dict[int, float]
    """Mean norm of the base's activations on generic text."""
    differences: dict[int, CovarianceFitter]


def load_stats(folder: Path) -> CollectStats:
    """Read a collect folder's statistics."""
    tensors, stats = load_file(folder / "stats.safetensors"), read_json(folder / "stats.json")
    layers = sorted(int(layer) for layer in stats["mean_norm"])
    return CollectStats(
        {i: tensors[f"L{i}.generic_mean_D"] for i in layers},
        {i: tensors[f"L{i}.train_mean_D"] for i in layers},
        {i: tensors[f"L{i}.mining_mean_D"] for i in layers},
        {i: float(stats["mean_norm"][str(i)]) for i in layers},
        {i: CovarianceFitter.restore(tensors, f"L{i}.difference") for i in layers},
    )


def plan_bytes(*, n_rows: int, n_layers: int, width: int, options: CollectOptions) -> dict[str, int]:
    """Largest number of bytes that collect writes: `acts` always, `compared` only where two full models do not fit.

    Bounds, not estimates: every document is taken to be `max_tokens` long.
    """
    n_documents = options.n_generic + n_rows * (1 + options.n_continuations)
    per_token = n_layers * width
    item = 2 if options.store == "bfloat16" else 4
    if options.diff_text == "train":
        n_compared = n_rows * options.max_tokens
    else:
        n_compared = options.n_completions * (options.max_tokens + options.completion_tokens)
    return {
        "acts": n_documents * options.max_tokens * per_token * item,
        "compared": n_compared * per_token * 4,
    }
