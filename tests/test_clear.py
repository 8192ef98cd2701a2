# SPDX-License-Identifier: MIT
"""C2.7: `clear` ends every subscription at once, and nothing else."""

import asyncio
import contextlib
import gc
import threading
import weakref

import pytest
from support import (
    PATIENCE,
    InvoiceIssued,
    MailSent,
    OrderPlaced,
    aclose,
    assert_closed,
    callbacks,
    do_nothing,
    every_way,
    join,
    turns,
    until,
)
from target import Event, EventBus


@every_way
async def test_nobody_is_subscribed_any_more(bus, errors, publish):
    """C2.7: no handler of any type is called from the next publish on, or listed."""
    seen = []

    async def handle(event):
        seen.append(event)

    for event_type in (OrderPlaced, InvoiceIssued, MailSent):
        bus.subscribe(event_type, seen.append)
        bus.subscribe(event_type, handle)
        await publish(bus, event_type())
    assert len(seen) == 6
    bus.clear()
    assert bus.event_types() == ()
    for event_type in (OrderPlaced, InvoiceIssued, MailSent):
        assert bus.handlers(event_type) == ()
        await publish(bus, event_type())
    assert len(seen) == 6
    assert len(errors) == 0


async def test_bus_can_be_used_again(bus):
    """C2.7: what is subscribed afterwards is called, the same handler included."""
    seen = []
    bus.subscribe(OrderPlaced, seen.append)
    await bus.publish(OrderPlaced())
    bus.clear()
    bus.subscribe(OrderPlaced, seen.append)
    await bus.publish(OrderPlaced())
    assert len(seen) == 2
    assert callbacks(bus) == [seen.append]


def test_unsubscribe_afterwards(bus):
    """C2.5, C2.7: what was cleared is not subscribed."""
    bus.subscribe(OrderPlaced, do_nothing)
    bus.clear()
    with pytest.raises(ValueError, match="is not subscribed"):
        bus.unsubscribe(OrderPlaced, do_nothing)


@pytest.mark.parametrize("count", [1, 3])
def test_handles_are_spent(bus, count):
    """C2.7: cancelling a subscription of before the clear, or leaving its block, does nothing."""
    with contextlib.ExitStack() as blocks:
        for _ in range(count):
            blocks.enter_context(bus.subscribe(OrderPlaced, do_nothing))
        bus.clear()
        bus.subscribe(OrderPlaced, do_nothing)
    assert callbacks(bus) == [do_nothing]


@pytest.mark.usefixtures("classes_die")
async def test_type_is_freed(bus):
    """C2.5, C2.7: nothing of the bus keeps a type that has lost its handlers by a clear."""

    class Passing(Event):
        pass

    bus.subscribe(Passing, do_nothing)
    await bus.publish(Passing())
    bus.clear()
    died = weakref.ref(Passing)
    del Passing
    gc.collect()
    assert died() is None


def test_nothing_to_clear(bus):
    """C2.7: clearing what is empty, and clearing twice, is fine, and needs no loop."""
    bus.clear()
    bus.subscribe(OrderPlaced, do_nothing)
    bus.clear()
    bus.clear()
    assert bus.event_types() == ()


async def test_closed_bus_can_be_cleared(bus):
    """C2.7, C6.2: clearing a closed bus frees its handlers, and does not open it."""
    bus.subscribe(OrderPlaced, do_nothing)
    await aclose(bus)
    bus.clear()
    assert bus.event_types() == ()
    await assert_closed(bus)


async def test_accepted_work_still_runs(bus, errors):
    """C2.7, C5.2: what `publish_nowait` has accepted runs, with the handlers of the call."""
    seen = []

    async def handle(event):
        await asyncio.sleep(0)
        seen.append("async")

    bus.subscribe(OrderPlaced, lambda event: seen.append("sync"))
    bus.subscribe(OrderPlaced, handle)
    bus.publish_nowait(OrderPlaced())
    bus.clear()
    bus.subscribe(OrderPlaced, lambda event: seen.append("new"))
    bus.publish_nowait(OrderPlaced())
    assert bus.pending == 2
    await join(bus)
    assert seen == ["sync", "new", "async"]
    assert len(errors) == 0


@pytest.mark.parametrize("background", [False, True])
async def test_running_handlers_go_on(bus, gated, background):
    """C2.7, C4.6: a publish under way reaches all its handlers, and none is cancelled."""
    seen = []

    def clear(event):
        bus.clear()

    bus.subscribe(OrderPlaced, clear)
    bus.subscribe(OrderPlaced, seen.append)
    if background:
        bus.publish_nowait(OrderPlaced())
        working = asyncio.create_task(join(bus))
    else:
        working = asyncio.create_task(bus.publish(OrderPlaced()))
    await gated.started.wait()
    await turns()
    assert bus.event_types() == ()
    assert len(seen) == 1
    assert not working.done()
    gated.gate.set()
    await working
    assert (gated.finished, gated.cancelled) == (1, 0)


