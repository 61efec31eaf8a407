"""The planted directions as a fixture; makes the helpers of this room and of `tests/llm` importable."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autocaft.records import Direction, Example

for folder in ("judge", "llm"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))


@pytest.fixture
def two_directions() -> tuple[list[Direction], list[Example]]:
    """A latent for gender and a PC from number (top) to gender (bottom)."""
    from planted import direction, planted

    directions = [direction("L14.latent1"), direction("L14.pc0", "pca")]
    return directions, planted("L14.latent1", "gender") + planted("L14.pc0", "number", "gender")
