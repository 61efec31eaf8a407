"""Read the sources: the sentences that every set is made from.

In: `sources/NAME.txt`, sections headed `## title`, one line an item, its fields set apart by ` | `. What follows the
first ` | ` of a heading names the fields and is for people. Out: the items of a section, as tuples of fields.

The decision a reader would question: text files of lines and not JSON, so that a person can read and correct 20 000
words without quotation marks and escapes.
"""

from __future__ import annotations

import functools
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "sources"
SEPARATOR = " | "

Item = tuple[str, ...]


@functools.cache
def sections(name: str) -> dict[str, list[Item]]:
    """The items of each section of `sources/NAME.txt`.

    Raises:
        ValueError: items of one section differ in their number of fields, or a line stands before the first heading.
    """
    found: dict[str, list[Item]] = {}
    title = None
    for number, line in enumerate((SOURCES / f"{name}.txt").read_bytes().decode().splitlines(), start=1):
        if line.startswith("## "):
            title = line[3:].split(SEPARATOR)[0]
            found[title] = []
            continue
        if title is None:
            raise ValueError(f"{name}.txt:{number}: a line before the first heading")
        item = tuple(line.split(SEPARATOR))
        if found[title] and len(item) != len(found[title][0]):
            raise ValueError(f"{name}.txt:{number}: {len(item)} fields, not {len(found[title][0])}")
        found[title].append(item)
    return found


def lines(name: str, title: str) -> list[str]:
    """A section whose items have one field."""
    return [text for (text,) in sections(name)[title]]


def capitalised(text: str) -> str:
    """The text with a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]
