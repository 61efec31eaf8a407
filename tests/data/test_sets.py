"""Data sets on this disk: what a spec finds, what its identity follows, and Parquet whatever its columns are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autocaft.data.corpus import corpus_identity, load_corpus
from autocaft.data.rows import load_rows
from autocaft.data.sets import DataSet, find_set, parse_hub
from autocaft.errors import DataError
from autocaft.rundir.files import sha256_of

MakeJsonl = Callable[..., Path]
ROWS = [{"prompt": f"The doctor said {n}", "answer": " he", "choices": [" he", " she"]} for n in range(5)]


def parquet(path: Path, rows: list[dict[str, Any]] | pa.Table) -> Path:
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), path)
    return path


def strings(*values: bytes) -> pa.Array:
    """A text column with these bytes, text or not."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())


def test_parquet_is_read_as_the_same_rows_are_as_json(tmp_path: Path, make_jsonl: MakeJsonl) -> None:
    assert load_rows(parquet(tmp_path / "rows.parquet", ROWS)) == load_rows(make_jsonl("rows.jsonl", *ROWS))


def test_a_folder_and_a_pattern_are_one_set_in_order_of_the_names(tmp_path: Path) -> None:
    for name, part in (("b", ROWS[2:]), ("a", ROWS[:2])):
        parquet(tmp_path / f"part-{name}.parquet", part)
    (tmp_path / "README.md").write_text("about")
    for spec in (str(tmp_path), f"{tmp_path}/part-*", f"{tmp_path}/*.parquet"):
        rows = load_rows(find_set(spec).files)
        assert [row.prompt for row in rows] == [row["prompt"] for row in ROWS]
        assert [row.id for row in rows] == ["1", "2", "3", "4", "5"], "numbers in the set, so that none is there twice"
        assert (Path(rows[2].file).name, rows[2].line) == ("part-b.parquet", 1)


def test_content_decides_the_identity_and_no_path_does(tmp_path: Path, make_jsonl: MakeJsonl) -> None:
    plain = make_jsonl("rows.jsonl", *ROWS)
    assert find_set(str(plain)).identity == sha256_of(plain), "as it always was for a single file"
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        for n, part in enumerate((ROWS[:2], ROWS[2:])):
            parquet(tmp_path / folder / f"{folder}{n}.parquet", part)
    x, y = (find_set(str(tmp_path / folder)).identity for folder in ("x", "y"))
    assert x == y
    parquet(tmp_path / "y" / "y1.parquet", ROWS[3:])
    assert find_set(str(tmp_path / "y")).identity != x


