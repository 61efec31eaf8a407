"""What messages, the page and docstrings tell a reader to type is a command that takes just these words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

import autocaft
from autocaft.cli.app import app

NAMED = re.compile(r"(?:`|<code>)autocaft ([a-z]+ [^`<]+)(?:`|</code>)")


def _named_commands() -> set[str]:
    """Of the comparison and the report, with strings that go on in the next line joined."""
    root = Path(autocaft.__file__).parent
    sources = [path for part in ("compare", "report") for path in sorted((root / part).iterdir()) if path.is_file()]
    joined = (re.sub(r'"\n\s*f?"', "", path.read_text(encoding="utf-8")) for path in sources)
    return {command for text in joined for command in NAMED.findall(text)}


def test_every_named_command_takes_what_it_is_given() -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    named = _named_commands()
    assert {"review {run_dir} --name YOU", "review RUN --name YOU", "compare RUN --out"} <= named
    for command in sorted(named):
        name, *words = command.split()
        known[name].make_context(name, words)
    with pytest.raises(Exception, match="Missing parameter: name"):
        known["review"].make_context("review", ["RUN"])
