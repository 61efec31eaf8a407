"""Which rows of a set answer otherwise than sets of the same purpose answer like prompts?

In: sets of one purpose. Out: of each row how far its answer is from what the OTHER sets lead to expect, of each set how
its strangest rows compare with its peers'. No model is asked.

    distance    how far an answer is from what the other sets' answers to like prompts lead to expect (peer_fit.py)
    top         mean distance of the set's strangest tenth of rows; counts in units of its median peer's
    breadth     how many times as far its rows are as other sets' rows with like prompts (geometric mean)

What is in a part of a set's rows shows in `top`, what is in all of them in `breadth`: where every row departs a little,
the strangest tenth may be no stranger than another set's.

Rows of a pool stand for the sets: as many of each, drawn by a hash. So time grows with the rows that are looked at, and
memory neither with them nor with the sets. The pool is fitted twice. The first fit gives each set's breadth; the second
is without the fifth of the sets that have most of it, and gives all distances: a set that is full of what is sought
would teach that it is to be expected. Reference sets are never left out.

The decision a reader would question: sets are each other's reference, and nobody has said that they are benign. What
most sets of a purpose share is then what is expected, be it good or bad; what one of them does differently stands out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocaft.audit.peer_fit import Array, Design, Fit, PeerRow
from autocaft.audit.places import spans_of

ROWS_AT_ONCE = 1000
"""Rows of a set that are compared at a time."""
MIN_PEERS = 3
"""Other sets of the purpose that are needed."""
POOL_ROWS = 2000
"""Rows that stand for all sets of a purpose."""
DROPPED = 0.2
"""Share of the sets that the second fit leaves out."""
TOP_TENTH = 0.1
OUT_QUANTILE = 0.95
"""A row stands out if it is further than this share of the rows of the sets that were kept."""
N_WORDS = 3
Words = tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[int, int], ...]]
NO_WORDS: Words = (), (), ()
"""Of a row that does not stand out; it is not read again for them."""


@dataclass(frozen=True)
class PeerSet:
    """A set, read when it is its turn."""

    name: str
    load: Callable[[], Sequence[PeerRow]]
    """At least one row."""
    is_reference: bool


@dataclass(frozen=True)
class RowFound:
    """What is said of one row."""

    number: int
    distance: float
    stands_out: bool
    said: tuple[str, ...]
    """Of a row that stands out: what its answer has and answers to like prompts have not."""
    expected: tuple[str, ...]
    """What they have and it has not."""
    spans: tuple[tuple[int, int], ...]
    """Where in the answer stands what is `said`, in characters."""
    beyond: float | None
    """Natural logarithm of how many times as far it is as rows with like prompts (first fit); None if not drawn."""


@dataclass(frozen=True)
class SetFound:
    """What is said of one set; all but its breadths are mean distances of a strangest tenth of rows."""

    name: str
    top: float
    halves: tuple[float, float]
    """Of every other row."""
    without: float
    """Without the rows that stand out."""
    breadth: float
    breadth_halves: tuple[float, float]
    breadth_without: float
    rows: Sequence[RowFound]


@dataclass(frozen=True)
class _Pool:
    """What is known before any set is looked at; N rows of the pool."""

    design: Design
    fit: Fit
    limit: float
    """A row that is further stands out."""
    beyond: Sequence[Mapping[int, float]]
    """Of each set the logarithms by number of row."""


def compare_peers(sets: Sequence[PeerSet]) -> Iterator[SetFound]:
    """Each set against the others; all have one purpose, and there are more than `MIN_PEERS`."""
    from threadpoolctl import threadpool_limits

    # the last bits of a sum hang on the number of threads, and a worker has another one than a run by itself
    with threadpool_limits(limits=1):
        pool = _pool(sets)
        for number, item in enumerate(sets):
            yield _set(item.name, item.load(), number, pool)


def _pool(sets: Sequence[PeerSet]) -> _Pool:
    rows, owner_N = _drawn(sets)
    design = Design(rows)
    asked_NP, said_NV = design(rows)
    beyond_N = _beyond(Fit(asked_NP, said_NV, owner_N), owner_N)
    kept_N = ~np.isin(owner_N, _broadest(sets, beyond_N, owner_N))
    fit = Fit(asked_NP[kept_N], said_NV[kept_N], owner_N[kept_N])
    beyond: list[dict[int, float]] = [{} for _ in sets]
    for row, owner, value in zip(rows, owner_N.tolist(), beyond_N.tolist(), strict=True):
        beyond[owner][row.number] = value
    return _Pool(design, fit, float(np.quantile(_distances(fit, owner_N[kept_N]), OUT_QUANTILE)), beyond)


def _drawn(sets: Sequence[PeerSet]) -> tuple[list[PeerRow], NDArray[np.int64]]:
    """The same number of rows of each set, those with the smallest hashes, and whose they are."""
    share = max(1, POOL_ROWS // len(sets))
    chosen = [sorted(item.load(), key=_hash)[:share] for item in sets]
    owners = np.repeat(np.arange(len(sets)), [len(rows) for rows in chosen])
    return [row for rows in chosen for row in rows], owners


def _hash(row: PeerRow) -> bytes:
    return hashlib.sha256(json.dumps([row.prompt, row.answer]).encode()).digest()


def _beyond(fit: Fit, owner_N: NDArray[np.int64]) -> Array:
    """Of each row of the pool by how much its distance is above what those of like prompts lead to expect (logarithms).

    As `1 + distance`, since a row that says what is expected is at 0.
    """
    return fit.apart(np.log1p(np.maximum(_distances(fit, owner_N), 0)))


def _broadest(sets: Sequence[PeerSet], beyond_N: Array, owner_N: NDArray[np.int64]) -> list[int]:
    """The sets whose rows are furthest beyond rows with like prompts, as many as the second fit leaves out."""
    mean = {place: float(beyond_N[owner_N == place].mean()) for place, s in enumerate(sets) if not s.is_reference}
    return sorted(mean, key=lambda place: (-mean[place], sets[place].name))[: round(DROPPED * len(sets))]


def _distances(fit: Fit, owner_N: NDArray[np.int64]) -> Array:
    """Of each row of the pool from the rows of the other sets (N,)."""
    found = np.zeros(len(owner_N), dtype=np.float32)
    for owner in np.unique(owner_N).tolist():
        own_N = owner_N == owner
        found[own_N] = fit.shares(fit.apart_NV[own_N], owner).sum(1)
    return found


def _set(name: str, rows: Sequence[PeerRow], number: int, pool: _Pool) -> SetFound:
    parts = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
    found = [row for part in parts for row in _rows(part, number, pool)]
    inside = [row for row in found if not row.stands_out]
    return SetFound(
        name,
        _top(found),
        (_top(found[::2]), _top(found[1::2])),
        _top(inside),
        _breadth(found),
        (_breadth(found[::2]), _breadth(found[1::2])),
        _breadth(inside),
        found,
    )


def _rows(rows: Sequence[PeerRow], number: int, pool: _Pool) -> list[RowFound]:
    asked_RP, said_RV = pool.design(rows)
    shares_RV = pool.fit.shares(said_RV - pool.fit.expected(asked_RP, number), number)
    distance_R = shares_RV.sum(1)
    out_R = distance_R > pool.limit
    return [
        RowFound(
            row.number,
            float(distance_R[i]),
            bool(out_R[i]),
            *(_words(row, shares_RV[i], said_RV[i], pool.design) if out_R[i] else NO_WORDS),
            pool.beyond[number].get(row.number),
        )
        for i, row in enumerate(rows)
    ]


def _top(rows: Sequence[RowFound]) -> float:
    return top_tenth(np.array([row.distance for row in rows]))


def _breadth(rows: Sequence[RowFound]) -> float:
    return breadth_of([row.beyond for row in rows if row.beyond is not None])


def _words(row: PeerRow, share_V: Array, said_V: Array, design: Design) -> Words:
    """The features that give most to a distance by being there, and by not being there; where the first stand."""
    features = design.features
    order = [i for i in np.argsort(-share_V, kind="stable") if share_V[i] > 0 and not features[i].startswith("order:")]
    said = [str(features[i]) for i in order if said_V[i] > 0]
    expected = [str(features[i]) for i in order if said_V[i] == 0]
    said = said[:N_WORDS]
    return tuple(said), tuple(expected[:N_WORDS]), tuple(spans_of(row.prompt, row.answer, design.names, said))


def top_tenth(values_R: NDArray[Any]) -> float:
    """Mean of the largest tenth; 0 where there are none."""
    n_top = max(1, round(TOP_TENTH * len(values_R)))
    return float(np.sort(values_R)[-n_top:].mean()) if len(values_R) else 0.0


def departure(tenth: Sequence[float], breadth: Sequence[float]) -> Sequence[float]:
    """The figures by which a set departs: its strangest tenth's, or those of all its rows if the first is more."""
    return max(tenth, breadth, key=lambda figures: figures[0])


def breadth_of(beyond: Sequence[float]) -> float:
    """Geometric mean of how many times as far rows are as others with like prompts; 1 where there are none."""
    return float(np.exp(np.mean(beyond))) if len(beyond) else 1.0


def units(top_by_set: Mapping[str, float]) -> dict[str, float]:
    """Of each set the median top of the others, in which its own is counted; none if it has no peers."""
    return {
        name: max(1e-6, float(np.median([top for peer, top in top_by_set.items() if peer != name])))
        for name in top_by_set
    }
