# SPDX-License-Identifier: MIT
"""C6: join and aclose."""

import asyncio
import contextlib
import logging
import sys
import threading

import pytest
from support import PATIENCE, InvoiceIssued, MailSent, OrderPlaced, join, plain_factory
from target import Event, EventBus


class Unseen(Event):
    pass


async def aclose(bus, timeout=None):
    async with asyncio.timeout(PATIENCE):
        await bus.aclose(timeout)


async def turns(count=5):
    """Give whatever could go on by now the chance to do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def assert_closed(bus, *event_types):
    """Assert that the bus refuses to publish."""
    for event_type in event_types or (OrderPlaced,):
        with pytest.raises(RuntimeError, match="closed"):
            async with asyncio.timeout(PATIENCE):
                await bus.publish(event_type())
        with pytest.raises(RuntimeError, match="closed"):
            bus.publish_nowait(event_type())
        with pytest.raises(RuntimeError, match="closed"):
            bus.wait_for(event_type)


pytestmark = pytest.mark.usefixtures("history")


class Gated:
    """A handler that waits until its gate is open, and counts how far it came."""

    def __init__(self):
        self.started, self.gate = asyncio.Event(), asyncio.Event()
        self.finished = self.cancelled = 0

    async def __call__(self, event):
        self.started.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.finished += 1


@pytest.fixture
def gated(bus):
    """A gated handler, subscribed to OrderPlaced."""
    handler = Gated()
    bus.subscribe(OrderPlaced, handler)
    return handler


# C6.1: join


async def test_join_waits_for_chained_events(bus):
    """C6.1: join waits for what handlers publish meanwhile, and for what theirs do."""
    seen = []

    async def issue(event):
        await asyncio.sleep(0)
        bus.publish_nowait(InvoiceIssued())
        seen.append("order")

    def send(event):
        bus.publish_nowait(MailSent())
        seen.append("invoice")

    async def note(event):
        await turns()
        seen.append("mail")

    bus.subscribe(OrderPlaced, issue)
    bus.subscribe(InvoiceIssued, send)
    bus.subscribe(MailSent, note)
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert seen == ["order", "invoice", "mail"]
    assert bus.pending == 0


async def test_join_with_nothing_pending(bus):
    """C6.1: join returns at once if there is nothing to wait for, before any work and after it."""
    bus.subscribe(OrderPlaced, lambda event: None)
    await join(bus)
    bus.publish_nowait(InvoiceIssued())
    await join(bus)
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    await join(bus)
    assert bus.pending == 0


async def test_several_join_at_once(bus, gated):
    """C6.1: everyone who joins waits, and everyone goes on."""
    bus.publish_nowait(OrderPlaced())
    joining = [asyncio.create_task(join(bus)) for _ in range(3)]
    await gated.started.wait()
    await turns()
    assert not any(task.done() for task in joining)
    gated.gate.set()
    await asyncio.gather(*joining)
    assert gated.finished == 1


async def test_join_does_not_wait_for_awaited_publishes(bus, gated):
    """C6.1: an awaited publish is its caller's."""
    publishing = asyncio.create_task(bus.publish(OrderPlaced()))
    await gated.started.wait()
    await join(bus)
    assert not publishing.done()
    gated.gate.set()
    await publishing


async def test_cancelling_join_cancels_no_work(bus, gated):
    """C6.1: a cancelled join leaves the work running, and a later one waits for it."""
    bus.publish_nowait(OrderPlaced())
    joining = asyncio.create_task(bus.join())
    await gated.started.wait()
    await turns()
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    assert bus.pending == 1
    gated.gate.set()
    await join(bus)
    assert (gated.finished, gated.cancelled) == (1, 0)


async def test_join_in_a_handler_waits_for_all_others(bus, gated):
    """C6.1: a handler that joins waits for siblings and other events, not for itself."""
    order = []

    async def join_inside(event):
        await join(bus)
        order.append(("joined", gated.finished))

    bus.subscribe(OrderPlaced, join_inside)
    bus.subscribe(InvoiceIssued, lambda event: order.append("invoice"))
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    await gated.started.wait()
    await turns()
    assert order == ["invoice"]
    gated.gate.set()
    await join(bus)
    assert order == ["invoice", ("joined", 1)]


async def test_two_siblings_join(bus, gated):
    """C6.1: handlers that join do not wait for each other."""
    joined = []

    async def first(event):
        await join(bus)
        joined.append(("first", gated.finished))

    async def second(event):
        await join(bus)
        joined.append(("second", gated.finished))

    bus.subscribe(OrderPlaced, first)
    bus.subscribe(OrderPlaced, second)
    bus.publish_nowait(OrderPlaced())
    await gated.started.wait()
    await turns()
    assert joined == []
    gated.gate.set()
    await join(bus)
    assert sorted(joined) == [("first", 1), ("second", 1)]


