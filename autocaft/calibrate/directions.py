"""Directions of known meaning in a real model, and the windows in which they are strong.

In: a model, the concepts of one split. Out: directions with what was planted in them, and mined examples, kept in a
folder. Five kinds of direction:

`concept`   mean activation at the concept's words minus that at others' (`_differences`), at each of three layers
`contrast`  one concept minus another: two poles, each with a meaning
`mixture`   one concept plus another: no right answer, reported beside
`shuffled`  as `concept`, of words that were dealt out at random: the same activations, no meaning
`random`    drawn from a normal distribution

The decision a reader would question: a concept's bottom pole is not shown. What lies at the other end of a mean
difference is the mean of everything else, and nobody knows the right answer about it; contrasts test two poles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from autocaft.calibrate.planted import Planted, build_sentences, mining_documents
from autocaft.data.corpus import Document, load_corpus
from autocaft.data.encode import Batch, Encoded, batches, encode
from autocaft.discover.mine import Groups, Miner, Probe
from autocaft.discover.options import MineOptions
from autocaft.discover.paired import read_positions, record_batch
from autocaft.discover.shards import ShardReader, ShardWriter, is_finished, shard_rows
from autocaft.model.blocks import d_model, decoder_blocks
from autocaft.records import Direction, Example
from autocaft.rundir.files import read_json, read_records, replacing, write_json, write_records
from autocaft.rundir.progress import Progress

Kind = Literal["concept", "contrast", "mixture", "shuffled", "random"]
ONE_POLED = ("concept", "mixture")
DEPTHS = (0.33, 0.5, 0.67)
"""Where the three layers lie, as shares of the model's depth."""
N_CONTROLS = 4
"""Random and shuffled directions of each layer."""
N_GENERIC, GENERIC_TOKENS = 200, 64
CORPUS = "builtin:generic/completions.jsonl.gz"
TOKENS_PER_BATCH, TOKENS_PER_CHUNK = 2048, 4096
MINE = MineOptions(n_describe=10, n_verify=16)
EXTENT = 0.999
"""Quantile of projections that counts as a direction's extent; the largest may be an attention sink's."""
SETTINGS = [EXTENT, DEPTHS, N_CONTROLS, N_GENERIC, GENERIC_TOKENS, MINE.model_dump()]
"""What the windows depend on besides model and concepts."""


@dataclass(frozen=True, slots=True)
class PlantedDirection:
    """One direction and what was put into it."""

    direction: Direction
    kind: Kind
    concepts: tuple[str, ...]
    """Names of the planted concepts: none, one, or two."""


def planted_examples(
    model: Any, tokenizer: Any, concepts: Sequence[Planted], *, second_half: bool, folder: Path, progress: Progress
) -> tuple[list[PlantedDirection], list[Example]]:
    """Directions and mined windows of one split; what is in `folder` is not made again.

    Args:
        second_half: take the other half of the generic texts, so that the splits share none.
    """
    if (folder / "examples.jsonl").is_file():
        rows = read_json(folder / "directions.json")
        planted = [
            PlantedDirection(Direction.from_row(row["direction"]), row["kind"], tuple(row["concepts"])) for row in rows
        ]
        return planted, read_records(folder / "examples.jsonl", Example)
    layers = [round(depth * len(decoder_blocks(model))) for depth in DEPTHS]
    documents = _documents(concepts, second_half=second_half)
    acts_by_layer = _word_activations(model, tokenizer, concepts, layers, folder / "words.safetensors", progress)
    _write_activations(model, tokenizer, documents, layers, folder / "acts", progress)
    planted, vectors = _make_directions(concepts, acts_by_layer)
    examples = _mine(tokenizer, planted, torch.stack(vectors), documents, ShardReader(folder / "acts"))
    one_poled = {item.direction.id for item in planted if item.kind in ONE_POLED}
    examples = [e for e in examples if not (e.pole == "bottom" and e.direction_id in one_poled)]
    write_json(folder / "directions.json", [asdict(item) for item in planted])
    write_records(folder / "examples.jsonl", examples)
    return planted, examples


def _documents(concepts: Sequence[Planted], *, second_half: bool) -> list[Document]:
    generic = load_corpus(CORPUS, n_documents=2 * N_GENERIC)
    generic = generic[N_GENERIC:] if second_half else generic[:N_GENERIC]
    return [*generic, *mining_documents(concepts)]


@torch.no_grad()
def _word_activations(
    model: Any, tokenizer: Any, concepts: Sequence[Planted], layers: Sequence[int], path: Path, progress: Progress
) -> dict[int, list[Tensor]]:
    """By layer, for each concept, the activations (N, D) at the last token of its words."""
    sizes = [len(build_sentences(concept)) for concept in concepts]
    if not path.is_file():
        sentences = [sentence for concept in concepts for sentence in build_sentences(concept)]
        encoded = [encode(tokenizer, None, text, chat=False) for text, _ in sentences]
        # the word's last token is the last one of the text up to the word's end
        ends = [len(tokenizer.encode(text[:stop])) - 1 for text, stop in sentences]
        found = {layer: torch.zeros(len(sentences), d_model(model)) for layer in layers}
        with progress.task("words", len(sentences), "sentences") as advance:
            for chosen, batch in _batches(model, tokenizer, encoded):
                acts = record_batch(model, layers, batch)
                for row, number in enumerate(chosen):
                    n_padding = batch.input_ids_BT.shape[1] - len(encoded[number].input_ids)
                    for layer in layers:
                        found[layer][number] = acts[layer][row, n_padding + ends[number]].float().cpu()
                advance(len(chosen))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file({str(layer): acts_ND for layer, acts_ND in found.items()}, temporary)
    return {int(layer): list(acts_ND.split(sizes)) for layer, acts_ND in load_file(path).items()}


