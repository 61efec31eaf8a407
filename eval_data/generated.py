"""Write what a generator builds, or compare it with what lies there: the command line that all of them share.

In: a function that builds the text of every file, by name, and the generator's folder. Out: the files, or with
``--check`` the exit status 1, naming those that differ. A file that is as it should be is not written again: of a
``.gz`` file another zlib would make other bytes.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Callable
from pathlib import Path


def read(path: Path) -> bytes | None:
    """A file's content, decompressed; None if there is none that can be read."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError):
        return None


def differing(files: dict[str, str], folder: Path, own: str | None = None) -> list[str]:
    """The names whose file in the folder is missing or has another content.

    Args:
        own: pattern of files that are all generated: another one that fits it should not be there, and is named too.
    """
    strays = {path.relative_to(folder).as_posix() for path in folder.glob(own)} - set(files) if own else set()
    return [name for name, text in files.items() if read(folder / name) != text.encode()] + sorted(strays)


def write_or_check(
    build: Callable[[], dict[str, str]],
    folder: Path,
    description: str,
    argv: list[str] | None = None,
    own: str | None = None,
) -> int:
    """The command line; gives the exit status."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file on disk differs")
    check: bool = parser.parse_args(argv).check
    files = build()
    changed = differing(files, folder, own)
    for name in changed:
        path = folder / name
        if check:
            sys.stderr.write(f"differs from what the sources give: {name}\n")
        elif name not in files:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = files[name].encode()
            path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return 1 if check and changed else 0