async def test_a_handler_joins_twice_at_once(bus, gated):
    """C6.1: a handler may join in several tasks of its own, and then again."""
    joined = []

    async def join_inside(event):
        await asyncio.gather(bus.join(), bus.join())
        joined.append(gated.finished)
        await bus.join()
        joined.append(gated.finished)

    bus.subscribe(OrderPlaced, join_inside)
    bus.publish_nowait(OrderPlaced())
    await gated.started.wait()
    await turns()
    assert joined == []
    gated.gate.set()
    await join(bus)
    assert joined == [1, 1]


async def test_one_of_two_joins_of_a_handler_is_cancelled(bus, gated):
    """C6.1: a handler that gave up one of its joins still is not waited for by the other."""
    joined = []

    async def join_inside(event):
        given_up = asyncio.create_task(bus.join())
        await asyncio.sleep(0)
        joining = asyncio.create_task(bus.join())
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        await joining
        joined.append(gated.finished)

    bus.subscribe(OrderPlaced, join_inside)
    bus.publish_nowait(OrderPlaced())
    await gated.started.wait()
    await turns()
    assert joined == []
    gated.gate.set()
    await join(bus)
    assert joined == [1]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks start eagerly from 3.12 on")
async def test_a_handler_leaves_a_join_behind(bus, gated):
    """C6.1: a join that outlives its handler goes on waiting for the others."""
    left_behind = []

    async def leave_a_join(event):
        loop = asyncio.get_running_loop()
        left_behind.append(asyncio.Task(join(bus), loop=loop, eager_start=True))

    bus.subscribe(InvoiceIssued, leave_a_join)
    bus.publish_nowait(OrderPlaced())
    await gated.started.wait()
    bus.publish_nowait(InvoiceIssued())
    await turns()
    (joining,) = left_behind
    assert not joining.done()
    gated.gate.set()
    await join(bus)
    await joining
    assert gated.finished == 1


async def test_join_in_a_nested_publish(bus, gated):
    """C6.1: in an awaited publish inside a background handler, join does not wait for that one."""
    joined = []

    async def publish_inside(event):
        await bus.publish(InvoiceIssued())
        joined.append("published")

    async def join_inside(event):
        await join(bus)
        joined.append(gated.finished)

    bus.subscribe(OrderPlaced, publish_inside)
    bus.subscribe(InvoiceIssued, join_inside)
    bus.publish_nowait(OrderPlaced())
    await gated.started.wait()
    await turns()
    assert joined == []
    gated.gate.set()
    await join(bus)
    assert joined == [1, "published"]


async def test_join_in_a_handler_of_an_awaited_publish(bus, gated):
    """C6.1: in a handler of an awaited publish, join waits for all background work."""
    joined = []

    async def join_inside(event):
        await join(bus)
        joined.append(gated.finished)

    bus.subscribe(InvoiceIssued, join_inside)
    bus.publish_nowait(OrderPlaced())
    publishing = asyncio.create_task(bus.publish(InvoiceIssued()))
    await gated.started.wait()
    await turns()
    assert not publishing.done()
    gated.gate.set()
    await publishing
    assert joined == [1]


async def test_join_of_another_bus_in_a_handler(bus, gated):
    """C6.1: a handler that joins another bus waits for all work of that one."""
    other, joined = EventBus(), []

    async def join_inside(event):
        await join(bus)
        joined.append(gated.finished)

    other.subscribe(InvoiceIssued, join_inside)
    other.publish_nowait(InvoiceIssued())
    bus.publish_nowait(OrderPlaced())
    await gated.started.wait()
    await turns()
    assert joined == []
    gated.gate.set()
    await join(other)
    assert joined == [1]


@pytest.mark.parametrize("waits", [False, True])
async def test_join_from_a_task_that_outlived_its_handler(bus, gated, waits):
    """C6.1: a task left behind by a finished handler waits for everything, like anyone else."""
    detached, joined, handled = [], [], asyncio.Event()

    async def join_detached():
        await handled.wait()
        await join(bus)
        joined.append(gated.finished)

    async def leave_behind(event):
        if waits:
            await asyncio.sleep(0)
        detached.append(asyncio.create_task(join_detached()))

    bus.subscribe(InvoiceIssued, leave_behind)
    bus.publish_nowait(InvoiceIssued())
    await join(bus)
    bus.publish_nowait(OrderPlaced())
    handled.set()
    await gated.started.wait()
    await turns()
    assert joined == []
    gated.gate.set()
    await detached[0]
    assert joined == [1]


