"""The list of looks at the final splits: each one makes the next figure a little less honest, so all are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path


def note_look(path: Path, run_dir: Path, steps: Sequence[str]) -> None:
    """Append one line that says which final evaluations of which run were made now; nothing if none was."""
    if not steps:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    look = {"at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "run": run_dir.name, "evaluations": list(steps)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(look) + "\n")
