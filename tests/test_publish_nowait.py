# SPDX-License-Identifier: MIT
"""C5.2-C5.5: publish_nowait delivers all it accepts, and leaves turns to others."""

import asyncio
import threading

import pytest
from support import (
    FAILING,
    InvoiceIssued,
    MailSent,
    Numbered,
    OrderPlaced,
    join,
    until,
)
from target import EventBus

# C5.2


async def test_handlers_of_the_moment(bus):
    """C5.2: an event goes to those who were subscribed when it was published."""
    seen = []
    early = bus.subscribe(OrderPlaced, lambda event: seen.append("early"))
    bus.publish_nowait(OrderPlaced())
    early.cancel()
    bus.subscribe(OrderPlaced, lambda event: seen.append("late"))
    await join(bus)
    assert seen == ["early"]


async def test_a_first_handler_subscribed_later_gets_nothing(bus):
    """C5.2: an event that nobody handled when it was published stays unhandled."""
    seen = []
    bus.publish_nowait(OrderPlaced())
    bus.subscribe(OrderPlaced, seen.append)
    await join(bus)
    assert seen == []


async def test_a_handler_cancelled_by_another_still_runs(bus):
    """C4.6, C5.2: a change to the registry made by a handler applies from the next publish on."""
    seen = []
    bus.subscribe(OrderPlaced, lambda event: second.cancel())
    second = bus.subscribe(OrderPlaced, seen.append)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert len(seen) == 2
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert len(seen) == 2


async def test_handlers_run_concurrently(bus):
    """C4.1, C5.2: handlers of one event wait for each other without harm, and so do events."""
    gates = {event_type: asyncio.Event() for event_type in (OrderPlaced, InvoiceIssued)}
    finished = []

    async def wait(event):
        await gates[type(event)].wait()
        finished.append("waited")

    async def open_the_other(event):
        gates[OrderPlaced if type(event) is InvoiceIssued else InvoiceIssued].set()

    for event_type in gates:
        bus.subscribe(event_type, wait)
        bus.subscribe(event_type, open_the_other)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    await join(bus)
    assert finished == ["waited", "waited"]


async def test_cancelling_the_publisher_does_not_touch_the_event(bus, errors):
    """C5.2: the publisher's cancellation is not that of the handlers."""
    started, gate, finished = asyncio.Event(), asyncio.Event(), []

    async def handle(event):
        started.set()
        await gate.wait()
        finished.append(event)

    bus.subscribe(OrderPlaced, handle)

    async def publisher():
        bus.publish_nowait(OrderPlaced())
        await asyncio.Event().wait()

    publishing = asyncio.create_task(publisher())
    await started.wait()
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    gate.set()
    await join(bus)
    assert len(finished) == 1
    assert len(errors) == 0


# C5.3


async def test_pending_counts_events(bus):
    """C5.3: `pending` counts events, queued and running, not their handlers."""
    started, finished, gates = [], [], [asyncio.Event(), asyncio.Event()]

    async def first(event):
        started.append(event)
        await gates[0].wait()
        finished.append(event)

    async def second(event):
        started.append(event)
        await gates[1].wait()

    for handler in (first, second, lambda event: None):
        bus.subscribe(OrderPlaced, handler)
    bus.subscribe(InvoiceIssued, lambda event: gates[0].set())
    assert bus.pending == 0
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(OrderPlaced())
    assert bus.pending == 2  # queued
    await until(lambda: len(started) == 4)
    assert bus.pending == 2  # running
    bus.publish_nowait(InvoiceIssued())
    assert bus.pending == 3  # both
    await until(lambda: bus.pending < 3 and len(finished) == 2)
    await asyncio.sleep(0)
    assert bus.pending == 2  # each with one of its handlers finished
    gates[1].set()
    await join(bus)
    assert bus.pending == 0


def cancelled_at_once(event):
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    "handler",
    [*FAILING, cancelled_at_once],
)
async def test_failed_events_are_not_pending(bus, handler):
    """C5.3: an event whose handlers have failed is finished."""
    bus.subscribe(OrderPlaced, handler)
    for _ in range(3):
        bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert bus.pending == 0


async def test_awaited_publishes_are_not_pending(bus):
    """C5.3: an awaited publish is its caller's."""
    seen = []

    async def handle(event):
        await asyncio.sleep(0)
        seen.append(bus.pending)

    bus.subscribe(OrderPlaced, handle)
    await bus.publish(OrderPlaced())
    assert seen == [0]


# C5.4


async def count_turns(bus):
    """Join the bus, and return how many turns other callbacks of the loop had meanwhile."""
    loop, turns = asyncio.get_running_loop(), 0

    def turn():
        nonlocal turns
        if bus.pending:
            turns += 1
            loop.call_soon(turn)

    loop.call_soon(turn)
    async with asyncio.timeout(60):
        await bus.join()
    return turns