@torch.no_grad()
def _write_activations(
    model: Any, tokenizer: Any, documents: Sequence[Document], layers: Sequence[int], folder: Path, progress: Progress
) -> None:
    """Activations of all documents; the first token, an attention sink, is left out."""
    if is_finished(folder):
        return
    width = d_model(model)
    dtype = torch.bfloat16
    writer = ShardWriter(folder, layers, d_model=width, dtype=dtype, rows_per_shard=shard_rows(width, dtype, 64))
    encoded = [encode(tokenizer, None, d.text, chat=False, max_tokens=GENERIC_TOKENS) for d in documents]
    with progress.task("activations", len(documents), "documents") as advance:
        for chosen, batch in _batches(model, tokenizer, encoded):
            acts = record_batch(model, layers, batch)
            read_BT = read_positions(batch, "all")
            for row, number in enumerate(chosen):
                own = {layer: acts[layer][row][read_BT[row]] for layer in layers}
                writer.append(number, batch.input_ids_BT[row][read_BT[row]], own)
            advance(len(chosen))
    writer.close()


def _batches(model: Any, tokenizer: Any, encoded: Sequence[Encoded]) -> Iterator[tuple[list[int], Batch]]:
    pad_id = tokenizer.pad_token_id or 0
    return batches(encoded, tokens_per_batch=TOKENS_PER_BATCH, pad_id=pad_id, device=model.device)


def _make_directions(
    concepts: Sequence[Planted], acts_by_layer: Mapping[int, Sequence[Tensor]]
) -> tuple[list[PlantedDirection], list[Tensor]]:
    """All five kinds with their vectors. Ids do not tell what was planted."""
    planted: list[PlantedDirection] = []
    vectors: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)

    def add(layer: int, kind: Kind, names: Sequence[str], vector_D: Tensor) -> None:
        number = len(planted)
        source: Literal["random", "planted"] = "planted" if names else "random"
        direction = Direction(f"L{layer}.d{number:03d}", layer, source, number, 1.0, "planted")
        planted.append(PlantedDirection(direction, kind, tuple(names)))
        vectors.append(normalize(vector_D, dim=0))

    names, families = [concept.name for concept in concepts], [concept.family for concept in concepts]
    n, middle = len(concepts), sorted(acts_by_layer)[1]
    for layer, acts in sorted(acts_by_layer.items()):
        for name, vector_D in zip(names, _differences(acts, families), strict=True):
            add(layer, "concept", [name], vector_D)
        pool_ND = torch.cat(list(acts))
        dealt = pool_ND[torch.randperm(len(pool_ND), generator=generator)].split([len(a) for a in acts])
        for vector_D in _differences(dealt, families)[:N_CONTROLS]:
            add(layer, "shuffled", [], vector_D)
        for _ in range(N_CONTROLS):
            add(layer, "random", [], torch.randn(pool_ND.shape[1], generator=generator))
    units = [normalize(vector_D, dim=0) for vector_D in _differences(acts_by_layer[middle], families)]
    for first, second in _partners(n, n // 2):
        add(middle, "contrast", [names[first], names[second]], units[first] - units[second])
    for first, second in _partners(n, n // 4):
        add(middle, "mixture", [names[first], names[second]], units[first] + units[second])
    return planted, vectors


def _differences(acts: Sequence[Tensor], families: Sequence[str]) -> list[Tensor]:
    """Mean of each group minus half the mean of its own family's others and half that of all other families.

    Against all others alike, men and women would both be little but "a relative".
    """
    means_CD = torch.stack([acts_ND.mean(0) for acts_ND in acts])
    found = []
    for number, family in enumerate(families):
        siblings = [i for i, other in enumerate(families) if other == family and i != number]
        strangers = [i for i, other in enumerate(families) if other != family]
        rivals = [means_CD[rows].mean(0) for rows in (siblings, strangers) if rows]
        found.append(means_CD[number] - torch.stack(rivals).mean(0))
    return found


def _partners(n: int, distance: int) -> list[tuple[int, int]]:
    """Pairs (i, i + distance) in which each of n numbers stands at most once."""
    pairs: list[tuple[int, int]] = []
    for first in range(n - distance):
        if not any(first in pair for pair in pairs):
            pairs.append((first, first + distance))
    return pairs


@torch.no_grad()
def _mine(
    tokenizer: Any,
    planted: Sequence[PlantedDirection],
    vectors_ND: Tensor,
    documents: Sequence[Document],
    reader: ShardReader,
) -> list[Example]:
    """The windows of every direction, as the stage `mine` finds them."""
    groups = Groups.of(documents)
    examples: list[Example] = []
    for layer in reader.layers:
        at = [i for i, item in enumerate(planted) if item.direction.layer == layer]
        mean_D = torch.cat(list(reader.in_order(layer, TOKENS_PER_CHUNK))).mean(0)
        probe = Probe.of([planted[i].direction for i in at], vectors_ND[at], mean_D)
        values = torch.cat([probe.linear(acts_ND) for acts_ND in reader.in_order(layer, TOKENS_PER_CHUNK)])
        low_C, high_C = values.quantile(torch.tensor([1 - EXTENT, EXTENT]), dim=0)
        miner = Miner(probe, groups, low_C, high_C, MINE)
        for shard in reader.shards(layer):
            for chunk in probe.chunks(shard, groups, TOKENS_PER_CHUNK):
                miner.update(chunk)
        examples += miner.examples(tokenizer)
    order = {item.direction.id: place for place, item in enumerate(planted)}
    return sorted(examples, key=lambda e: order[e.direction_id])
