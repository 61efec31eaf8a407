"""Files that others wrote are the published ones, and all are listed with licence and hash."""

from __future__ import annotations

import re
from pathlib import Path

from autocaft.rundir.files import sha256_of

ROOT = Path(__file__).parent.parent


def test_every_listed_file_has_its_hash_and_every_minified_file_is_listed() -> None:
    rows = re.findall(
        r"^\| `([^`]+)` \|.*\| ([^|]+) \| `([0-9a-f]{64})` \|$", (ROOT / "THIRD_PARTY.md").read_text(), re.M
    )
    assert {path: sha256_of(ROOT / path) for path, _, _ in rows} == {path: digest for path, _, digest in rows}
    assert all(licence.strip() for _, licence, _ in rows)
    minified = {path.relative_to(ROOT).as_posix() for path in (ROOT / "autocaft").rglob("*.min.*")}
    assert minified == {path for path, _, _ in rows}
