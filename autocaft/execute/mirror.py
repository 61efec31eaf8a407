"""Folders of steps at a URL, wherever fsspec has a driver for: a bucket, a server, a folder.

In: a step's name and folder. Out: one uncompressed tar, `URL/steps/NAME.VERSION.tar`, and on another machine the folder
again. A version is a hash of the name and of every byte in the folder: a step that was made anew has another one, the
same folder is put once, and what comes back is checked against it.

The decision a reader would question: a second, tiny object follows each tar and says that it is whole. A bucket shows
an object when all of it is there; a folder or a server does not, and a put can be killed at any moment.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from autocaft.errors import AutocaftError, ConfigError, DataError
from autocaft.rundir.files import TEMPORARY_PREFIX, digest, disk_errors, is_disk_full, replacing_folder, sha256_of

SIGN = b"Folders of steps, put here by autocaft --mirror. They can go when no run uses them.\n"
READ_BYTES = 32 << 20
"""Asked for at a time; drivers' own sizes are for small reads here and there."""
WHOLE = ".whole"
"""Ending of the object that follows a tar."""


def version_of(name: str, folder: Path) -> str:
    """What a step's folder holds, as 32 characters."""
    return digest([name, sha256_of(folder)])[:32]


@dataclass(frozen=True)
class Mirror:
    """The place at a URL that means the same on every machine.

    Raises:
        ConfigError: from every call: there is no driver for it here, or it refuses.
    """

    url: str

    def check(self) -> None:
        """Write there and read it again, before hours of work depend on it."""
        drive, root = self._place
        with self._asking(root):
            self._make_folders()
            drive.pipe_file(f"{root}/autocaft.txt", SIGN)
            drive.invalidate_cache()
            found = drive.cat_file(f"{root}/autocaft.txt")
        if found != SIGN:
            raise ConfigError(f"--mirror {self.url}: what was written to {root}/autocaft.txt reads otherwise")

    def has(self, name: str, version: str) -> bool:
        """Whether the whole folder is there in this version."""
        drive, _ = self._place
        place = self._object(name, version) + WHOLE
        with self._asking(place):
            drive.invalidate_cache()  # another machine may have put it since
            return bool(drive.exists(place))

    def put(self, name: str, folder: Path) -> str:
        """Put a step's folder where it is not there yet; gives its version."""
        version = version_of(name, folder)
        if self.has(name, version):
            return version
        (drive, _), place = self._place, self._object(name, version)
        how: dict[str, Any] = {"dir": folder.parent, "prefix": TEMPORARY_PREFIX, "suffix": f"-{folder.name}"}
        with disk_errors(folder), NamedTemporaryFile(**how) as file:
            with tarfile.open(fileobj=file, mode="w", dereference=True) as packed:
                packed.add(folder, arcname=".", filter=_without_owner)
            file.flush()
            with self._asking(place):
                self._make_folders()
                drive.put_file(file.name, place)
                drive.pipe_file(place + WHOLE, b"whole\n")
        return version

    def get(self, name: str, version: str, folder: Path) -> None:
        """Replace the folder by the step's in this version.

        Raises:
            DataError: the object is cut off, is no such folder, or holds what no step writes; it is named.
        """
        (drive, _), place = self._place, self._object(name, version)
        with replacing_folder(folder) as temporary:
            try:
                with (
                    self._asking(place),
                    drive.open(place, "rb", block_size=READ_BYTES) as file,
                    tarfile.open(fileobj=file, mode="r|") as packed,
                ):
                    packed.extractall(temporary, filter=_plain)
            except tarfile.TarError as error:
                raise DataError(f"{self.url}: {place} is cut off or no folder of a step ({error})") from error
            if version_of(name, temporary) != version:
                raise DataError(f"{self.url}: {place} is cut off or was changed: its content is not what its name says")

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """The driver, and the path as it wants it."""
        import fsspec

        try:
            drive, root = fsspec.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"--mirror {self.url}: {error}. The driver has to be installed here and on every node: s3fs for s3://, "
                "gcsfs for gs://, adlfs for abfs://, others: `python -c 'import fsspec; "
                "print(fsspec.available_protocols())'`"
            ) from error
        return drive, root.rstrip("/")

    def _object(self, name: str, version: str) -> str:
        return f"{self._place[1]}/steps/{re.sub(r'[^A-Za-z0-9.-]', '_', name)}.{version}.tar"

    def _make_folders(self) -> None:
        """Only where there are folders: drivers of buckets are asynchronous, and would make a bucket of that name."""
        from fsspec.asyn import AsyncFileSystem

        drive, root = self._place
        if not isinstance(drive, AsyncFileSystem):
            drive.makedirs(f"{root}/steps", exist_ok=True)

    @contextmanager
    def _asking(self, place: str) -> Iterator[None]:
        try:
            yield
        except (AutocaftError, tarfile.TarError):
            raise
        except Exception as error:  # each driver raises kinds of its own, and few are an OSError
            if is_disk_full(error):
                raise
            raise ConfigError(
                f"--mirror {self.url}: {place} cannot be read or written from {os.uname().nodename} "
                f"({type(error).__name__}: {error}). Check the address, and that this machine may read and write "
                "there: each node needs credentials of its own"
            ) from error


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    return member.replace(uid=0, gid=0, uname="", gname="", deep=False)


def _plain(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Files and folders inside the folder; a link, a device or a path that leaves it is an error."""
    if not (member.isreg() or member.isdir()):
        raise tarfile.SpecialFileError(member)
    return tarfile.data_filter(member, folder)