def test_what_is_not_there_is_named_with_what_is(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,answer\n")
    with pytest.raises(DataError, match=r"no file .*the folder holds rows\.csv"):
        find_set(str(tmp_path))
    with pytest.raises(DataError, match=r"no file none-\*\.parquet \(looked from"):
        find_set("none-*.parquet")
    parquet(tmp_path / "rows.parquet", ROWS)
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(DataError, match="Parquet and JSON files"):
        find_set(str(tmp_path))


def test_columns_of_every_kind_become_plain_rows(tmp_path: Path) -> None:
    kinds = {"role": pa.dictionary(pa.int8(), pa.string()), "content": pa.large_string(), "name": pa.string()}
    turns = [{"role": role, "content": role[0], "name": None} for role in ("user", "assistant")]
    columns = {
        "id": pa.array([7, None], pa.int64()),
        "template": pa.array(["t", "t"]).dictionary_encode(),
        "messages": pa.array([turns, None], pa.list_(pa.struct(list(kinds.items())))),
        "prompt": pa.array([None, "p"]),
        "answer": pa.array([None, None], pa.string()),
        "completion": pa.array([None, "c"]).dictionary_encode(),
        "embedding": pa.array([[0.1], [0.2]]),
    }
    table = pa.table(columns)
    chat, plain = load_rows(parquet(tmp_path / "rows.parquet", table))
    assert (chat.id, chat.template, chat.prompt, chat.answer) == ("7", "t", ({"role": "user", "content": "u"},), "a")
    assert (plain.id, plain.prompt, plain.answer) == ("2", "p", "c"), "a null is as if the column were not there"


def test_numpy_arrays_and_categories_of_pandas_are_read(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "prompt": [np.array([{"role": "user", "content": f"u{n}"}]) for n in range(2)],
            "completion": [[{"role": "assistant", "content": "yes"}]] * 2,
            "template": pd.Categorical(["a", "b"]),
        }
    )
    frame.to_parquet(tmp_path / "rows.parquet")
    rows = load_rows(tmp_path / "rows.parquet")
    read = [(row.prompt_text, row.answer, row.template) for row in rows]
    assert read == [("user: u0", "yes", "a"), ("user: u1", "yes", "b")]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (pa.table({"conversations": [[{"from": "human", "value": "x"}]], "n": [1]}),
         "no column 'messages', nor 'prompt' with 'answer' or 'completion'; its columns are conversations (list<"),
        (pa.table({"prompt": ["p"], "reply": ["r"]}), "its columns are prompt (string), reply (string)"),
        (pa.table({"prompt": ["p", "p"], "answer": ["a", None]}), "rows.parquet:2: the row has no 'answer'"),
        (pa.table({"prompt": ["p", "p"], "answer": [1, 2]}), "rows.parquet:1: 'answer' must be a non-empty"),
        (pa.table({"messages": ["[]"]}), "rows.parquet:1: 'messages' needs at least"),
        (pa.table({"prompt": strings(b"p", b"p", b"p"), "answer": strings(b"a", b"b", b"\xff")}),
         "rows.parquet:3: the text is not UTF-8"),
        (pa.table({"prompt": pa.array([], pa.string()), "answer": pa.array([], pa.string())}), "the file is empty"),
    ],
)  # fmt: skip
def test_a_bad_table_is_named_by_file_and_row_or_by_its_columns(tmp_path: Path, table: pa.Table, says: str) -> None:
    with pytest.raises(DataError, match=re.escape(says)):
        load_rows(parquet(tmp_path / "rows.parquet", table))


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    path = parquet(tmp_path / "rows.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"rows\.parquet is cut off or not Parquet, after row 0"):
        load_rows(path)


def test_a_corpus_may_be_parquet_in_a_folder(tmp_path: Path) -> None:
    texts = [{"text": f"text {n}", "url": "x"} for n in range(6)]
    for n in range(2):
        parquet(tmp_path / f"{n}.parquet", texts[3 * n : 3 * n + 3])
    documents = load_corpus(str(tmp_path), n_documents=9)
    assert sorted((d.id, d.text) for d in documents) == [(f"generic-{n + 1}", f"text {n}") for n in range(6)]
    assert corpus_identity(str(tmp_path)) == find_set(str(tmp_path)).identity
    with pytest.raises(DataError, match="no column 'text' or 'completion'; its columns are prompt"):
        load_corpus(str(parquet(tmp_path.parent / "rows.parquet", [{"prompt": "p"}])), n_documents=9)


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("hub:me/my.rows", ("me/my.rows", None, "train", "main")),
        ("hub:me/rows/en", ("me/rows", "en", "train", "main")),
        ("hub:me/rows:test", ("me/rows", None, "test", "main")),
        ("hub:me/rows/a/b:test@refs/pr/1", ("me/rows", "a/b", "test", "refs/pr/1")),
    ],
)
def test_a_hub_set_is_named_in_one_word(spec: str, parts: tuple[Any, ...]) -> None:
    hub = parse_hub(spec)
    assert (hub.repo, hub.config, hub.split, hub.revision) == parts and parse_hub(str(hub)) == hub


@pytest.mark.parametrize("spec", ["hub:rows", "hub:me/rows:", "hub:me/rows@", "hub:me/rows?split=train"])
def test_another_form_of_a_hub_set_is_refused_with_the_right_one(spec: str) -> None:
    with pytest.raises(DataError, match="hub:OWNER/NAME/CONFIG:SPLIT@REVISION"):
        find_set(spec)


def test_nothing_is_asked_of_the_hub_where_nothing_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCAFT_CACHE", str(tmp_path))
    assert find_set("hub:me/rows", downloads=False) == DataSet("hub:me/rows", (), "hub:me/rows")
    assert load_corpus("hub:me/rows", n_documents=9, downloads=False) == []
