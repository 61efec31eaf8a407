"""Which rows of the sets are copies or near-copies of others, within a set and between sets.

In: the hashed rows of every set that can be audited. Out, in the step's folder: `duplicates.json` (a line a set, a line
two sets that share rows, with examples) and `copies.parquet` (every row that has a copy, and its family).

The decision a reader would question: MinHash proposes and never decides. Two texts that agree in a band of their
signatures are compared by their real shingles, so that no pair is reported that is not one; a pair that is just .8
alike is missed one time in twenty. Where many texts agree in a band, each is compared with the next `MAX_NEIGHBOURS` of
them, in the order of their hashes: work grows with the rows and not with their square, and in families larger than that
the counts are lower bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from autocaft.audit.options import DuplicateOptions
from autocaft.audit.shingles import ROWS, HashedSet, Hashes
from autocaft.rundir.files import iter_jsonl, replacing, write_json
from autocaft.rundir.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

FOUND, COPIES = "duplicates.json", "copies.parquet"
N_PERMUTATIONS = 128
WEIGHTS = 0.05, 0.95
"""Of a needless comparison and of a missed pair, when the bands are laid out."""
MAX_NEIGHBOURS = 16
HALF = 0.5
"""The prompts of two rows must be that much alike, and so must the answers: one long answer to different prompts is no
copy, and one long prompt with different answers neither."""
SHINGLES_AT_ONCE, PAIRS_AT_ONCE = 4096, 4096
MAX_EXAMPLES = 40
"""Pairs of sets that examples are given of, and that the page shows: those that share the largest part first."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Pair = tuple[tuple[int, int], tuple[int, int], float | None]
"""(set, row) twice, and how much they are alike; None of copies."""


@dataclass(frozen=True)
class Alike:
    """S sets, T different texts, E pairs of texts that are near-copies."""

    sets: Sequence[HashedSet]
    rows_ST: csr_array
    """How many rows of a set have a text."""
    texts: Sequence[Ints]
    """The text of each row, set by set."""
    pairs_E2: Ints
    likeness_E: Floats
    n_compared: int


def likeness(shingles: Sequence[Hashes], first_P: Ints, second_P: Ints) -> tuple[Floats, Floats]:
    """Jaccard similarity of pairs of these texts, and of their prompts or answers alone, whichever is less."""
    ends = np.cumsum([0, *(len(found) for found in shingles)])
    flat = np.concatenate(shingles).astype(np.int64)  # a hash is a column of its own
    texts = csr_array((np.ones(len(flat), np.int8), flat, ends), (len(shingles), np.iinfo(np.int64).max))
    common_P2 = _by_part(texts[first_P].multiply(texts[second_P]).tocsr())
    n_2 = _by_part(texts)
    either_P2 = n_2[first_P] + n_2[second_P] - common_P2
    return common_P2.sum(1) / either_P2.sum(1), (common_P2 / either_P2).min(1)


def _by_part(texts: csr_array) -> Ints:
    """How many shingles of the prompt (even) and of the answer (odd) each row of a matrix has."""
    n_rows = texts.shape[0]
    rows = np.repeat(np.arange(n_rows), np.diff(texts.indptr))
    return np.bincount(2 * rows + (texts.indices & 1), minlength=2 * n_rows).reshape(n_rows, 2)


def find_alike(sets: Sequence[HashedSet], options: DuplicateOptions, progress: Progress) -> Alike:
    """The texts of all sets, and which of them are near-copies of each other."""
    sets = sorted(sets, key=lambda one: one.name)
    starts = np.cumsum([0, *(len(one.keys_T) for one in sets)])
    _, first_T, text_K = np.unique(np.concatenate([one.keys_T for one in sets]), return_index=True, return_inverse=True)
    set_T = np.searchsorted(starts, first_T, "right") - 1
    texts = [text_K[start + one.text_R] for one, start in zip(sets, starts, strict=False)]
    owner = np.repeat(np.arange(len(sets)), [len(text_R) for text_R in texts])
    ones = np.ones(len(owner), np.int64)
    rows_ST = coo_array((ones, (owner, np.concatenate(texts))), (len(sets), len(first_T))).tocsr()

    def shingles(text: int) -> Hashes:
        return sets[set_T[text]].shingles(first_T[text] - starts[set_T[text]])

    codes, values, n_compared = np.zeros(0, np.int64), np.zeros(0), 0
    bands_TB = _bands([shingles(text) for text in range(len(first_T))], options.threshold, progress)
    with progress.task("near-copies", bands_TB.shape[1], "bands") as advance:
        for band_T in bands_TB.T:
            new = np.setdiff1d(_neighbours(band_T), codes)
            for start in range(0, len(new), PAIRS_AT_ONCE):
                some = new[start : start + PAIRS_AT_ONCE]
                chosen, place = np.unique(np.concatenate(np.divmod(some, len(first_T))), return_inverse=True)
                row_P, part_P = likeness([shingles(text) for text in chosen], *np.split(place, 2))
                kept_P = (row_P >= options.threshold) & (part_P >= HALF)
                codes, values = np.concatenate([codes, some[kept_P]]), np.concatenate([values, row_P[kept_P]])
            n_compared += len(new)
            advance(1)
    order = np.argsort(codes)
    pairs_E2 = np.stack(np.divmod(codes[order], len(first_T)), 1)
    return Alike(sets, rows_ST, texts, pairs_E2, values[order], n_compared)


