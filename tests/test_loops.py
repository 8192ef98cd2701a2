# SPDX-License-Identifier: MIT
"""C5.6: one bus, several loops, one after the other and at once in several threads."""

import asyncio
import gc
import logging
import threading
import weakref
from contextlib import closing
from dataclasses import dataclass

import pytest
from support import PATIENCE, InvoiceIssued, OrderPlaced, join
from target import PACKAGE, Event, EventBus

made_outside = EventBus()


@dataclass(frozen=True)
class Published(Event):
    thread: int
    number: int


async def wait_for_ever(event):
    await asyncio.get_running_loop().create_future()


def run(main, loop=None):
    """Run a coroutine on a new loop, or on one that is left open, in debug mode."""
    if loop is not None:
        loop.set_debug(True)
        return loop.run_until_complete(main)
    return asyncio.run(main, debug=True)


def run_callback(callback):
    """Run one callback on a new loop, which is closed before anything it has scheduled can run."""
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    loop.call_soon(callback)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    return loop


def run_and_leave(bus, event_type):
    """Publish an event whose handler waits, on a new loop that is closed while it does."""
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed ..."

    async def publish():
        bus.publish_nowait(event_type())
        for _ in range(3):
            await asyncio.sleep(0)

    loop.run_until_complete(publish())
    loop.close()
    return loop


def in_thread(function):
    """Run a function in a thread and return its result, while this thread stands still."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    [result] = results
    return result


# One after the other


def test_a_bus_made_outside_any_loop():
    """C5.6: a bus, made before there was a loop, serves one loop after the other."""
    bus, seen = made_outside, []

    async def handle(event):
        await asyncio.sleep(0)
        seen.append(event)

    async def main():
        await bus.publish(OrderPlaced())
        bus.publish_nowait(OrderPlaced())
        assert bus.pending == 1
        await join(bus)
        assert bus.pending == 0

    with bus.subscribe(OrderPlaced, handle):
        for _ in range(3):
            assert bus.pending == 0
            run(main())
    assert len(seen) == 6


def test_a_loop_stopped_and_run_again_goes_on(bus, errors):
    """C5.6: work waits for its loop, while that is stopped and another one runs."""
    gate, seen = asyncio.Event(), []

    async def handle(event):
        await gate.wait()
        seen.append(("running", asyncio.get_running_loop()))

    def note(event):
        seen.append(("queued", asyncio.get_running_loop()))

    bus.subscribe(OrderPlaced, handle)
    bus.subscribe(InvoiceIssued, note)

    async def publish():
        bus.publish_nowait(OrderPlaced())
        for _ in range(3):
            await asyncio.sleep(0)

    async def publish_elsewhere():
        assert bus.pending == 0
        bus.publish_nowait(InvoiceIssued())
        await join(bus)

    async def go_on():
        assert bus.pending > 0
        gate.set()
        await join(bus)
        assert bus.pending == 0

    with closing(asyncio.new_event_loop()) as first, closing(asyncio.new_event_loop()) as second:
        run(publish(), first)
        first.call_soon(bus.publish_nowait, InvoiceIssued())
        first.call_soon(first.stop)
        first.run_forever()
        assert bus.pending == 0
        run(publish_elsewhere(), second)
        assert seen == [("queued", second)]
        run(go_on(), first)
        assert seen[1:] == [("queued", first), ("running", first)]
    assert len(errors) == 0


def test_loops_closed_with_work_queued(errors):
    """C5.6: loops closed with work queued leave the bus usable; the next loop logs each loss."""
    bus, seen = EventBus(max_pending=5), []
    bus.subscribe(OrderPlaced, seen.append)

    def publish_five():
        for _ in range(5):
            bus.publish_nowait(OrderPlaced())
        with pytest.raises(asyncio.QueueFull):
            bus.publish_nowait(OrderPlaced())
        assert bus.pending == 5

    async def main():
        bus.publish_nowait(OrderPlaced())
        await join(bus)

    for lost in range(20):
        run_callback(publish_five)
        assert len(errors) == lost
    assert seen == []
    run(main())
    assert len(seen) == 1
    assert len(errors) == 20
    for record in errors:
        assert record.levelno == logging.ERROR
        assert "5" in record.getMessage()
        assert "OrderPlaced" in record.getMessage()
    run(main())
    assert len(errors) == 20


def test_a_loop_closed_with_a_handler_running(errors):
    """C5.6: loops closed while a handler runs leave the bus usable, and the loss is logged."""
    bus, seen = EventBus(max_pending=1), []
    bus.subscribe(OrderPlaced, wait_for_ever)
    bus.subscribe(InvoiceIssued, seen.append)

    async def main():
        assert bus.pending == 0
        bus.publish_nowait(InvoiceIssued())
        await join(bus)

    for lost in range(3):
        run_and_leave(bus, OrderPlaced)
        assert len(errors) == lost
    run(main())
    assert len(seen) == 1
    assert len(errors) == 3
    assert all(record.levelno == logging.ERROR for record in errors)
    gc.collect()


def test_a_loop_closed_without_work_left_is_no_loss(bus, errors):
    """C5.6: nothing is logged of a loop that had finished its work, or never had any."""
    bus.subscribe(OrderPlaced, lambda event: None)

    async def main():
        bus.publish_nowait(OrderPlaced())
        await join(bus)

    for _ in range(3):
        run(main())
        run(join(bus))
    assert len(errors) == 0


def test_aclose_after_a_loop_was_closed_with_work(errors):
    """C5.6, C6.2: aclose does not wait for what a closed loop has left unfinished."""
    bus = EventBus()
    bus.subscribe(OrderPlaced, wait_for_ever)
    run_and_leave(bus, OrderPlaced)
    run_callback(lambda: bus.publish_nowait(OrderPlaced()))

    async def main():
        async with asyncio.timeout(PATIENCE):
            await bus.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            bus.publish_nowait(OrderPlaced())

    run(main())
    gc.collect()


@pytest.mark.parametrize("left", ["nothing", "queued", "running"])
def test_closed_loops_are_not_kept_alive(left):
    """C5.6: a closed loop is forgotten by the next loop's first publish_nowait."""
    bus = EventBus()
    bus.subscribe(OrderPlaced, wait_for_ever)
    bus.subscribe(InvoiceIssued, lambda event: None)

    async def main():
        bus.publish_nowait(InvoiceIssued())
        await join(bus)

    def leave():
        if left == "running":
            return weakref.ref(run_and_leave(bus, OrderPlaced))
        if left == "queued":
            return weakref.ref(run_callback(lambda: bus.publish_nowait(OrderPlaced())))
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        return weakref.ref(loop)

    closed = [leave() for _ in range(2)]
    run(main())
    gc.collect()
    assert [loop() for loop in closed] == [None, None]


