"""What writes that were killed left in a store where no listing shows it.

A folder has hidden temporary files, a bucket has parts of uploads that were never completed. Both
cost room, neither is ever read. Only call it while nothing writes under the root.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from valign.storage import s3
from valign.storage.files import FileStore
from valign.storage.objects import Store

Leftover = tuple[str, Callable[[], object]]


def leftovers(store: Store) -> Iterator[Leftover]:
    """Yield what each is called, and how it is removed."""
    if isinstance(store, FileStore):
        for folder, _, names in os.walk(store.root):
            for name in sorted(names):
                if name.startswith(".") and name.endswith(".tmp"):
                    file = Path(folder, name)
                    yield file.relative_to(store.root).as_posix(), file.unlink
    elif isinstance(store, s3.S3Store):
        yield from store.uploads()
