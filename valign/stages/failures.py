"""A stage that fails says last what failed first, what is kept, and how to go on.

The words are a note on the error itself, so they are the last that a traceback, or the command
line, prints; and they lie under the root, where `valign status` finds them without the cluster.
"""

import contextlib
from collections.abc import Iterator

from valign.stages import journal, status
from valign.storage import documents, layout
from valign.storage.objects import Store

FAILURES = (ValueError, LookupError, RuntimeError, OSError, ArithmeticError)
SHOWN = 2_000  # characters of an error


@contextlib.contextmanager
def noted(store: Store, stage: str) -> Iterator[None]:
    """Note on an error, and under the root, what a stage failed of."""
    store.delete(layout.FAILED)
    try:
        yield
    except FAILURES as error:
        words = str(error)[:SHOWN]
        journal.note("failed", root=store.url, stage=stage, error=words)
        with contextlib.suppress(*FAILURES):  # the store itself may be what failed
            failed = {"stage": stage, "kind": type(error).__name__, "error": words}
            documents.write(store, layout.FAILED, failed)
        error.add_note(_summary(store, stage, words))
        raise


def _summary(store: Store, stage: str, words: str) -> str:
    """Return the last words of a job that failed."""
    said = [f"\n{stage} failed first: {words.strip().splitlines()[0] if words.strip() else '?'}"]
    with contextlib.suppress(*FAILURES):
        for one in status.read(store).work:
            if one.state != "not begun":
                kept = f", {one.shards:,} shards kept" if one.shards else ""
                reached = f", checkpoint at step {one.step:,}" if one.step is not None else ""
                said.append(f"  {one.prefix}: {one.state}{kept}{reached}")
    said.append(
        "To go on: mend the cause and run the same command again, or with "
        f"recipe={store.url}/{layout.RECIPE}. What is finished is kept."
    )
    return "\n".join(said)
