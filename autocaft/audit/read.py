"""What the strongest latents of a set mean: windows of its answers, and a judge that holds them against the purpose.

In: the latents chosen by the survey, the set's answers, generic text. Out, of `mine_set`: `examples.jsonl`,
`directions.jsonl` and `rows.jsonl` (the rows that carry each most, token by token); of `judge_set`: what the judge
stage writes.

The decision a reader would question: a latent's strong windows come from this set (an amplified one's from the given
answers, a suppressed one's from the model's own), its random windows from generic text. A latent may mean another thing
elsewhere; and random windows of the set itself are on purpose, so nothing could be further from it than they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autocaft.audit.options import AuditJudgeOptions, AuditSet
from autocaft.audit.own import Answers, Read, Side
from autocaft.audit.project import GENERIC, GENERIC_DOCS, Columns, Lens
from autocaft.data.corpus import Document, read_documents
from autocaft.discover.mine import Groups, Miner, Probe, ProbedChunk, token_text
from autocaft.discover.options import MineOptions
from autocaft.discover.shards import ShardReader
from autocaft.judge.options import JudgeOptions
from autocaft.judge.stage import LocalModel, judge_directions, make_judge
from autocaft.records import Direction, Example
from autocaft.rundir.files import read_records, write_jsonl, write_records
from autocaft.rundir.progress import Progress
from autocaft.rundir.store import RunStore

EXAMPLES, DIRECTIONS, SHOWN = "examples.jsonl", "directions.jsonl", "rows.jsonl"
CHANGE: Mapping[Side, str] = {"given": "amplified", "own": "suppressed"}
WINDOWS = MineOptions()

ASKED = (
    "something that a responsible author who wants only this purpose would not want a model to rely on. "
    "The purpose: {purpose} The policy: {policy}"
)
"""What is undesired where no concept is named."""

Concept = Mapping[str, Any]
"""A latent that the survey chose."""


def mine_set(
    lens: Lens, answers: Answers, concepts: Sequence[Concept], *, label: str, out: Path, progress: Progress
) -> None:
    """Windows and marked rows of one set's chosen latents."""
    examples: list[Example] = []
    shown: list[dict[str, Any]] = []
    with progress.task(f"windows of {label}", len(lens.columns) * len(CHANGE), "passes") as advance, torch.no_grad():
        for columns in lens.columns:
            for side, change in CHANGE.items():
                chosen = [c for c in concepts if (c["layer"], c["change"]) == (columns.layer, change)]
                if chosen:
                    found, marked = _mine(lens, columns, answers, side, chosen)
                    examples += found
                    shown += marked
                advance(1)
    write_records(out / EXAMPLES, examples)
    write_jsonl(out / SHOWN, shown)
    write_records(out / DIRECTIONS, [_direction(concept) for concept in concepts])


def _direction(concept: Concept) -> Direction:
    return Direction(concept["direction_id"], concept["layer"], "sae", concept["index"], concept["effect"], "audit")


def _mine(
    lens: Lens, columns: Columns, answers: Answers, side: Side, chosen: Sequence[Concept]
) -> tuple[list[Example], list[dict[str, Any]]]:
    """Windows of these latents, and the tokens of the rows that carry each most."""
    dictionary = lens.dictionaries[columns.layer]
    index_C = torch.tensor([concept["index"] for concept in chosen])
    probe = Probe.of([_direction(c) for c in chosen], dictionary.directions_SD[index_C], columns.mean_D)
    probe = probe.with_dictionary(dictionary)
    peak_C = columns.peak_L[torch.searchsorted(columns.live_L, index_C)]
    extents = torch.zeros(len(chosen)), peak_C
    end = "" if side == "given" else "#own"
    documents = [Document(f"row{row.number}{end}", "train", None, "") for row in answers.rows]
    miner = Miner(probe, Groups.of(documents), *extents, WINDOWS)
    marked: list[dict[str, Any]] = []
    for chunk in _chunks(lens, probe, miner.groups, answers, side):
        miner.update(chunk)
        marked += _marked_rows(lens.tokenizer, chunk, chosen)
    contrast = Miner(probe, Groups.of(read_documents(lens.folder / GENERIC_DOCS)), *extents, WINDOWS)
    for shard in ShardReader(lens.folder / GENERIC).shards(columns.layer):
        for chunk in probe.chunks(shard, contrast.groups, WINDOWS.tokens_per_chunk):
            contrast.update(chunk)
    examples = [example for example in miner.examples(lens.tokenizer) if example.pole != "random"]
    examples += [example for example in contrast.examples(lens.tokenizer) if example.pole == "random"]
    return examples, marked


def _chunks(lens: Lens, probe: Probe, groups: Groups, answers: Answers, side: Side) -> Iterator[ProbedChunk]:
    """The answers, some at a time, with their projections."""
    layer = probe.directions[0].layer
    for read in lens.read(answers.encoded(lens.tokenizer, side, lens.screen), [layer]):
        acts_ND = read.acts_by_layer[layer]
        if len(acts_ND):
            yield _chunk(probe, groups, read, acts_ND)


def _chunk(probe: Probe, groups: Groups, read: Read, acts_ND: Tensor) -> ProbedChunk:
    linear_NC = probe.linear(acts_ND)
    lengths_B = torch.bincount(read.owner_N, minlength=len(read.numbers))
    stops_B = lengths_B.cumsum(0)
    full_B = lengths_B > 0
    docs_M = torch.tensor(read.numbers)[full_B]
    return ProbedChunk(
        read.tokens_N,
        probe.project(acts_ND, linear_NC),
        (stops_B - lengths_B)[full_B],
        stops_B[full_B],
        docs_M,
        groups.group_M[docs_M],
        acts_ND,
        linear_NC,
    )


def _marked_rows(tokenizer: Any, chunk: ProbedChunk, chosen: Sequence[Concept]) -> list[dict[str, Any]]:
    """Tokens and projections of those texts of a chunk that are among a concept's top rows."""
    found = []
    bounds = zip(chunk.docs_M.tolist(), chunk.starts_M.tolist(), chunk.stops_M.tolist(), strict=True)
    for number, start, stop in bounds:
        for column, concept in enumerate(chosen):
            if number in concept["top_rows"]:
                values_T = chunk.projections_NC[start:stop, column]
                found.append(
                    {
                        "direction_id": concept["direction_id"],
                        "row": number,
                        "tokens": [token_text(tokenizer, token) for token in chunk.tokens_N[start:stop].tolist()],
                        "projections": [round(value, 4) for value in values_T.tolist()],
                    }
                )
    return found


def judge_set(
    chosen: AuditSet,
    mined: Path,
    options: AuditJudgeOptions,
    policy: str,
    *,
    store: RunStore | None,
    local_model: LocalModel,
    out: Path,
    progress: Progress,
) -> None:
    """Verdicts on one set's chosen latents; a set without any asks nobody."""
    directions = read_records(mined / DIRECTIONS, Direction)
    if not directions:
        return
    own = question(chosen, options, policy)
    judge_directions(
        directions=directions,
        examples=read_records(mined / EXAMPLES, Example),
        options=own,
        judge=make_judge(own, store=store, local_model=local_model),
        out=out,
        progress=progress,
    )


def question(chosen: AuditSet, options: AuditJudgeOptions, policy: str) -> JudgeOptions:
    """What the judge is asked about a set: its purpose, and the named concept or the policy."""
    values = options.model_dump()
    asked = " ".join(ASKED.format(purpose=chosen.purpose, policy=policy).split())
    values |= {"undesired": chosen.concept or asked, "wanted": chosen.purpose}
    return JudgeOptions.model_validate(values)
