"""The list of looks at the final splits: each one makes the next figure a little less honest, so all are kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

LOOKS = Path("results/looks.jsonl")
"""Where looks are noted, from the folder that a run is started in."""


def note_look(path: Path, evaluation: Path) -> None:
    """Append one line that says which final evaluation of which run begins now: a look that was killed was one too.

    Args:
        evaluation: the step's folder, `RUN/evaluate-final/ARM/SEED`.
    """
    run, *step = evaluation.parts[-4:]
    path.parent.mkdir(parents=True, exist_ok=True)
    look = {"at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "run": run, "evaluation": "/".join(step)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(look) + "\n")
