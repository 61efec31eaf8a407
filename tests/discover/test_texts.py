from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autocaft.data.rows import TaskRow
from autocaft.discover import texts
from autocaft.discover.options import CollectOptions
from autocaft.rundir.progress import NullProgress

OPTIONS = CollectOptions(n_continuations=3, continuation_tokens=6, rows_per_batch=4)


def _rows(n: int) -> list[TaskRow]:
    return [
        TaskRow(f"row-{i}", "the cat", " sleeps", None, "t", "the old cat sees one " + "bird " * (i % 3))
        for i in range(n)
    ]


def _write(
    model: Any, tokenizer: Any, folder: Path, rows: list[TaskRow], options: CollectOptions = OPTIONS
) -> list[Any]:
    requests = texts.continuation_requests(tokenizer, rows, options)
    return texts.write_texts(
        model,
        tokenizer,
        requests,
        label="texts",
        max_new_tokens=6,
        options=options,
        folder=folder,
        progress=NullProgress(),
    )


def test_killed_run_goes_on_without_redoing_chunks_and_gives_the_same_text(
    model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "CHUNK", 8)
    whole = _write(model, tokenizer, tmp_path / "whole", _rows(8))

    n_calls = 0
    real_sample = texts.sample

    def dying_sample(*args: Any, **kwargs: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 4:
            raise KeyboardInterrupt
        return real_sample(*args, **kwargs)

    monkeypatch.setattr(texts, "sample", dying_sample)
    with pytest.raises(KeyboardInterrupt):
        _write(model, tokenizer, tmp_path / "killed", _rows(8))
    assert [path.name for path in sorted((tmp_path / "killed").iterdir())] == ["00000.jsonl"]
    n_calls = 100
    again = _write(model, tokenizer, tmp_path / "killed", _rows(8))
    assert n_calls == 104  # two of three chunks, two batches each
    assert again == whole


def test_text_of_a_document_does_not_depend_on_the_others(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    many = {document.id: document.text for document in _write(model, tokenizer, tmp_path / "a", _rows(7))}
    few = _write(model, tokenizer, tmp_path / "b", _rows(2), OPTIONS.model_copy(update={"rows_per_batch": 1}))
    assert all(many[document.id] == document.text for document in few)


def test_documents_open_with_the_row_and_differ_among_themselves(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = _rows(1)
    documents = _write(model, tokenizer, tmp_path, rows)
    assert [document.id for document in documents] == ["row-0#0", "row-0#1", "row-0#2"]
    assert all(document.text.startswith(rows[0].seed) and document.kind == "seeded" for document in documents)
    assert len({document.text for document in documents}) == 3
