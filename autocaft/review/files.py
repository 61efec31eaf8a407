"""A review out of the page and back: a spreadsheet, JSON lines, and the selection that a run takes as `select.file`.

In: a reviewer's log, or a file that the person filled in. Out: files, or acts in the log. The decision a reader would
question: a line has neither the direction's name nor its place in the ranking, since those tell a control from a
candidate; its `id` is a hash of the name and the order is the reviewer's own. It says whose sheet it is (`by`), so that
a person who takes in somebody else's answers is not counted as a second reader.

The windows are an attacker's text and a spreadsheet runs what looks like a formula. So a cell that opens like one gets
an apostrophe in front, also after a separator of another locale, and reading takes that apostrophe off again.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autocaft.config import load_config
from autocaft.errors import DataError
from autocaft.records import Direction
from autocaft.report.sheet import sheet_rows, sheet_text
from autocaft.review.acts import (
    CHOICES,
    Act,
    ActLog,
    Answer,
    acts_on_cards,
    answers,
    first_answers,
    log_path,
    own_acts,
    read_acts,
)
from autocaft.review.deck import ShownCard, ShownWindow, doubtful_part, load_deck
from autocaft.review.session import Review, Said, plan_order
from autocaft.rundir.files import iter_jsonl, read_json, read_records, write_json, write_jsonl, write_text

COLUMNS = ("id", "by", "layer", "answer", "note", "top", "bottom", "card")


def export_answers(run_dir: Path, name: str, folder: Path, *, doubtful: bool = False) -> list[Path]:
    """Write `<name>.csv` (every direction, also to be filled in), `.jsonl` and `.json`; gives their paths.

    Args:
        doubtful: put only what the judge is not sure of, and the controls, on the sheet. The other two files have every
            answer that was given.
    """
    deck, by = load_deck(run_dir), f"human:{name}"
    hashes = {card.hash for card in deck.cards.values()}
    acts = own_acts(acts_on_cards(read_acts(log_path(run_dir, name)), hashes), by)
    first = first_answers(answers(acts))
    paths = [folder / f"{name}.{ending}" for ending in ("csv", "jsonl", "json")]
    order = [shown.direction_id for shown in plan_order(list(deck.cards), name) if not shown.repeat]
    sheet = doubtful_part(deck).cards if doubtful else deck.cards
    write_text(paths[0], _as_csv([sheet[direction_id] for direction_id in order if direction_id in sheet], by, first))
    write_jsonl(paths[1], (_as_row(first[i], by, deck.cards[i]) for i in order if i in first))
    directions = read_records(run_dir / "decompose" / "directions.jsonl", Direction)
    write_json(paths[2], selection_of(first.values(), directions))
    return paths


def selection_of(said: Iterable[Answer], directions: Sequence[Direction]) -> dict[str, Any]:
    """What a person ablates and what they keep, as `select.file` reads it. Controls are no candidates and are left out,
    and so is what the person was unsure of."""
    choices = {answer.direction_id: answer.choice for answer in said}
    ablated, kept = (_tables([d for d in directions if choices.get(d.id) == choice]) for choice in ("ablate", "keep"))
    return {**ablated, **({"keep": kept} if kept else {})}


def _tables(directions: Iterable[Direction]) -> dict[str, dict[str, list[int]]]:
    """Indices by source and layer."""
    tables: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for direction in sorted(directions, key=lambda d: (d.source, d.layer, d.index)):
        if direction.source in ("sae", "pca"):
            tables[direction.source][f"model.layers.{direction.layer}"].append(direction.index)
    return {source: dict(table) for source, table in tables.items()}


def training_command(run_dir: Path, name: str, selection_path: Path, *, doubtful: bool = False) -> str | None:
    """What trains the arms of this person's choice in the same run folder; None where nothing is chosen.

    The steps of an earlier choice are made anew, no others.

    Args:
        doubtful: the person read what the judge was not sure of: a help to the judge, no choice of its own.
    """
    found = read_json(selection_path)
    helped = {*found, *found.get("keep", {})} if doubtful else set(found)
    chosen = [source for source in ("sae", "pca") if source in helped]
    if not chosen:
        return None
    arms = list(load_config(run_dir / "config.toml").arms)
    selector = "hybrid" if doubtful else "human"
    arms += [arm for source in chosen if (arm := f"caft-{source}-{selector}") not in arms]
    sets = (f"select.file={selection_path.resolve()}", f"select.person={name}", f"arms={json.dumps(arms)}")
    folder = ["--runs", str(run_dir.parent), "--name", run_dir.resolve().name]
    redo = ["--redo", "choose"] if (run_dir / "choose").is_dir() else []
    words = ["autocaft", "run", str(run_dir / "config.toml"), *folder, *redo]
    return shlex.join([*words, *(word for text in sets for word in ("--set", text))])


def import_answers(run_dir: Path, name: str, path: Path) -> list[Act]:
    """Take in a file's answers; all or none. Gives those that were new; what another person said is marked as copied.

    Raises:
        DataError: an answer that is none, an unknown direction, or a file made from other cards; names file:line.
    """
    deck = load_deck(run_dir)
    card_by_id = {sheet_id(direction_id): card for direction_id, card in deck.cards.items()}
    is_sheet = path.suffix.lower() == ".csv"
    rows = sheet_rows(path, COLUMNS, filled="answer") if is_sheet else iter_jsonl(path)
    said: dict[str, Said] = {}
    for number, row in rows:
        entry = _said(row, card_by_id, f"human:{name}", f"{path}:{number}")
        if entry is None:
            continue
        if said.get(entry.direction_id, entry).choice != entry.choice:
            raise DataError(f"{path}:{number}: {row['id']} has another answer further up. Leave one of the two.")
        said[entry.direction_id] = entry
    with ActLog(log_path(run_dir, name)) as log:
        return Review(deck, log, name).take_in(list(said.values()))


def sheet_id(direction_id: str) -> str:
    """What a sheet calls a direction. The letter in front keeps a spreadsheet from reading digits as a number."""
    return "d" + hashlib.sha256(f"autocaft sheet: {direction_id}".encode()).hexdigest()[:8]


def _sheet_card(card: ShownCard) -> str:
    return f"c{card.hash}"


def _said(row: dict[str, Any], card_by_id: Mapping[str, ShownCard], by: str, where: str) -> Said | None:
    """One line's answer; None where the person left it open."""
    name, choice = str(row.get("id") or ""), str(row.get("answer") or "").strip().lower()
    if not choice:
        return None
    card = card_by_id.get(name)
    if card is None:
        raise DataError(f"{where}: {name!r} is no direction of this run. Export again and fill that file in.")
    if row.get("card") not in (None, "", _sheet_card(card)):
        raise DataError(
            f"{where}: {name} was exported from another card: its windows have changed since, so the answer is about "
            "other text. Export again and answer it anew."
        )
    if choice not in CHOICES:
        raise DataError(f"{where}: {choice!r} is no answer. Write one of {', '.join(CHOICES)}, or leave it empty.")
    for column, what in (("by", "whose answer it is"), ("card", "which windows it is about")):
        if not row.get(column):
            raise DataError(
                f"{where}: nothing in the column {column}, so nobody knows {what}. Keep all columns of the export."
            )
    author = str(row["by"])
    return Said(card.direction_id, choice, str(row.get("note") or "").strip(), "" if author == by else author)


