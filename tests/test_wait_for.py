# SPDX-License-Identifier: MIT
"""C8: wait_for gives a future of the next event that fits."""

import asyncio
import contextlib
import threading
import weakref
from dataclasses import dataclass

import pytest
from target import Event, EventBus


@dataclass
class OrderPlaced(Event):
    order_id: int = 7


class OrderCancelled(Event):
    pass


@pytest.fixture
def loop_errors():
    """What goes wrong in callbacks of the running loop, from `watch()` on."""

    class Contexts(list):
        def watch(self):
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: self.append(context))

    return Contexts()


async def publish_from_another_loop(bus, event):
    """Publish on a loop of another thread, and return when that loop is gone."""
    await asyncio.to_thread(asyncio.run, bus.publish(event))


@pytest.mark.parametrize("way", ["publish", "publish_nowait"])
async def test_resolves_with_the_event(bus, way):
    """C8: the future's result is the very event that was published."""
    future = bus.wait_for(OrderPlaced)
    assert isinstance(future, asyncio.Future)
    assert not future.done()
    event = OrderPlaced()
    if way == "publish":
        await bus.publish(event)
        assert future.done()
    else:
        bus.publish_nowait(event)
    assert await future is event


async def test_subscribes_at_the_call(bus):
    """C8: what is published between the call and the await is not missed."""
    future = bus.wait_for(OrderPlaced)
    assert len(bus.handlers(OrderPlaced)) == 1
    await bus.publish(OrderPlaced(1))
    await asyncio.sleep(0)
    await bus.publish(OrderPlaced(2))
    assert await future == OrderPlaced(1)


async def test_earlier_events_do_not_count(bus):
    """C8, C5.2: what was published before the call is not waited for, even if it is pending."""
    await bus.publish(OrderPlaced(1))
    bus.subscribe(OrderPlaced, lambda event: None)
    bus.publish_nowait(OrderPlaced(2))
    future = bus.wait_for(OrderPlaced)
    await bus.join()
    assert not future.done()
    await bus.publish(OrderPlaced(3))
    assert await future == OrderPlaced(3)


async def test_exact_type(bus):
    """C8, C1.1: an event of a subclass, or of another type, does not resolve it."""

    class OrderPlacedTwice(OrderPlaced):
        pass

    future = bus.wait_for(OrderPlaced)
    bus.subscribe(OrderPlacedTwice, lambda event: None)
    await bus.publish(OrderPlacedTwice())
    await bus.publish(OrderCancelled())
    assert not future.done()
    future.cancel()


async def test_where(bus):
    """C8: the first event for which `where` is true is the one; any true value will do."""
    asked = []

    def where(event):
        asked.append(event.order_id)
        return "yes" if event.order_id >= 3 else ""

    future = bus.wait_for(OrderPlaced, where)
    for order_id in range(1, 6):
        assert future.done() == (order_id > 3)
        await bus.publish(OrderPlaced(order_id))
    assert await future == OrderPlaced(3)
    assert asked == [1, 2, 3]


async def test_where_by_name(bus):
    """C8: `where` can be given by name."""
    future = bus.wait_for(OrderPlaced, where=lambda event: event.order_id == 2)
    await bus.publish(OrderPlaced(1))
    await bus.publish(OrderPlaced(2))
    assert await future == OrderPlaced(2)


async def test_unsubscribes_when_resolved(bus):
    """C8: once the future has its event, nothing is subscribed any more."""
    future = bus.wait_for(OrderPlaced, lambda event: event.order_id == 2)
    await bus.publish(OrderPlaced(1))
    assert len(bus.handlers(OrderPlaced)) == 1
    await bus.publish(OrderPlaced(2))
    assert bus.event_types() == ()
    assert future.done()


@pytest.mark.parametrize("finish", [asyncio.Future.cancel, lambda future: future.set_result(None)])
async def test_unsubscribes_when_done_otherwise(bus, finish):
    """C8: a future that its holder cancels or resolves unsubscribes within one loop trip."""
    asked = []
    future = bus.wait_for(OrderPlaced, asked.append)
    finish(future)
    await bus.publish(OrderPlaced())
    assert asked == []
    await asyncio.sleep(0)
    assert bus.event_types() == ()


async def test_unsubscribes_when_its_task_is_cancelled(bus):
    """C8: cancelling the task that awaits the future leaves no subscription."""
    waiting = asyncio.Event()

    async def wait():
        future = bus.wait_for(OrderPlaced)
        waiting.set()
        await future

    task = asyncio.create_task(wait())
    await waiting.wait()
    assert bus.event_types() == (OrderPlaced,)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bus.event_types() == ()


