"""Two bare selection files: how far are they the same?

In: two files as `select.file` has them (`{"model.layers.14": [3, 7]}`), and how many candidates there were if that is
known. Out: a dict for `--json`. The decision a reader would question: without `candidates` there is no kappa, since
nobody knows how many directions both left alone; and principal angles need vectors, which such files do not have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autocaft.errors import ConfigError, DataError
from autocaft.select.choices import read_entries
from autocaft.stats import Cells, pair_agreement

Entry = tuple[str | None, int, int]


def compare_selections(human_path: Path, auto_path: Path, candidates: int | None = None) -> dict[str, Any]:
    """Precision, recall and F1 of the second file against the first; kappa where `candidates` is given.

    A measure that does not exist (of an empty selection) is None.

    Raises:
        DataError: a file cannot be read, or the two do not name directions alike.
        ConfigError: `candidates` is less than what the files name.
    """
    human, auto = _alike(human_path, auto_path)
    named = human | auto
    if candidates is not None and candidates < len(named):
        raise ConfigError(
            f"--candidates {candidates}: {human_path} and {auto_path} name {len(named)} different directions, so there "
            "were at least that many candidates. Give the number both chose from (lines of decompose/directions.jsonl)."
        )
    neither = 0 if candidates is None else candidates - len(named)
    cells = Cells(len(human & auto), len(human - auto), len(auto - human), neither)
    found = pair_agreement(cells, n=1)
    row: dict[str, Any] = {
        "human": str(human_path),
        "auto": str(auto_path),
        "n_human": len(human),
        "n_auto": len(auto),
        "n_shared": cells.both,
        "precision": _value(found.precision),
        "recall": _value(found.recall),
        "f1": _value(found.f1),
        "only_human": _spoken(human - auto),
        "only_auto": _spoken(auto - human),
    }
    if candidates is not None:
        row |= {"n_candidates": candidates, "kappa": _value(found.kappa)}
    return row


def _value(interval: Any) -> float | None:
    """The figure alone: two files say nothing of how the directions were drawn, so no interval."""
    return None if interval is None else interval.value


def _alike(human_path: Path, auto_path: Path) -> tuple[set[Entry], set[Entry]]:
    """The choices of both files with sources named in both or in neither."""
    human, auto = set(read_entries(human_path)), set(read_entries(auto_path))
    for path, entries in ((human_path, human), (auto_path, auto)):
        negative = sorted(index for _, _, index in entries if index < 0)
        if negative:
            raise DataError(f"{path}: {negative[0]} is no index of a direction. Indices start at 0.")
    sources = {source for source, _, _ in human | auto}
    if None in sources and len(sources) > 2:
        bare, naming = (human_path, auto_path) if (None in {s for s, _, _ in human}) else (auto_path, human_path)
        raise DataError(
            f"{bare} does not say whether it means latents or PCs, and {naming} has both. "
            'Write {"sae": {...}, "pca": {...}} in both.'
        )
    if None in sources and len(sources) == 2:
        (source,) = sources - {None}  # one kind of direction in all: the bare file means it too
        human, auto = ({(source, layer, index) for _, layer, index in entries} for entries in (human, auto))
    return human, auto


def _spoken(entries: set[Entry]) -> list[str]:
    """Ids in order of layer and index; without a kind where the files name none."""
    kind = {"sae": "latent", "pca": "pc", None: ""}
    ordered = sorted(entries, key=lambda entry: (entry[1], entry[2], entry[0] or ""))
    return [f"L{layer}.{kind[source]}{index}" for source, layer, index in ordered]
