"""Makes `fake_vendor` importable from the tests of both rooms that talk to a vendor."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