async def test_timeout_around_it(bus):
    """C8: `asyncio.timeout` around the await ends the subscription with it."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await bus.wait_for(OrderPlaced)
    assert bus.event_types() == ()


async def test_several_waiters(bus):
    """C8: every waiter has its own future, all of them resolved by one event that fits all."""
    any_order = [bus.wait_for(OrderPlaced) for _ in range(3)]
    second = bus.wait_for(OrderPlaced, lambda event: event.order_id == 2)
    assert len(bus.handlers(OrderPlaced)) == 4
    await bus.publish(OrderPlaced(1))
    assert await asyncio.gather(*any_order) == [OrderPlaced(1)] * 3
    assert not second.done()
    await bus.publish(OrderPlaced(2))
    assert await second == OrderPlaced(2)
    assert bus.event_types() == ()


async def test_one_where_for_two_waiters(bus):
    """C8: two calls with the same `where` are two subscriptions, ended one by one."""

    def where(event):
        return event.order_id == 2

    first, second = bus.wait_for(OrderPlaced, where), bus.wait_for(OrderPlaced, where)
    first.cancel()
    await bus.publish(OrderPlaced(2))
    assert first.cancelled()
    assert await second == OrderPlaced(2)


async def test_waiting_again_from_the_callback(bus):
    """C8: one who waits anew for each event in turn misses none and leaves nothing."""
    seen = []

    async def follow():
        for _ in range(3):
            future = bus.wait_for(OrderPlaced)
            following.set()
            seen.append((await future).order_id)

    following = asyncio.Event()
    follower = asyncio.create_task(follow())
    for order_id in range(3):
        await following.wait()
        following.clear()
        await bus.publish(OrderPlaced(order_id))
    await follower
    assert seen == [0, 1, 2]
    assert bus.event_types() == ()


async def test_exception_in_where_is_the_futures(bus, errors):
    """C8: what `where` raises is raised by the await, is no handler failure, and unsubscribes."""

    def where(event):
        raise LookupError("no such order")

    future = bus.wait_for(OrderPlaced, where)
    others = []
    bus.subscribe(OrderPlaced, others.append)
    await bus.publish(OrderPlaced())
    assert future.done()
    with pytest.raises(LookupError, match="no such order") as caught:
        await future
    assert caught.traceback[-1].name == "where"
    assert len(others) == 1
    assert len(bus.handlers(OrderPlaced)) == 1
    assert len(errors) == 0


async def test_stop_iteration_in_where(bus, errors):
    """C8: a `StopIteration`, which no future accepts, arrives as a `RuntimeError` naming it."""
    future = bus.wait_for(OrderPlaced, lambda event: next(iter(())))
    await bus.publish(OrderPlaced())
    assert future.done()
    with pytest.raises(RuntimeError, match="StopIteration"):
        await future
    assert bus.event_types() == ()
    assert len(errors) == 0


async def test_builtin_where_that_raises(bus, errors):
    """C8: an exception without a frame of its own, from a builtin, is the future's too."""
    future = bus.wait_for(OrderCancelled, {}.__getitem__)
    await bus.publish(OrderCancelled())
    assert future.done()
    with pytest.raises(KeyError):
        await future
    assert len(errors) == 0


async def test_event_of_another_loop(bus):
    """C8, C5.6: an event published in another thread resolves the future on its own loop."""
    threads = []

    def where(event):
        threads.append(threading.get_ident())
        return event.order_id == 2

    future = bus.wait_for(OrderPlaced, where)
    future.add_done_callback(lambda _: threads.append(threading.get_ident()))
    await publish_from_another_loop(bus, OrderPlaced(1))
    await publish_from_another_loop(bus, OrderPlaced(2))
    async with asyncio.timeout(10):
        assert await future == OrderPlaced(2)
    assert threads == [threading.get_ident()] * 3
    assert bus.event_types() == ()


async def test_burst_of_another_loop(bus, errors, loop_errors):
    """C8: of many events from another thread the first one wins, and the others do no harm."""
    loop_errors.watch()
    future = bus.wait_for(OrderPlaced)

    async def publish_many():
        for order_id in range(50):
            await bus.publish(OrderPlaced(order_id))

    publisher = threading.Thread(target=asyncio.run, args=(publish_many(),))
    publisher.start()
    publisher.join()  # all of them are on their way, and none has arrived
    assert await future == OrderPlaced(0)
    await asyncio.sleep(0)
    assert bus.event_types() == ()
    assert len(errors) == len(loop_errors) == 0


