"""Find the files that a data set's rows lie in.

    rows.jsonl   rows.jsonl.gz   rows.parquet   folder   "part-*.parquet"   builtin:gender/train.jsonl
    hub:OWNER/NAME   hub:OWNER/NAME/CONFIG:SPLIT@REVISION

In: one of these, as the settings have it. Out: a `DataSet`: files in order, and an identity that changes with their
content and not with their place. Of a Hub data set CONFIG is its only or default one, SPLIT `train` and REVISION `main`
where they are not given; `pinned` names the commit that was taken.

The decision a reader would question: of a Hub data set the repository's own files are downloaded and read, and not
what `datasets` would build of them (it says which files a config and a split are). So a fault has a file and a row,
nothing lies on the disk twice, and no code of the repository is ever run: a set that needs a script is refused. What a
download was complete with is written down beside the cache, so that half a download is never taken for a small set.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from autocaft.errors import DataError
from autocaft.resources import BUILTIN, cache_dir, eval_data_dir
from autocaft.rundir.files import digest, read_json, sha256_of, write_json

HUB = "hub:"
ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".json", ".json.gz", ".ndjson", ".ndjson.gz")
"""Of the files that are read."""
_HUB_SPEC = re.compile(
    r"hub:(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<config>[^:@]+))?(?::(?P<split>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class DataSet:
    """Where a data set lies."""

    spec: str
    files: tuple[Path, ...]
    """In order; none for a Hub data set that is not on this disk yet."""
    pinned: str
    """The spec with the commit for a revision; of what lies on this disk the spec itself."""

    @property
    def is_here(self) -> bool:
        """Whether it can be read without the Hub."""
        return bool(self.files)

    @property
    def identity(self) -> str:
        """Hash of the content: of a single file its sha256; of what is not here, of its name."""
        if not self.files:
            return digest(self.spec)
        return content_hash(self.files[0]) if len(self.files) == 1 else digest([content_hash(f) for f in self.files])


@dataclass(frozen=True)
class HubSpec:
    """What `hub:OWNER/NAME/CONFIG:SPLIT@REVISION` says."""

    repo: str
    config: str | None
    split: str
    revision: str

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, so that it can never mean other rows."""
        return _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        config = "" if self.config is None else f"/{self.config}"
        return f"{HUB}{self.repo}{config}:{self.split}@{self.revision}"


def parse_hub(spec: str) -> HubSpec:
    """The parts of a Hub data set's spec.

    Raises:
        DataError: not of that form.
    """
    match = _HUB_SPEC.fullmatch(spec)
    if match is None:
        raise DataError(f"{spec!r}: write hub:OWNER/NAME, or in full hub:OWNER/NAME/CONFIG:SPLIT@REVISION")
    return HubSpec(match["repo"], match["config"], match["split"] or "train", match["revision"] or "main")


def find_set(spec: str, *, downloads: bool = True) -> DataSet:
    """The files behind a spec; a Hub data set is downloaded, or taken from the Hub's cache.

    Args:
        downloads: False asks the Hub for nothing: what is not on this disk has no files yet.

    Raises:
        DataError: nothing is there, or it has no files that can be read.
    """
    if spec.startswith(HUB):
        return _on_hub(spec, parse_hub(spec), downloads=downloads)
    files = local_files(spec)
    if not files:
        place = place_of(spec)
        held = f"; the folder holds {_named([p.name for p in sorted(place.iterdir())])}" if place.is_dir() else ""
        looked = "" if place.is_absolute() else f" (looked from {Path.cwd()})"
        raise DataError(f"data: no file {place}{looked}{held}")
    return DataSet(spec, files, spec)


def local_files(spec: str) -> tuple[Path, ...]:
    """A file itself, a folder's files (not those of folders in it), or what a pattern fits, sorted by name.

    Raises:
        DataError: a folder has its rows in two formats: it may well be the same rows twice.
    """
    place = place_of(spec)
    if place.is_file():
        return (place,)
    if not place.is_dir():
        return tuple(Path(found) for found in sorted(glob.glob(str(place), recursive=True)))
    files = tuple(path for path in sorted(place.iterdir()) if path.name.endswith(ENDINGS) and path.name[0] != ".")
    if len({path.suffix == ".parquet" for path in files}) > 1:
        raise DataError(f"data: {place} holds Parquet and JSON files; name one kind by a pattern, as {place}/*.jsonl")
    return files


