"""Files that are either whole or not there: JSON, JSON lines (plain or gzip), records, hashes.

In: rows, records, text. Out: files that appear under their name in one rename, after their bytes are on the disk.
A process killed at any moment leaves the old file, the new file, or a temporary one with our prefix, which
`clean_temporary` removes at the next run and nothing ever reads.

The decision a reader would question: a full disk is recognised by its text as well as by its errno, because the
writers of torch, safetensors and SQLite report it in words only. It is done once, in `disk_errors`.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from autocaft.errors import AutocaftError, DataError, DiskFullError
from autocaft.records import Record

TEMPORARY_PREFIX = ".autocaft-tmp-"
FULL_TEXTS = ("no space left", "disk is full", "disk quota exceeded", "storagefull")
MAYBE_FULL_TEXTS = ("disk i/o error", "write failed", "failed writing", "unexpected pos")
"""What SQLite and torch say of a failed write without its reason; believed only if no space is left."""
FULL_BELOW_BYTES = 1 << 20

AnyRecord = TypeVar("AnyRecord", bound=Record)


class disk_errors:
    """Turn a full disk or quota into DiskFullError, whoever reports it; everything else passes unchanged.

    A class rather than a generator, because looking at a passing error needs no broad `except`.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        """`path` is named in the message, and asked for its free space where the error does not say why."""
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, AutocaftError) or not is_disk_full(error, self.path):
            return
        where = getattr(error, "filename", None) or self.path
        place = f" while writing {where}" if where else ""
        raise DiskFullError(
            f"the disk is full{place}. What is done is kept: free some space, then the same command continues."
        ) from error


def is_disk_full(error: BaseException, path: Path | str | None = None) -> bool:
    """Whether an error is a full disk or quota, by errno, by its text, or by a failed write with no space left."""
    if not isinstance(error, Exception):
        return False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return False
    text = str(error).lower()
    if any(part in text for part in FULL_TEXTS):
        return True
    return path is not None and any(part in text for part in MAYBE_FULL_TEXTS) and _free_bytes(path) < FULL_BELOW_BYTES


def _free_bytes(path: Path | str) -> int:
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success its file becomes `path`, on an error it is removed.

    The temporary name ends like the final one, so writers that look at the suffix behave. The bytes are synced
    before the rename: after a crash the name points at the old file or at the whole new one.
    """
    path = Path(path)
    temporary = _temporary_beside(path)
    try:
        with disk_errors(path):  # Inside: it looks at the free space before the temporary file is removed.
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Like `replacing` for a folder of files (a saved model): it appears under its name when it is whole.

    An older folder of that name is renamed away first, so a kill between the two renames leaves none, never half.
    """
    path = Path(path)
    temporary = _temporary_beside(path)
    try:
        with disk_errors(path):
            temporary.mkdir(parents=True)
            yield temporary
            for item in [*temporary.rglob("*"), temporary]:
                sync(item)
            remove_folder(path)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder so that it is never seen half emptied: renamed away first, then deleted."""
    if path.exists():
        away = _temporary_beside(path)
        os.replace(path, away)
        shutil.rmtree(away)


def clean_temporary(folder: Path) -> int:
    """Remove what killed processes left half written in `folder` and below; gives the number of items removed.

    Only for a folder that no other process writes in (the runner holds the lock).
    """
    n_removed = 0
    for parent, folder_names, file_names in os.walk(folder):
        for name in [name for name in folder_names if name.startswith(TEMPORARY_PREFIX)]:
            shutil.rmtree(Path(parent, name))
            folder_names.remove(name)
            n_removed += 1
        for name in [name for name in file_names if name.startswith(TEMPORARY_PREFIX)]:
            Path(parent, name).unlink()
            n_removed += 1
    return n_removed


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole (UTF-8, line ends as given)."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, indented. NaN and infinity are refused: they are not JSON, write None and say why."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object a line, compressed if the name ends in `.gz`; the same rows give the same bytes.

    Gives the number of rows. Rows may come from a generator; if it raises, no file appears.
    """
    n_rows = 0
    with replacing(path) as temporary, _open_lines(temporary, path.suffix == ".gz") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            n_rows += 1
    return n_rows


@contextmanager
def _open_lines(path: Path, compressed: bool) -> Iterator[io.TextIOBase]:
    """A text file to write to. gzip without a name and time of its own, so that equal rows give equal bytes."""
    with path.open("wb") as raw:
        if compressed:
            with (
                gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
                io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file,
            ):
                yield file
        else:
            with io.TextIOWrapper(raw, encoding="utf-8", newline="\n") as file:
                yield file


def read_json(path: Path) -> Any:
    """Read one JSON value. Raises DataError if the file is missing or is not JSON."""
    try:
        return json.loads(_need_file(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def iter_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and row of each line that is not blank, one at a time.

    Raises:
        DataError: the file is missing, cut off, or a line is not a JSON object; names file:line.
    """
    opener: Any = gzip.open if Path(path).suffix == ".gz" else open
    number = 0
    try:
        with opener(_need_file(path), "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(f"{path}:{number} is not a JSON object: {line.strip()[:80]}")
                yield number, row
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: after line {number} comes text that is not UTF-8: {error.reason}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{number} is not JSON: {error.msg} (column {error.colno})") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is cut off or not gzip, after line {number}: {error}") from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of a JSON lines file; see `iter_jsonl`."""
    return [row for _, row in iter_jsonl(path)]


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write records, one line each; gives their number."""
    return write_jsonl(path, (record.to_row() for record in records))


def read_records(path: Path, cls: type[AnyRecord]) -> list[AnyRecord]:
    """Read records of one class. Raises DataError naming file:line if a row does not fit the class."""
    records: list[AnyRecord] = []
    for number, row in iter_jsonl(path):
        try:
            records.append(cls.from_row(row))
        except ValueError as error:
            raise DataError(f"{path}:{number}: {error}") from error
    return records


def sha256_of(path: Path) -> str:
    """The sha256 of a file, or of a folder: of the sorted relative names and hashes of all files in it."""
    path = Path(path)
    if path.is_dir():
        files = sorted(item for item in path.rglob("*") if item.is_file())
        return digest({item.relative_to(path).as_posix(): sha256_of(item) for item in files})
    with _need_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """The sha256 of a JSON value in its canonical form: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _need_file(path: Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is {'a folder, not a file' if path.is_dir() else 'not there'}")
    return path
