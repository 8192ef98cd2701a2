# SPDX-License-Identifier: MIT
"""C7: chains and circles as long as they like, where nothing forbids them."""

import asyncio
import gc
import tracemalloc
from itertools import pairwise

import pytest
from support import (
    Numbered,
    descend_to,
    use,
    with_and_without_plain_factory,
    with_unwrapped_tasks,
)
from target import Event, EventBus

# Thousands of levels


@pytest.mark.parametrize("kind", ["async", "async beside sync", "returning an awaitable"])
@with_unwrapped_tasks
async def test_no_limit_carries_ten_thousand_levels(little_stack, errors, factory, kind):
    """C7: with `max_depth=None` a chain of 10,000 neither overflows the stack nor fails."""
    loop = asyncio.get_running_loop()
    loop.set_debug(False)  # which extracts a traceback for each of 10,000 tasks
    use(factory)
    bus = EventBus(max_depth=None)
    seen = []
    if kind == "async beside sync":
        bus.subscribe(Numbered, seen.append)
    entered, finished = descend_to(bus, 10_000)
    if kind == "returning an awaitable":
        descend = bus.handlers(Numbered)[0].callback
        bus.unsubscribe(Numbered, descend)
        bus.subscribe(Numbered, lambda event: descend(event))
    await bus.publish(Numbered())
    assert entered == list(range(1, 10_001))
    assert finished == entered[::-1]
    assert len(seen) == (10_000 if kind == "async beside sync" else 0)
    assert len(errors) == 0


@with_and_without_plain_factory
async def test_no_limit_carries_levels_that_are_new_to_the_bus(little_stack, errors, factory):
    """C7, C3: nor does a chain of event types whose handlers are only just found to be async."""
    loop = asyncio.get_running_loop()
    loop.set_debug(False)
    use(factory)
    bus = EventBus(max_depth=None)
    path = [type(f"Level{number}", (Event,), {}) for number in range(1000)]
    entered = []
    for event_type, following in pairwise(path):

        def go_on(event, following=following):
            entered.append(type(event))
            return bus.publish(following())

        bus.subscribe(event_type, go_on)
    bus.subscribe(path[-1], lambda event: entered.append(type(event)))
    await bus.publish(path[0]())
    assert entered == path
    assert len(errors) == 0


@with_and_without_plain_factory
async def test_ten_thousand_levels_are_cancelled_together(little_stack, errors, factory):
    """C7, C4.5: cancelling the publisher of a chain of 10,000 does not overflow the stack."""
    asyncio.get_running_loop().set_debug(False)
    use(factory)
    bus = EventBus(max_depth=None)
    deepest = asyncio.Event()
    cancelled = []

    async def descend(event):
        try:
            if event.number < 10_000:
                await bus.publish(Numbered(event.number + 1))
            else:
                deepest.set()
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(event.number)
            raise

    bus.subscribe(Numbered, descend)
    publisher = asyncio.create_task(bus.publish(Numbered()))
    await deepest.wait()
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert cancelled == list(range(10_000, 0, -1))
    assert len(errors) == 0


# Circles that nobody awaits


class Memory:
    """What is allocated in the course of a circle, measured at two of its rounds."""

    FIRST, LAST = 500, 2000

    def __init__(self):
        asyncio.get_running_loop().set_debug(False)  # whose records would count
        self.measured = []

    def __enter__(self):
        tracemalloc.start()
        return self

    def __exit__(self, *exc_info):
        tracemalloc.stop()

    def measure(self, number):
        """Measure in the first and in the last round; fail in the last one."""
        if number in (self.FIRST, self.LAST):
            gc.collect()
            self.measured.append(tracemalloc.get_traced_memory()[0])
        if number == self.LAST:
            raise LookupError

    def growth(self):
        """Return the growth in bytes per round."""
        first, last = self.measured
        return (last - first) / (self.LAST - self.FIRST)


@pytest.mark.parametrize("kind", ["sync", "async", "waiting"])
async def test_circle_of_publish_nowait_is_not_refused(errors, kind):
    """C7: a circle of `publish_nowait` goes on for as long as it likes, and grows nothing."""
    failures = []
    bus = EventBus(max_depth=2, on_error=failures.append)
    memory = Memory()

    def again(event):
        assert bus.pending <= 2
        memory.measure(event.number)
        bus.publish_nowait(Numbered(event.number + 1))

    async def again_async(event):
        if kind == "waiting":
            await asyncio.sleep(0)
        again(event)

    bus.subscribe(Numbered, again if kind == "sync" else again_async)
    with memory:
        bus.publish_nowait(Numbered())
        async with asyncio.timeout(30):
            await bus.join()
    assert [failure.event for failure in failures] == [Numbered(Memory.LAST)]
    assert failures[0].chain == (Numbered,)
    assert len(errors) == 1
    assert memory.growth() < 10


class Detached(set):
    """Tasks that nobody waits for; `over` is set by the first of them that fails."""

    def __init__(self):
        self.over = asyncio.Event()
        self.refused = []

    def start(self, coroutine):
        task = asyncio.create_task(coroutine)
        self.add(task)
        task.add_done_callback(self.finish)

    def finish(self, task):
        self.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.refused.append(task.exception())
            self.over.set()


@pytest.mark.parametrize("kind", ["sync", "async", "lingering"])
async def test_circle_of_detached_tasks(errors, kind):
    """C7: a circle through tasks that nobody waits for is not refused, and grows nothing.

    Nor is it where a handler is still under way when the task that it has made publishes.
    """
    failures = []
    tasks = Detached()
    bus = EventBus(
        max_depth=5, on_error=lambda failure: (failures.append(failure), tasks.over.set())
    )
    memory = Memory()
    started = [asyncio.Event() for _ in range(Memory.LAST + 1)]

    def again(event):
        started[event.number].set()  # the handler of the round before may go now
        memory.measure(event.number)
        tasks.start(bus.publish(Numbered(event.number + 1)))

    async def again_async(event):
        again(event)
        if kind == "lingering":
            await started[event.number + 1].wait()

    bus.subscribe(Numbered, again if kind == "sync" else again_async)
    with memory:
        tasks.start(bus.publish(Numbered()))
        await tasks.over.wait()
    assert tasks.refused == []
    await asyncio.gather(*tasks)
    assert [failure.event for failure in failures] == [Numbered(Memory.LAST)]
    assert type(failures[0].exception) is LookupError
    assert len(errors) == 1
    assert len(failures[0].chain) == (2 if kind == "lingering" else 1)
    assert memory.growth() < 10
