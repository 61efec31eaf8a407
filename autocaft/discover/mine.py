"""Stage 4, mine: the windows of text by which each direction is read.

In: a collect folder (activations, documents), a decompose folder (candidates, dictionaries) and, for the evidence, the
models. Out, in `out`: `examples.jsonl` (one `Example` a window), `evidence.jsonl` (one `Evidence` a direction) and
`summary.json`. One pass over the stored activations: where a direction fires is counted where its windows are found,
because a latent's activations are dear and kept nowhere.

What the poles are, on a latent's activation or on a PC's projection of (base activation - generic mean):

`top`       documents with the largest projection
`bottom`    documents with the smallest (PCs only)
`middle`    documents whose largest projection is nearest to half of the highest on all mining texts
`random`    a place drawn by hash where the direction is quiet: a latent silent in the window, a PC below half its
            extent
`near`      the strongest of the quiet documents: a latent silent, yet the text points furthest along its decoder row;
            a PC below half its extent

The decision a reader would question: describe and verify windows are split by a hash of the document's group, where
everything that continues one training row is one group, so the check never sees the sentence that named the direction.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autocaft.data.corpus import Document, read_documents
from autocaft.data.rows import TaskRow, chosen_rows
from autocaft.discover.collect import CollectStats, load_stats
from autocaft.discover.cross import CrossCovariance, save_cross
from autocaft.discover.decompose import load_extents, open_dictionary
from autocaft.discover.evidence import FireCount, Fires, Parts, gather_evidence
from autocaft.discover.options import DecomposeOptions, MineOptions
from autocaft.discover.pair import ModelPair
from autocaft.discover.sae import Dictionary, rows_at_once
from autocaft.discover.shards import Shard, ShardReader
from autocaft.discover.windows import Chunk, WindowTable, extreme_by_document, overlap, word_triples
from autocaft.model.directions import DirectionSet
from autocaft.records import Direction, Example, Pole, Purpose
from autocaft.rundir.files import write_json, write_records
from autocaft.rundir.progress import Progress

POLES: tuple[Pole, ...] = ("top", "bottom", "random", "near", "middle")
"""In this order a document is given away: one that is in `top` is not shown again as `random`. Only the two ends do not
exclude each other, so that a direction's arbitrary sign decides nothing but which end is called top."""
PURPOSES: tuple[Purpose, ...] = ("describe", "verify")
SPARE = 4
"""Slots for each window that is asked for: near-duplicates are thrown out at the end."""


def mine(
    *,
    tokenizer: Any,
    rows: Sequence[TaskRow],
    collected: Path,
    decomposed: Path,
    decompose_options: DecomposeOptions,
    options: MineOptions,
    out: Path,
    progress: Progress,
    models: ModelPair | None = None,
    loss_rows: Sequence[TaskRow] = (),
) -> dict[str, Any]:
    """Run the stage.

    Args:
        rows: the training rows, which say where in a text the answer is.
        models: read by the logit lens and the loss without each direction; None leaves both out.
        loss_rows: rows with an intact cue, of which `options.n_loss_rows` are drawn.

    Returns:
        Counts of windows by pole and purpose, also in `summary.json`.
    """
    found, low_N, high_N = DirectionSet.load(decomposed), *load_extents(decomposed)
    texts = MiningTexts.of(tokenizer, collected, rows)
    open_at = functools.partial(open_dictionary, decomposed, decompose_options, width=texts.reader.d_model)
    mined = mine_directions(found, low_N, high_N, texts, open_at, options, progress)
    drawn = chosen_rows(loss_rows, options.n_loss_rows)
    write_mined(found, mined, texts, options, models, drawn, out, progress)
    save_cross(out, mined.cross_ND)
    counts = Counter((example.pole, example.split) for example in mined.examples)
    summary = {
        "n_directions": len(found),
        "n_documents": len(texts.groups.ids),
        "n_windows": {pole: {purpose: counts[pole, purpose] for purpose in PURPOSES} for pole in POLES},
        "loss_rows": [row.id for row in drawn],
    }
    write_json(out / "summary.json", summary)
    return summary


@dataclass(frozen=True)
class MiningTexts:
    """The texts of a collect folder as mining reads them."""

    tokenizer: Any
    reader: ShardReader
    stats: CollectStats
    groups: Groups
    parts: Parts

    @classmethod
    def of(cls, tokenizer: Any, collected: Path, rows: Sequence[TaskRow]) -> MiningTexts:
        """`rows` are the training rows, which say where in a text the answer is."""
        documents = read_documents(collected / "documents.jsonl.gz")
        groups, parts = Groups.of(documents), Parts.of(tokenizer, documents, rows)
        return cls(tokenizer, ShardReader(collected / "acts"), load_stats(collected), groups, parts)


