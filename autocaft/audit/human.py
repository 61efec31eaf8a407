"""A person beside an audit's decisions on rows: a blind sheet to fill in, and what it says of them.

In: the run folder of a finished audit. Out: a CSV of rows with their sets' purposes, in random order, half of them
drawn from the rows that are to be hidden or reviewed and half from those that are to be kept; and, of a sheet that was
filled in, what share of each half the person finds off its set's purpose, with intervals.

The decision a reader would question: half and half, though few rows are flagged. A sheet drawn evenly would hold next
to none of them; so no share is taken over the whole sheet. Precision is of the flagged half, the share of misses of the
kept half, and how much of what is off purpose was found follows from the two and the numbers of rows.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autocaft.audit.rows import load_rows
from autocaft.errors import DataError
from autocaft.report.sheet import sheet_rows, sheet_text
from autocaft.rundir.files import iter_jsonl, read_json, write_text
from autocaft.stats import roc_auc, wilson

COLUMNS = ("id", "purpose", "prompt", "answer", "off_purpose")
YES, NO = ("yes", "y", "1", "true"), ("no", "n", "0", "false")


@dataclass(frozen=True)
class Decided:
    """One row with what the audit decided."""

    set: str
    file: str
    line: int
    action: str
    score: float

    @property
    def key(self) -> str:
        """Tells the row, and nothing about it. The letter in front keeps a spreadsheet from reading a number."""
        return "r" + hashlib.sha256(f"{self.set}\n{self.file}\n{self.line}".encode()).hexdigest()[:12]

    @property
    def is_flagged(self) -> bool:
        """Whether it is to be hidden or reviewed."""
        return self.action != "keep"


def check_sheet(path: Path) -> None:
    """Whether a sheet can be written there: what a person filled in is not overwritten.

    Raises:
        DataError: the file is there.
    """
    if path.exists():
        raise DataError(f"{path} exists; name another file, or fill it in and read it with --agree")


def write_sheet(run_dir: Path, path: Path, n_rows: int, seed: int = 0) -> int:
    """Write a blind sheet of that many rows, or of as many as there are; gives their number.

    Raises:
        DataError: the file is there, or the audit decided on no row.
    """
    check_sheet(path)
    decided = list(_decided(run_dir))
    if not decided:
        raise DataError(f"{run_dir} has no row that was looked at")
    chosen = _drawn(decided, n_rows, random.Random(seed))
    purposes = {item["name"]: item["purpose"] for item in read_json(run_dir / "audit.json")["sets"]}
    texts = _texts(run_dir, chosen)
    write_text(path, sheet_text(COLUMNS, ((row.key, purposes[row.set], *texts[row.key], "") for row in chosen)))
    return len(chosen)


def _drawn(decided: Sequence[Decided], n_rows: int, rng: random.Random) -> list[Decided]:
    """Half of either kind, or more of the one where the other has too few, in random order."""
    flagged = [row for row in decided if row.is_flagged]
    kept = [row for row in decided if not row.is_flagged]
    n_flagged = min(len(flagged), max(n_rows // 2, n_rows - len(kept)))
    chosen = rng.sample(flagged, n_flagged) + rng.sample(kept, min(len(kept), n_rows - n_flagged))
    rng.shuffle(chosen)
    return chosen


def agreement(run_dir: Path, path: Path) -> dict[str, Any]:
    """What a person's sheet says of the audit's decisions.

    Returns:
        `precision` (of the flagged rows, the share that is off the purpose) and `missed` (the same of the kept rows)
        with their 95 % intervals (Wilson), `found` (of all that is off the purpose, the share that is flagged, from
        both and the numbers of rows), `area` under ROC of the rows' scores on the sheet, and how many cells are empty.

    Raises:
        DataError: no sheet of this audit, a cell that is neither yes nor no, or nothing filled in.
    """
    by_key = {row.key: row for row in _decided(run_dir)}
    filled = _filled(path, by_key)
    said = {by_key[key]: value for key, value in filled.items() if value is not None}
    if not said:
        raise DataError(f"{path}: nothing is filled in; off_purpose is `yes` or `no`")
    n_rows = {kind: sum(row.is_flagged == kind for row in by_key.values()) for kind in (True, False)}
    share = {kind: _share([value for row, value in said.items() if row.is_flagged == kind]) for kind in (True, False)}
    return {
        "n_answers": len(said),
        "n_empty": len(filled) - len(said),
        "n_flagged": n_rows[True],
        "n_kept": n_rows[False],
        "precision": share[True],
        "missed": share[False],
        "found": _found(n_rows, share),
        "area": _area(said),
    }


def _area(said: Mapping[Decided, bool]) -> float | None:
    is_two_sided = 0 < sum(said.values()) < len(said)
    return roc_auc([row.score for row in said], list(said.values())) if is_two_sided else None


def _share(values: Sequence[bool]) -> dict[str, Any] | None:
    return asdict(wilson(sum(values), len(values))) if values else None


def _found(n_rows: Mapping[bool, int], share: Mapping[bool, Mapping[str, Any] | None]) -> float | None:
    """Of all rows off the purpose the share that is flagged; None where one half says nothing, or nothing is off it."""
    if any(n_rows[kind] and share[kind] is None for kind in (True, False)):
        return None
    flagged, kept = (n_rows[kind] * (found["value"] if (found := share[kind]) else 0.0) for kind in (True, False))
    return float(flagged / (flagged + kept)) if flagged + kept else None


def agreement_text(found: Mapping[str, Any]) -> str:
    """The figures as lines, for the terminal."""

    def told(share: Mapping[str, Any] | None) -> str:
        return f"{share['value']:.0%} [{share['low']:.0%}, {share['high']:.0%}]" if share else "none read"

    lines = [
        f"off the purpose, of {found['n_flagged']} flagged rows: {told(found['precision'])}",
        f"off the purpose, of {found['n_kept']} kept rows: {told(found['missed'])}",
    ]
    if found["found"] is not None:
        lines.append(f"so about {found['found']:.0%} of all rows that are off the purpose were flagged")
    if found["area"] is not None:
        lines.append(f"area under ROC of the rows' scores on the sheet: {found['area']:.2f}")
    return "\n".join([*lines, f"{found['n_answers']} answers, {found['n_empty']} left empty"])


def _decided(run_dir: Path) -> Iterator[Decided]:
    for _, line in iter_jsonl(run_dir / "rows.jsonl"):
        yield Decided(**{key: line[key] for key in ("set", "file", "line", "action", "score")})


def _texts(run_dir: Path, chosen: Sequence[Decided]) -> dict[str, tuple[str, str]]:
    """Prompt and answer by key, set by set."""
    wanted: dict[str, dict[tuple[str, int], str]] = {}
    for row in chosen:
        wanted.setdefault(row.set, {})[row.file, row.line] = row.key
    found: dict[str, tuple[str, str]] = {}
    for name, keys in wanted.items():
        for text in load_rows(run_dir / "rows" / name):
            if (text.file, text.line) in keys:
                found[keys[text.file, text.line]] = text.prompt_text, text.answer
    return found


def _filled(path: Path, by_key: Mapping[str, Decided]) -> dict[str, bool | None]:
    """By key whether the row is off its purpose; None where the person left it open."""
    filled: dict[str, bool | None] = {}
    for number, line in sheet_rows(path, COLUMNS, filled="off_purpose"):
        key, value = line["id"], line["off_purpose"].strip().lower()
        if key not in by_key:
            raise DataError(f"{path}:{number}: {key!r} is no row of this audit; was the sheet written by another one?")
        if value and value not in (*YES, *NO):
            raise DataError(f"{path}:{number}: off_purpose is {value!r}; write yes or no, or leave it empty")
        filled[key] = value in YES if value else None
    return filled