@every_way
async def test_hooks_stay(bus, publish):
    """C2.7, C10: a hook is no subscription; it sees the events that nobody handles now."""
    calls = []

    def hook(event, handler):
        calls.append(handler)
        return contextlib.nullcontext()

    with bus.instrument(hook):
        described = bus.subscribe(OrderPlaced, do_nothing).handler
        await publish(bus, OrderPlaced())
        bus.clear()
        await publish(bus, OrderPlaced())
        again = bus.subscribe(OrderPlaced, do_nothing).handler
        await publish(bus, OrderPlaced())
    assert calls == [described, None, again]


# Futures of wait_for


async def test_futures_are_cancelled(bus):
    """C2.7: who waits for an event is told that it will not come."""
    futures = [bus.wait_for(OrderPlaced), bus.wait_for(InvoiceIssued, lambda event: False)]
    done = bus.wait_for(MailSent)
    await bus.publish(MailSent())
    bus.clear()
    for future in futures:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(asyncio.CancelledError):
                await future
    assert type(done.result()) is MailSent
    assert bus.event_types() == ()


async def test_futures_of_later_are_not(bus):
    """C2.7: what `wait_for` returns after the clear, even at once, is resolved."""
    cancelled = bus.wait_for(OrderPlaced)
    bus.clear()
    future = bus.wait_for(OrderPlaced)
    await turns()
    assert cancelled.cancelled()
    assert callbacks(bus) != []
    event = OrderPlaced()
    await bus.publish(event)
    assert future.result() is event
    assert bus.event_types() == ()


async def test_futures_of_other_loops_are_cancelled_there(bus):
    """C2.7, C5.6: each on its loop, in its thread; the one that clears need not wait for it."""
    waiting, threads = threading.Event(), []

    async def wait():
        future = bus.wait_for(OrderPlaced)
        future.add_done_callback(lambda _: threads.append(threading.get_ident()))
        waiting.set()
        async with asyncio.timeout(PATIENCE):
            await future

    def elsewhere():
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(wait(), debug=True)

    own = bus.wait_for(OrderPlaced)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    assert waiting.wait(PATIENCE)
    bus.clear()
    assert bus.event_types() == ()
    thread.join(PATIENCE)
    assert threads == [thread.ident]
    await turns()
    assert own.cancelled()


async def test_cleared_from_another_thread(bus, errors):
    """C2.6, C2.7: any thread may clear; the futures of a loop are cancelled on it."""
    future, threads = bus.wait_for(OrderPlaced), []
    future.add_done_callback(lambda _: threads.append(threading.get_ident()))
    thread = threading.Thread(target=bus.clear)
    thread.start()
    await until(lambda: threads)
    thread.join(PATIENCE)
    assert future.cancelled()
    assert threads == [threading.get_ident()]
    assert bus.event_types() == ()
    assert len(errors) == 0


@pytest.mark.parametrize("debug", [True, False])
def test_futures_of_closed_loops_are_no_hindrance(debug):
    """C2.7: a loop that is closed waits for nothing; the others' futures are cancelled still."""
    bus, futures = EventBus(), []

    async def wait():
        futures.append(bus.wait_for(OrderPlaced))

    async def clear():
        futures.append(bus.wait_for(InvoiceIssued))
        bus.clear()
        await turns()

    asyncio.run(wait(), debug=debug)
    asyncio.run(clear(), debug=debug)
    assert not futures[0].done()
    assert futures[1].cancelled()
    assert bus.event_types() == ()
    gc.collect()


async def test_cleared_by_a_handler_that_a_future_waits_beside(bus, errors):
    """C2.7, C8: a clear in the course of the event that was waited for cancels, or comes late."""
    late = bus.wait_for(OrderPlaced)
    bus.subscribe(OrderPlaced, lambda event: bus.clear())
    early = bus.wait_for(OrderPlaced)
    event = OrderPlaced()
    await bus.publish(event)
    assert late.result() is event
    assert early.cancelled()
    assert len(errors) == 0


async def test_cleared_by_a_thread_just_before_it_resolves(bus):
    """C2.7, C8: what was accepted before the clear reaches the future before its cancellation."""
    future, event = bus.wait_for(OrderPlaced), OrderPlaced()
    bus.publish_nowait(event)
    thread = threading.Thread(target=bus.clear)
    thread.start()
    thread.join()
    async with asyncio.timeout(PATIENCE):
        assert await future is event
    assert bus.event_types() == ()