def _as_row(answer: Answer, by: str, card: ShownCard) -> dict[str, Any]:
    """What was said, by whom, when and in how many seconds, about which card."""
    return {
        "id": sheet_id(answer.direction_id),
        "by": answer.copied_from or by,
        "layer": card.layer,
        "answer": answer.choice,
        "note": answer.note,
        "seconds": answer.seconds,
        "at": answer.at,
        "card": _sheet_card(card),
    }


def _as_csv(cards: Iterable[ShownCard], by: str, first: Mapping[str, Answer]) -> str:
    """One line a direction, blind as the page is."""
    return sheet_text(COLUMNS, (_cells(card, by, first.get(card.direction_id)) for card in cards))


def _cells(card: ShownCard, by: str, answer: Answer | None) -> tuple[str, ...]:
    author, choice, note = (by, "", "") if answer is None else (answer.copied_from or by, answer.choice, answer.note)
    windows = [_as_text(card.poles.get(pole, ())) for pole in ("top", "bottom")]
    return (sheet_id(card.direction_id), author, str(card.layer), choice, note, *windows, _sheet_card(card))


def _as_text(windows: Sequence[ShownWindow]) -> str:
    """Windows in one cell, the strongest token of each in brackets."""
    lines = ("".join(f"\u27e6{text}\u27e7" if "peak" in kind else text for text, kind, _ in w.pieces) for w in windows)
    return " \u2016 ".join(lines)
