"""Makes the helpers of this room and of `tests/judge` importable."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("judge", "llm"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
