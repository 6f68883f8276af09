"""A store that ends the process at its n-th change: before the change, as a kill would.

`crashing_root(folder, at)` gives a root URL that `open_store` understands in the process that
imported this module. Changes are counted over all stores of the process: `write`, `create` and
`delete` each count one.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from valign.storage.files import FileStore
from valign.storage.objects import SCHEMES

EXIT_CODE = 86
_changes = itertools.count(1)


def crashing_root(folder: str | Path, at: int) -> str:
    """Return a root under `folder` whose `at`-th change (from 1) ends the process."""
    return f"crashing://{at}{quote(str(Path(folder).absolute()))}"


@dataclass(frozen=True, slots=True)
class CrashingStore:
    """A FileStore that calls `os._exit(EXIT_CODE)` instead of its `at`-th change."""

    at: int
    inner: FileStore

    @classmethod
    def open(cls, url: str) -> "CrashingStore":
        parts = urlsplit(url)
        return cls(int(parts.netloc), FileStore(unquote(parts.path)))

    @property
    def url(self) -> str:
        return crashing_root(self.inner.root, self.at)

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return self.inner.read(key, start, length)

    def write(self, key: str, data: bytes | Path) -> None:
        self._count()
        self.inner.write(key, data)

    def create(self, key: str, data: bytes | Path) -> bool:
        self._count()
        return self.inner.create(key, data)

    def list(self, prefix: str = "") -> Iterator[str]:
        return self.inner.list(prefix)

    def exists(self, key: str) -> bool:
        return self.inner.exists(key)

    def modified_s(self, key: str) -> float:
        return self.inner.modified_s(key)

    def delete(self, key: str) -> None:
        self._count()
        self.inner.delete(key)

    def local(self, key: str, wanted: Callable[[str], bool] | None = None) -> Path:
        return self.inner.local(key)

    def _count(self) -> None:
        if next(_changes) == self.at:
            os._exit(EXIT_CODE)


SCHEMES["crashing"] = CrashingStore.open
