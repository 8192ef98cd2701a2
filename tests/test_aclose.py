# SPDX-License-Identifier: MIT
"""C6.2: aclose waits for all work, or cancels what is left of it in time."""

import asyncio
import contextlib
import logging

import pytest
from support import (
    PATIENCE,
    InvoiceIssued,
    MailSent,
    OrderPlaced,
    aclose,
    assert_closed,
    cancel_tasks_of,
    forever,
    join,
    turns,
    use,
    with_and_without_plain_factory,
)


def stop_clock():
    """Let no time pass on this loop: handlers have their turns, however busy the machine is."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    loop.time = lambda: now


# In time


async def test_aclose_joins(bus, gated, errors):
    """C6.2: aclose waits for all work, what is published meanwhile included."""
    seen = []

    async def follow_up(event):
        await gated.gate.wait()
        bus.publish_nowait(InvoiceIssued())
        await bus.publish(MailSent())

    async def note(event):
        await asyncio.sleep(0)
        seen.append(type(event))

    bus.subscribe(OrderPlaced, follow_up)
    bus.subscribe(InvoiceIssued, note)
    bus.subscribe(MailSent, note)
    bus.publish_nowait(OrderPlaced())
    closing = asyncio.create_task(aclose(bus))
    await gated.started.wait()
    await turns()
    assert not closing.done()
    bus.publish_nowait(InvoiceIssued())  # from outside of handlers too
    await bus.publish(MailSent())
    gated.gate.set()
    await closing
    assert seen.count(InvoiceIssued) == 2
    assert seen.count(MailSent) == 2
    assert bus.pending == 0
    assert len(errors) == 0
    await assert_closed(bus)


async def test_aclose_waits_for_a_handler_that_joins(bus, errors):
    """C6.2: what a handler does after its own join is work like any other."""
    seen = []

    async def join_inside(event):
        await bus.join()
        await turns()
        bus.publish_nowait(InvoiceIssued())

    bus.subscribe(OrderPlaced, join_inside)
    bus.subscribe(InvoiceIssued, seen.append)
    bus.publish_nowait(OrderPlaced())
    await aclose(bus)
    assert len(seen) == 1
    assert len(errors) == 0
    await assert_closed(bus)


async def test_aclose_in_time(bus, gated, errors):
    """C6.2: with a timeout that is long enough, nothing is cancelled."""
    bus.publish_nowait(OrderPlaced())
    closing = asyncio.create_task(bus.aclose(timeout=PATIENCE))
    await gated.started.wait()
    gated.gate.set()
    await closing
    assert (gated.finished, gated.cancelled) == (1, 0)
    assert len(errors) == 0
    await assert_closed(bus)


# Past the timeout


@pytest.mark.parametrize("timeout", [0.2, 0])
async def test_aclose_cancels_past_the_timeout(bus, failures, errors, timeout):
    """C6.2: past the timeout, handlers are logged by name, cancelled and awaited; no failures."""
    ended = []

    async def plain(event):
        await asyncio.Event().wait()

    async def swallowing(event):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("swallowing")

    async def slow_to_end(event):
        try:
            await asyncio.Event().wait()
        finally:
            await turns()
            ended.append("slow to end")

    async def nested(event):
        try:
            await bus.publish(InvoiceIssued())
        finally:
            ended.append("nested")

    async def finished(event):
        await asyncio.sleep(0)

    for handler in (plain, swallowing, slow_to_end, nested, finished):
        bus.subscribe(OrderPlaced, handler)
    bus.subscribe(InvoiceIssued, plain)
    bus.publish_nowait(OrderPlaced())
    await turns()
    if timeout == 0:
        stop_clock()
    await aclose(bus, timeout)
    assert sorted(ended) == ["nested", "slow to end", "swallowing"]
    assert failures == []
    [record] = errors
    assert record.levelno == logging.ERROR
    for handler in (plain, swallowing, slow_to_end, nested):
        assert handler.__qualname__ in record.getMessage()
    assert finished.__qualname__ not in record.getMessage()
    assert bus.pending == 0
    await assert_closed(bus)


async def test_aclose_reports_failures_of_cancelled_handlers(bus, failures, errors):
    """C4.4, C6.2: a handler that meets its cancellation with another exception has failed."""

    async def fail_on_the_way_out(event):
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    bus.subscribe(OrderPlaced, fail_on_the_way_out)
    bus.publish_nowait(OrderPlaced())
    await aclose(bus, 0.01)
    assert [type(failure.exception) for failure in failures] == [ZeroDivisionError]
    assert len(errors) == 2


async def test_cancelled_handlers_cannot_publish(bus, errors):
    """C6.2: the bus is closed by the time the handlers are cancelled."""
    caught = []

    async def publish_on_the_way_out(event):
        try:
            await asyncio.Event().wait()
        finally:
            try:
                bus.publish_nowait(OrderPlaced())
            except RuntimeError as error:
                caught.append(error)

    bus.subscribe(OrderPlaced, publish_on_the_way_out)
    bus.publish_nowait(OrderPlaced())
    await aclose(bus, 0.01)
    assert len(caught) == 1
    assert bus.pending == 0
    assert len(errors) == 1


@with_and_without_plain_factory
@pytest.mark.parametrize("timeout", [0, 0.01])
async def test_aclose_leaves_who_ignores_it(bus, gated, failures, errors, timeout, factory):
    """C6.2: within `timeout` seconds more it ends, and names at ERROR those that it leaves."""
    cancelled, gate = [], asyncio.Event()

    async def ignoring(event):
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                cancelled.append(event)

    use(factory)
    bus.subscribe(InvoiceIssued, ignoring)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    await gated.started.wait()
    try:
        await aclose(bus, timeout)
        assert (gated.cancelled, len(cancelled), bus.pending) == (1, 1, 1)
        closing, left = errors
        assert closing.levelno == left.levelno == logging.ERROR
        for name, records in (("Gated", [closing]), ("ignoring", [closing, left])):
            assert [record for record in errors if name in record.getMessage()] == records
        await assert_closed(bus)
        await aclose(bus, timeout)
        assert (len(cancelled), bus.pending) == (1, 1)
    finally:
        gate.set()
    await join(bus)
    assert bus.pending == 0
    assert failures == []


async def test_aclose_drops_the_queue_past_the_timeout(bus, errors):
    """C6.2: past the timeout, events still queued are dropped and logged."""
    seen = []

    def publish_again(event):
        seen.append(event)
        if len(seen) < 100_000:  # as good as for ever
            bus.publish_nowait(event)

    bus.subscribe(InvoiceIssued, publish_again)
    bus.publish_nowait(InvoiceIssued())
    await aclose(bus, 0.01)
    [record] = errors
    assert record.levelno == logging.ERROR
    assert "InvoiceIssued" in record.getMessage()
    assert bus.pending == 0
    count = len(seen)
    await turns()
    assert len(seen) == count
    await join(bus)


async def test_aclose_drops_the_queue_and_cancels(bus, gated, errors):
    """C6.2: past the timeout, an event with its handlers running is not counted as dropped."""
    left = 100_000  # as good as for ever

    def publish_again(event):
        nonlocal left
        left -= 1
        if left > 0:
            bus.publish_nowait(event)

    bus.subscribe(InvoiceIssued, publish_again)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    await aclose(bus, 0.01)
    assert gated.cancelled == 1
    assert len(errors) == 2
    assert bus.pending == 0


async def test_close_before_a_task_factory_lets_a_handler_start(bus, failures, errors):
    """C6.2: a handler cancelled by the bus has not failed, even if it was never called."""

    def waiting_factory(loop, coro, **options):
        async def wait_first():
            try:
                await asyncio.Event().wait()
            finally:
                coro.close()

        return asyncio.Task(wait_first(), loop=loop, **options)

    async def handle(event):
        pass

    bus.subscribe(OrderPlaced, handle)
    bus.publish_nowait(OrderPlaced())
    use(waiting_factory)
    try:
        await bus.aclose(timeout=0.1)
    finally:
        use(None)
    assert failures == []
    (record,) = errors
    assert record.getMessage().startswith("closing the bus cancels handlers")
    assert bus.pending == 0


@with_and_without_plain_factory
@pytest.mark.parametrize("publishing", range(4))
@pytest.mark.parametrize("opening", range(4))
async def test_nothing_is_pending_after_a_close_with_timeout(
    bus, gated, factory, publishing, opening
):
    """C6.2: not even what has just ended, whenever that was, or was cancelled before it began."""

    def cancel_the_next(event):
        cancel_tasks_of(bus.handlers(InvoiceIssued)[1])

    async def close():
        await bus.aclose(timeout=0)
        return bus.pending

    async def publish():
        await turns(publishing)
        with contextlib.suppress(RuntimeError):  # closed by now
            bus.publish_nowait(InvoiceIssued())

    async def open_gate():
        await turns(opening)
        gated.gate.set()

    use(factory)
    bus.subscribe(InvoiceIssued, cancel_the_next)
    bus.subscribe(InvoiceIssued, forever)
    bus.publish_nowait(OrderPlaced())
    await gated.started.wait()
    stop_clock()
    pending, *_ = await asyncio.gather(close(), publish(), open_gate())
    assert pending == 0


# In a handler


@pytest.mark.parametrize("nested", [False, True])
async def test_aclose_in_a_handler(bus, gated, errors, nested):
    """C6.2: a handler may close the bus; aclose waits for all others."""
    order = []

    async def close(event):
        await aclose(bus)
        order.append(("closed", gated.finished))

    async def publish_inside(event):
        await bus.publish(MailSent())
        order.append("published")

    bus.subscribe(InvoiceIssued, publish_inside if nested else close)
    bus.subscribe(MailSent, close)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    await gated.started.wait()
    await turns()
    assert order == []
    gated.gate.set()
    await join(bus)
    assert order == [("closed", 1)] + ["published"] * nested
    assert len(errors) == 0
    await assert_closed(bus)


@pytest.mark.parametrize("nested", [False, True])
async def test_aclose_in_a_handler_with_timeout(bus, gated, errors, nested):
    """C6.2: past the timeout, a handler that closes the bus cancels all others, not itself."""
    order, closed = [], asyncio.Event()

    async def close(event):
        await aclose(bus, 0.01)
        await turns()
        order.append(("closed", gated.cancelled))
        closed.set()

    async def publish_inside(event):
        await bus.publish(MailSent())
        await turns()
        order.append("published")

    bus.subscribe(InvoiceIssued, publish_inside if nested else close)
    bus.subscribe(MailSent, close)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    async with asyncio.timeout(PATIENCE):
        await closed.wait()
    await join(bus)
    assert order == [("closed", 1)] + ["published"] * nested
    [record] = errors
    assert "Gated" in record.getMessage()
    assert close.__name__ not in record.getMessage()
    assert bus.pending == 0
    await assert_closed(bus)


async def test_aclose_in_a_handler_awaits_those_it_cancels(bus):
    """C6.2: past the timeout, a handler that closes the bus waits until the others have ended."""
    ended = []

    async def slow_to_end(event):
        try:
            await asyncio.Event().wait()
        finally:
            await turns()
            ended.append("slow to end")

    async def close(event):
        await aclose(bus, 0.2)
        ended.append("closed")

    bus.subscribe(OrderPlaced, slow_to_end)
    bus.subscribe(InvoiceIssued, close)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    await join(bus)
    assert ended == ["slow to end", "closed"]


@pytest.mark.parametrize("timeout", [None, 0.01])
async def test_aclose_in_a_handler_leaves_its_siblings_alone(bus, gated, errors, timeout):
    """C6.1, C6.2: it waits neither for the other handlers of its event, nor does it cancel them."""
    closed = asyncio.Event()

    async def close(event):
        await aclose(bus, timeout)
        closed.set()

    bus.subscribe(OrderPlaced, close)
    bus.publish_nowait(OrderPlaced())
    async with asyncio.timeout(PATIENCE):
        await closed.wait()
    await assert_closed(bus)
    assert (gated.finished, gated.cancelled, bus.pending) == (0, 0, 1)
    gated.gate.set()
    await join(bus)
    assert (gated.finished, gated.cancelled, bus.pending) == (1, 0, 0)
    assert len(errors) == 0


async def test_handlers_that_insist_on_closing(bus):
    """C6.2: handlers that close the bus, cancelled or not, do not cancel each other for ever."""
    cancelling, gate, ended = [], asyncio.Event(), []

    async def slow_to_end(event):
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                cancelling.append(event)

    async def close(event):
        await bus.aclose(timeout=0.01)

    async def insist(event):
        try:
            await bus.aclose(timeout=PATIENCE)
        except asyncio.CancelledError:
            await bus.aclose(timeout=0.01)
        ended.append("closed")
        gate.set()

    events = [(OrderPlaced, slow_to_end), (InvoiceIssued, close), (MailSent, insist)]
    for event_type, handler in events:
        bus.subscribe(event_type, handler)
        bus.publish_nowait(event_type())
    try:
        await join(bus)
    finally:
        gate.set()
    assert ended == ["closed"]
    assert len(cancelling) == 1
    assert bus.pending == 0


async def test_two_handlers_close_with_timeout(bus, gated):
    """C6.2: handlers that close the bus at once do not wait for each other for ever."""

    async def close(event):
        await bus.aclose(timeout=0.01)

    async def close_too(event):
        await bus.aclose(timeout=0.01)

    bus.subscribe(InvoiceIssued, close)
    bus.subscribe(MailSent, close_too)
    for event_type in (OrderPlaced, InvoiceIssued, MailSent):
        bus.publish_nowait(event_type())
    await join(bus)
    assert gated.cancelled == 1
    assert bus.pending == 0
    await assert_closed(bus)


async def test_aclose_in_a_handler_leaves_alone_who_joins(bus, errors):
    """C6.2: closing in time cancels nobody, handlers that wait for the same included."""
    log = []

    async def join_inside(event):
        await join(bus)
        log.append("joined")

    async def close_inside(event):
        await turns()
        await bus.aclose(PATIENCE)
        log.append("closed")

    bus.subscribe(OrderPlaced, join_inside)
    bus.subscribe(InvoiceIssued, close_inside)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    await join(bus)
    assert sorted(log) == ["closed", "joined"]
    assert len(errors) == 0


@pytest.mark.parametrize("after", range(8))
async def test_cancelled_at_any_turn(bus, errors, gated, after):
    """C6.2: cancelled while it joins it cancels nothing; later it still ends what it has begun."""
    bus.publish_nowait(OrderPlaced())
    await gated.started.wait()
    closing = asyncio.create_task(bus.aclose(timeout=0))
    await turns(after)
    was_over = closing.done()
    closing.cancel()
    async with asyncio.timeout(PATIENCE):
        (outcome,) = await asyncio.gather(closing, return_exceptions=True)
    assert was_over or isinstance(outcome, asyncio.CancelledError)
    if "closed" in repr(bus):
        assert gated.cancelled == 1
        assert bus.pending == 0
        assert len(errors) == 1
    else:
        assert gated.cancelled == 0
        gated.gate.set()
        await aclose(bus)
        assert gated.finished == 1


async def test_queued_events_are_dropped_by_name(bus, errors):
    """C6.2: what is still queued after the timeout is dropped; the log has kinds and counts."""
    got = []
    bus.subscribe(OrderPlaced, got.append)
    bus.subscribe(InvoiceIssued, got.append)
    for event_type in (OrderPlaced, InvoiceIssued):
        for _ in range(2000):
            bus.publish_nowait(event_type())
    await aclose(bus, timeout=0)
    assert bus.pending == 0
    (record,) = errors
    dropped = 4000 - len(got)
    assert dropped > 2000
    message = record.getMessage()
    assert f"{dropped} queued (OrderPlaced x{dropped - 2000}, InvoiceIssued x2000)" in message
    await turns()
    assert len(got) == 4000 - dropped