def _bands(shingles: Sequence[Hashes], threshold: float, progress: Progress) -> Hashes:
    """A hash of each band of each text's MinHash signature (text, band)."""
    from datasketch import MinHash, MinHashLSH

    # beyond .9 the layout has so few bands that it misses more than it saves
    layout = MinHashLSH(threshold=min(threshold, 0.9), num_perm=N_PERMUTATIONS, weights=WEIGHTS)
    mixers = np.random.default_rng(0).integers(0, 2**63, layout.r, np.uint64) * np.uint64(2) + np.uint64(1)
    sketch = MinHash(num_perm=N_PERMUTATIONS, seed=1, hashfunc=lambda value: value)
    bands_TB = np.zeros((len(shingles), layout.b), np.uint64)
    with progress.task("signatures", len(shingles), "texts") as advance:
        for text, found in enumerate(shingles):
            sketch.clear()
            for start in range(0, len(found), SHINGLES_AT_ONCE):
                sketch.update_batch((found[start : start + SHINGLES_AT_ONCE] >> np.uint64(32)).tolist())
            parts = sketch.hashvalues[: layout.b * layout.r].astype(np.uint64).reshape(layout.b, layout.r)
            bands_TB[text] = (parts * mixers).sum(1)
            advance(1)
    return bands_TB


def _neighbours(band_T: Hashes) -> Ints:
    """Pairs of texts that agree in a band, as first * T + second: each text with the next ones in its bucket."""
    order_T = np.argsort(band_T, kind="stable")
    sorted_T = band_T[order_T]
    found = [np.zeros(0, np.int64)]
    for step in range(1, MAX_NEIGHBOURS + 1):
        same = sorted_T[step:] == sorted_T[:-step]
        if not same.any():
            break
        found.append(order_T[:-step][same] * len(band_T) + order_T[step:][same])
    return np.concatenate(found)


def write_duplicates(sets: Sequence[HashedSet], options: DuplicateOptions, out: Path, progress: Progress) -> None:
    """Compare all sets and write what they have twice."""
    if not sets:
        write_json(out / FOUND, {"n_compared": 0, "sets": {}, "shared": []})
        return
    alike = find_alike(sets, options, progress)
    counts, shared = _counts(alike)
    examples = [list(_examples(alike, s, s)) for s in range(len(alike.sets))]
    examples += [list(_examples(alike, *line["places"])) for line in shared[:MAX_EXAMPLES]]
    shown = _shown(alike, [pair for pairs in examples for pair in pairs])
    for line, pairs in zip([*counts, *shared[:MAX_EXAMPLES]], examples, strict=True):
        line["examples"] = [
            {"likeness": value, "rows": [shown[first], shown[second]]} for first, second, value in pairs
        ]
    names = [one.name for one in alike.sets]
    for line in shared:
        line["sets"] = [names[place] for place in line.pop("places")]
    _write_copies(alike, out / COPIES)
    by_name = dict(zip(names, counts, strict=True))
    write_json(out / FOUND, {"n_compared": alike.n_compared, "sets": by_name, "shared": shared})


def _graph(alike: Alike) -> csr_array:
    """Near-copies as a symmetric matrix of ones (text, text)."""
    n_texts = alike.rows_ST.shape[1]
    first_E, second_E = alike.pairs_E2.T
    ones = np.ones(2 * len(first_E), np.int64)
    ends = np.concatenate([first_E, second_E]), np.concatenate([second_E, first_E])
    return coo_array((ones, ends), (n_texts, n_texts)).tocsr()


