# SPDX-License-Identifier: MIT
"""C4.1, C4.6, C4.7: publish waits for the handlers of the moment, and takes events alone."""

import asyncio

import pytest
from support import (
    PATIENCE,
    Level,
    OrderPlaced,
    do_nothing,
    every_way,
    use,
    with_and_without_factories,
)

# C4.1


async def test_handlers_run_concurrently(bus):
    """C4.1: handlers that wait for each other all finish."""
    everyone = asyncio.Barrier(3)
    finished = []

    def handler(name):
        async def meet(event):
            async with everyone:
                finished.append(name)

        return meet

    for name in "abc":
        bus.subscribe(OrderPlaced, handler(name))
    async with asyncio.timeout(PATIENCE):
        assert await bus.publish(OrderPlaced()) is None
    assert sorted(finished) == ["a", "b", "c"]


async def test_publish_waits_for_every_handler(bus):
    """C4.1: publish returns when the last handler has finished, not before."""
    gates = [asyncio.Event() for _ in range(3)]
    for gate in gates:
        bus.subscribe(OrderPlaced, lambda event, gate=gate: gate.wait())
    publisher = asyncio.create_task(bus.publish(OrderPlaced()))
    for gate in gates:
        await asyncio.wait([publisher], timeout=0.01)
        assert not publisher.done()
        gate.set()
    async with asyncio.timeout(PATIENCE):
        assert await publisher is None


async def test_sync_handlers_have_run(bus):
    """C4.1: with sync handlers only, publish returns None when all have run."""
    first, second = [], []
    bus.subscribe(OrderPlaced, first.append)
    bus.subscribe(OrderPlaced, second.append)
    event = OrderPlaced()
    assert await bus.publish(event) is None
    assert first == second == [event]


def test_without_a_loop(bus, errors):
    """C4.1, C3: sync handlers need no loop; what is to be awaited needs asyncio's, and says so."""
    seen = []

    async def handle(event):
        seen.append("async")

    subscription = bus.subscribe(OrderPlaced, lambda event: seen.append("sync"))
    with pytest.raises(StopIteration):
        bus.publish(OrderPlaced()).send(None)
    assert seen == ["sync"]
    subscription.cancel()
    bus.subscribe(OrderPlaced, handle)
    with pytest.raises(RuntimeError, match=r"publish, .* needs a running asyncio event loop"):
        bus.publish(OrderPlaced()).send(None)
    assert seen == ["sync"]
    assert len(errors) == 0


async def test_nothing_runs_before_the_await(bus):
    """C4.1: publish is a coroutine function; called without await, it runs no handler."""
    seen = []
    bus.subscribe(OrderPlaced, seen.append)
    publishing = bus.publish(OrderPlaced())
    assert seen == []
    await publishing
    assert len(seen) == 1


async def test_publishes_of_several_tasks_do_not_wait_for_each_other(bus):
    """C4.1: a publish waits for the handlers of its own event only."""
    gate = asyncio.Event()

    async def wait(event):
        if event.left:
            await gate.wait()

    bus.subscribe(Level, wait)
    slow = asyncio.create_task(bus.publish(Level(1)))
    async with asyncio.timeout(PATIENCE):
        await bus.publish(Level(0))
        assert not slow.done()
        gate.set()
        await slow


async def test_publish_never_awaited(bus):
    """C4.5: a coroutine that is closed before its first step has started nothing."""
    seen = []
    bus.subscribe(OrderPlaced, seen.append)
    publishing = bus.publish(OrderPlaced())
    publishing.close()
    assert seen == []


# C4.6


@with_and_without_factories
@every_way
@pytest.mark.parametrize("is_async", [False, True])
async def test_handler_subscribed_meanwhile_waits_for_the_next_publish(
    bus, factory, publish, is_async
):
    """C4.6: a handler that is subscribed by a handler gets the next event, not this one."""
    use(factory)
    seen = []

    async def subscribe_async(event):
        bus.subscribe(OrderPlaced, seen.append)

    bus.subscribe(
        OrderPlaced,
        subscribe_async if is_async else lambda event: bus.subscribe(OrderPlaced, seen.append),
    )
    await publish(bus, OrderPlaced())
    assert seen == []
    second = OrderPlaced()
    await publish(bus, second)
    assert seen == [second]


@with_and_without_factories
@every_way
@pytest.mark.parametrize("is_async", [False, True])
async def test_handler_cancelled_meanwhile_still_gets_this_event(bus, factory, publish, is_async):
    """C4.6: a subscription that an earlier handler cancels ends with the next publish."""
    use(factory)
    seen = []
    subscriptions = []

    def cancel(event):
        for subscription in subscriptions:
            subscription.cancel()

    async def cancel_async(event):
        cancel(event)

    async def see(event):
        seen.append(event)

    bus.subscribe(OrderPlaced, cancel_async if is_async else cancel)
    subscriptions += [bus.subscribe(OrderPlaced, seen.append), bus.subscribe(OrderPlaced, see)]
    event = OrderPlaced()
    await publish(bus, event)
    assert seen == [event, event]
    await publish(bus, OrderPlaced())
    assert seen == [event, event]


async def test_next_publish_may_be_a_nested_one(bus):
    """C4.6: a publish that a handler makes itself is a next one, and sees the changes."""
    seen = []

    def note(name):
        return lambda event: seen.append((name, event.left))

    async def change(event):
        if event.left:
            bus.subscribe(Level, note("new"))
            subscription.cancel()
            await bus.publish(Level(event.left - 1))

    bus.subscribe(Level, change)
    subscription = bus.subscribe(Level, note("old"))
    await bus.publish(Level(1))
    assert sorted(seen) == [("new", 0), ("old", 1)]


# C4.7


@pytest.mark.parametrize("subscribed", [False, True])
@pytest.mark.parametrize("thing", [None, 7, "OrderPlaced", object(), int, [OrderPlaced()]])
async def test_what_is_no_event_is_refused(bus, thing, subscribed):
    """C4.7: publishing what is not an instance of an event class is a TypeError."""
    if subscribed:
        bus.subscribe(OrderPlaced, do_nothing)
    for _ in range(2):
        with pytest.raises(TypeError, match="Event"):
            await bus.publish(thing)
        with pytest.raises(TypeError, match="Event"):
            bus.publish_nowait(thing)
    assert bus.pending == 0


@pytest.mark.parametrize("subscribed", [False, True])
async def test_class_instead_of_an_instance_is_refused(bus, subscribed):
    """C4.7: for an event class the message says what is wanted: an instance."""
    seen = []
    if subscribed:
        bus.subscribe(OrderPlaced, seen.append)
    with pytest.raises(TypeError, match=r"instance.*OrderPlaced"):
        await bus.publish(OrderPlaced)
    with pytest.raises(TypeError, match=r"instance.*OrderPlaced"):
        bus.publish_nowait(OrderPlaced)
    assert bus.pending == 0
    assert seen == []
