"""Choices that do not come from the judge: a person's file, and an oracle's word list.

In: the file and the candidates (with their windows, for the oracle). Out: Decisions by `human:<name>` or
`oracle:<list>`. The decision a reader would question: only what stands in a person's file is `human`, and a file that
says that no person made it is `simulated:<how>`; candidates that the file does not name get no such decision at all,
since nobody knows whether the person looked at them.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autocaft.errors import DataError
from autocaft.records import Decision, Direction, Example

LAYER_KEY = re.compile(r"(?:.*\D)?(\d+)$")
NO_PERSON = re.compile(r"simulated:[^\s:][^:\n]{0,59}")
"""Who made a file that no person made."""
Entry = tuple[str | None, int, int]
"""Source (None where the file names none), layer, index."""


def read_person_choice(path: Path, directions: Sequence[Direction], person: str, at: str) -> list[Decision]:
    """Decisions of whoever wrote `path`: the person, unless the file says that no person did.

    Raises:
        DataError: not readable, not `{layer: [index, ...]}`, a layer or index that is no candidate (the nearest
            candidate is named), or a direction both ablated and kept.
    """
    raw = _read_json(path)
    by = f"human:{person}" if "by" not in raw else _named(raw["by"], path)
    decisions: dict[str, Decision] = {}
    for ablate, entries in ((True, _ablated(raw, path)), (False, _kept(raw, path))):
        for source, layer, index in entries:
            direction = _find(path, directions, source, layer, index)
            earlier = decisions.get(direction.id)
            if earlier is not None and earlier.ablate != ablate:
                raise DataError(f"{path}: {direction.id} is both chosen and under `keep`. Leave one of the two.")
            reason = f"{'chosen' if ablate else 'kept'} in {path.name}"
            decisions[direction.id] = Decision(direction.id, ablate, by, reason, at)
    if not decisions:
        raise DataError(f'{path}: chooses nothing. Write {{"model.layers.14": [3, 7]}}: layer, then candidate indices.')
    return list(decisions.values())


def read_entries(path: Path) -> list[Entry]:
    """What a person's file ablates; sources are named only where the file does.

    Raises:
        DataError: not readable, or not `{layer: [index, ...]}`.
    """
    return _ablated(_read_json(path), path)


def read_words(path: Path) -> frozenset[str]:
    """An oracle's words, lower case; blank lines and `#` comments are skipped.

    Raises:
        DataError: the file is missing or has no word.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(
            f"{path}: cannot read the oracle's words ({error.strerror}). Set select.oracle_words."
        ) from error
    words = frozenset(line.strip().lower() for line in lines if line.strip() and not line.startswith("#"))
    if not words:
        raise DataError(f"{path}: has no word. Write one word a line.")
    return words


def ask_oracle(
    directions: Sequence[Direction],
    examples: Iterable[Example],
    words: frozenset[str],
    list_name: str,
    share: float,
    at: str,
) -> list[Decision]:
    """A decision a candidate: is the strongest token of at least `share` of a pole's windows in the list?

    Either pole of a PC counts. A candidate without windows is not taken, and says so.
    """
    peaks: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for example in examples:
        if example.pole in ("top", "bottom") and example.tokens:
            peaks[example.direction_id][example.pole].append(_peak_token(example) in words)
    decisions = []
    for direction in directions:
        share_by_pole = {pole: sum(hits) / len(hits) for pole, hits in peaks[direction.id].items()}
        best = max(share_by_pole.values(), default=0.0)
        reason = f"{best:.0%} of the strongest tokens of a pole are in {list_name}" if share_by_pole else "no windows"
        decisions.append(Decision(direction.id, best >= share, f"oracle:{list_name}", reason, at))
    return decisions


def _peak_token(example: Example) -> str:
    pick = min if example.pole == "bottom" else max
    position = pick(range(len(example.tokens)), key=lambda index: example.projections[index])
    return re.sub(r"[\sĠ▁]+", "", example.tokens[position]).lower()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot read the choice ({error.strerror}).") from error
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}).") from error
    if not isinstance(raw, dict):
        raise DataError(f'{path}: must be an object such as {{"model.layers.14": [3, 7]}}.')
    return raw


def _ablated(raw: Mapping[str, Any], path: Path) -> list[Entry]:
    return _placed({key: value for key, value in raw.items() if key not in ("keep", "by")}, path)


def _kept(raw: Mapping[str, Any], path: Path) -> list[Entry]:
    return _placed(raw.get("keep", {}), path)


def _placed(raw: Any, path: Path) -> list[Entry]:
    return [(source, _layer_number(key, path), index) for source, key, index in _entries(raw, path)]


def _named(by: Any, path: Path) -> str:
    """Who made a file that names its maker: no person, or `select.person` would say who."""
    if not isinstance(by, str) or NO_PERSON.fullmatch(by) is None:
        raise DataError(
            f'{path}: "by" is {json.dumps(by)[:60]}. It says that no person made the file, as "simulated:NAME"; a '
            "person's name stands in select.person."
        )
    return by


def _entries(raw: Any, path: Path) -> list[tuple[str | None, str, int]]:
    """(source or None, layer key, index) for each choice in the file."""
    if not isinstance(raw, dict):
        raise DataError(f'{path}: must be an object such as {{"model.layers.14": [3, 7]}}.')
    if raw and set(raw) <= {"sae", "pca"}:
        tables = [(source, table) for source, table in raw.items() if isinstance(table, dict)]
        return [(source, key, index) for source, table in tables for _, key, index in _entries(table, path)]
    entries: list[tuple[str | None, str, int]] = []
    for key, indices in raw.items():
        if not isinstance(indices, list) or not all(type(index) is int for index in indices):
            raise DataError(f"{path}: {key!r} must be a list of whole numbers, got {json.dumps(indices)[:60]}.")
        entries += [(None, key, index) for index in indices]
    return entries


def _layer_number(key: str, path: Path) -> int:
    match = LAYER_KEY.match(key)
    if match is None:
        raise DataError(f'{path}: {key!r} names no layer. Write "model.layers.14" or "14".')
    return int(match.group(1))


def _find(path: Path, directions: Sequence[Direction], source: str | None, layer: int, index: int) -> Direction:
    """The candidate with this layer and index, or a DataError that names the nearest."""
    pool = [d for d in directions if source in (None, d.source)]
    matches = [d for d in pool if (d.layer, d.index) == (layer, index)]
    if len(matches) == 1:
        return matches[0]
    if len(matches) > 1:
        both = " and ".join(d.id for d in matches)
        raise DataError(f'{path}: layer {layer}, index {index} is {both}. Write {{"sae": {{...}}, "pca": {{...}}}}.')
    if not pool:
        raise DataError(f"{path}: there are no {source} candidates in this run.")
    nearest = min(pool, key=lambda d: (abs(d.layer - layer), abs(d.index - index)))
    layers = sorted({d.layer for d in pool})
    where = f"index {index} of layer {layer}" if layer in layers else f"layer {layer} (candidates are in {layers})"
    raise DataError(
        f"{path}: {where} is not a candidate; the nearest is {nearest.id} (layer {nearest.layer}, "
        f"index {nearest.index}). decompose/directions.jsonl lists all."
    )