@pytest.mark.parametrize("waits", [False, True], ids=["first step", "after waiting"])
async def test_join_in_a_task_that_its_handler_awaits(bus, gated, waits):
    """C6.1: so it is in a task of the handler's, made in its first step or later."""
    joined = []

    async def join_inside(event):
        if waits:
            await asyncio.sleep(0)
        await asyncio.shield(asyncio.create_task(bus.join()))
        joined.append(gated.finished)

    bus.subscribe(OrderPlaced, join_inside)
    for number in (1, 2):
        gated.started.clear()
        gated.gate.clear()
        bus.publish_nowait(OrderPlaced())
        await gated.started.wait()
        await turns()
        assert len(joined) == number - 1
        gated.gate.set()
        await join(bus)
    assert joined == [1, 2]


@pytest.mark.parametrize("place", [0, 1, 2, 3])
async def test_join_in_a_task_that_one_of_several_handlers_awaits(bus, place):
    """C6.1: neither the place of the handler nor the others of its event make a difference."""
    log, gate = [], asyncio.Event()

    async def at_once(event):
        log.append("at once")

    async def waits(event):
        await gate.wait()
        log.append("waited")

    async def join_inside(event):
        await asyncio.shield(asyncio.create_task(bus.join()))
        log.append("joined")

    handlers = [at_once, waits, lambda event: log.append("sync")]
    handlers.insert(place, join_inside)
    for handler in handlers:
        bus.subscribe(OrderPlaced, handler)
    for _ in range(2):
        log.clear()
        gate.clear()
        bus.publish_nowait(OrderPlaced())
        await turns()
        assert log == ["at once", "sync"]
        gate.set()
        await join(bus)
        assert log == ["at once", "sync", "waited", "joined"]


async def test_tasks_left_behind_as_their_handler_ends(bus):
    """C6.1, C7: from its last step on, they belong to a handler no longer, for join and chain."""
    chains, joined, finished, tasks, last_step = [], [], [], [], asyncio.Event()
    bus = EventBus(on_error=lambda failure: chains.append(failure.chain))

    async def go_on():
        await last_step.wait()
        await bus.publish(MailSent())
        await join(bus)
        joined.append(list(finished))

    async def leave_behind(event):
        tasks.append(asyncio.create_task(go_on()))
        await turns()
        last_step.set()

    async def join_inside(event):
        await join(bus)
        await turns()
        finished.append(event)

    def fail(event):
        raise LookupError

    bus.subscribe(OrderPlaced, leave_behind)
    bus.subscribe(OrderPlaced, join_inside)
    bus.subscribe(MailSent, fail)
    event = OrderPlaced()
    bus.publish_nowait(event)
    await turns()
    await asyncio.gather(*tasks)
    assert chains == [(MailSent,)]
    assert joined == [[event]]


