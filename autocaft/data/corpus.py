"""Documents to read directions in: generic text, and text that other stages make.

In: a file or a Hub id of generic text. Out: `Document`s, in a fixed order, so that a run can be repeated.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autocaft.errors import DataError
from autocaft.resources import BUILTIN, data_path
from autocaft.rundir.files import digest, iter_jsonl, read_jsonl, sha256_of, write_jsonl

Kind = Literal["generic", "seeded", "train", "completion"]


@dataclass(frozen=True)
class Document:
    """One text. With a prompt, the text is the reply to it and only its tokens count as text."""

    id: str
    kind: Kind
    prompt: str | None
    text: str


def load_corpus(spec: str, *, n_documents: int, seed: int = 0) -> list[Document]:
    """Generic documents from a JSONL file (`{"text"}` or `{"prompt", "completion"}`, .gz too) or a Hub data set.

    Files are shuffled by `seed` before the first `n_documents` are taken; a Hub set is streamed from its start.

    Raises:
        DataError: nothing there, or a row without text.
    """
    if _is_file(spec):
        path = data_path(spec)
        documents = [_document(raw, f"{path}:{line}") for line, raw in iter_jsonl(path)]
        random.Random(seed).shuffle(documents)
    else:
        documents = _from_hub(spec, n_documents)
    if not documents:
        raise DataError(f"corpus {spec!r}: no documents in it")
    return documents[:n_documents]


def corpus_identity(spec: str) -> str:
    """The sha256 of a corpus file's content, or of a Hub data set's name."""
    return sha256_of(data_path(spec)) if _is_file(spec) else digest(spec)


def _is_file(spec: str) -> bool:
    return spec.startswith(BUILTIN) or Path(spec).suffix in (".jsonl", ".gz", ".json")


def _document(raw: Any, where: str) -> Document:
    text = raw.get("text", raw.get("completion")) if isinstance(raw, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: a row of a corpus needs 'text', or 'prompt' and 'completion'")
    number = where.rsplit(":", 1)[-1]
    return Document(f"generic-{raw.get('id', number)}", "generic", raw.get("prompt"), text)


def _from_hub(spec: str, n_documents: int) -> list[Document]:
    from datasets import load_dataset

    try:
        stream = load_dataset(spec, split="train", streaming=True)
        return [_document(raw, f"{spec}:{number}") for number, raw in zip(range(n_documents), stream, strict=False)]
    except (OSError, ValueError) as error:
        raise DataError(
            f"corpus {spec!r}: not a .jsonl file, and the Hub did not give it as a data set "
            f"({type(error).__name__}: {str(error)[:200]})"
        ) from error


def write_documents(path: Path, documents: Iterable[Document]) -> None:
    """One JSON line a document."""
    write_jsonl(path, ({"id": d.id, "kind": d.kind, "prompt": d.prompt, "text": d.text} for d in documents))


def read_documents(path: Path) -> list[Document]:
    """Read what `write_documents` wrote."""
    try:
        return [Document(**raw) for raw in read_jsonl(path)]
    except TypeError as error:
        raise DataError(f"{path}: a document has other fields ({error}); another version wrote it") from error
