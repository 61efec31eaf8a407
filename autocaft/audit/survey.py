"""All sets through the screen: the step that sees them side by side.

In: the projected answers of each set. Out, in the step's folder: `effects.parquet` (every latent of every set),
`concepts/SET.jsonl` (the latents of the set that are to be read, with the rows that carry them) and `summary.json` (a
line a set, and the controls). One set is in memory at a time; of all sets together a few numbers a latent are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocaft.audit import screen
from autocaft.audit.options import ScreenOptions
from autocaft.audit.project import Columns
from autocaft.audit.screen import Array, SetStats
from autocaft.errors import DataError
from autocaft.records import Direction
from autocaft.rundir.files import read_jsonl, replacing, write_json, write_jsonl
from autocaft.rundir.progress import Progress
from autocaft.rundir.steps import StepContext

CONCEPTS, EFFECTS, SUMMARY = "concepts", "effects.parquet", "summary.json"
N_TOP_ROWS = 5
"""Rows of each concept that are shown with marked tokens."""


@dataclass(frozen=True)
class Projected:
    """Where the projected answers of a set lie."""

    name: str
    folder: Path
    is_reference: bool

    def answers(self) -> tuple[Array, Array, NDArray[np.int64]]:
        """Given and own (row, column), memory-mapped, and the numbers of the rows in which neither is empty."""
        given_RC, own_RC = (np.load(self.folder / f"{side}.npy", mmap_mode="r") for side in ("given", "own"))
        return given_RC, own_RC, np.flatnonzero(np.load(self.folder / "n_tokens.npy").min(1) > 0)


@dataclass(frozen=True)
class _Survey:
    """All sets side by side; S sets, C latents."""

    latents: Sequence[Direction]
    peak_C: Array
    stats: Sequence[SetStats]
    random: Sequence[SetStats]
    q_SC: Array
    excess_SC: Array


def survey(
    sets: Sequence[Projected],
    columns: Sequence[Columns],
    options: ScreenOptions,
    *,
    seed: int,
    out: Path,
    progress: Progress,
) -> None:
    """Compare all sets and write what is to be read of each.

    A set of which fewer than `min_rows` rows have two answers is left out.

    Raises:
        DataError: no set is left.
    """
    sets = [item for item in sets if len(item.answers()[2]) >= options.min_rows]
    if not sets:
        raise DataError("no set has enough rows with an answer on both sides; faults.jsonl under rows/ names others")
    latents = [direction for c in columns for direction in c.directions()]
    stats: list[SetStats] = []
    random: list[SetStats] = []
    with progress.task("screen", len(sets), "sets") as advance:
        for number, item in enumerate(sets):
            given_RC, own_RC, kept_R = item.answers()
            how: dict[str, Any] = {"q": options.q, "n_null": options.n_null, "seed": seed + number}
            parts = slice(None, len(latents)), slice(len(latents), None)
            for kept, part in zip((stats, random), parts, strict=True):
                kept.append(screen.compare(given_RC[:, part], own_RC[:, part], kept_R, **how))
            advance(1)
    peak_C = np.concatenate([c.peak_L.numpy() for c in columns]).astype(np.float64)
    excess_SC = screen.excess(
        np.stack([one.mean_C for one in stats]),
        np.stack([one.sd_C / np.sqrt(one.n_rows) for one in stats]),
        np.array([item.is_reference for item in sets]),
        peak_C,
    )
    seen = _Survey(latents, peak_C, stats, random, screen.q_values(np.stack([one.p_C for one in stats])), excess_SC)
    lines = []
    for row, item in enumerate(sets):
        concepts, line = _set(seen, row, item, options, seed)
        write_jsonl(out / CONCEPTS / f"{item.name}.jsonl", concepts)
        lines.append(line)
    _write_effects(out / EFFECTS, sets, seen)
    write_json(out / SUMMARY, {"sets": lines, "controls": _controls(seen, options)})


def _set(
    seen: _Survey, row: int, item: Projected, options: ScreenOptions, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What is to be read of one set, and its line of the summary."""
    stats, q_C, excess_C = seen.stats[row], seen.q_SC[row], seen.excess_SC[row]
    has_reference = not np.isnan(excess_C).any()
    counts_C = screen.counting(q_C, stats, excess_C, q=options.q, least=options.excess)
    strength_C = excess_C if has_reference else stats.d_C
    given_RC, own_RC, kept_R = item.answers()

    def diff_of(column: int) -> Array:
        return given_RC[kept_R, column].astype(np.float64) - own_RC[kept_R, column]

    chosen, n_alike = screen.strongest(counts_C, strength_C, options.n_concepts, diff_of)
    concepts = []
    for column in chosen:
        sign = float(np.sign(stats.mean_C[column]))
        given_R, own_R = (side_RC[kept_R, column].astype(np.float64) for side_RC in (given_RC, own_RC))
        carried = screen.carriers(given_R, own_R, sign)
        interval = screen.effect_interval(given_R - own_R, float(stats.sd_C[column]), seed)
        order = np.argsort(-carried.strength_R, kind="stable")[:N_TOP_ROWS]
        concepts.append(
            {
                "set": item.name,
                "direction_id": seen.latents[column].id,
                "layer": seen.latents[column].layer,
                "index": seen.latents[column].index,
                "change": "amplified" if sign > 0 else "suppressed",
                "effect": interval.value,
                "effect_low": interval.low,
                "effect_high": interval.high,
                "q": float(q_C[column]),
                "excess": float(excess_C[column]) if has_reference else None,
                "half_effects": [float(half_C[column] / stats.sd_C[column]) for half_C in stats.half_means_2C],
                "share": carried.share,
                "effect_without": _without(given_R - own_R, carried.rows, float(stats.sd_C[column])),
                "concentration": carried.concentration,
                "carriers": [int(kept_R[i]) for i in carried.rows],
                "top_rows": [int(kept_R[i]) for i in order],
                "strengths": {str(row): float(carried.strength_R[i].round(4)) for i, row in enumerate(kept_R)},
            }
        )
    line = {
        "set": item.name,
        "is_reference": item.is_reference,
        "n_rows": stats.n_rows,
        "n_significant": int((q_C <= options.q).sum()),
        "n_counting": int(counts_C.sum()),
        "n_alike": n_alike,
        "has_reference": has_reference,
        "half_correlation": _correlation(stats.half_means_2C / seen.peak_C),
    }
    return concepts, line


