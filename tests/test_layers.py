"""The import rule of the house: rooms on the left never import rooms to their right, nor their neighbours."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "autocaft"

# Left to right. Rooms in one inner tuple are neighbours; the last word says whether neighbours may import each other.
LAYERS: tuple[tuple[tuple[str, ...], bool], ...] = (
    (("errors", "records", "resources", "arms", "stats"), True),
    (("rundir",), False),
    (("model", "data", "llm", "execute"), False),
    (("discover", "judge", "select", "train", "evaluate"), False),
    (("behind",), False),
    (("report",), False),
    (("config",), False),
    (("run",), False),
    (("ablations", "trainings", "stages", "search_stage", "preflight", "estimate", "outcome"), True),
    (("pipeline",), False),
    (("review", "compare", "audit", "reproduce"), True),
    (("calibrate",), False),
    (("cli",), False),
)
RANK = {room: rank for rank, (rooms, _) in enumerate(LAYERS) for room in rooms}
# What a command line may load before a command is chosen.
HEAVY = ("torch", "transformers", "sae_lens", "pandas", "numpy", "openai", "anthropic", "pydantic", "starlette")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            is_root = node.module == "autocaft"
            names = [f"{node.module}.{alias.name}" if is_root else node.module for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("autocaft.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_room_imports_to_its_right(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    assert room in RANK, f"{room} is in no layer: add it to LAYERS"
    for other in imported_rooms(path) - {room}:
        neighbours_may = LAYERS[RANK[room]][1]
        allowed = RANK[other] < RANK[room] or (RANK[other] == RANK[room] and neighbours_may)
        assert allowed, f"{path.relative_to(PACKAGE.parent)} ({room}) imports {other}"


def test_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, autocaft.cli.app; print([m for m in sys.argv[1:] if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