class Mined(NamedTuple):
    """What one pass over the stored activations finds of some directions."""

    examples: list[Example]
    fires: dict[str, Fires]
    cross_ND: Tensor


def write_mined(
    found: DirectionSet,
    mined: Mined,
    texts: MiningTexts,
    options: MineOptions,
    models: ModelPair | None,
    loss_rows: Sequence[TaskRow],
    out: Path,
    progress: Progress,
) -> None:
    """`examples.jsonl` and `evidence.jsonl` of some directions; what the models say of them is asked here."""
    write_records(out / "examples.jsonl", mined.examples)
    evidence = gather_evidence(
        found,
        mined.fires,
        models,
        texts.tokenizer,
        texts.stats.generic_mean,
        loss_rows,
        read=functools.cache(functools.partial(token_text, texts.tokenizer)),
        tokens_per_batch=options.tokens_per_chunk,
        progress=progress,
    )
    write_records(out / "evidence.jsonl", evidence)


@torch.no_grad()
def mine_directions(
    found: DirectionSet,
    low_N: Tensor,
    high_N: Tensor,
    texts: MiningTexts,
    open_at: Callable[[int], Dictionary],
    options: MineOptions,
    progress: Progress,
) -> Mined:
    """Windows of each direction, where it fires, and what goes along with it.

    Args:
        low_N, high_N: lowest and highest projection of each on these texts; a latent's lowest is 0.
        open_at: the dictionary of a layer, asked for where `found` has latents.
    """
    reader = texts.reader
    examples: list[Example] = []
    fires: dict[str, Fires] = {}
    cross_ND = torch.zeros_like(found.vectors_ND)
    with progress.task("windows", reader.n_rows * len(reader.layers), "tokens") as advance:
        for layer in reader.layers:
            at = [i for i, direction in enumerate(found.directions) if direction.layer == layer]
            if not at:
                continue
            probe = Probe.of([found.directions[i] for i in at], found.vectors_ND[at], texts.stats.generic_mean[layer])
            if probe.n_latents:
                probe = probe.with_dictionary(open_at(layer))
            miner = Miner(probe, texts.groups, low_N[at], high_N[at], options)
            count = FireCount(texts.parts, probe.is_latent_C, low_N[at], high_N[at])
            cross = CrossCovariance(len(at), reader.d_model)
            for shard in reader.shards(layer):
                for chunk in probe.chunks(shard, texts.groups, options.tokens_per_chunk):
                    miner.update(chunk)
                    count.update(chunk)
                    cross.update(chunk.acts_ND, chunk.projections_NC)
                    advance(len(chunk.tokens_N))
            examples += miner.examples(texts.tokenizer)
            fires.update(zip((direction.id for direction in probe.directions), count.fires(), strict=True))
            cross_ND[at] = cross.vectors_CD()
    return Mined(examples, fires, cross_ND)


@dataclass(frozen=True)
class Groups:
    """Which documents belong together, what each is for, and a number that stands for chance."""

    ids: tuple[str, ...]
    group_M: Tensor
    verify_M: Tensor
    """True: its windows check names, False: they are for naming."""
    chance_M: Tensor

    @classmethod
    def of(cls, documents: Sequence[Document]) -> Groups:
        """From the documents' ids: `ROW#3` continues `ROW`."""
        keys = [document.id.partition("#")[0] for document in documents]
        number_by_key = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return cls(
            tuple(document.id for document in documents),
            torch.tensor([number_by_key[key] for key in keys]),
            torch.tensor([_hash("purpose", key) % 2 == 1 for key in keys]),
            torch.tensor([_hash("chance", document.id) for document in documents]),
        )


