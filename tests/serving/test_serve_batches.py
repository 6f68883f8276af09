"""Batches grow with load, hold one kind of item, and cost nobody else anything when they fail."""

import asyncio
import threading

import pytest

from valign.serving.batches import Batches


class Slow:
    """Work that waits to be let go, batch by batch."""

    def __init__(self):
        self.batches = []
        self.go = threading.Semaphore(0)

    def __call__(self, items):
        self.batches.append(list(items))
        assert self.go.acquire(timeout=30)
        if "bad" in items:
            raise ValueError("bad")
        return [str(item) for item in items]


async def begun(work, count):
    async with asyncio.timeout(30):
        while len(work.batches) < count:
            await asyncio.sleep(0.01)


def asked(batches, *items):
    return [asyncio.create_task(batches.do(item)) for item in items]


def test_what_comes_while_a_batch_is_at_work_makes_the_next_ones_in_order():
    async def main():
        work, sizes = Slow(), []
        batches = Batches(work, size=8, told=sizes.append)
        tasks = asked(batches, 0)
        await begun(work, 1)
        for item in range(1, 21):  # one by one, as requests come
            tasks += asked(batches, item)
            await asyncio.sleep(0)
        work.go.release(4)
        assert await asyncio.gather(*tasks) == [str(item) for item in range(21)]
        assert work.batches == [[0], [*range(1, 9)], [*range(9, 17)], [*range(17, 21)]]
        assert sizes == [1, 8, 8, 4]

    asyncio.run(main())


def test_an_item_that_finds_nothing_at_work_waits_for_others():
    async def main():
        work = Slow()
        work.go.release(9)
        batches = Batches(work, size=8, wait_s=0.2)
        for turn in range(2):
            first = asked(batches, 1)
            await asyncio.sleep(0.01)
            await asyncio.gather(*first, *asked(batches, 2, 3))
            assert work.batches[turn:] == [[1, 2, 3]]

    asyncio.run(main())


def test_a_batch_is_of_the_oldest_items_kind():
    async def main():
        work = Slow()
        batches = Batches(work, kind=lambda item: item % 2, size=3)
        tasks = asked(batches, 100)
        await begun(work, 1)
        tasks += asked(batches, 1, 2, 3, 4, 5, 7, 6)
        work.go.release(4)
        await asyncio.gather(*tasks)
        assert work.batches == [[100], [1, 3, 5], [2, 4, 6], [7]]

    asyncio.run(main())


def test_an_item_whose_caller_has_gone_is_dropped():
    async def main():
        work = Slow()
        batches = Batches(work, size=2)
        tasks = asked(batches, 0)
        await begun(work, 1)
        more = asked(batches, 1, 2, 3)
        await asyncio.sleep(0)
        more[0].cancel()
        tasks[0].cancel()  # at work already: its answer goes nowhere, and harms nobody
        work.go.release(2)
        assert await asyncio.gather(*more[1:]) == ["2", "3"]
        assert work.batches == [[0], [2, 3]]

    asyncio.run(main())


def test_a_failure_is_its_own_batchs_only():
    async def main():
        work = Slow()
        work.go.release(9)
        batches = Batches(work, size=1)
        bad, good = asked(batches, "bad", "good")
        with pytest.raises(ValueError, match="bad"):
            await bad
        assert await good == "good"
        short = Batches(lambda items: [], size=1)
        with pytest.raises(ValueError, match="zip"):  # work that answers too little is a failure
            await short.do(1)

    asyncio.run(main())