async def test_event_of_another_loop_after_cancelling(bus, errors, loop_errors):
    """C8: an event on its way from another thread does no harm to a future cancelled since."""
    loop_errors.watch()
    future = bus.wait_for(OrderPlaced)
    publisher = threading.Thread(target=asyncio.run, args=(bus.publish(OrderPlaced()),))
    publisher.start()
    publisher.join()
    future.cancel()
    await asyncio.sleep(0)
    assert future.cancelled()
    assert bus.event_types() == ()
    assert len(errors) == len(loop_errors) == 0


def test_loop_of_the_future_is_closed(bus, errors):
    """C8: where the future's loop is gone, the next event on another loop unsubscribes it."""

    async def wait():
        return bus.wait_for(OrderPlaced)

    future = asyncio.run(wait())
    assert bus.event_types() == (OrderPlaced,)
    asyncio.run(bus.publish(OrderPlaced()))
    assert bus.event_types() == ()
    assert not future.done()
    assert len(errors) == 0


async def no_events(event):
    return True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param((OrderPlaced, no_events), "where .*async", id="async where"),
        pytest.param(
            (OrderPlaced, lambda: True), "1 positional argument", id="where without arguments"
        ),
        pytest.param(
            (OrderPlaced, lambda a, b: True), "1 positional argument", id="where with two"
        ),
        pytest.param((OrderPlaced, 7), "callable", id="where not callable"),
        pytest.param((OrderPlaced(),), "instance", id="an event"),
        pytest.param((int,), "subclass of Event", id="no event type"),
    ],
)
async def test_arguments_are_checked_at_the_call(bus, arguments, message):
    """C8, C2.2: `TypeError` at once for a `where` or type that cannot work, nothing subscribed."""
    with pytest.raises(TypeError, match=message):
        bus.wait_for(*arguments)
    assert bus.event_types() == ()


async def test_closed_bus(bus):
    """C8, C6.2: waiting on a closed bus, where nothing will come any more, is refused."""
    await bus.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        bus.wait_for(OrderPlaced)
    assert bus.event_types() == ()


def test_without_a_loop(bus):
    """C8: there is no future without a running loop, and no subscription either."""
    with pytest.raises(RuntimeError, match="loop"):
        bus.wait_for(OrderPlaced)
    assert bus.event_types() == ()


@pytest.mark.parametrize("end", ["awaited", "left", "cancelled"])
async def test_nothing_is_kept_alive(bus, no_gc, end):
    """C8, C4.8: event, `where` and future die with their last reference, without the collector."""

    def where(event):
        return True

    event = OrderPlaced()
    future = bus.wait_for(OrderPlaced, where)
    dead = [weakref.ref(event), weakref.ref(where), weakref.ref(future)]
    if end == "cancelled":
        future.cancel()
        await asyncio.sleep(0)
    await bus.publish(event)
    if end == "awaited":
        assert await future is event
    await asyncio.sleep(0)
    del event, where, future
    assert [reference() for reference in dead] == [None, None, None]


async def test_no_reference_cycle_through_the_exception(bus, no_gc):
    """C8, C4.8: an exception of `where` does not hold the future that holds it."""

    class Refused(Exception):
        pass

    def where(event):
        raise Refused

    event = OrderPlaced()
    future = bus.wait_for(OrderPlaced, where)
    await bus.publish(event)
    await asyncio.sleep(0)
    dead = [weakref.ref(future.exception()), weakref.ref(event), weakref.ref(future)]
    del event, future
    assert [reference() for reference in dead] == [None, None, None]


async def test_waiter_is_described(bus):
    """C8: a waiter is listed among the handlers, after those subscribed before it."""

    def before(event):
        pass

    bus.subscribe(OrderPlaced, before)
    future = bus.wait_for(OrderPlaced)
    first, waiter = bus.handlers(OrderPlaced)
    assert first.callback is before
    assert not waiter.is_async
    future.cancel()


async def test_closed_meanwhile(errors):
    """C8, C6.2: events accepted before the bus was closed still resolve a future."""
    async with EventBus() as bus:
        future = bus.wait_for(OrderPlaced)
        bus.publish_nowait(OrderPlaced())
    assert await future == OrderPlaced()
    assert len(errors) == 0


