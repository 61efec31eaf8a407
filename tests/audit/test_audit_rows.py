"""What nobody has checked is read: every fault is named with file and line, and nothing stops the rest."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autocaft.audit.options import AuditConfig, AuditSet, ScreenOptions, expand_sets
from autocaft.audit.rows import MAX_LINE_BYTES, all_faults, load_rows, read_set
from autocaft.rundir.files import read_json
from tests.conftest import build_tokenizer

PLAIN = ScreenOptions(min_rows=8, chat=False)


def _line(number: int) -> str:
    return json.dumps({"id": f"r{number}", "prompt": f"The doctor said {number} ", "answer": "yes"}) + "\n"


def _good(n: int, start: int = 0) -> bytes:
    return "".join(_line(number) for number in range(start, start + n)).encode()


def _read(tmp_path: Path, *files: Path, options: ScreenOptions = PLAIN) -> tuple[Path, dict[int | str, str]]:
    """The folder, and the faults by line."""
    chosen = AuditSet("set", files, "says yes", None, False)
    out = tmp_path / "out"
    read_set(chosen, build_tokenizer(), options, out)
    return out, {f"{Path(fault.file).name}:{fault.line}": fault.what for fault in all_faults([out])}


def test_every_bad_row_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lone_surrogate = '{"prompt": "a", "answer": "\\ud800"}'
    bad = [
        b"not json",
        b'["a list"]',
        b'{"prompt": "no answer"}',
        b'{"prompt": "a", "answer": 3}',
        b'{"prompt": "a", "answer": "\xff\xfe"}',
        lone_surrogate.encode(),
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
        b"[" * 100_000,
        b'{"prompt": "a", "answer": "b", "id": ' + b"9" * 5000 + b"}",
        json.dumps({"prompt": "The doctor said " * 300, "answer": "yes"}).encode(),
    ]
    path.write_bytes(_good(10) + b"\n".join(bad) + b"\n\n" + _good(2, start=10))
    out, faults = _read(tmp_path, path)
    assert list(faults) == [f"rows.jsonl:{line}" for line in range(11, 21)]
    told = [
        "not JSON", "expected a JSON object", "no 'answer'", "non-empty string", "not UTF-8", "not UTF-8", "one form",
        "recursion", "integer", "max_prompt_tokens",
    ]  # fmt: skip
    for what, part in zip(faults.values(), told, strict=True):
        assert part in what, (part, what)
    rows = load_rows(out)
    assert [row.id for row in rows] == [f"r{number}" for number in range(12)]
    assert [row.line for row in rows] == [*range(1, 11), 22, 23], "blank lines are no rows, but they are lines"
    assert read_json(out / "summary.json")["n_faults"] == 10


def test_a_200_mb_line_is_passed_over_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(_good(9))
        file.write(b'{"prompt": "')
        for _ in range(200):
            file.write(b"x" * 1_000_000)
        file.write(b'", "answer": "b"}\n' + _good(1, start=9))
    tracemalloc.start()
    out, faults = _read(tmp_path, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert list(faults) == ["long.jsonl:10"]
    assert "200,000,030 bytes" in faults["long.jsonl:10"]
    assert [row.line for row in load_rows(out)] == [*range(1, 10), 11]
    assert peak < 16 * MAX_LINE_BYTES, peak


def test_missing_empty_and_cut_off_files_are_faults_of_the_set(tmp_path: Path) -> None:
    empty, cut, plain, folder = (tmp_path / name for name in ("empty.jsonl", "cut.jsonl.gz", "ok.jsonl", "folder"))
    empty.write_bytes(b"")
    packed = gzip.compress(_good(2000))
    cut.write_bytes(packed[: len(packed) // 2])
    (tmp_path / "no.jsonl.gz").write_bytes(b"no gzip at all")
    plain.write_bytes(_good(9, start=5000))
    folder.mkdir()
    files = (empty, tmp_path / "none.jsonl", cut, tmp_path / "no.jsonl.gz", folder, plain)
    out, faults = _read(tmp_path, *files, options=ScreenOptions(min_rows=8, chat=False, n_rows=5000))
    assert "the file is empty" in faults["empty.jsonl:0"]
    assert "No such file" in faults["none.jsonl:0"]
    assert "directory" in faults["folder:0"]
    assert "cut off" in next(what for where, what in faults.items() if where.startswith("cut.jsonl.gz"))
    assert "not gzip" in faults["no.jsonl.gz:1"]
    read = {row.file for row in load_rows(out)}
    assert str(plain) in read and str(cut) in read, "what comes before the cut is read"


def test_bad_rows_of_a_parquet_file_are_named_by_their_number_and_the_others_are_read(tmp_path: Path) -> None:
    prompts = [b"The doctor said %d " % n for n in range(12)]
    prompts[3], prompts[7] = b"\xff\xfe", b"x" * (MAX_LINE_BYTES + 1)
    column = pa.Array.from_buffers(pa.string(), 12, pa.array(prompts, pa.binary()).buffers())
    answers = pa.array(["yes"] * 5 + [None] + ["yes"] * 6).dictionary_encode()
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": column, "completion": answers, "pixels": [b"0" * 100] * 12}), path)
    out, faults = _read(tmp_path, path)
    assert list(faults) == ["rows.parquet:4", "rows.parquet:6", "rows.parquet:8"]
    told = ("not UTF-8", "no 'answer'", "1,048,5")
    assert all(part in what for part, what in zip(told, faults.values(), strict=True)), faults
    assert [row.line for row in load_rows(out)] == [1, 2, 3, 5, 7, 9, 10, 11, 12]


def test_a_parquet_file_that_cannot_be_used_is_a_fault_and_the_others_are_read(tmp_path: Path) -> None:
    other, cut, empty, plain = (tmp_path / f"{name}.parquet" for name in ("other", "cut", "empty", "ok"))
    rows = [{"prompt": f"The doctor said {n} ", "answer": "yes"} for n in range(9)]
    pq.write_table(pa.table({"conversations": [[{"from": "human", "value": "x"}]]}), other)
    pq.write_table(pa.Table.from_pylist(rows), plain)
    pq.write_table(pa.Table.from_pylist(rows).slice(0, 0), empty)
    cut.write_bytes(plain.read_bytes()[:-9])
    out, faults = _read(tmp_path, other, cut, empty, tmp_path / "none.parquet", plain)
    assert "its columns are conversations (list<" in faults["other.parquet:0"]
    assert "cut off or not Parquet" in faults["cut.parquet:0"]
    assert "is empty" in faults["empty.parquet:0"] and "no such file" in faults["none.parquet:0"]
    assert {row.file for row in load_rows(out)} == {str(plain)}


def test_a_hub_set_that_is_not_given_is_a_fault_of_its_set_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOCAFT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows.jsonl").write_bytes(_good(9))
    sets = [
        {"name": "both", "files": ["hub:me/rows", str(tmp_path / "rows.jsonl")], "purpose": "says yes"},
        {"each": True, "files": ["hub:me/other/en:test", str(tmp_path / "rows.jsonl")], "purpose": "says yes"},
    ]
    both, other, rows = expand_sets(AuditConfig.model_validate({"sets": sets}), downloads=False)
    assert (other.name, rows.name) == ("other", "rows")
    for number, chosen in enumerate((both, other, rows)):
        out = tmp_path / f"out{number}"
        read_set(chosen, build_tokenizer(), PLAIN, out)
        faults = [(fault.file, fault.line, fault.what) for fault in all_faults([out])]
        if chosen is not rows:
            assert len(faults) == 1 and faults[0][0].startswith("hub:me/") and "did not give it" in faults[0][2]
        assert len(load_rows(out)) == (0 if chosen is other else 9)


def test_a_set_with_too_few_rows_is_unread_and_has_none(tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    path.write_bytes(_good(3) * 5)
    out, faults = _read(tmp_path, path)
    summary = read_json(out / "summary.json")
    assert (summary["n_rows"], summary["n_repeated"], summary["n_looked_at"]) == (15, 12, 3)
    assert "only 3 different rows" in summary["unread"] and not faults
    assert load_rows(out) == []


def test_the_rows_that_are_drawn_do_not_depend_on_their_order(tmp_path: Path) -> None:
    options = ScreenOptions(min_rows=8, chat=False, n_rows=20)
    lines = _good(200).splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    (tmp_path / "b.jsonl").write_bytes(b"".join(reversed(lines)) + lines[7])
    drawn = []
    for name in ("a", "b"):
        out, _ = _read(tmp_path / name, tmp_path / f"{name}.jsonl", options=options)
        drawn.append({row.id for row in load_rows(out)})
    assert drawn[0] == drawn[1] and len(drawn[0]) == 20


def test_chats_need_a_chat_template(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "he"}, {"role": "assistant", "content": "she"}]
    path.write_text(json.dumps({"messages": turns}) + "\n")
    _, faults = _read(tmp_path, path)
    assert "no chat template" in faults["chats.jsonl:1"]