async def test_a_burst_does_not_hold_the_loop(bus):
    """C5.4: during 200,000 events other callbacks of the loop get their turn."""
    seen, event = [], OrderPlaced()
    bus.subscribe(OrderPlaced, seen.append)
    for _ in range(200_000):
        bus.publish_nowait(event)
    assert await count_turns(bus) >= 20
    assert len(seen) == 200_000


async def test_a_burst_of_async_handlers_does_not_hold_the_loop(bus):
    """C5.4: so they do during a burst of async handlers that never wait."""
    seen, event = [], OrderPlaced()

    async def handle(event):
        seen.append(event)

    bus.subscribe(OrderPlaced, handle)
    for _ in range(4000):
        bus.publish_nowait(event)
    assert await count_turns(bus) >= 20
    assert len(seen) == 4000


async def test_handlers_count_towards_the_bound(bus):
    """C5.4: a few events with a thousand handlers each do not hold the loop either."""
    seen, event = [], OrderPlaced()
    for _ in range(1000):
        bus.subscribe(OrderPlaced, lambda event: seen.append(event))
    for _ in range(40):
        bus.publish_nowait(event)
    assert await count_turns(bus) >= 20
    assert len(seen) == 40_000


async def test_a_chain_without_end_does_not_hold_the_loop(bus):
    """C5.4: a handler that publishes its own event again, for ever, leaves turns to others."""
    left = 100_000

    def publish_again(event):
        nonlocal left
        left -= 1
        if left > 0:
            bus.publish_nowait(event)

    bus.subscribe(OrderPlaced, publish_again)
    bus.publish_nowait(OrderPlaced())
    for _ in range(20):
        await asyncio.sleep(0)
    assert left > 0
    assert bus.pending == 1
    left = 0
    await join(bus)


# C5.5


@pytest.mark.parametrize("handled", [False, True])
def test_without_a_running_loop(bus, handled):
    """C5.5: RuntimeError without a running loop; the message names the remedy."""
    if handled:
        bus.subscribe(OrderPlaced, lambda event: None)
    with pytest.raises(
        RuntimeError,
        match=r"asyncio event loop .*loop\.call_soon_threadsafe\(bus\.publish_nowait, event\)",
    ):
        bus.publish_nowait(OrderPlaced())
    assert bus.pending == 0


async def test_from_a_thread_without_a_loop(bus):
    """C5.5: RuntimeError from another thread, although the loop is running in this one."""
    seen, caught = [], []
    bus.subscribe(OrderPlaced, seen.append)

    def publish():
        try:
            bus.publish_nowait(OrderPlaced())
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=publish)
    thread.start()
    thread.join()
    assert "call_soon_threadsafe" in caught[0]
    await join(bus)
    assert seen == []


async def test_max_pending_refuses_and_loses_nothing():
    """C5.5: beyond max_pending QueueFull; what was accepted is delivered, and room is again."""
    bus, seen = EventBus(max_pending=3), []
    bus.subscribe(Numbered, lambda event: seen.append(event.number))
    for number in range(3):
        bus.publish_nowait(Numbered(number))
    for _ in range(2):
        with pytest.raises(asyncio.QueueFull, match="max_pending=3"):
            bus.publish_nowait(Numbered(99))
    assert bus.pending == 3
    await join(bus)
    for number in range(3, 6):
        bus.publish_nowait(Numbered(number))
    await join(bus)
    assert seen == [0, 1, 2, 3, 4, 5]


async def test_running_handlers_count_for_max_pending():
    """C5.5: an event whose handler is still running takes its place until it has finished."""
    bus, started, gate = EventBus(max_pending=1), asyncio.Event(), asyncio.Event()

    async def handle(event):
        started.set()
        await gate.wait()

    bus.subscribe(OrderPlaced, handle)
    bus.publish_nowait(OrderPlaced())
    await started.wait()
    with pytest.raises(asyncio.QueueFull):
        bus.publish_nowait(OrderPlaced())
    await bus.publish(InvoiceIssued())
    gate.set()
    await join(bus)
    bus.publish_nowait(OrderPlaced())
    await join(bus)


async def test_max_pending_in_a_handler(errors):
    """C5.5: QueueFull in a handler is that handler's failure; awaited publishes have no limit."""
    failures, seen = [], []
    bus = EventBus(max_pending=1, on_error=failures.append)

    async def full(event):
        await bus.publish(InvoiceIssued())
        bus.publish_nowait(InvoiceIssued())

    bus.subscribe(OrderPlaced, full)
    bus.subscribe(InvoiceIssued, seen.append)
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert len(seen) == 1
    assert [type(failure.exception) for failure in failures] == [asyncio.QueueFull]


async def test_unhandled_event_is_accepted_and_not_counted():
    """C1.3, C5.5: an event that nobody handles takes no place, and is accepted at max_pending."""
    bus = EventBus(max_pending=1)
    bus.publish_nowait(InvoiceIssued())
    assert bus.pending == 0
    bus.subscribe(OrderPlaced, lambda event: None)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    bus.publish_nowait(MailSent())
    assert bus.pending == 1
    await join(bus)
