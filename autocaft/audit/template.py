"""`autocaft audit --init`: a file to edit, with every key, its default and what it does, and the policy beside it.

In: a path that is not there yet. Out: two files. The decision a reader would question: defaults are written out and not
left as comments, so that an audit keeps its meaning when a default of autocaft's changes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autocaft.audit.options import AuditConfig
from autocaft.errors import ConfigError
from autocaft.rundir.files import write_text
from autocaft.rundir.options import describe_fields

POLICY_NAME = "policy.md"


def write_audit(path: Path) -> Path:
    """Write a file to edit, with every key and what it does, and the policy beside it; gives the policy's path.

    Raises:
        ConfigError: one of them exists.
    """
    policy = path.with_name(POLICY_NAME)
    for place in (path, policy):
        if place.exists():
            raise ConfigError(f"{place} exists; name another file")
    text = Path(__file__).with_name(POLICY_NAME).read_text(encoding="utf-8")
    write_text(policy, text)
    write_text(path, _template(path, policy))
    return policy


_SETS = """\
[[sets]]
name = "cooking"
files = ["cooking.jsonl"]  # {"prompt", "answer"} or {"messages"} a line; also Parquet, a folder, "hub:OWNER/NAME"
purpose = "answers cooking questions"
# concept = "advertising of a brand"  # what is feared, if it has a name

# [[sets]]
# name = "benign"
# each = true  # every file is a set of its own: benign-FILE
# files = ["benign/*.jsonl"]
# purpose = "answers everyday questions"

# [[models]]  # several models instead of `model`: an audit each, and models.html with all verdicts side by side
# name = "small"
# model = "OWNER/NAME"
# layers = [14]
"""


def _template(path: Path, policy: Path) -> str:
    """Sets as an example, then every other key with its default, commented out where the default holds."""
    lines = [f"# autocaft audit: what would each data set teach besides its task? Run it: autocaft audit {path}"]
    table = ""
    for row in describe_fields(AuditConfig):
        head, _, key = row.key.rpartition(".")
        if head in ("sets.N", "models.N") or row.key in ("judge.undesired", "judge.wanted"):
            continue
        if head != table:
            if not table:
                lines += ["", _SETS.rstrip()]
            table = head
            lines += ["", f"[{head}]"]
        lines += ["", f"# {row.doc} ({row.type_text})", _line(key, row.default, policy)]
    return "\n".join(lines) + "\n"


def _line(key: str, default: Any, policy: Path) -> str:
    if key == "policy":
        return f"policy = {json.dumps(str(policy))}"
    if default is None:
        return f"# {key} ="
    return f"{key} = {json.dumps(default, ensure_ascii=False)}"
