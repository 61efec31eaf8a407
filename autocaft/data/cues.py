"""What the unwanted cue says in each row, kept in a file of its own.

In: JSON lines `{"split", "id", "cue", "option"}`, and the rows they speak of. Out: the rows that have a cue, with it.

The decision a reader would question: the labels are not a field of the rows. Whoever loads rows would have them then,
also what trains and selects; a file of their own is handed to the two measurements that may know the cue, and to
nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autocaft.data.rows import TaskRow
from autocaft.errors import DataError
from autocaft.rundir.files import iter_jsonl

_FIELDS = ("split", "id", "cue", "option")


@dataclass(frozen=True)
class CuedRow:
    """A row and what the cue says in it."""

    row: TaskRow
    cue: str
    """The cue's value, as `male`."""
    option: str
    """The choice that the cue points to; where the cue is inverted, not the answer."""


def load_cued_rows(path: Path, rows_by_split: Mapping[str, Sequence[TaskRow]]) -> list[CuedRow]:
    """The rows of these splits that have a cue, in the order of the rows.

    Raises:
        DataError: a line lacks a field or names an option that its row does not have, or a split has no cue at all.
    """
    cues: dict[tuple[str, str], tuple[str, str, int]] = {}
    for line, raw in iter_jsonl(path):
        if not isinstance(raw, dict) or not all(isinstance(raw.get(field), str) for field in _FIELDS):
            raise DataError(f"{path}:{line}: a cue needs {', '.join(_FIELDS)}, each a text; found {raw!r}")
        cues[raw["split"], raw["id"]] = raw["cue"], raw["option"], line
    found: list[CuedRow] = []
    for split, rows in rows_by_split.items():
        n_before = len(found)
        for row in rows:
            if (split, row.id) not in cues:
                continue
            cue, option, line = cues[split, row.id]
            if option not in (row.choices or ()):
                raise DataError(f"{path}:{line}: {option!r} is no choice of row {row.id!r}; it has {row.choices}")
            found.append(CuedRow(row, cue, option))
        if len(found) == n_before:
            raise DataError(f"{path}: no row of the split {split!r} has a cue; it has {_splits(cues)}")
    return found


def _splits(cues: Mapping[tuple[str, str], object]) -> str:
    return ", ".join(sorted({split for split, _ in cues})) or "none"
