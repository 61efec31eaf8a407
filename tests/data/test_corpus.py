"""Generic text: read in an order that repeats, and told by file and line when it is bad."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from autocaft.data.corpus import Document, load_corpus, read_documents, write_documents
from autocaft.errors import DataError

MakeJsonl = Callable[..., Path]


def test_texts_and_replies_become_documents(make_jsonl: MakeJsonl) -> None:
    path = make_jsonl("c.jsonl", {"text": "plain"}, {"prompt": "why?", "completion": "because", "id": "x"})
    documents = {d.id: d for d in load_corpus(str(path), n_documents=9)}
    assert documents["generic-1"] == Document("generic-1", "generic", None, "plain")
    assert documents["generic-x"] == Document("generic-x", "generic", "why?", "because")


def test_the_order_repeats_and_follows_the_seed(make_jsonl: MakeJsonl) -> None:
    path = make_jsonl("c.jsonl", *({"text": f"text {n}"} for n in range(40)))
    first = load_corpus(str(path), n_documents=10, seed=3)
    assert first == load_corpus(str(path), n_documents=40, seed=3)[:10]
    assert len(first) == 10 and first != load_corpus(str(path), n_documents=10, seed=4)


def test_a_compressed_corpus_is_the_same(make_jsonl: MakeJsonl, tmp_path: Path) -> None:
    plain = make_jsonl("c.jsonl", *({"text": f"text {n}"} for n in range(5)))
    packed = tmp_path / "c.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert load_corpus(str(packed), n_documents=5) == load_corpus(str(plain), n_documents=5)


@pytest.mark.parametrize("bad", [{}, {"text": ""}, {"text": 3}, {"prompt": "p"}, {"completion": " "}])
def test_a_row_without_text_is_named(make_jsonl: MakeJsonl, bad: object) -> None:
    path = make_jsonl("c.jsonl", {"text": "fine"}, bad)
    with pytest.raises(DataError, match=re.escape(f"{path}:2")):
        load_corpus(str(path), n_documents=9)


def test_an_empty_corpus_is_named(make_jsonl: MakeJsonl) -> None:
    path = make_jsonl("c.jsonl")
    with pytest.raises(DataError, match=r"c\.jsonl.*no documents"):
        load_corpus(str(path), n_documents=9)


def test_a_missing_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl"):
        load_corpus(str(tmp_path / "none.jsonl"), n_documents=9)


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz"])
def test_documents_come_back_as_they_were_written(tmp_path: Path, name: str) -> None:
    documents = [Document("a", "seeded", None, "x\ny"), Document("b", "completion", "p", "caf\u00e9")]
    write_documents(tmp_path / name, documents)
    assert read_documents(tmp_path / name) == documents


def test_a_file_by_another_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"id": "a", "kind": "generic", "prompt": None, "text": "x", "new": 1}) + "\n")
    with pytest.raises(DataError, match=r"d\.jsonl: .*another version"):
        read_documents(path)
