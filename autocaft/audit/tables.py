"""An audit as tables for other tools: a line a set, and a line a latent that was read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autocaft.rundir.files import replacing

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
    "why",
)
CONCEPT_KEYS = (
    "set", "direction_id", "layer", "change", "effect", "effect_low", "effect_high", "q", "excess", "share",
    "concentration", "description", "off_purpose", "unwanted", "detection", "action",
)  # fmt: skip


def write_tables(audit: Mapping[str, Any], folder: Path) -> None:
    """`sets.parquet` and `concepts.parquet`."""
    import pandas as pd

    concepts = [concept for item in audit["sets"] for concept in item["concepts"]]
    for name, keys, lines in (("sets", SET_KEYS, audit["sets"]), ("concepts", CONCEPT_KEYS, concepts)):
        frame = pd.DataFrame([{key: line[key] for key in keys} for line in lines], columns=list(keys))
        with replacing(folder / f"{name}.parquet") as path:
            frame.to_parquet(path, index=False)
