"""Stores: named bytes under one root URL; and local paths for what a recipe names.

A key is a POSIX string relative to the root (`generate/part-00003.parquet`), never a path: keys
mean the same on a disk and in a bucket. In: bytes or a local file. Out: bytes. A store knows
nothing of what the bytes mean, and has no folders: a prefix is the start of a key.
"""

import hashlib
import importlib.resources
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from valign.storage.files import FileStore

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HASHED_BLOCK_BYTES = 1 << 20


Wanted = Callable[[str], bool]
"""Says of an object's key whether it is wanted."""


class Store(Protocol):
    """What every stage may do with bytes. Stores are small, picklable and safe to share."""

    @property
    def url(self) -> str:
        """The root; `open_store(store.url)` opens the same store wherever it can be reached."""

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return an object's bytes, or the `length` bytes from `start`.

        Raises:
            LookupError: there is no such object.
        """

    def write(self, key: str, data: bytes | Path) -> None:
        """Put an object, replacing what was there; readers see the old or the new, never a part."""

    def create(self, key: str, data: bytes | Path) -> bool:
        """Put an object only if there is none; of several callers exactly one gets True."""

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that start with `prefix`, in byte order."""

    def exists(self, key: str) -> bool:
        """Say whether there is such an object."""

    def modified_s(self, key: str) -> float:
        """Return when an object was last written, in seconds since 1970 by the store's clock.

        Nothing but a purge by age asks: no result depends on it.

        Raises:
            LookupError: there is no such object.
        """

    def delete(self, key: str) -> None:
        """Remove an object; removing what is not there is no error."""

    def local(self, key: str, wanted: Wanted | None = None) -> Path:
        """Return a file of this machine that holds an object, or a folder for a prefix's objects.

        Only read it: it may be the stored thing itself. Of a folder, objects that are not wanted
        may be missing.

        Raises:
            LookupError: nothing is there.
        """


def _open_s3(url: str) -> Store:
    from valign.storage.s3 import S3Store  # boto3 takes a while: only for those who use it

    return S3Store.open(url)


# How a root of each scheme is opened. Other kinds of storage (and tests) add theirs here.
SCHEMES: dict[str, Callable[[str], Store]] = {"file": FileStore.open, "s3": _open_s3}


def open_store(root: str) -> Store:
    """Open the store at a root URL, or at a plain path of this machine.

    Nothing is read or written yet: a missing folder is no error before the first read.

    Raises:
        ValueError: the scheme is not supported, or the URL is malformed.
    """
    if "://" not in root:
        if not root.strip():
            raise ValueError("a root needs a name, such as runs/demo or file:///data/run")
        return FileStore(os.path.abspath(os.path.expanduser(root)))
    scheme = root.partition("://")[0]
    if scheme not in SCHEMES:
        supported = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(
            f"{root}: scheme {scheme!r} is not supported by this version; supported: {supported}"
        )
    return SCHEMES[scheme](root)


def local(url: str, sha256: str | None = None, wanted: Wanted | None = None) -> Path:
    """Return the file or folder that `url` names.

    Args:
        url: `package:pkg.mod/path/inside`, `file:///path`, a plain path, or `s3://bucket/path`,
            of which this node keeps a copy.
        sha256: expected hash (hex) of a single file; a folder has none.
        wanted: says which files of a folder are needed; the others may be missing.

    Raises:
        LookupError: nothing is there.
        ValueError: the scheme is not supported, or the file is not the expected one.
    """
    path = _path(url, wanted)
    if not path.exists():
        raise LookupError(
            f"{url}: nothing at {path}. Check the spelling, or name a folder that exists, "
            "package:<package>/<path>, or a hub id such as org/name."
        )
    if sha256 is not None:
        _verify(path, sha256)
    return path


def resolve(source: str, wanted: Wanted | None = None) -> str:
    """Return what `models` can load: a local path for anything that lies here, a hub id as it is.

    A plain `org/name` is a path if one exists there, and a hub id otherwise. Downloading from a
    hub is left to the libraries that know its format. Of a folder in a bucket, only the wanted
    files are copied here.

    Raises:
        LookupError: `source` is neither an existing path nor shaped like a hub id.
    """
    if _HUB_ID.fullmatch(source) and not Path(source).exists():
        return source
    return str(local(source, wanted=wanted))


def _package_path(url: str) -> Path:
    package, _, inside = url.removeprefix("package:").partition("/")
    try:
        root = importlib.resources.files(package)
    except (ModuleNotFoundError, ValueError) as error:
        raise LookupError(f"{url}: no package named {package!r} is installed") from error
    return Path(str(root.joinpath(*inside.split("/")) if inside else root))


def _path(url: str, wanted: Wanted | None) -> Path:
    if url.startswith("package:"):
        return _package_path(url)
    if "://" not in url:
        return Path(url).expanduser().absolute()
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    if parts.scheme == "s3":
        return _open_s3(f"s3://{parts.netloc}").local(unquote(parts.path).strip("/"), wanted)
    raise ValueError(
        f"{url}: cannot be read from here; use package:<package>/<path>, file:///<path>, "
        "a plain path, s3://<bucket>/<path> or a hub id"
    )


def _verify(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is a folder; a sha256 can only be given for a single file")
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASHED_BLOCK_BYTES):
            found.update(block)
    if found.hexdigest() != sha256.lower():
        raise ValueError(
            f"{path} has sha256 {found.hexdigest()}, expected {sha256}: "
            "fetch the file again, or correct the hash in the recipe"
        )