async def test_cancelled_error_in_where(bus, errors):
    """C8: a `CancelledError` in `where` is the future's too, and no failure of a handler."""

    def where(event):
        raise asyncio.CancelledError("withdrawn")

    future = bus.wait_for(OrderPlaced, where)
    await bus.publish(OrderPlaced())
    with pytest.raises(asyncio.CancelledError):
        await future
    assert len(errors) == 0


# C6.3: closing the bus


@pytest.mark.parametrize("timeout", [None, 10, 0])
async def test_aclose_cancels_what_nothing_can_resolve(bus, errors, timeout):
    """C6.3: pending futures are cancelled, those that are done are not touched."""
    futures = [bus.wait_for(OrderPlaced), bus.wait_for(OrderPlaced, lambda event: False)]
    done = bus.wait_for(OrderCancelled)
    await bus.publish(OrderCancelled())
    await bus.aclose(timeout)
    for future in futures:
        async with asyncio.timeout(10):
            with pytest.raises(asyncio.CancelledError):
                await future
    assert type(done.result()) is OrderCancelled
    await asyncio.sleep(0)
    assert bus.event_types() == ()
    assert len(errors) == 0


async def test_aclose_cancels_after_it_has_joined(bus):
    """C6.3, C6.2: what is still published while it waits for the last work resolves a future."""
    gate, future, other = asyncio.Event(), bus.wait_for(OrderPlaced), bus.wait_for(OrderCancelled)

    async def publish_late(event):
        await gate.wait()
        await bus.publish(OrderPlaced(event.order_id + 1))

    @dataclass
    class OrderPaid(Event):
        order_id: int = 7

    bus.subscribe(OrderPaid, publish_late)
    bus.publish_nowait(OrderPaid())
    closing = asyncio.create_task(bus.aclose())
    await asyncio.sleep(0)
    assert not other.done()
    gate.set()
    await closing
    assert future.result() == OrderPlaced(8)
    await asyncio.sleep(0)
    assert other.cancelled()


async def test_aclose_past_its_timeout_cancels_futures_too(bus):
    """C6.3, C6.2: a handler that waits for an event is cancelled with it, and has not failed."""
    ended = []

    async def wait(event):
        try:
            await bus.wait_for(OrderCancelled)
        finally:
            ended.append(event)

    bus.subscribe(OrderPlaced, wait)
    bus.publish_nowait(OrderPlaced())
    own = bus.wait_for(OrderCancelled)
    async with asyncio.timeout(10):
        await bus.aclose(timeout=0.01)
    await asyncio.sleep(0)
    assert own.cancelled()
    assert ended == [OrderPlaced()]
    assert bus.event_types() == (OrderPlaced,)


async def test_aclose_leaves_futures_of_other_loops(bus):
    """C6.3, C5.6: those are their loops' affair; `aclose` there cancels them."""
    waiting, closed_here, outcomes = threading.Event(), threading.Event(), []

    async def wait():
        future = bus.wait_for(OrderPlaced)
        waiting.set()
        await asyncio.to_thread(closed_here.wait, 10)
        outcomes.append(future.done())
        await bus.aclose()
        await asyncio.sleep(0)
        outcomes.append(future.cancelled())

    thread = threading.Thread(target=asyncio.run, args=(wait(),))
    thread.start()
    assert await asyncio.to_thread(waiting.wait, 10)
    own = bus.wait_for(OrderPlaced)
    await bus.aclose()
    await asyncio.sleep(0)
    assert own.cancelled()
    closed_here.set()
    await asyncio.to_thread(thread.join, 10)
    assert outcomes == [False, True]


async def test_cancelled_aclose_leaves_futures(bus):
    """C6.3, C6.2: an `aclose` that was cancelled while it waits has closed nothing."""
    gate, future = asyncio.Event(), bus.wait_for(OrderPlaced)

    async def wait(event):
        await gate.wait()

    bus.subscribe(OrderCancelled, wait)
    bus.publish_nowait(OrderCancelled())
    closing = asyncio.create_task(bus.aclose())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    closing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await closing
    gate.set()
    await bus.publish(OrderPlaced())
    assert future.result() == OrderPlaced()


async def test_end_of_the_block_cancels_futures():
    """C6.3: so does the end of `async with`."""
    async with EventBus() as bus:
        future = bus.wait_for(OrderPlaced)
    with pytest.raises(asyncio.CancelledError):
        await future
