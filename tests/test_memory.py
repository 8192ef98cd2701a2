# SPDX-License-Identifier: MIT
"""C4.8, C5.3: what dies with a publish, and what lives until it has finished."""

import asyncio
import contextvars
import gc
import weakref
from contextlib import suppress
from functools import partial

import pytest
from support import (
    Failure,
    InvoiceIssued,
    Level,
    OrderPlaced,
    fail_early,
    join,
    tenant,
    turns,
    until,
    use,
    with_and_without_factories,
)
from target import EventBus

# Nothing is kept


class Watch:
    """Weak references to what has to die with a publish."""

    def __init__(self):
        self.references = []

    def __call__(self, thing):
        self.references.append(weakref.ref(thing))
        return thing

    def alive(self):
        return [thing for thing in (ref() for ref in self.references) if thing is not None]


@pytest.fixture
def watch(no_log, no_gc):
    """A `Watch`, with nothing to free things but reference counts, and no log to hold them."""
    return Watch()


class Thing:
    pass


def do_sync(watch, event):
    thing = watch(Thing())  # noqa: F841


async def do_early(watch, event):
    thing = watch(Thing())  # noqa: F841


async def do_late(watch, event):
    thing = watch(Thing())  # noqa: F841
    await asyncio.sleep(0)


def do_awaited(watch, event):
    return do_late(watch, event)


def raise_sync(watch, event):
    thing = watch(Thing())  # noqa: F841
    raise watch(Failure(event))


async def raise_early(watch, event):
    thing = watch(Thing())  # noqa: F841
    raise watch(Failure(event))


async def raise_late(watch, event):
    thing = watch(Thing())  # noqa: F841
    await asyncio.sleep(0)
    raise watch(Failure(event))


def raise_awaited(watch, event):
    return raise_late(watch, event)


async def be_cancelled(watch, event):
    thing = watch(Thing())  # noqa: F841
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


HANDLERS = [
    do_sync,
    do_early,
    do_late,
    do_awaited,
    raise_sync,
    raise_early,
    raise_late,
    raise_awaited,
    be_cancelled,
]


async def publish_watched(bus, watch):
    await bus.publish(watch(OrderPlaced()))


async def publish_nowait_watched(bus, watch):
    bus.publish_nowait(watch(OrderPlaced()))
    await bus.join()


@pytest.mark.parametrize("publish", [publish_watched, publish_nowait_watched])
@pytest.mark.parametrize("handlers", [*[[handler] for handler in HANDLERS], HANDLERS])
@with_and_without_factories
async def test_nothing_is_kept_alive(watch, factory, handlers, publish):
    """C4.8: event, handler's locals and exception die with the publish, without the collector."""
    use(factory)
    failures = []
    bus = EventBus(on_error=lambda failure: failures.append(type(failure.exception)))
    for handler in handlers:
        bus.subscribe(OrderPlaced, partial(handler, watch))
    await publish(bus, watch)
    assert len(watch.references) > len(handlers)
    assert watch.alive() == []
    failing = [handler for handler in handlers if "raise" in handler.__name__]
    assert failures.count(Failure) == len(failing)


@pytest.mark.parametrize("publish", [publish_watched, publish_nowait_watched])
@pytest.mark.parametrize("is_async", [False, True])
@with_and_without_factories
async def test_context_is_not_kept_alive(watch, bus, factory, is_async, publish):
    """C4.8: nor does the context of a handler, which may hold the event, outlive the publish."""
    use(factory)

    def remember(event):
        tenant.set(event)

    async def remember_async(event):
        tenant.set(event)
        await asyncio.sleep(0)

    bus.subscribe(OrderPlaced, remember_async if is_async else remember)
    await publish(bus, watch)
    assert watch.alive() == []


@pytest.mark.parametrize("stubborn", [False, True])
@with_and_without_factories
async def test_cancelled_publish_keeps_nothing_alive(watch, bus, factory, stubborn):
    """C4.8: the same when the publisher is cancelled, and its handlers with it."""
    use(factory)
    started = asyncio.Event()

    async def wait(event):
        thing = watch(Thing())  # noqa: F841
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not stubborn:
                raise

    bus.subscribe(OrderPlaced, wait)
    bus.subscribe(OrderPlaced, partial(do_late, watch))

    async def publish():
        publisher = asyncio.create_task(bus.publish(watch(OrderPlaced())))
        await started.wait()
        publisher.cancel()
        await asyncio.wait([publisher])
        assert publisher.cancelled()

    await publish()
    assert len(watch.references) == 3
    assert watch.alive() == []


@with_and_without_factories
async def test_timed_out_publish_keeps_nothing_alive(watch, bus, factory):
    """C4.8: the same when `asyncio.timeout` ends the publish."""
    use(factory)

    async def wait(event):
        thing = watch(Thing())  # noqa: F841
        await asyncio.Event().wait()

    bus.subscribe(OrderPlaced, wait)
    bus.subscribe(OrderPlaced, lambda event: wait(event))

    async def publish():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await bus.publish(watch(OrderPlaced()))

    await publish()
    assert len(watch.references) == 3
    assert watch.alive() == []


@with_and_without_factories
async def test_nested_publish_keeps_nothing_alive(watch, bus, factory):
    """C4.8: the event of every level of a chain dies with its own publish."""
    use(factory)
    log = []

    async def descend(event):
        watch(event)
        if event.left:
            await bus.publish(Level(event.left - 1))
            log.append(len(watch.alive()))

    bus.subscribe(Level, descend)
    await bus.publish(Level(20))
    assert log == list(range(20, 0, -1))
    assert watch.alive() == []


