"""A sheet that a person fills in with a spreadsheet: CSV out and back.

In: cells that anybody may have written. Out: text that no spreadsheet runs, and the cells as they were. The decision a
reader would question: spreadsheets save with the separator of their locale, so whichever makes the header is taken.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from autocaft.errors import DataError
from autocaft.report.plain import guard_cell, unguard_cell


def sheet_text(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The sheet as text; opens with a byte order mark, which spreadsheets want for UTF-8."""
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([guard_cell(cell) for cell in row])
    return "\ufeff" + file.getvalue()


def sheet_rows(path: Path, columns: Sequence[str], *, filled: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column.

    Args:
        columns: of the sheet as it was written; `id` is one.
        filled: the column that was to be filled in.

    Raises:
        DataError: not readable, or without one of these two columns; names file:line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8. Save it as “CSV UTF-8”.") from error
    header = text.partition("\n")[0]
    separator = next((s for s in ",;\t" if "id" in [cell.strip('" \r') for cell in header.split(s)]), None)
    if separator is None:
        raise DataError(f"{path}:1: no column id. The columns are {', '.join(columns)}.")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    if filled not in (reader.fieldnames or ()):
        raise DataError(f"{path}:1: no column {filled}. The columns are {', '.join(columns)}.")
    try:
        for row in reader:
            yield reader.line_num, {str(key): unguard_cell(cell) for key, cell in row.items() if isinstance(cell, str)}
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: is not CSV ({error}).") from error
