"""Sets of one purpose side by side: the step that asks what each does otherwise than its peers.

In: the rows of every set that can be audited, and each set's purpose. Out, in the step's folder: `sets.json` (a line a
set) and `rows/SET.jsonl` (a line a row). A set with too few peers has neither.

The decision a reader would question: two sets have one purpose if the two sentences are the same but for capitals and
spaces. A distance between sentences would make peers of "answers questions about cooking" and the same "in German", and
what the purpose asks for would then stand out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from autocaft.audit.options import AuditSet
from autocaft.audit.peer_fit import PeerRow
from autocaft.audit.peers import MIN_PEERS, PeerSet, SetFound, compare_peers, departure, units
from autocaft.audit.rows import load_rows
from autocaft.rundir.files import write_json, write_jsonl
from autocaft.rundir.progress import Progress

SETS, ROWS = "sets.json", "rows"


def by_purpose(sets: Sequence[AuditSet]) -> list[list[AuditSet]]:
    """Sets of one purpose together, in the order of each first one."""
    found: dict[str, list[AuditSet]] = {}
    for item in sets:
        found.setdefault(" ".join(item.purpose.lower().split()), []).append(item)
    return list(found.values())


def write_peers(sets: Sequence[AuditSet], rows_of: Callable[[str], Path], out: Path, progress: Progress) -> None:
    """Compare the sets of each purpose that enough of them share.

    Args:
        sets: those that can be audited.
        rows_of: by a set's name the folder that `rows.read_set` left.
    """
    lines: dict[str, dict[str, object]] = {}
    with progress.task("peers", len(sets), "sets") as advance:
        for together in by_purpose(sets):
            found: list[SetFound] = []
            if len(together) > MIN_PEERS:
                for one in compare_peers([_peer_set(item, rows_of(item.name)) for item in together]):
                    write_jsonl(out / ROWS / f"{one.name}.jsonl", (asdict(row) for row in one.rows))
                    found.append(replace(one, rows=()))
            advance(len(together))
            lines |= _lines(found, len(together) - 1)
    write_json(out / SETS, lines)


def _peer_set(chosen: AuditSet, folder: Path) -> PeerSet:
    def load() -> list[PeerRow]:
        return [PeerRow(row.number, row.prompt_text, row.answer) for row in load_rows(folder)]

    return PeerSet(chosen.name, load, chosen.is_reference)


def _lines(found: Sequence[SetFound], n_peers: int) -> dict[str, dict[str, object]]:
    """Each set's figures, those of its strangest tenth in units of its median peer.

    `strength` is how far the set departs: by its strangest tenth or by the breadth of all rows, whichever is more.
    `halves` of the rows and what is left `without` the rows that stand out are of that one.
    """
    unit_by_name = units({one.name: one.top for one in found})
    lines: dict[str, dict[str, object]] = {}
    for one in found:
        unit = unit_by_name[one.name]
        tenth = [figure / unit for figure in (one.top, *one.halves, one.without)]
        strength, *halves, without = departure(tenth, (one.breadth, *one.breadth_halves, one.breadth_without))
        lines[one.name] = {
            "n_peers": n_peers,
            "strength": strength,
            "halves": halves,
            "tenth": tenth[0],
            "breadth": one.breadth,
            "without": without,
        }
    return lines
