# SPDX-License-Identifier: MIT
"""C4.2: sync callables that return coroutines start in their place."""

import asyncio
import functools

import pytest
from support import (
    InvoiceIssued,
    Numbered,
    OrderPlaced,
    do_nothing,
    every_way,
    forever,
    use,
    with_and_without_factories,
)
from target import EventBus


def as_lambda(handler):
    return lambda event: handler(event)


def as_function(handler):
    def call(event):
        return handler(event)

    return call


def as_partial(handler):
    return functools.partial(lambda name, event: handler(event), "name")


def as_wrapper(handler):
    @functools.wraps(do_nothing)
    def wrapper(*arguments):
        return handler(*arguments)

    return wrapper


def as_method(handler):
    class Service:
        def handle(self, event):
            return handler(event)

    return Service().handle


def as_object(handler):
    class Service:
        def __call__(self, event):
            return handler(event)

    return Service()


FORMS = [as_lambda, as_function, as_partial, as_wrapper, as_method, as_object]
every_form = pytest.mark.parametrize("form", FORMS)


def noting(log, name, waits):
    """Return an async handler that notes when it starts and, if it waits, when it ends."""

    async def handler(event):
        log.append(name)
        if waits:
            await asyncio.sleep(0)
            log.append(f"{name} ended")

    return handler


# C4.2: in their place


@every_form
@every_way
@pytest.mark.parametrize("waits", [False, True])
@with_and_without_factories
async def test_starts_in_its_place(bus, errors, form, publish, waits, factory):
    """C4.2: from the first publish on, with sync and async handlers before it and after it."""
    use(factory)
    log = []

    def sync(name):
        return lambda event: log.append(name)

    for name in range(0, 12, 4):
        bus.subscribe(OrderPlaced, sync(name))
        bus.subscribe(OrderPlaced, form(noting(log, name + 1, waits)))
        bus.subscribe(OrderPlaced, sync(name + 2))
        bus.subscribe(OrderPlaced, noting(log, name + 3, waits))
    for _ in range(3):
        log.clear()
        await publish(bus, OrderPlaced())
        assert [name for name in log if isinstance(name, int)] == list(range(12))
        assert len(log) == 12 + 6 * waits
    assert len(errors) == 0


@every_form
@every_way
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("after", [False, True])
@with_and_without_factories
async def test_starts_before_sync_handlers_that_follow(bus, form, publish, before, after, factory):
    """C4.2: where nothing else is async, too; those before it are not overtaken either."""
    use(factory)
    log = []
    if before:
        bus.subscribe(OrderPlaced, lambda event: log.append("before"))
    bus.subscribe(OrderPlaced, form(noting(log, "disguised", False)))
    if after:
        bus.subscribe(OrderPlaced, lambda event: log.append("after"))
    for _ in range(2):
        log.clear()
        await publish(bus, OrderPlaced())
        assert log == ["before"] * before + ["disguised"] + ["after"] * after


@every_form
@with_and_without_factories
async def test_events_start_in_their_order(bus, form, factory):
    """C4.2, C5.1: nor are the handlers of the events that follow started before it."""
    use(factory)
    log = []

    async def handle(event):
        log.append(event.number)

    bus.subscribe(Numbered, lambda event: log.append(event.number))
    bus.subscribe(Numbered, form(handle))
    bus.subscribe(Numbered, lambda event: log.append(event.number))
    for number in range(20):
        bus.publish_nowait(Numbered(number))
    await bus.join()
    assert log == [number for number in range(20) for _ in range(3)]


@every_way
@with_and_without_factories
async def test_all_of_them_run_concurrently(bus, publish, factory):
    """C4.1, C4.2: the coroutine that starts in its place does not hold up those after it."""
    use(factory)
    barrier = asyncio.Barrier(4)

    async def meet(event):
        await barrier.wait()

    handlers = [meet, as_lambda(meet), as_function(meet), meet.__call__]
    for handler in handlers:
        bus.subscribe(OrderPlaced, handler)
    for _ in range(2):
        await publish(bus, OrderPlaced())
    assert barrier.n_waiting == 0


@every_form
@every_way
@with_and_without_factories
async def test_failure_in_the_first_step(bus, failures, errors, form, publish, factory):
    """C4.2, C4.4: a coroutine that fails as it starts is one failure, and stops nobody."""
    use(factory)
    log = []

    async def fail(event):
        log.append("fail")
        raise LookupError

    bus.subscribe(OrderPlaced, lambda event: log.append("before"))
    bus.subscribe(OrderPlaced, form(fail))
    bus.subscribe(OrderPlaced, lambda event: log.append("after"))
    for count in (1, 2):
        log.clear()
        await publish(bus, OrderPlaced())
        assert log == ["before", "fail", "after"]
        assert len(failures) == len(errors) == count


@every_form
@with_and_without_factories
async def test_cancelled_with_the_publisher(bus, errors, form, factory):
    """C4.5: a first awaitable is cancelled with its publisher like any later one."""
    use(factory)
    bus.subscribe(OrderPlaced, form(forever))
    for _ in range(2):
        publisher = asyncio.create_task(bus.publish(OrderPlaced()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        publisher.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publisher
    assert len(errors) == 0


# Learned


async def test_learned_for_its_subscription(bus):
    """C4.2: another type, another bus, and a later subscription learn for themselves."""
    tasks, other = [], EventBus()

    def witness(event):
        tasks.append(asyncio.current_task())
        return asyncio.sleep(0)

    async def calls_in_place(bus, event):
        await bus.publish(event)
        return tasks[-1] is asyncio.current_task()

    subscription = bus.subscribe(OrderPlaced, witness)
    bus.subscribe(InvoiceIssued, witness)
    other.subscribe(OrderPlaced, witness)
    assert await calls_in_place(bus, OrderPlaced())
    assert not await calls_in_place(bus, OrderPlaced())
    assert await calls_in_place(bus, InvoiceIssued())
    assert await calls_in_place(other, OrderPlaced())
    subscription.cancel()
    bus.subscribe(OrderPlaced, witness)
    assert await calls_in_place(bus, OrderPlaced())


async def test_returns_an_awaitable_now_and_then(bus, errors):
    """C3, C4.2: what was learned and returns None for once has finished then."""
    log = []

    async def work():
        await asyncio.sleep(0)
        log.append("awaited")

    def handler(event):
        log.append(event.number)
        return work() if event.number % 2 else None

    bus.subscribe(Numbered, handler)
    for number in range(4):
        await bus.publish(Numbered(number))
    assert log == [0, 1, "awaited", 2, 3, "awaited"]
    assert len(errors) == 0