def test_a_loop_without_work_left_is_not_kept_alive():
    """C5.6, C4.8: nor is one whose work is done, once its bus is gone."""
    seen = []

    async def publish():
        bus = EventBus()
        bus.subscribe(OrderPlaced, seen.append)
        bus.publish_nowait(OrderPlaced())
        await join(bus)
        return weakref.ref(asyncio.get_running_loop())

    loop = run(publish())
    gc.collect()
    assert len(seen) == 1
    assert loop() is None


def test_a_log_handler_may_publish_about_the_loss(errors):
    """C5.6: what listens to the log may publish on the bus, the message of a loss included."""
    bus, seen = EventBus(), []

    class Publishing(logging.Handler):
        def emit(self, record):
            bus.publish_nowait(InvoiceIssued())

    async def main():
        bus.publish_nowait(OrderPlaced())
        await join(bus)

    bus.subscribe(OrderPlaced, lambda event: seen.append("order"))
    bus.subscribe(InvoiceIssued, lambda event: seen.append("loss"))
    run_callback(lambda: bus.publish_nowait(OrderPlaced()))
    logger, publishing = logging.getLogger(PACKAGE), Publishing()
    logger.addHandler(publishing)
    try:
        in_thread(lambda: run(main()))
    finally:
        logger.removeHandler(publishing)
    assert sorted(seen) == ["loss", "order"]
    assert len(errors) == 1


# At once


