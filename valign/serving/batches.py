"""What waits is done together: items of one kind make a batch as soon as the one before is done.

In: items, each awaited by its caller. Out: to each caller his answer. Batches are formed when
there is somebody to do them and not before, so they grow with load by themselves, up to the most;
only an item that finds nothing at work waits a moment for others. The oldest item says of which
kind the next batch is. An item whose caller has gone is dropped.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting(Generic[Item, Answer]):
    item: Item
    kind: object
    answer: "asyncio.Future[Answer]"


class Batches(Generic[Item, Answer]):
    """Does items in batches, one batch at a time, on a thread of its own.

    Args:
        work: answers a batch; what it raises reaches the callers of that batch.
        kind: what the items of one batch have in common.
        told: is told the size of each batch.

    Attributes:
        size: the most items of a batch.
        wait_s: how long an item that finds nothing at work waits for others.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Answer]],
        *,
        kind: Callable[[Item], object] = lambda item: None,
        told: Callable[[int], object] = lambda size: None,
        size: int = 1,
        wait_s: float = 0.0,
    ) -> None:
        self.size, self.wait_s = size, wait_s
        self._work, self._kind, self._told = work, kind, told
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._waiting: list[_Waiting[Item, Answer]] = []
        self._working: asyncio.Task[None] | None = None

    async def do(self, item: Item) -> Answer:
        """Return the answer to an item."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(item, self._kind(item), answer))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._until_all_is_done())
        return await answer

    async def _until_all_is_done(self) -> None:
        await asyncio.sleep(self.wait_s)
        loop = asyncio.get_running_loop()
        while batch := self._next():
            self._told(len(batch))
            items = [one.item for one in batch]
            try:
                answers = await loop.run_in_executor(self._thread, self._work, items)
                pairs = list(zip(batch, answers, strict=True))
            except Exception as error:  # whatever it is, it is its callers' and not the next ones'
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            for one, answer in pairs:
                if not one.answer.done():
                    one.answer.set_result(answer)

    def _next(self) -> list[_Waiting[Item, Answer]]:
        """Take the oldest item out, and what can be done with it."""
        wanted = [one for one in self._waiting if not one.answer.done()]
        batch = [one for one in wanted if one.kind == wanted[0].kind][: self.size]
        self._waiting = [one for one in wanted if one not in batch]
        return batch
