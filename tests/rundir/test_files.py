"""Files are whole or not there."""

from __future__ import annotations

import errno
import gzip
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autocaft.errors import DataError, DiskFullError
from autocaft.records import Decision
from autocaft.rundir import files
from autocaft.rundir.files import (
    clean_temporary,
    digest,
    disk_errors,
    read_json,
    read_jsonl,
    read_records,
    replacing,
    replacing_folder,
    sha256_of,
    write_json,
    write_jsonl,
    write_records,
    write_text,
)

ROWS: list[dict[str, Any]] = [{"a": 1, "b": "zwölf"}, {"a": None, "b": "two\nlines\u2028"}]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_come_back_and_equal_rows_give_equal_bytes(tmp_path: Path, name: str) -> None:
    assert write_jsonl(tmp_path / name, iter(ROWS)) == 2
    assert read_jsonl(tmp_path / name) == ROWS
    first = (tmp_path / name).read_bytes()
    time.sleep(1.1 if name.endswith("gz") else 0)  # gzip keeps seconds
    write_jsonl(tmp_path / "other" / name, ROWS)
    assert (tmp_path / "other" / name).read_bytes() == first


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, ROWS)

    def broken() -> Iterator[dict[str, Any]]:
        yield {"a": 2}
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_jsonl(path, broken())
    assert read_jsonl(path) == ROWS
    assert list(tmp_path.iterdir()) == [path]


def test_nan_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    with pytest.raises(ValueError):
        write_jsonl(tmp_path / "x.jsonl", [{"loss": float("inf")}])
    assert not list(tmp_path.iterdir())


CHILD = """
import sys, time
from pathlib import Path
from autocaft.rundir.files import replacing, replacing_folder
with replacing(Path(sys.argv[1]) / "x.json") as file, replacing_folder(Path(sys.argv[1]) / "model") as folder:
    file.write_text("half"); (folder / "weights").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_only_temporary_files_which_are_cleaned(tmp_path: Path) -> None:
    write_text(tmp_path / "x.json", "whole")
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"writing\n"
    child.kill()
    child.communicate()
    assert (tmp_path / "x.json").read_text() == "whole"
    assert not (tmp_path / "model").exists()
    assert len(list(tmp_path.glob(files.TEMPORARY_PREFIX + "*"))) == 2
    assert clean_temporary(tmp_path) == 2
    assert [item.name for item in tmp_path.iterdir()] == ["x.json"]


def test_temporary_name_keeps_the_suffix_and_the_folder(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.safetensors") as temporary:
        assert temporary.parent == tmp_path and temporary.name.endswith("-a.safetensors")
        temporary.write_bytes(b"x")
    assert (tmp_path / "a.safetensors").read_bytes() == b"x"


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with replacing_folder(tmp_path / "model") as folder:
            (folder / text).write_text(text)
    assert [item.name for item in (tmp_path / "model").iterdir()] == ["new"]
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "model") as folder:
        raise RuntimeError
    assert [item.name for item in tmp_path.rglob("*")] == ["model", "new"]


def test_a_bad_line_is_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(DataError, match=r"rows.jsonl:3 is not JSON"):
        read_jsonl(path)
    path.write_text('{"a": 1}\n[2]\n')
    with pytest.raises(DataError, match=r"rows.jsonl:2 is not a JSON object"):
        read_jsonl(path)
    path.write_bytes(b'{"a": 1}\n{"a": "\xff"}\n')
    with pytest.raises(DataError, match="UTF-8"):
        read_jsonl(path)
    with pytest.raises(DataError, match=r"none.jsonl is not there"):
        read_jsonl(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"rows.jsonl is not JSON"):
        read_json(path)


def test_a_cut_off_gzip_file_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-12])
    with pytest.raises(DataError, match="cut off"):
        read_jsonl(path)
    path.write_bytes(b"plain text")
    with pytest.raises(DataError, match="not gzip"):
        read_jsonl(path)


def test_records_come_back_and_a_wrong_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    decisions = [Decision("L1.pc0", True, "auto:threshold", "85", "2025-01-01T00:00:00Z")]
    assert write_records(path, decisions) == 1
    assert read_records(path, Decision) == decisions
    path.write_text(path.read_text() + '{"direction_id": "L1.pc1", "colour": 3}\n')
    with pytest.raises(DataError, match=r"decisions.jsonl:2: Decision has no field 'colour'"):
        read_records(path, Decision)


def test_hashes_follow_content_only(tmp_path: Path) -> None:
    assert digest({"b": 1, "a": [2]}) == digest({"a": [2], "b": 1}) != digest({"a": [2], "b": True})
    for folder in ("x", "y"):
        write_text(tmp_path / folder / "sub" / "f", "text")
    assert sha256_of(tmp_path / "x") == sha256_of(tmp_path / "y")
    write_text(tmp_path / "y" / "g", "")
    assert sha256_of(tmp_path / "x") != sha256_of(tmp_path / "y")


def test_a_full_disk_keeps_the_old_file(small_disk: Path) -> None:
    write_jsonl(small_disk / "rows.jsonl", ROWS)
    with pytest.raises(DiskFullError, match=r"rows.jsonl.*same command continues"):
        write_jsonl(small_disk / "rows.jsonl", ({"i": i, "text": "x" * 100} for i in range(10_000)))
    assert read_jsonl(small_disk / "rows.jsonl") == ROWS
    assert [item.name for item in small_disk.iterdir()] == ["rows.jsonl"]


def test_a_full_disk_is_recognised_when_torch_and_safetensors_report_it(small_disk: Path) -> None:
    import torch
    from safetensors.torch import save_file

    weights = torch.zeros(200_000)
    with pytest.raises(DiskFullError), replacing(small_disk / "a.pt") as path:
        torch.save(weights, path)
    with pytest.raises(DiskFullError), disk_errors(small_disk):
        torch.save(weights, small_disk / "a.pt")
    (small_disk / "a.pt").unlink()
    with pytest.raises(DiskFullError), disk_errors():
        save_file({"w": weights}, small_disk / "a.safetensors")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_and_quota_are_translated(code: int) -> None:
    with pytest.raises(DiskFullError, match=r"x\.bin"), disk_errors():
        raise OSError(code, "no", "x.bin")


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    for error in (OSError(errno.EACCES, "no"), RuntimeError("write failed"), ValueError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, disk_errors(tmp_path):
            raise error
        assert caught.value is error