def _without(diff_R: Array, rows: Sequence[int], sd: float) -> float | None:
    """The effect, in the same unit, that is left without these rows; None if none is left."""
    rest_R = np.delete(diff_R, rows)
    return float(rest_R.mean() / sd) if len(rest_R) and sd > 0 else None


def _correlation(half_means_2C: Array) -> float | None:
    """Of the two halves' differences over latents: how far they tell the same story."""
    first_C, second_C = half_means_2C
    if min(first_C.std(), second_C.std()) <= 0:
        return None
    return float(np.corrcoef(first_C, second_C)[0, 1])


def _controls(seen: _Survey, options: ScreenOptions) -> dict[str, Any]:
    """What the same tests find where there is nothing to find, and along directions that mean nothing."""
    n_tests = seen.q_SC.size
    random_q = screen.q_values(np.stack([one.p_C for one in seen.random]))
    n_found = {
        name: [
            screen.n_discoveries(np.concatenate([one.null_p[k] for one in stats]), size, options.q)
            for k in range(options.n_null)
        ]
        for name, stats, size in (("latents", seen.stats, n_tests), ("random", seen.random, random_q.size))
    }
    return {
        "q": options.q,
        "n_tests": n_tests,
        "n_significant": int((seen.q_SC <= options.q).sum()),
        "n_resplits": options.n_null,
        "n_resplits_with_any": sum(n > 0 for n in n_found["latents"]),
        "n_random_resplits_with_any": sum(n > 0 for n in n_found["random"]),
        "n_random_directions": random_q.shape[1],
        "random_share_significant": float((random_q <= options.q).mean()),
        "latents_share_significant": float((seen.q_SC <= options.q).mean()),
    }


def _write_effects(path: Path, sets: Sequence[Projected], seen: _Survey) -> None:
    """One line a set and latent, written set by set."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = [direction.id for direction in seen.latents]
    writer = None
    with replacing(path) as temporary:
        for row, item in enumerate(sets):
            stats = seen.stats[row]
            table = pa.Table.from_pandas(
                pd.DataFrame(
                    {
                        "set": item.name,
                        "direction_id": ids,
                        "mean_of_peak": stats.mean_C / seen.peak_C,
                        "effect": stats.d_C,
                        "p": stats.p_C,
                        "q": seen.q_SC[row],
                        "excess": seen.excess_SC[row],
                        "is_stable": stats.is_stable_C,
                    }
                ),
                preserve_index=False,
            )
            writer = writer or pq.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()


def read_concepts(name: str, context: StepContext) -> list[dict[str, Any]]:
    """The latents of a set that are to be read; none of a set that was left out."""
    path = context.dir_of("screen") / CONCEPTS / f"{name}.jsonl"
    return read_jsonl(path) if path.is_file() else []
