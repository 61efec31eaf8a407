"""A review out of the page and back: a spreadsheet, JSON lines, and the selection that a run takes as `select.file`.

In: a reviewer's log, or a file that the person filled in. Out: files, or acts in the log. The decision a reader would
question: the windows are an attacker's text and a spreadsheet runs what looks like a formula. So a cell that opens like
one gets an apostrophe in front, also after a separator of another locale, and reading takes that apostrophe off again.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from autocaft.errors import DataError
from autocaft.records import Direction
from autocaft.report.plain import guard_cell, unguard_cell
from autocaft.review.acts import (
    CHOICES,
    ActLog,
    Answer,
    Choice,
    acts_on_cards,
    answers,
    first_answers,
    log_path,
    read_acts,
)
from autocaft.review.deck import Deck, ShownWindow, load_deck
from autocaft.review.session import Review
from autocaft.rundir.files import iter_jsonl, read_records, write_json, write_jsonl, write_text

COLUMNS = ("direction_id", "layer", "answer", "note", "top", "bottom", "card")

Said = tuple[str, Choice, str]
"""Direction, choice, note."""


def export_answers(run_dir: Path, name: str, folder: Path) -> list[Path]:
    """Write `<name>.csv` (every direction, also to be filled in), `.jsonl` and `.json`; gives their paths."""
    deck = load_deck(run_dir)
    hashes = {card.hash for card in deck.cards.values()}
    first = first_answers(answers(acts_on_cards(read_acts(log_path(run_dir, name)), hashes)))
    paths = [folder / f"{name}.{ending}" for ending in ("csv", "jsonl", "json")]
    write_text(paths[0], _as_csv(deck, first))
    write_jsonl(paths[1], (_as_row(answer) for answer in first.values()))
    directions = read_records(run_dir / "decompose" / "directions.jsonl", Direction)
    write_json(paths[2], selection_of(first.values(), directions))
    return paths


def selection_of(said: Iterable[Answer], directions: Sequence[Direction]) -> dict[str, dict[str, list[int]]]:
    """What a person ablates, as `select.file` reads it. Controls are no candidates and are left out."""
    chosen = {answer.direction_id for answer in said if answer.choice == "ablate"}
    tables: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for direction in sorted(directions, key=lambda d: (d.source, d.layer, d.index)):
        if direction.id in chosen and direction.source in ("sae", "pca"):
            tables[direction.source][f"model.layers.{direction.layer}"].append(direction.index)
    return {source: dict(table) for source, table in tables.items()}


def import_answers(run_dir: Path, name: str, path: Path) -> int:
    """Take in a file's answers; all or none. Gives how many were new.

    Raises:
        DataError: an answer that is none, an unknown direction, or a file made from other cards; names file:line.
    """
    deck = load_deck(run_dir)
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else iter_jsonl(path)
    said: dict[str, Said] = {}
    for number, row in rows:
        entry = _said(row, deck, f"{path}:{number}")
        if entry is None:
            continue
        if said.get(entry[0], entry)[1] != entry[1]:
            raise DataError(f"{path}:{number}: {entry[0]} has another answer further up. Leave one of the two.")
        said[entry[0]] = entry
    with ActLog(log_path(run_dir, name)) as log:
        return Review(deck, log, name).take_in(list(said.values()))


def _said(row: dict[str, Any], deck: Deck, where: str) -> Said | None:
    """One line's answer; None where the person left it open."""
    direction_id, choice = str(row.get("direction_id") or ""), str(row.get("answer") or "").strip().lower()
    if not choice:
        return None
    card = deck.cards.get(direction_id)
    if card is None:
        raise DataError(f"{where}: {direction_id!r} is no direction of this run. Export again and fill that file in.")
    if row.get("card") not in (None, "", card.hash):
        raise DataError(f"{where}: {direction_id} was exported from another card; its windows have changed since.")
    if choice not in CHOICES:
        raise DataError(f"{where}: {choice!r} is no answer. Write one of {', '.join(CHOICES)}, or leave it empty.")
    return direction_id, choice, str(row.get("note") or "").strip()


def _as_row(answer: Answer) -> dict[str, Any]:
    """A `Decision` and what the page knows besides; `unsure` is none, so its `ablate` is null."""
    decided = None if answer.choice == "unsure" else answer.choice == "ablate"
    decision = {"direction_id": answer.direction_id, "ablate": decided, "by": answer.by, "reason": answer.note}
    return decision | {"at": answer.at, "answer": answer.choice, "note": answer.note, "seconds": answer.seconds}


def _as_csv(deck: Deck, first: dict[str, Answer]) -> str:
    """One line a direction, blind as the page is; opens with a byte order mark, which spreadsheets want for UTF-8."""
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for direction_id, card in deck.cards.items():
        answer = first.get(direction_id)
        said = ("", "") if answer is None else (answer.choice, answer.note)
        windows = [_as_text(card.poles.get(pole, ())) for pole in ("top", "bottom")]
        writer.writerow([guard_cell(cell) for cell in (direction_id, str(card.layer), *said, *windows, card.hash)])
    return "\ufeff" + file.getvalue()


def _as_text(windows: Sequence[ShownWindow]) -> str:
    """Windows in one cell, the strongest token of each in brackets."""
    lines = ("".join(f"\u27e6{text}\u27e7" if "peak" in kind else text for text, kind, _ in w.pieces) for w in windows)
    return " \u2016 ".join(lines)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and cells by column; the separator is whichever makes the header."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8. Save it as “CSV UTF-8”.") from error
    header = text.partition("\n")[0]
    separator = next((s for s in ",;\t" if "direction_id" in [cell.strip('" \r') for cell in header.split(s)]), None)
    if separator is None:
        raise DataError(f"{path}:1: no column direction_id. The columns are {', '.join(COLUMNS)}; see --export.")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    if "answer" not in (reader.fieldnames or ()):
        raise DataError(f"{path}:1: no column answer. The columns are {', '.join(COLUMNS)}; see --export.")
    try:
        for row in reader:
            yield reader.line_num, {str(key): unguard_cell(cell) for key, cell in row.items() if isinstance(cell, str)}
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: is not CSV ({error}).") from error