def _counts(alike: Alike) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A line a set, and a line two sets that share rows, those that share the largest part of either first."""
    rows_ST, graph_TT = alike.rows_ST, _graph(alike)
    has_ST = rows_ST.sign()
    near_ST = (has_ST @ graph_TT).sign()
    lines = []
    for s, text_R in enumerate(alike.texts):
        own_U, n_U = np.unique(text_R, return_counts=True)
        has_near_U = near_ST[[s]].toarray()[0, own_U] > 0
        lines.append(
            {
                "n_exact_copies": int(n_U[n_U > 1].sum()),
                "n_copies": int(n_U[(n_U > 1) | has_near_U].sum()),
                "n_distinct": int(connected_components(graph_TT[own_U][:, own_U], directed=False)[0]),
            }
        )
    shared_SS = (rows_ST @ (has_ST + near_ST).sign().T).toarray()
    exact_SS = (rows_ST @ has_ST.T).toarray()
    n_S = [len(text_R) for text_R in alike.texts]
    shared: list[dict[str, Any]] = []
    for s, other in zip(*np.nonzero(np.triu(shared_SS, 1)), strict=True):
        ways = (s, other), (other, s)
        line = {
            "places": (int(s), int(other)),
            "n_shared": [int(shared_SS[way]) for way in ways],
            "n_exact": [int(exact_SS[way]) for way in ways],
            "share": [round(float(shared_SS[way]) / n_S[way[0]], 4) for way in ways],
            "examples": [],
        }
        shared.append(line)
    return lines, sorted(shared, key=lambda line: (-max(line["share"]), line["places"]))


def _examples(alike: Alike, s: int, other: int) -> Iterator[Pair]:
    """A copy and a near-copy that two sets, or one set in itself, have, as far as there are any."""
    in_first_T, in_second_T = (alike.rows_ST[[place]].toarray()[0] for place in (s, other))
    same = np.flatnonzero(in_first_T > 1 if s == other else (in_first_T > 0) & (in_second_T > 0))[:1]
    found: list[tuple[int, int, float | None]] = [(text, text, None) for text in same]
    first_E, second_E = alike.pairs_E2.T
    for ends in ((first_E, second_E), (second_E, first_E)):
        at = np.flatnonzero((in_first_T[ends[0]] > 0) & (in_second_T[ends[1]] > 0))[:1]
        found += [(ends[0][e], ends[1][e], round(float(alike.likeness_E[e]), 3)) for e in at]
    for text, twin, value in found[: len(same) + 1]:
        # of one text in one set the first row and the last are two rows
        row, last = np.flatnonzero(alike.texts[s] == text)[0], np.flatnonzero(alike.texts[other] == twin)[-1]
        yield (s, int(row)), (other, int(last)), value


def _shown(alike: Alike, pairs: Sequence[Pair]) -> dict[tuple[int, int], dict[str, Any]]:
    """The rows of these pairs by (set, row)."""
    wanted = {place for first, second, _ in pairs for place in (first, second)}
    shown = {}
    for s in sorted({s for s, _ in wanted}):
        for number, (_, line) in enumerate(iter_jsonl(alike.sets[s].folder / ROWS)):
            if (s, number) in wanted:
                shown[s, number] = {"set": alike.sets[s].name} | {k: v for k, v in line.items() if k != "text"}
    return shown


def _write_copies(alike: Alike, path: Path) -> None:
    """A line a row that has a copy or near-copy in any set, with the number of its family: rows linked by pairs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    _, family_T = connected_components(_graph(alike), directed=False)
    n_F = np.bincount(np.concatenate([family_T[text_R] for text_R in alike.texts]))
    types = {"set": pa.string(), "id": pa.string(), "file": pa.string(), "line": pa.int64(), "family": pa.int64()}
    schema = pa.schema(list(types.items()))
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for one, text_R in zip(alike.sets, alike.texts, strict=True):
            writer.write_table(_family_rows(one, family_T[text_R], n_F, schema))


def _family_rows(one: HashedSet, family_R: Ints, n_F: Ints, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    lines = [
        {"set": one.name, "family": int(family)} | {key: line[key] for key in ("id", "file", "line")}
        for family, (_, line) in zip(family_R, iter_jsonl(one.folder / ROWS), strict=True)
        if n_F[family] > 1
    ]
    return pa.Table.from_pylist(lines, schema)