def test_three_threads_with_a_loop_each():
    """C5.6: every event stays on the loop, and so on the thread, that published it."""
    bus, barrier, wrong, seen = EventBus(), threading.Barrier(3), [], []

    def note(event):
        seen.append(event)
        if threading.get_ident() != event.thread:
            wrong.append(event)

    async def note_async(event):
        note(event)
        await asyncio.sleep(0)
        note(event)

    bus.subscribe(Published, note)
    bus.subscribe(Published, note_async)

    async def main():
        thread = threading.get_ident()
        barrier.wait(PATIENCE)
        for number in range(200):
            bus.publish_nowait(Published(thread, number))
            if number % 50 == 0:
                await bus.publish(Published(thread, 1000 + number))
        await join(bus)
        pending, own = bus.pending, [event for event in seen if event.thread == thread]
        barrier.wait(PATIENCE)
        return pending, len(own)

    results = []
    threads = [threading.Thread(target=lambda: results.append(run(main()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == [(0, 3 * 204)] * 3
    assert wrong == []


async def test_pending_and_join_speak_of_the_running_loop(errors):
    """C5.6: pending, max_pending, join and aclose leave the work of other loops out of account."""
    bus, started, gate, seen = EventBus(max_pending=2), asyncio.Event(), asyncio.Event(), []

    async def handle(event):
        started.set()
        await gate.wait()
        seen.append("order")

    bus.subscribe(OrderPlaced, handle)
    bus.subscribe(InvoiceIssued, lambda event: seen.append("invoice"))

    async def elsewhere():
        assert bus.pending == 0
        await join(bus)
        for _ in range(2):
            bus.publish_nowait(InvoiceIssued())
        with pytest.raises(asyncio.QueueFull):
            bus.publish_nowait(InvoiceIssued())
        assert bus.pending == 2
        await join(bus)
        assert bus.pending == 0
        return "finished"

    bus.publish_nowait(OrderPlaced())
    await started.wait()
    assert in_thread(lambda: run(elsewhere())) == "finished"
    assert seen == ["invoice", "invoice"]
    assert bus.pending == 1
    bus.publish_nowait(InvoiceIssued())
    with pytest.raises(asyncio.QueueFull):
        bus.publish_nowait(InvoiceIssued())
    gate.set()
    await join(bus)
    assert sorted(seen) == ["invoice", "invoice", "invoice", "order"]
    assert len(errors) == 0


async def test_pending_is_0_without_a_loop(bus):
    """C5.6: where no loop runs, `pending` is 0, whatever other threads have to do."""
    bus.subscribe(OrderPlaced, lambda event: None)
    bus.publish_nowait(OrderPlaced())
    assert in_thread(lambda: bus.pending) == 0
    assert bus.pending == 1
    await join(bus)


async def test_publishing_from_another_thread(bus):
    """C5.5: the remedy that the error names works, and does not wait for the loop to wake up."""
    loop, done, threads = asyncio.get_running_loop(), asyncio.Event(), []

    def handle(event):
        threads.append(threading.get_ident())
        done.set()

    bus.subscribe(OrderPlaced, handle)
    in_thread(lambda: loop.call_soon_threadsafe(bus.publish_nowait, OrderPlaced()))
    async with asyncio.timeout(PATIENCE):
        await done.wait()
    assert threads == [threading.get_ident()]


async def test_subscribing_from_another_thread(bus):
    """C2.6: what another thread subscribes and cancels counts from the next publish on."""
    seen = []
    subscription = in_thread(lambda: bus.subscribe(OrderPlaced, seen.append))
    await bus.publish(OrderPlaced())
    bus.publish_nowait(OrderPlaced())
    in_thread(subscription.cancel)
    bus.publish_nowait(OrderPlaced())
    await bus.publish(OrderPlaced())
    await join(bus)
    assert len(seen) == 2


def test_a_handler_publishes_on_the_loop_it_runs_on(bus):
    """C5.6: what a handler publishes stays on the loop of the handler."""
    loops = []

    async def follow_up(event):
        await asyncio.sleep(0)
        bus.publish_nowait(InvoiceIssued())

    bus.subscribe(OrderPlaced, follow_up)
    bus.subscribe(InvoiceIssued, lambda event: loops.append(asyncio.get_running_loop()))

    async def main():
        bus.publish_nowait(OrderPlaced())
        in_thread(lambda: run(elsewhere()))
        assert loops[0] is not asyncio.get_running_loop()
        await join(bus)
        assert loops[1] is asyncio.get_running_loop()

    async def elsewhere():
        bus.publish_nowait(OrderPlaced())
        await join(bus)

    run(main())
    assert len(loops) == 2


# uvloop


def test_uvloop(errors):
    """C4.9: publish, publish_nowait, join and aclose work on uvloop."""
    uvloop = pytest.importorskip("uvloop")
    bus, seen, names = EventBus(), [], []

    async def handle(event):
        await asyncio.sleep(0)
        names.append(asyncio.current_task().get_name())
        seen.append("async")

    bus.subscribe(OrderPlaced, lambda event: seen.append("sync"))
    bus.subscribe(OrderPlaced, handle)
    bus.subscribe(InvoiceIssued, wait_for_ever)

    async def main():
        assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
        await bus.publish(OrderPlaced())
        assert seen == ["sync", "async"]
        bus.publish_nowait(OrderPlaced())
        assert len(seen) == 2
        await join(bus)
        assert seen == ["sync", "async", "sync", "async"]
        bus.publish_nowait(InvoiceIssued())
        async with asyncio.timeout(PATIENCE):
            await bus.aclose(timeout=0.01)
        assert bus.pending == 0
        with pytest.raises(RuntimeError, match="closed"):
            await bus.publish(OrderPlaced())

    with asyncio.Runner(debug=True, loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    assert names == [bus.handlers(OrderPlaced)[1].name] * 2
    assert len(errors) == 1


def test_uvloop_that_ends_with_work(errors):
    """C4.9, C5.7: the end of a uvloop is noticed as well, and its handlers have not failed."""
    uvloop = pytest.importorskip("uvloop")

    async def main():
        bus = EventBus()
        bus.subscribe(OrderPlaced, wait_for_ever)
        bus.publish_nowait(OrderPlaced())
        await asyncio.sleep(0.01)

    with asyncio.Runner(debug=True, loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    gc.collect()
    [record] = errors
    assert "wait_for_ever" in record.getMessage()
    assert "await bus.aclose() before the loop ends" in record.getMessage()


def test_uvloop_cancelled_publisher():
    """C4.9: a cancelled publisher cancels and awaits its handlers on uvloop too."""
    uvloop = pytest.importorskip("uvloop")
    bus, cancelled = EventBus(), []

    async def main():
        started = asyncio.Event()

        async def handle(event):
            started.set()
            try:
                await wait_for_ever(event)
            finally:
                await asyncio.sleep(0)
                cancelled.append(event)

        bus.subscribe(OrderPlaced, handle)
        publishing = asyncio.create_task(bus.publish(OrderPlaced()))
        await started.wait()
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing

    with asyncio.Runner(debug=True, loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    assert len(cancelled) == 1
