"""An audit as tables for other tools: a line a set, a line a latent that was read, a line two sets that share rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autocaft.rundir.files import replacing

COPY_KEYS = ("n_exact_copies", "n_copies", "n_distinct")
SET_KEYS = (
    "name",
    "outcome",
    "score",
    "p_reference",
    "strength",
    "p_peers",
    "purpose",
    "concept",
    "is_reference",
    "n_rows",
    "n_looked_at",
    "n_faults",
    *COPY_KEYS,
    "why",
)
CONCEPT_KEYS = (
    "set", "direction_id", "layer", "change", "effect", "effect_low", "effect_high", "q", "excess", "share",
    "effect_without", "concentration", "description", "off_purpose", "unwanted", "detection", "action",
)  # fmt: skip
SHARED_KEYS = (
    "set", "other", "n_shared", "other_n_shared", "n_exact", "other_n_exact", "share", "other_share"
)  # fmt: skip


def write_tables(audit: Mapping[str, Any], folder: Path) -> None:
    """`sets.parquet`, `concepts.parquet` and `shared.parquet`."""
    import pandas as pd

    sets = [item | (item["duplicates"] or dict.fromkeys(COPY_KEYS)) for item in audit["sets"]]
    concepts = [concept for item in audit["sets"] for concept in item["concepts"]]
    shared = [_shared(line) for line in audit["shared"]]
    for name, keys, lines in (
        ("sets", SET_KEYS, sets),
        ("concepts", CONCEPT_KEYS, concepts),
        ("shared", SHARED_KEYS, shared),
    ):
        frame = pd.DataFrame([{key: line[key] for key in keys} for line in lines], columns=list(keys))
        with replacing(folder / f"{name}.parquet") as path:
            frame.to_parquet(path, index=False)


def _shared(line: Mapping[str, Any]) -> dict[str, Any]:
    """Two sets' figures side by side."""
    own, other = (
        {"set": name} | {key: line[key][at] for key in ("n_shared", "n_exact", "share")}
        for at, name in enumerate(line["sets"])
    )
    return own | {"other": other.pop("set")} | {f"other_{key}": value for key, value in other.items()}
