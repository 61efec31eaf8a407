"""Find the files that ship with the package: judge prompts, data sets, calibrations and recipes.

In a checkout they lie beside the package (`prompts/`, `eval_data/`, `results/calibration/`); in an installed wheel,
inside it.
"""

from __future__ import annotations

import os
from pathlib import Path

from autocaft.errors import DataError

_PACKAGE = Path(__file__).resolve().parent
BUILTIN = "builtin:"


def _shipped(name: str) -> Path:
    inside = _PACKAGE / f"_{name}"
    return inside if inside.is_dir() else _PACKAGE.parent / name


def prompts_dir() -> Path:
    """Folder of the judge and grader prompts."""
    return _shipped("prompts")


def eval_data_dir() -> Path:
    """Folder of the data sets that ship with autocaft."""
    return _shipped("eval_data")


def calibrations_dir() -> Path:
    """Folder of the calibrations that ship with autocaft: how judges did on planted concepts."""
    return _shipped("results") / "calibration"


def recipes_dir() -> Path:
    """Folder of the recipes that `autocaft run NAME` finds."""
    return _PACKAGE / "recipes"


def cache_dir() -> Path:
    """What is made once for all runs: `$AUTOCAFT_CACHE`, else `$XDG_CACHE_HOME/autocaft`, else `~/.cache/autocaft`."""
    if "AUTOCAFT_CACHE" in os.environ:
        return Path(os.environ["AUTOCAFT_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "autocaft"


def data_path(spec: str) -> Path:
    """The file behind a path of a config: `builtin:gender/train.jsonl` ships with the package, the rest is a path.

    Raises:
        DataError: there is no such file.
    """
    path = eval_data_dir() / spec.removeprefix(BUILTIN) if spec.startswith(BUILTIN) else Path(spec).expanduser()
    if not path.is_file():
        raise DataError(f"data: no file {path}" + ("" if path.is_absolute() else f" (looked from {Path.cwd()})"))
    return path
