"""Documents to read directions in: generic text, and text that other stages make.

In: files, or a Hub data set, of generic text. Out: `Document`s, in a fixed order, so that a run can be repeated.

The decision a reader would question: a Hub data set named by its bare id is streamed from its start, and only `hub:`
is downloaded and pinned as rows are. Generic text often is terabytes, of which a run reads a few hundred documents.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autocaft.data.read import iter_rows
from autocaft.data.sets import ENDINGS, HUB, find_set
from autocaft.errors import DataError
from autocaft.resources import BUILTIN
from autocaft.rundir.files import digest, read_jsonl, write_jsonl

Kind = Literal["generic", "seeded", "train", "completion"]


@dataclass(frozen=True)
class Document:
    """One text. With a prompt, the text is the reply to it and only its tokens count as text."""

    id: str
    kind: Kind
    prompt: str | None
    text: str


def load_corpus(spec: str, *, n_documents: int, seed: int = 0, downloads: bool = True) -> list[Document]:
    """Generic documents (`{"text"}` or `{"prompt", "completion"}`) from files or a Hub data set (data/sets.py).

    They are shuffled by `seed` before the first `n_documents` are taken; only a Hub set named by its bare id is
    streamed from its start.

    Args:
        downloads: False takes a Hub set that is not on this disk yet for one without documents.

    Raises:
        DataError: nothing there, or a row without text.
    """
    if not is_streamed(spec):
        found = find_set(spec, downloads=downloads)
        if not found.is_here:
            return []
        documents = _read(found.files)
        random.Random(seed).shuffle(documents)
    else:
        documents = _streamed(spec, n_documents)
    if not documents:
        raise DataError(f"corpus {spec!r}: no documents in it")
    return documents[:n_documents]


def corpus_identity(spec: str, *, downloads: bool = True) -> str:
    """Hash of a corpus's content, or of the bare id of a Hub data set."""
    return digest(spec) if is_streamed(spec) else find_set(spec, downloads=downloads).identity


def is_streamed(spec: str) -> bool:
    """Whether it is a Hub data set's bare id, and no text in files."""
    in_files = spec.startswith((BUILTIN, HUB)) or spec.endswith((*ENDINGS, ".gz"))
    return not in_files and not Path(spec).expanduser().is_dir()


def _read(files: Sequence[Path]) -> list[Document]:
    documents: list[Document] = []
    n_before = 0
    for path in files:
        line = 0
        for line, raw in iter_rows(path, of_text=True):
            documents.append(_document(raw, f"{path}:{line}", n_before + line))
        n_before += line
    return documents


def _document(raw: Any, where: str, number: int) -> Document:
    found = {field: value for field, value in raw.items() if value is not None} if isinstance(raw, dict) else {}
    text = found.get("text", found.get("completion"))
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: a row of a corpus needs 'text', or 'prompt' and 'completion'")
    if not isinstance(found.get("prompt", ""), str):
        raise DataError(f"{where}: 'prompt' must be a text in a corpus, found {found['prompt']!r}")
    return Document(f"generic-{found.get('id', number)}", "generic", found.get("prompt"), text)


def _streamed(spec: str, n_documents: int) -> list[Document]:
    from datasets import load_dataset

    try:
        stream = load_dataset(spec, split="train", streaming=True)
        return [_document(raw, f"{spec}:{n}", n) for n, raw in zip(range(n_documents), stream, strict=False)]
    except (OSError, ValueError) as error:
        raise DataError(
            f"corpus {spec!r}: no file of rows, and the Hub did not give it as a data set "
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
