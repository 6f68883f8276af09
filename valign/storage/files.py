"""Objects as files under a folder of this machine, or of a network file system."""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote, urlsplit

from valign.storage import traffic
from valign.storage.layout import check_key

_FOLDER_VANISHED_TRIES = 100
_REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "no room is left for it: make room, or take a root elsewhere, and run again; what is "
        "finished is kept",
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "it may not be written: take a root that this user may write to",
    ),
}


@dataclass(frozen=True, slots=True)
class FileStore:
    """A store whose objects are files.

    An object is written to a hidden temporary file beside its place, flushed to disk and renamed. A
    writer that is killed leaves at most that hidden file, which is never listed and never read.

    Attributes:
        root: absolute path of the folder; made by the first write.
    """

    root: str

    @classmethod
    def open(cls, url: str) -> "FileStore":
        """Open `file:///folder`."""
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ValueError(f"{url}: write file:///absolute/folder, or a plain path")
        return cls(os.path.normpath(unquote(parts.path)))

    @property
    def url(self) -> str:
        return "file://" + quote(self.root)

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        try:
            with open(self._path(key), "rb") as file:
                file.seek(start)
                return traffic.read(file.read(-1 if length is None else length))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise LookupError(f"there is no {key} under {self.url}") from error

    def write(self, key: str, data: bytes | Path) -> None:
        path = self._path(key)
        with self._written(path, data) as temporary:
            os.replace(temporary, path)
            _flush_folder(os.path.dirname(path))
        traffic.wrote(data)

    def create(self, key: str, data: bytes | Path) -> bool:
        path = self._path(key)
        if os.path.exists(path):
            return False
        with self._written(path, data) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            _flush_folder(os.path.dirname(path))
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        folder = prefix.rpartition("/")[0]
        if folder:
            check_key(folder)
        for key in self._walk(folder):
            if key.startswith(prefix):
                yield key

    def exists(self, key: str) -> bool:
        return os.path.isfile(self._path(key))

    def modified_s(self, key: str) -> float:
        try:
            return os.stat(self._path(key)).st_mtime
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LookupError(f"there is no {key} under {self.url}") from error

    def delete(self, key: str) -> None:
        path = self._path(key)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)
        folder = os.path.dirname(path)
        # Prefixes are not things in a store, so emptied folders go too; a non-empty one refuses.
        with contextlib.suppress(OSError):
            while folder != self.root:
                os.rmdir(folder)
                folder = os.path.dirname(folder)

    def local(self, key: str, wanted: Callable[[str], bool] | None = None) -> Path:
        path = Path(self._path(key.rstrip("/")))
        if not path.exists():
            raise LookupError(f"there is no {key} under {self.url}")
        return path

    def _path(self, key: str) -> str:
        return f"{self.root}/{check_key(key)}"

    def _walk(self, folder: str) -> Iterator[str]:
        try:
            found = list_folder(f"{self.root}/{folder}" if folder else self.root)
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in found:
            key = f"{folder}/{name}" if folder else name
            if name.endswith("/"):
                yield from self._walk(key.rstrip("/"))
            else:
                yield key

    @contextlib.contextmanager
    def _written(self, path: str, data: bytes | Path) -> Iterator[str]:
        with explained(path):
            temporary, file = _open_temporary(path)
        try:
            with explained(path), file:
                if isinstance(data, Path):
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
                else:
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Say what to do about a disk that is full or may not be written.

    Raises:
        OSError: with the same number as the one that was raised.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        raise OSError(error.errno, _REMEDIES[error.errno], path) from error


def list_folder(path: str) -> list[str]:
    """Return a folder's visible names, folders with a trailing '/', in the order of their keys."""
    with os.scandir(path) as entries:
        return sorted(
            entry.name + "/" * entry.is_dir() for entry in entries if not entry.name.startswith(".")
        )


def _open_temporary(path: str) -> tuple[str, BinaryIO]:
    """Open a new hidden file in the folder of `path`, making the folder."""
    folder = os.path.dirname(path)
    temporary = f"{folder}/.{secrets.token_hex(8)}.tmp"
    for _ in range(_FOLDER_VANISHED_TRIES):
        # A delete elsewhere may take the emptied folder away at any moment, also inside makedirs,
        # which then says that it exists.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            os.makedirs(folder, exist_ok=True)
            return temporary, open(temporary, "xb")
    raise OSError(f"{folder} keeps vanishing while {path} is written")


def _flush_folder(path: str) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
