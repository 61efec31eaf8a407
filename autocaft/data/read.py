"""Read the rows of one file, JSON lines or Parquet, one at a time.

In: a path. Out: the number of each row (of a JSON-lines file its line) and the row as a plain dictionary, whatever the
columns were: dictionary-encoded text is text, lists of structs are lists of dictionaries, a null is None.

The decision a reader would question: of a Parquet file only the columns that a row can have are read. A set may carry
embeddings or images beside its text, which would fill the memory for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocaft.errors import DataError
from autocaft.rundir.files import iter_jsonl

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("id", "prompt", "answer", "completion", "messages", "choices", "template", "seed", "text")
"""What a row can have."""
ROWS_AT_ONCE = 256


def is_parquet(path: Path) -> bool:
    """Whether the file is read as Parquet, by its name."""
    return path.name.endswith(".parquet")


def iter_rows(path: Path, *, of_text: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and row of every row of the file.

    Args:
        of_text: the rows are documents, of `text` or of `prompt` and `completion`, and not rows of a task.

    Raises:
        DataError: the file is missing or cut off, has no usable columns, or a row is no row; names it by its number.
    """
    if not is_parquet(path):
        yield from iter_jsonl(path)
        return
    for number, row in iter_parquet(path, of_text=of_text):
        if isinstance(row, str):
            raise DataError(f"{path}:{number}: {row}")
        yield number, row


def iter_parquet(
    path: Path, *, of_text: bool = False, max_bytes: int | None = None
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Number and row of every row; in the place of one that cannot be read, what is wrong with it.

    Args:
        max_bytes: a larger row is not turned into Python's objects.

    Raises:
        DataError: the file is missing, cut off or no Parquet, or has no columns that a row can be made of.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = _usable(file.schema_arrow, path, of_text)
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                plain = _plain(batch)
                for at, row in enumerate(_rows(plain, max_bytes)):
                    yield number + at + 1, row
                number += len(plain)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError, EOFError) as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(f"{path} is cut off or not Parquet, after row {number}: {said}") from error


def _usable(schema: pa.Schema, path: Path, of_text: bool) -> list[str]:
    """The columns to read; an error that lists them all if they make no row."""
    names = set(schema.names)
    if of_text:
        needed, makes_a_row = "'text' or 'completion'", bool({"text", "completion"} & names)
    else:
        needed = "'messages', nor 'prompt' with 'answer' or 'completion'"
        makes_a_row = "messages" in names or ("prompt" in names and bool({"answer", "completion"} & names))
    if not makes_a_row:
        columns = list(zip(schema.names, schema.types, strict=True))[:20]
        listed = ", ".join(f"{name} ({_short(kind)})" for name, kind in columns)
        raise DataError(
            f"{path}: no column {needed}; its columns are "
            f"{listed or 'none'}{' and more' if len(schema.names) > 20 else ''}. Rename them, or write the set anew"
        )
    return [name for name in COLUMNS if name in names]


def _short(kind: Any) -> str:
    text = str(kind)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Categorical columns as what they stand for, so that a row's size is its own."""
    import pyarrow as pa

    columns = [column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _rows(batch: pa.RecordBatch, max_bytes: int | None) -> Sequence[dict[str, Any] | str]:
    if max_bytes is None or batch.nbytes <= max_bytes:
        try:
            return batch.to_pylist()
        except (ValueError, OverflowError):
            pass  # one of them is no text, or a moment that Python has no date for: find it
    return [_one(batch.slice(at, 1), max_bytes) for at in range(len(batch))]


def _one(row: pa.RecordBatch, max_bytes: int | None) -> dict[str, Any] | str:
    if max_bytes is not None and row.nbytes > max_bytes:
        return f"the row has {row.nbytes:,} bytes; more than {max_bytes:,} are not read"
    try:
        found: list[dict[str, Any]] = row.to_pylist()
    except UnicodeDecodeError as error:
        return f"the text is not UTF-8 ({error.reason})"
    except (ValueError, OverflowError) as error:
        return f"the row cannot be read: {error}"
    return found[0]
