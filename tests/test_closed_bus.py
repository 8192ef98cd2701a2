# SPDX-License-Identifier: MIT
"""C6.2: what a closed bus refuses, closing again, and a close that is itself cancelled."""

import asyncio
import threading

import pytest
from support import PATIENCE, InvoiceIssued, OrderPlaced, aclose, assert_closed, join, turns
from target import Event, EventBus

# Afterwards


class Unseen(Event):
    pass


@pytest.mark.parametrize("hooked", [False, True])
async def test_publishing_afterwards(bus, hooked):
    """C6.2: afterwards publishing raises, whether the type was handled, unhandled or never seen."""
    seen = []

    class Hook:
        def __init__(self, event, handler):
            seen.append(event)

        def __enter__(self):
            pass

        def __exit__(self, *exc_info):
            pass

    bus.subscribe(OrderPlaced, lambda event: None)
    if hooked:
        bus.instrument(Hook)
    for event_type in (OrderPlaced, InvoiceIssued):
        await bus.publish(event_type())
        bus.publish_nowait(event_type())
    await aclose(bus)
    assert len(seen) == 4 * hooked
    for _ in range(2):
        await assert_closed(bus, OrderPlaced, InvoiceIssued, Unseen)
    assert len(seen) == 4 * hooked
    with pytest.raises(TypeError):
        await bus.publish("OrderPlaced")


async def test_aclose_of_an_unused_bus(bus):
    """C6.2: a bus that never had anything to do is closed all the same."""
    await aclose(bus)
    await assert_closed(bus)


async def test_registry_after_close(bus):
    """C6.2: subscribing and cancelling do no harm afterwards, and do not open the bus again."""
    subscription = bus.subscribe(OrderPlaced, print)
    hook = bus.instrument(lambda event, handler: None)
    await aclose(bus)
    subscription.cancel()
    hook.cancel()
    bus.instrument(lambda event, handler: None).cancel()
    await assert_closed(bus, OrderPlaced)
    with bus.subscribe(OrderPlaced, print):
        await assert_closed(bus, OrderPlaced)
    bus.subscribe(Unseen, print)
    await assert_closed(bus, Unseen)
    bus.unsubscribe(Unseen, print)
    await assert_closed(bus, OrderPlaced, Unseen)
    assert bus.event_types() == ()


async def test_repr(bus):
    """C6: the repr of a bus shows its event types, its pending work and whether it is closed."""
    bus.subscribe(OrderPlaced, lambda event: None)
    bus.publish_nowait(OrderPlaced())
    assert "1 event type" in repr(bus)
    assert "1 pending" in repr(bus)
    assert "closed" not in repr(bus)
    await aclose(bus)
    assert "closed" in repr(bus)


def test_repr_without_a_loop(bus):
    """C6: the repr of a bus works without a running loop."""
    assert "0 pending" in repr(bus)


# Closing again, and in a block


async def test_closing_twice(bus, gated, errors):
    """C6.2: closing twice is fine, one after the other and at once."""
    bus.publish_nowait(OrderPlaced())
    closing = [asyncio.create_task(aclose(bus, timeout)) for timeout in (None, None, PATIENCE)]
    await gated.started.wait()
    await turns()
    assert not any(task.done() for task in closing)
    gated.gate.set()
    await asyncio.gather(*closing)
    assert gated.finished == 1
    await aclose(bus)
    await aclose(bus, 0.01)
    assert len(errors) == 0
    await assert_closed(bus)


async def test_closing_with_and_without_timeout(bus, gated):
    """C6.2: of two who close at once, one with a timeout ends the wait of the other."""
    bus.publish_nowait(OrderPlaced())
    await asyncio.gather(aclose(bus), aclose(bus, 0.01))
    assert gated.cancelled == 1
    assert bus.pending == 0
    await assert_closed(bus)


async def test_async_with():
    """C6.2: `async with` gives the bus and closes it on the way out, as aclose does."""
    gate, seen = asyncio.Event(), []

    async def handle(event):
        await gate.wait()
        seen.append(event)

    async with EventBus() as bus:
        bus.subscribe(OrderPlaced, handle)
        bus.publish_nowait(OrderPlaced())
        asyncio.get_running_loop().call_soon(gate.set)
    assert len(seen) == 1
    await assert_closed(bus)


async def test_async_with_on_a_closed_bus(bus):
    """C6.2: a closed bus does not begin another block, and says so before the block runs."""
    async with bus:
        pass
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"closed; .* make a new bus"):
            async with bus:
                pytest.fail("the block runs")


async def test_async_with_and_an_exception():
    """C6.2: an exception in the block is raised, after the work was finished."""
    seen = []
    with pytest.raises(ZeroDivisionError):
        async with EventBus() as bus:
            bus.subscribe(OrderPlaced, seen.append)
            bus.publish_nowait(OrderPlaced())
            raise ZeroDivisionError
    assert len(seen) == 1
    await assert_closed(bus)


# Cancelled, and from another loop


@pytest.mark.parametrize("timeout", [None, PATIENCE])
async def test_aclose_cancelled_while_it_joins(bus, gated, errors, timeout):
    """C6.2: cancelled while it waits for work, aclose leaves the work running and the bus open."""
    bus.publish_nowait(OrderPlaced())
    closing = asyncio.create_task(bus.aclose(timeout))
    await gated.started.wait()
    await turns()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await bus.publish(InvoiceIssued())
    bus.publish_nowait(OrderPlaced())
    assert bus.pending == 2
    gated.gate.set()
    await join(bus)
    assert (gated.finished, gated.cancelled) == (2, 0)
    assert len(errors) == 0


async def test_aclose_cancelled_while_it_cancels(bus):
    """C6.2: cancelled while it awaits cancelled handlers, aclose still awaits them, then raises."""
    cancelling, gate, ended = asyncio.Event(), asyncio.Event(), []

    async def slow_to_end(event):
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                cancelling.set()
        ended.append(event)

    bus.subscribe(OrderPlaced, slow_to_end)
    bus.publish_nowait(OrderPlaced())
    closing = asyncio.create_task(bus.aclose(timeout=0.2))
    try:
        async with asyncio.timeout(PATIENCE):
            await cancelling.wait()
        closing.cancel()
        await turns()
        assert not closing.done()
        await assert_closed(bus, InvoiceIssued)
    finally:
        gate.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert len(ended) == 1
    assert bus.pending == 0


async def test_aclose_on_another_loop(bus, gated):
    """C5.6, C6.2: work accepted on other loops, running and queued, goes on after aclose."""
    seen = []
    bus.subscribe(InvoiceIssued, seen.append)
    bus.publish_nowait(OrderPlaced())
    await gated.started.wait()
    bus.publish_nowait(InvoiceIssued())
    thread = threading.Thread(target=lambda: asyncio.run(aclose(bus, 0.01)))
    thread.start()
    thread.join(PATIENCE)
    assert seen == []
    assert bus.pending == 2
    await assert_closed(bus)
    gated.gate.set()
    await join(bus)
    assert len(seen) == 1
    assert (gated.finished, gated.cancelled) == (1, 0)