def _hash(salt: str, text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{salt}:{text}".encode()).digest()[:4], "big")


@dataclass(frozen=True)
class Probe:
    """Projects activations on the directions of one layer."""

    directions: tuple[Direction, ...]
    vectors_CD: Tensor
    mean_D: Tensor
    is_latent_C: Tensor
    index_C: Tensor
    dictionary: Dictionary | None = None

    @classmethod
    def of(cls, directions: Sequence[Direction], vectors_CD: Tensor, mean_D: Tensor) -> Probe:
        """Without a dictionary, which latents need."""
        is_latent_C = torch.tensor([direction.source == "sae" for direction in directions])
        index_C = torch.tensor([direction.index for direction in directions])
        return cls(tuple(directions), vectors_CD, mean_D, is_latent_C, index_C)

    @property
    def n_latents(self) -> int:
        """Directions that are latents of a dictionary."""
        return int(self.is_latent_C.sum())

    def with_dictionary(self, dictionary: Dictionary) -> Probe:
        """The probe that can also read latents."""
        return Probe(self.directions, self.vectors_CD, self.mean_D, self.is_latent_C, self.index_C, dictionary)

    def linear(self, acts_ND: Tensor) -> Tensor:
        """Projections (N, C) of the centred activations on all directions, latents' decoder rows included."""
        return (acts_ND - self.mean_D) @ self.vectors_CD.T

    def project(self, acts_ND: Tensor, linear_NC: Tensor) -> Tensor:
        """What counts (N, C): a latent's activation, any other direction's projection."""
        if self.dictionary is None:
            return linear_NC
        projections_NC = linear_NC.clone()
        index_L = self.index_C[self.is_latent_C]
        n_rows = rows_at_once(self.dictionary.d_sae)
        parts = [self.dictionary.encode(part)[:, index_L] for part in acts_ND.split(n_rows)]
        projections_NC[:, self.is_latent_C] = torch.cat(parts).cpu()
        return projections_NC

    def chunks(self, shard: Shard, groups: Groups, n_rows: int) -> Iterator[ProbedChunk]:
        """The shard's documents, some at a time, with their projections."""
        for first, last in shard.chunks(n_rows):
            start, stop = int(shard.starts_M1[first]), int(shard.starts_M1[last])
            acts_ND = shard.rows(start, stop)
            if not len(acts_ND):
                continue
            linear_NC = self.linear(acts_ND)
            bounds, docs_M = shard.starts_M1[first : last + 1] - start, shard.docs_M[first:last]
            full_M = bounds[1:] > bounds[:-1]
            yield ProbedChunk(
                shard.tokens_N[start:stop],
                self.project(acts_ND, linear_NC),
                bounds[:-1][full_M],
                bounds[1:][full_M],
                docs_M[full_M],
                groups.group_M[docs_M[full_M]],
                acts_ND,
                linear_NC,
            )


@dataclass(frozen=True)
class ProbedChunk(Chunk):
    """A chunk that also knows each token's activations and linear projections, latents' decoder rows included."""

    acts_ND: Tensor
    linear_NC: Tensor


class Shown(NamedTuple):
    """A window that was already given away."""

    group: int
    triples: frozenset[tuple[int, ...]]


class Miner:
    """The tables of one layer: for each pole and purpose the best windows of each direction."""

    def __init__(self, probe: Probe, groups: Groups, low_C: Tensor, high_C: Tensor, options: MineOptions) -> None:
        self.probe, self.groups, self.options = probe, groups, options
        self.low_C, self.high_C = low_C, high_C
        n_wanted = {"describe": options.n_describe, "verify": options.n_verify}
        n_directions = len(probe.directions)
        self.tables = {
            (pole, purpose): WindowTable(n_directions, SPARE * n_wanted[purpose], options.window)
            for pole in POLES
            for purpose in PURPOSES
        }
        self.n_wanted = n_wanted

    def update(self, chunk: ProbedChunk) -> None:
        """Offer the chunk's documents to every table."""
        verify_M1 = self.groups.verify_M[chunk.docs_M][:, None]
        for pole, (score_MC, row_MC) in self._offers(chunk).items():
            for purpose in PURPOSES:
                wanted_M1 = verify_M1 if purpose == "verify" else ~verify_M1
                offered_MC = torch.where(wanted_M1, score_MC, -torch.inf)
                self.tables[pole, purpose].update(offered_MC, row_MC, chunk)

    def _offers(self, chunk: ProbedChunk) -> dict[Pole, tuple[Tensor, Tensor]]:
        """Score (M, C) and centre of each document's window, by pole. -inf: not eligible."""
        latent_C = self.probe.is_latent_C
        most_MC, most_at = extreme_by_document(chunk.projections_NC, chunk)
        least_MC, least_at = extreme_by_document(chunk.projections_NC, chunk, largest=False)
        linear_MC, linear_at = extreme_by_document(chunk.linear_NC, chunk)
        quiet_MC = torch.where(latent_C, most_MC <= 0, (most_MC <= self.high_C / 2) & (least_MC >= self.low_C / 2))
        half_C = self.high_C / 2
        in_middle_MC = (most_MC >= half_C / 2) & (most_MC <= half_C * 1.5)
        random_MC, random_at = self._random(chunk)
        off = -torch.inf
        return {
            "top": (torch.where(most_MC > 0, most_MC, off), most_at),
            "bottom": (torch.where(~latent_C & (least_MC < 0), -least_MC, off), least_at),
            "near": (torch.where(quiet_MC, linear_MC, off), linear_at),
            "middle": (torch.where(in_middle_MC, -(most_MC - half_C).abs(), off), most_at),
            "random": (random_MC, random_at),
        }

    def _random(self, chunk: ProbedChunk) -> tuple[Tensor, Tensor]:
        """Priority by hash, another one for each direction; eligible where the direction is quiet in the window."""
        chance_M = self.groups.chance_M[chunk.docs_M]
        row_M = chunk.starts_M + chance_M % (chunk.stops_M - chunk.starts_M)
        owner_N, side = chunk.owner_N, self.options.window
        in_window_N = (torch.arange(len(owner_N)) - row_M[owner_N]).abs() <= side
        values_NC = chunk.projections_NC
        most_MC, _ = extreme_by_document(torch.where(in_window_N[:, None], values_NC, -torch.inf), chunk)
        least_MC, _ = extreme_by_document(torch.where(in_window_N[:, None], values_NC, torch.inf), chunk, largest=False)
        loud_MC = (most_MC > self.high_C / 2) | (least_MC < self.low_C / 2)
        quiet_MC = torch.where(self.probe.is_latent_C, most_MC <= 0, ~loud_MC)
        salt_C = torch.tensor([_hash("direction", direction.id) for direction in self.probe.directions])
        # A multiplicative hash of document and direction, so that directions do not all get the same documents.
        priority_MC = ((chance_M[:, None] ^ salt_C) * 2654435761 % 2**32).float() / 2**32
        return torch.where(quiet_MC, priority_MC, -torch.inf), row_M[:, None].expand_as(priority_MC)

    def examples(self, tokenizer: Any) -> list[Example]:
        """The windows to keep, with tokens as text."""
        read = functools.cache(functools.partial(token_text, tokenizer))
        examples: list[Example] = []
        for number in range(len(self.probe.directions)):
            taken_by_pole: dict[Pole, list[Shown]] = {}
            for pole in POLES:
                others = (
                    [] if pole in ("top", "bottom") else [shown for taken in taken_by_pole.values() for shown in taken]
                )
                taken_by_pole[pole] = []
                for purpose in PURPOSES:
                    table, n_wanted = self.tables[pole, purpose], self.n_wanted[purpose]
                    slots = self._chosen(table, number, n_wanted, others, taken_by_pole[pole])
                    examples += [self._example(number, slot, pole, purpose, read) for slot in slots]
        return examples

    def _chosen(
        self, table: WindowTable, number: int, n_wanted: int, others: Sequence[Shown], taken: list[Shown]
    ) -> list[int]:
        """Slots to keep: best first, from documents not yet shown, none nearly the same as one already shown.

        What is kept is added to `taken`.
        """
        chosen: list[int] = []
        scores, groups = table.score_CR[number].tolist(), table.group_CR[number].tolist()
        windows = table.tokens_CRW[number].tolist()
        for slot, score in enumerate(scores):
            if score == -torch.inf or len(chosen) == n_wanted:
                break
            triples = word_triples(tuple(token for token in windows[slot] if token >= 0))
            before = [*others, *taken]
            if any(groups[slot] == shown.group for shown in before):
                continue
            if any(overlap(triples, shown.triples) > self.options.max_overlap for shown in before):
                continue
            taken.append(Shown(groups[slot], triples))
            chosen.append(slot)
        return chosen

    def _example(self, number: int, slot: int, pole: Pole, purpose: Purpose, read: Callable[[int], str]) -> Example:
        table, direction_id = self.tables[pole, purpose], self.probe.directions[number].id
        ids, projections = table.tokens_CRW[number, slot].tolist(), table.projections_CRW[number, slot].tolist()
        kept = [(token, value) for token, value in zip(ids, projections, strict=True) if token >= 0]
        doc_id = self.groups.ids[int(table.doc_CR[number, slot])]
        tokens = tuple(read(token) for token, _ in kept)
        return Example(direction_id, pole, purpose, doc_id, tokens, tuple(round(value, 4) for _, value in kept))


def token_text(tokenizer: Any, token: int) -> str:
    """One token as it stands in a text, its leading space kept.

    Decoded behind another token: alone, some tokenizers drop the space that opens a text.
    """
    anchor = tokenizer.encode("a", add_special_tokens=False)
    before = tokenizer.decode(anchor)
    return str(tokenizer.decode([*anchor, token])[len(before) :])
