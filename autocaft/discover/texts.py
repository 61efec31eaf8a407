"""Texts that the models write themselves: task-seeded continuations and completions of generic prompts.

In: training rows, or generic documents with a prompt. Out: `Document`s. Written chunk by chunk, so a killed run goes on
where it was; each document has a seed of its own, made from its id, so it comes out the same.

Task-seeded text is what makes a small dictionary have latents for the concept at all. It needs the training rows
only: the base model continues each, and nobody says what to look for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocaft.data.corpus import Document, Kind, read_documents, write_documents
from autocaft.data.encode import encode
from autocaft.data.rows import TaskRow
from autocaft.discover.options import CollectOptions
from autocaft.errors import DataError
from autocaft.model.generate import new_text, rows_at_once, sample, stop_ids
from autocaft.model.load import weights_in_bf16
from autocaft.rundir.progress import Progress

CHUNK = 128
"""Documents in one file; fixed, because a file is only known by its number."""


@dataclass(frozen=True)
class Request:
    """One document to be written: what the model reads, and what the document then says before the new text."""

    id: str
    kind: Kind
    prompt: str | None
    opening: str
    input_ids: tuple[int, ...]
    seed: int


def continuation_requests(tokenizer: Any, rows: Sequence[TaskRow], options: CollectOptions) -> list[Request]:
    """`n_continuations` of each row's text, ids `ROW#0`, `ROW#1`, ..."""
    requests = []
    for row in rows:
        ids = encode(tokenizer, None, row.seed, chat=False, max_tokens=options.max_tokens).input_ids
        for number in range(options.n_continuations):
            name = f"{row.id}#{number}"
            requests.append(Request(name, "seeded", None, row.seed, tuple(ids), document_seed(name, options.seed)))
    return requests


def completion_requests(tokenizer: Any, generic: Sequence[Document], options: CollectOptions) -> list[Request]:
    """One completion of each generic prompt, ids `completion-ID`.

    Raises:
        DataError: the corpus has no prompts.
    """
    chat = tokenizer.chat_template is not None
    requests = []
    for document in [document for document in generic if document.prompt is not None][: options.n_completions]:
        encoded = encode(tokenizer, document.prompt, "", chat=chat, max_tokens=options.max_tokens)
        name = f"completion-{document.id}"
        ids = tuple(encoded.input_ids[: encoded.n_prompt])
        requests.append(Request(name, "completion", document.prompt, "", ids, document_seed(name, options.seed)))
    if not requests:
        raise DataError(
            'diff_text = "completions" needs generic documents with a prompt, and the corpus has none; '
            'give a corpus of {"prompt", "completion"} rows, or use diff_text = "train"'
        )
    return requests


def document_seed(name: str, seed: int) -> int:
    """Seed of one document: from its id, so that it does not depend on the others or on their order."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "big")


def write_texts(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Request],
    *,
    label: str,
    max_new_tokens: int,
    options: CollectOptions,
    folder: Path,
    progress: Progress,
) -> list[Document]:
    """Sample every request, in chunks; a chunk whose file is in `folder` is read and not made again.

    Returns:
        Documents in the order of the requests.
    """
    order = sorted(range(len(requests)), key=lambda i: (len(requests[i].input_ids), requests[i].id))
    chunks = [[requests[i] for i in order[start : start + CHUNK]] for start in range(0, len(order), CHUNK)]
    by_id: dict[str, Document] = {}
    with progress.task(label, len(requests), "texts") as advance, weights_in_bf16(model):
        for number, chunk in enumerate(chunks):
            path = folder / f"{number:05d}.jsonl"
            if not path.is_file():
                write_documents(path, _sample_chunk(model, tokenizer, chunk, max_new_tokens, options, advance))
            else:
                advance(len(chunk))
            by_id.update((document.id, document) for document in read_documents(path))
    missing = [request.id for request in requests if request.id not in by_id]
    if missing:
        raise DataError(f"{folder}: the texts there are of other rows (no {missing[0]!r}); use --redo collect")
    return [by_id[request.id] for request in requests]


def _sample_chunk(
    model: Any,
    tokenizer: Any,
    chunk: Sequence[Request],
    max_new_tokens: int,
    options: CollectOptions,
    advance: Callable[[int], None],
) -> list[Document]:
    documents = []
    n_rows = rows_at_once(options.rows_per_batch, model.device)
    for start in range(0, len(chunk), n_rows):
        part = chunk[start : start + n_rows]
        new_ids = sample(
            model,
            [request.input_ids for request in part],
            seeds=[request.seed for request in part],
            max_new_tokens=max_new_tokens,
            temperature=options.temperature,
            stop_ids=stop_ids(model, tokenizer),
            pad_id=tokenizer.pad_token_id or 0,
        )
        documents += [_document(tokenizer, request, ids) for request, ids in zip(part, new_ids, strict=True)]
        advance(len(part))
    return documents


def _document(tokenizer: Any, request: Request, new_ids: list[int]) -> Document:
    text = new_text(tokenizer, request.input_ids, new_ids)
    return Document(request.id, request.kind, request.prompt, request.opening + text)