async def test_join_from_a_task_of_a_handler_that_finishes_first(bus, gated):
    """C6.1: a join that outlasts the handler it began in does not hang later ones."""
    detached = []

    async def leave_behind(event):
        detached.append(asyncio.create_task(join(bus)))
        await turns()

    bus.subscribe(InvoiceIssued, leave_behind)
    bus.publish_nowait(InvoiceIssued())
    bus.publish_nowait(OrderPlaced())
    await gated.started.wait()
    await turns(10)
    assert not detached[0].done()
    gated.gate.set()
    await join(bus)
    await detached[0]
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert gated.finished == 2


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
@pytest.mark.parametrize("awaits", [False, True])
async def test_join_from_an_eager_task_left_behind(bus, awaits):
    """C4.9, C6.1: a join begun by an eager task of a handler that ends at once hangs nobody."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    detached = []

    async def leave_behind(event):
        detached.append(asyncio.create_task(bus.join()))

    async def leave_behind_and_await(event):
        await leave_behind(event)

    bus.subscribe(OrderPlaced, leave_behind_and_await if awaits else leave_behind)
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    async with asyncio.timeout(PATIENCE):
        await detached[0]
    assert bus.pending == 0


@pytest.mark.parametrize("joins_first", [False, True])
async def test_join_waits_for_a_handler_that_joined_itself(bus, joins_first):
    """C6.1: outside of handlers, join waits for a handler that joins, and for what it does then."""
    joining, finished = asyncio.Event(), []

    async def join_inside(event):
        joining.set()
        await bus.join()
        await turns()
        finished.append(event)

    bus.subscribe(OrderPlaced, join_inside)
    bus.publish_nowait(OrderPlaced())
    if not joins_first:
        await joining.wait()
    await join(bus)
    assert bus.pending == 0
    assert len(finished) == 1


# C6.2: aclose


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


@pytest.mark.parametrize("timeout", [0.01, 0])
async def test_aclose_cancels_past_the_timeout(errors, timeout):
    """C6.2: past the timeout, handlers are logged by name, cancelled and awaited; no failures."""
    failures, ended = [], []
    bus = EventBus(on_error=failures.append)

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


async def test_aclose_reports_failures_of_cancelled_handlers(errors):
    """C4.4, C6.2: a handler that meets its cancellation with another exception has failed."""
    failures = []
    bus = EventBus(on_error=failures.append)

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


# aclose in a handler


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
        await aclose(bus, 0.01)
        ended.append("closed")

    bus.subscribe(OrderPlaced, slow_to_end)
    bus.subscribe(OrderPlaced, close)
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert ended == ["slow to end", "closed"]


async def test_handlers_that_insist_on_closing(bus):
    """C6.2: handlers that close the bus, cancelled or not, do not cancel each other for ever."""
    cancelling, gate, ended = [], asyncio.Event(), []

    async def slow_to_end(event):
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                cancelling.append(event)
                if len(cancelling) == 2:
                    gate.set()

    async def close(event):
        await bus.aclose(timeout=0.01)

    async def insist(event):
        try:
            await bus.aclose(timeout=PATIENCE)
        except asyncio.CancelledError:
            await bus.aclose(timeout=0.01)
        ended.append("closed")

    for handler in (slow_to_end, close, insist):
        bus.subscribe(OrderPlaced, handler)
    bus.publish_nowait(OrderPlaced())
    try:
        await join(bus)
    finally:
        gate.set()
    assert ended == ["closed"]
    assert len(cancelling) == 2
    assert bus.pending == 0


async def test_close_before_a_task_factory_lets_a_handler_start(errors):
    """C6.2: a handler cancelled by the bus has not failed, even if it was never called."""
    failures = []

    def waiting_factory(loop, coro, **options):
        async def wait_first():
            try:
                await asyncio.Event().wait()
            finally:
                coro.close()

        return asyncio.Task(wait_first(), loop=loop, **options)

    async def handle(event):
        pass

    bus = EventBus(on_error=failures.append)
    bus.subscribe(OrderPlaced, handle)
    bus.publish_nowait(OrderPlaced())
    asyncio.get_running_loop().set_task_factory(waiting_factory)
    try:
        await bus.aclose(timeout=0.01)
    finally:
        asyncio.get_running_loop().set_task_factory(None)
    assert failures == []
    (record,) = errors
    assert record.getMessage().startswith("closing the bus cancels handlers")
    assert bus.pending == 0


@pytest.mark.parametrize("factory", [None, plain_factory])
@pytest.mark.parametrize("publishing", range(4))
@pytest.mark.parametrize("opening", range(4))
async def test_nothing_is_pending_after_a_close_with_timeout(
    bus, gated, factory, publishing, opening
):
    """C6.2: not even what has just ended, whenever that was, or was cancelled before it began."""

    def cancel_the_next(event):
        for task in asyncio.all_tasks():
            if task.get_name() == bus.handlers(InvoiceIssued)[1].name:
                task.cancel()

    async def victim(event):
        await asyncio.Event().wait()

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

    asyncio.get_running_loop().set_task_factory(factory)
    bus.subscribe(InvoiceIssued, cancel_the_next)
    bus.subscribe(InvoiceIssued, victim)
    bus.publish_nowait(OrderPlaced())
    await gated.started.wait()
    pending, *_ = await asyncio.gather(close(), publish(), open_gate())
    assert pending == 0


async def test_two_handlers_close_with_timeout(bus, gated):
    """C6.2: handlers that close the bus at once do not wait for each other for ever."""

    async def close(event):
        await bus.aclose(timeout=0.01)

    async def close_too(event):
        await bus.aclose(timeout=0.01)

    bus.subscribe(OrderPlaced, close)
    bus.subscribe(OrderPlaced, close_too)
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert gated.cancelled == 1
    assert bus.pending == 0
    await assert_closed(bus)


# Afterwards


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


# Cancelling aclose


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
    closing = asyncio.create_task(bus.aclose(timeout=0.01))
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


# Other loops


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


# repr


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