@pytest.mark.parametrize("waits", [True, False])
@with_and_without_factories
async def test_task_left_behind_keeps_no_event_alive(watch, bus, factory, waits):
    """C4.8: a task that a handler leaves behind, publishing itself, does not hold the event."""
    use(factory)
    publishing, go_on = asyncio.Event(), asyncio.Event()
    left_behind = []

    async def issue():
        await bus.publish(watch(InvoiceIssued()))
        await asyncio.Event().wait()

    async def leave_behind(event):
        left_behind.append(asyncio.create_task(issue()))
        if waits:
            await asyncio.sleep(0)

    async def wait(event):
        publishing.set()
        await go_on.wait()

    bus.subscribe(OrderPlaced, leave_behind)
    bus.subscribe(InvoiceIssued, wait)
    await publish_watched(bus, watch)
    await publishing.wait()
    assert [type(thing) for thing in watch.alive()] == [InvoiceIssued]
    go_on.set()
    await turns()
    assert not left_behind[0].done()
    assert watch.alive() == []
    left_behind[0].cancel()


async def test_events_of_failed_handlers_are_not_kept_alive(watch, bus):
    """C4.8, C5.2: not even until the next garbage collection, whichever handler failed last."""

    async def wait(event):
        await asyncio.sleep(0)

    bus.subscribe(OrderPlaced, fail_early)
    bus.subscribe(InvoiceIssued, fail_early)
    bus.subscribe(InvoiceIssued, wait)
    for event_type in (OrderPlaced, InvoiceIssued) * 2:
        bus.publish_nowait(watch(event_type()))
        await join(bus)
        await asyncio.sleep(0)
        assert watch.alive() == []
    assert len(watch.references) == 4


async def test_drains_keep_no_context(bus):
    """C4.8: what goes on for ever does not hold on to the context of its first publisher."""

    class Value:
        pass

    rounds = 0

    def go_on(event):
        nonlocal rounds
        rounds += 1
        bus.publish_nowait(OrderPlaced())

    def begin():
        value = Value()
        tenant.set(value)
        bus.publish_nowait(InvoiceIssued())
        return weakref.ref(value)

    def start(event):
        contextvars.Context().run(bus.publish_nowait, OrderPlaced())

    bus.subscribe(InvoiceIssued, start)
    bus.subscribe(OrderPlaced, go_on)
    value = contextvars.copy_context().run(begin)
    await until(lambda: rounds > 10)
    gc.collect()
    assert value() is None
    await bus.aclose(timeout=0)


async def test_cancelled_close_keeps_nothing_alive(bus, gated, watch):
    """C4.8, C6.2: nor does an `aclose` that was cancelled keep its cancellation."""
    bus.publish_nowait(OrderPlaced())
    await gated.started.wait()
    closing = asyncio.create_task(bus.aclose(timeout=0))
    await until(lambda: "closed" in repr(bus))
    closing.cancel()
    try:
        await closing
    except asyncio.CancelledError as exc:
        watch(exc)
    del closing
    await asyncio.sleep(0)
    assert watch.references
    assert watch.alive() == []


# What runs is kept


@with_and_without_factories
async def test_running_handlers_survive_garbage_collection(bus, factory):
    """C5.3: a running handler that nothing else refers to is not collected half-way."""
    use(factory)
    waiting, finished = [], []

    async def handle(event):
        future = asyncio.get_running_loop().create_future()
        waiting.append(weakref.ref(future))
        await future
        finished.append(event)

    bus.subscribe(OrderPlaced, handle)
    for _ in range(2):
        bus.publish_nowait(OrderPlaced())
    await until(lambda: len(waiting) == 2)
    gc.collect()
    for future in waiting:
        future().set_result(None)
    await join(bus)
    assert len(finished) == 2


@pytest.mark.parametrize("joins", [False, True])
async def test_running_handler_outlives_its_bus(joins):
    """C5.3: a handler that waits for what nobody else holds outlives its bus, uncollected.

    Nor does it matter that an earlier one has joined meanwhile, and gave it up.
    """
    log, futures = [], []

    async def handler(event):
        future = asyncio.get_running_loop().create_future()
        futures.append(weakref.ref(future))
        await future
        log.append("finished")

    async def join_and_give_up(event):
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await reference().join()

    bus = EventBus()
    reference = weakref.ref(bus)
    bus.subscribe(OrderPlaced, handler)
    bus.subscribe(InvoiceIssued, join_and_give_up)
    if joins:
        bus.publish_nowait(InvoiceIssued())
    bus.publish_nowait(OrderPlaced())
    await until(lambda: futures)
    await turns()
    del bus
    gc.collect()
    assert futures[0]() is not None
    futures[0]().set_result(None)
    await asyncio.sleep(0)
    assert log == ["finished"]
    await asyncio.sleep(0)
    gc.collect()
    assert futures[0]() is None


async def test_queued_events_outlive_the_bus():
    """C5.3: an event that was accepted is delivered, even if the bus is dropped meanwhile."""
    bus, seen = EventBus(), []
    bus.subscribe(OrderPlaced, seen.append)
    bus.publish_nowait(OrderPlaced())
    del bus
    gc.collect()
    await asyncio.sleep(0)
    assert len(seen) == 1