def place_of(spec: str) -> Path:
    """Where a file, folder or pattern should be."""
    return eval_data_dir() / spec.removeprefix(BUILTIN) if spec.startswith(BUILTIN) else Path(spec).expanduser()


def content_hash(path: Path) -> str:
    """The sha256 of a file, computed once a process as long as it stays as it is."""
    found = path.stat()
    return _sha256(path, found.st_size, found.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_of(path)


def _on_hub(spec: str, hub: HubSpec, *, downloads: bool) -> DataSet:
    kept = _kept(spec, hub)
    if kept is not None and (hub.is_pinned or not downloads):
        return kept
    if not downloads:
        return DataSet(spec, (), spec)
    from httpx2 import HTTPError

    try:
        return _download(spec, hub)
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        if kept is not None and _is_out_of_reach(error):
            return kept
        raise _not_given(spec, error) from error


def _is_out_of_reach(error: Exception) -> bool:
    """Whether the Hub said nothing, rather than that there is no such set."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code not in (401, 403, 404)
    return isinstance(error, (HTTPError, ConnectionError, TimeoutError, LocalEntryNotFoundError))


def _download(spec: str, hub: HubSpec) -> DataSet:
    """Ask the Hub what the config and split are at this moment, and fetch that."""
    from huggingface_hub import HfApi, snapshot_download

    commit = hub.revision if hub.is_pinned else HfApi().dataset_info(hub.repo, revision=hub.revision).sha
    assert commit is not None, "the Hub names the commit of every revision"
    pinned = replace(hub, revision=commit)
    names = _names_of(pinned)
    patterns = [glob.escape(name) for name in names]
    snapshot_download(hub.repo, repo_type="dataset", revision=commit, allow_patterns=patterns)
    for written in {spec, str(pinned)}:
        write_json(_note(written), {"spec": written, "commit": commit, "files": names})
    kept = _kept(spec, hub)
    assert kept is not None, f"{spec}: what was just downloaded is not in the cache"
    return kept


def _names_of(hub: HubSpec) -> list[str]:
    """Files of the split in the repository, by the rules of `datasets` (the card, or the names of files)."""
    from datasets import load_dataset_builder

    config = load_dataset_builder(hub.repo, hub.config, revision=hub.revision).config
    by_split: dict[str, Sequence[Any]] = {str(split): files for split, files in (config.data_files or {}).items()}
    if hub.split not in by_split:
        raise ValueError(f"no split {hub.split!r}; splits are {_named(by_split)}")
    root = f"hf://datasets/{hub.repo}@{hub.revision}/"
    names = [str(file).removeprefix(root) for file in by_split[hub.split]]
    readable = [name for name in names if name.endswith(ENDINGS)]
    if len(readable) < len(names) or not names:
        raise ValueError(
            f"its files are neither Parquet nor JSON lines ({_named(names)}); where the Hub has made Parquet of them, "
            f"take that: {replace(hub, revision='refs/convert/parquet')}"
        )
    return names


def _note(spec: str) -> Path:
    return cache_dir() / "datasets" / f"{digest(spec)[:32]}.json"


def _kept(spec: str, hub: HubSpec) -> DataSet | None:
    """What was downloaded for this spec before, if all of it is still in the Hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    note = _note(spec)
    if not note.is_file():
        return None
    found = read_json(note)
    commit = found["commit"]
    places = [try_to_load_from_cache(hub.repo, name, revision=commit, repo_type="dataset") for name in found["files"]]
    files = tuple(Path(place) for place in places if isinstance(place, str))
    return DataSet(spec, files, str(replace(hub, revision=commit))) if len(files) == len(places) else None


def _not_given(spec: str, error: Exception) -> DataError:
    said = " ".join(str(error).split())[:300]
    return DataError(
        f"{spec}: the Hugging Face Hub did not give it ({type(error).__name__}: {said}). Check the name, log in for a "
        "gated set (hf auth login), or give files of this disk, as a folder that `hf download` has filled"
    )


def _named(names: Any) -> str:
    """The first few, for messages."""
    listed = list(names)
    return (", ".join(listed[:8]) or "nothing") + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
