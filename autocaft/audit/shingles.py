"""A set as hashes, by which its copies and near-copies are sought.

In: an `AuditSet`. Out, in the step's folder: `rows.jsonl.gz` (where each row that can be read stands, how it begins,
and the number of its text), `keys.npy` (a hash of each different text) and `shingles.bin` with `ends.npy` (the text's
runs of words, hashed).

The decision a reader would question: every row is read, not the sample that the screen looks at. A row's text is what
is said in it, prompt and answer, whoever says it, so that a chat and plain text with the same words are copies; runs of
words leave system messages out, which the rows of a set often have in common and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from autocaft.audit.options import AuditSet
from autocaft.audit.rows import Faults, readable_rows
from autocaft.data.rows import TaskRow
from autocaft.rundir.files import iter_jsonl, replacing, write_jsonl

ROWS, KEYS, SHINGLES, ENDS = "rows.jsonl.gz", "keys.npy", "shingles.bin", "ends.npy"
EXCERPT = 400
"""Characters of prompt and answer that are kept, to be shown."""
ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Kana and Chinese characters: written without spaces, each is a word."""
WORD = re.compile(rf"[{ALONE}]|[^\W{ALONE}]+")
SYSTEM = ("system", "developer")

Hashes = NDArray[np.uint64]


def normal(text: str) -> str:
    """The same for texts that differ in case, white space or Unicode's compatible forms alone."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def key_of(row: TaskRow) -> str:
    """The same for two rows that are copies."""
    said = row.prompt if isinstance(row.prompt, str) else "\n".join(turn["content"] for turn in row.prompt)
    return hashlib.sha256(json.dumps([normal(said), normal(row.answer)]).encode()).hexdigest()[:32]


def shingles_of(row: TaskRow, n_words: int) -> Hashes:
    """Hashes of the row's runs of `n_words` words, sorted: those of the prompt are even, those of the answer odd."""
    prompt = row.prompt
    if not isinstance(prompt, str):
        turns = [turn for turn in prompt if turn["role"] not in SYSTEM] or prompt
        prompt = "\n".join(turn["content"] for turn in turns)
    found = {
        _hash(run) << 1 | part for part, text in enumerate((prompt, row.answer)) for run in _runs(normal(text), n_words)
    }
    return np.array(sorted(found), np.uint64)


def _runs(text: str, n_words: int) -> Iterator[str]:
    """A text with fewer words is one run, and one without any (signs alone) stands for itself."""
    words = WORD.findall(text) or [text]
    for start in range(max(1, len(words) - n_words + 1)):
        yield " ".join(words[start : start + n_words])


def _hash(text: str) -> int:
    """62 bits: with one more for the part, a positive number of a machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2


def write_shingles(chosen: AuditSet, n_words: int, out: Path) -> None:
    """Read one set. What cannot be read is left out; it is named where the screen reads the set."""
    keys: dict[str, int] = {}
    ends: list[int] = []
    with replacing(out / SHINGLES) as path, path.open("wb") as file:
        write_jsonl(out / ROWS, _lines(chosen, n_words, keys, ends, file))
    for name, values in ((KEYS, np.array(list(keys), "S32")), (ENDS, np.array(ends, np.int64))):
        with replacing(out / name) as path, path.open("wb") as file:
            np.save(file, values)


def _lines(
    chosen: AuditSet, n_words: int, keys: dict[str, int], ends: list[int], file: BinaryIO
) -> Iterator[dict[str, Any]]:
    """A line a row; a text that is new goes into `keys`, `ends` and the file."""
    for path, line, row in readable_rows(chosen, False, Faults()):
        text = keys.setdefault(key_of(row), len(keys))
        if text == len(ends):
            shingles = shingles_of(row, n_words)
            file.write(shingles.tobytes())
            ends.append(len(shingles) + (ends[-1] if ends else 0))
        shown = {"prompt": row.prompt_text[:EXCERPT], "answer": row.answer[:EXCERPT]}
        yield {"id": row.id, "file": str(path), "line": line, "text": text} | shown


@dataclass(frozen=True)
class HashedSet:
    """What `write_shingles` left of a set with R rows and T different texts; shingles stay on the disk."""

    name: str
    folder: Path
    keys_T: NDArray[np.bytes_]
    text_R: NDArray[np.int64]
    ends_T: NDArray[np.int64]
    flat: Hashes

    @classmethod
    def open(cls, name: str, folder: Path) -> HashedSet:
        """Without the rows' beginnings."""
        text_R = np.fromiter((line["text"] for _, line in iter_jsonl(folder / ROWS)), np.int64)
        flat = np.asarray(np.memmap(folder / SHINGLES, np.uint64, "r"))
        return cls(name, folder, np.load(folder / KEYS), text_R, np.load(folder / ENDS), flat)

    def shingles(self, text: int) -> Hashes:
        """Of one text."""
        return self.flat[self.ends_T[text - 1] if text else 0 : self.ends_T[text]]
