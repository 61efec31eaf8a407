"""The model's own answers to a set's prompts, and both kinds of answer as tokens.

In: rows. Out: one `Document` a row, written chunk by chunk (a killed audit goes on from them). The decision a reader
would question: the given answer is compared with ONE sampled answer to the same prompt. What the prompt is about is
then on both sides of the comparison, and one draw a row is enough because rows are what is averaged over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from autocaft.audit.options import ScreenOptions
from autocaft.audit.rows import AuditRow, load_rows
from autocaft.data.corpus import read_documents, write_documents
from autocaft.data.encode import Encoded, batches, encode, encode_prompt
from autocaft.discover.options import CollectOptions
from autocaft.discover.pair import device_of
from autocaft.discover.paired import read_positions, record_batch
from autocaft.discover.texts import Request, document_seed, write_texts
from autocaft.rundir.progress import Progress
from autocaft.rundir.steps import StepContext

OWN = "own.jsonl.gz"
Side = Literal["given", "own"]
SIDES: tuple[Side, Side] = ("given", "own")


def write_own_answers(
    model: Any,
    tokenizer: Any,
    rows: Sequence[AuditRow],
    options: ScreenOptions,
    *,
    seed: int,
    label: str,
    out: Path,
    progress: Progress,
) -> None:
    """Sample one answer a row into `own.jsonl.gz`, none longer than the longest given answer: what goes beyond would be
    compared with nothing."""
    longest = max(len(tokenizer.encode(row.answer, add_special_tokens=False)) for row in rows)
    requests = []
    for row in rows:
        ids = tuple(encode_prompt(tokenizer, row.prompt, chat=False).input_ids)
        drawn = document_seed(f"{row.number}:{row.prompt_text}", seed)
        requests.append(Request(f"row{row.number}#own", "completion", None, "", ids, drawn))
    documents = write_texts(
        model,
        tokenizer,
        requests,
        label=label,
        max_new_tokens=max(1, min(options.answer_tokens, longest)),
        options=CollectOptions(temperature=options.temperature, rows_per_batch=options.rows_per_batch),
        folder=out / "texts",
        progress=progress,
    )
    write_documents(out / OWN, documents)


@dataclass(frozen=True)
class Answers:
    """Both answers to each of a set's rows."""

    rows: Sequence[AuditRow]
    own_dir: Path
    """Where `write_own_answers` left the model's."""

    def texts(self, side: Side) -> list[str]:
        """The given answers, or the model's own, one a row."""
        if side == "given":
            return [row.answer for row in self.rows]
        return [document.text for document in read_documents(self.own_dir / OWN)]

    def encoded(self, tokenizer: Any, side: Side, options: ScreenOptions) -> list[Encoded]:
        """Prompt and answer as tokens, the answer cut at `answer_tokens` and without the token that ends it: an own
        answer that was cut has none."""
        encoded = []
        for row, answer in zip(self.rows, self.texts(side), strict=True):
            whole = encode(tokenizer, row.prompt, answer, chat=False)
            ids = whole.input_ids
            if len(ids) > whole.n_prompt and ids[-1] == tokenizer.eos_token_id:
                ids = ids[:-1]
            encoded.append(Encoded(ids[: whole.n_prompt + options.answer_tokens], whole.n_prompt))
        return encoded


class Read(NamedTuple):
    """The answers of one batch, token by token."""

    numbers: list[int]
    """Which texts they are."""
    owner_N: Tensor
    """Place in `numbers` of each token's text; tokens of one text stand together, in order."""
    tokens_N: Tensor
    acts_by_layer: dict[int, Tensor]
    """Activations (N, D)."""


@torch.no_grad()
def read_answers(
    model: Any, tokenizer: Any, encoded: Sequence[Encoded], layers: Sequence[int], *, tokens_per_batch: int
) -> Iterator[Read]:
    """Activations at the answers' tokens, batch by batch; nothing is kept from one to the next."""
    how: dict[str, Any] = {"pad_id": tokenizer.pad_token_id or 0, "device": device_of(model)}
    for numbers, batch in batches(encoded, tokens_per_batch=tokens_per_batch, **how):
        acts = record_batch(model, layers, batch)
        read_BT = read_positions(batch, "answer")
        owner_N = read_BT.nonzero()[:, 0].cpu()
        acts_by_layer = {layer: acts[layer][read_BT].float().cpu() for layer in layers}
        yield Read(numbers, owner_N, batch.input_ids_BT[read_BT].int().cpu(), acts_by_layer)


def answers_of(name: str, context: StepContext) -> Answers:
    """A set's rows and own answers, as the steps of an audit left them."""
    return Answers(load_rows(context.dir_of(f"rows/{name}")), context.dir_of(f"own/{name}"))
