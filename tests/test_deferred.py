# SPDX-License-Identifier: MIT
"""C9: what a deferred publisher records is published when its block has succeeded."""

import asyncio
import inspect
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import pytest
from support import InvoiceIssued, MailSent
from target import Event, EventBus, EventCycleError, Publisher


@dataclass(frozen=True)
class OrderPlaced(Event):
    order_id: int = 7


class OrderService:
    """A service as users write it: it knows the protocol, not which publisher it has."""

    def __init__(self, events: Publisher) -> None:
        self.events = events

    async def place(self, order_id: int) -> None:
        await self.events.publish(OrderPlaced(order_id))
        self.events.publish_nowait(MailSent())


def listen(bus):
    """Return a list of the names of the events delivered from now on."""
    seen = []
    for event_type in (OrderPlaced, InvoiceIssued, MailSent):
        bus.subscribe(event_type, lambda event: seen.append(type(event).__name__))
    return seen


async def test_published_at_the_end_in_order(bus):
    """C9: nothing is delivered in the block; after it everything is, in the order recorded."""
    seen = listen(bus)
    async with bus.deferred() as events:
        await events.publish(InvoiceIssued())
        await events.publish(OrderPlaced())
        await events.publish(MailSent())
        await asyncio.sleep(0)
        assert seen == []
    assert seen == ["InvoiceIssued", "OrderPlaced", "MailSent"]


async def test_same_event_twice(bus):
    """C9: an event recorded twice is published twice, the very object."""
    seen = []
    bus.subscribe(OrderPlaced, seen.append)
    event = OrderPlaced()
    async with bus.deferred() as events:
        await events.publish(event)
        await events.publish(event)
    assert [id(each) for each in seen] == [id(event)] * 2


async def test_nothing_recorded(bus):
    """C9: a block that publishes nothing ends as if it were not there."""
    async with bus.deferred():
        pass
    assert bus.pending == 0


async def test_published_one_after_the_other(bus):
    """C9: the handlers of one `publish` have finished before those of the next one start."""
    log = []

    async def handle(event):
        log.append(("start", event.order_id))
        await asyncio.sleep(0)
        log.append(("end", event.order_id))

    bus.subscribe(OrderPlaced, handle)
    async with bus.deferred() as events:
        await events.publish(OrderPlaced(1))
        await events.publish(OrderPlaced(2))
    assert log == [("start", 1), ("end", 1), ("start", 2), ("end", 2)]


async def test_publish_nowait_is_scheduled_in_its_place(bus):
    """C9: `publish_nowait` ones are accepted after the `publish` before them, not waited for."""
    pending, mails = [], []
    gate = asyncio.Event()

    async def place(event):
        pending.append(bus.pending)
        await asyncio.sleep(0)

    async def mail(event):
        mails.append(event)
        await gate.wait()

    bus.subscribe(OrderPlaced, place)
    bus.subscribe(MailSent, mail)
    async with asyncio.timeout(10), bus.deferred() as events:
        await events.publish(OrderPlaced())
        events.publish_nowait(MailSent())
        await events.publish(OrderPlaced())
        events.publish_nowait(MailSent())
        assert bus.pending == 0
    assert pending == [0, 1]
    assert bus.pending == 2
    gate.set()
    await bus.join()
    assert len(mails) == 2


@pytest.mark.parametrize("error", [LookupError, asyncio.CancelledError, KeyboardInterrupt])
async def test_dropped_on_an_exception(bus, errors, error):
    """C9: on an exception, whatever its kind, the events are dropped and the exception goes on."""
    seen = listen(bus)
    with pytest.raises(error):
        async with bus.deferred() as events:
            await events.publish(OrderPlaced())
            events.publish_nowait(OrderPlaced())
            raise error
    await bus.join()
    assert seen == []
    assert len(errors) == 0


async def test_dropped_on_cancellation(bus, errors):
    """C9: a block that is cancelled while it waits publishes nothing."""
    seen = listen(bus)
    recorded = asyncio.Event()

    async def work():
        async with bus.deferred() as events:
            await events.publish(OrderPlaced())
            recorded.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await recorded.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bus.join()
    assert seen == []
    assert len(errors) == 0


@pytest.mark.parametrize("way", ["publish", "publish_nowait"])
@pytest.mark.parametrize(
    ("event", "message"), [(OrderPlaced, "instance"), (7, "Event"), (None, "Event")]
)
async def test_what_is_no_event_is_refused_at_once(bus, way, event, message):
    """C9, C4.7: `TypeError` where the mistake was made, not at the end; the others still count."""
    seen = listen(bus)
    async with bus.deferred() as events:
        await events.publish(OrderPlaced())
        with pytest.raises(TypeError, match=message):
            if way == "publish":
                await events.publish(event)
            else:
                events.publish_nowait(event)
    assert seen == ["OrderPlaced"]


async def test_only_inside_the_block(bus):
    """C9: what is published before the block or after it would be lost, and is refused."""
    seen = listen(bus)
    block = bus.deferred()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="deferred"):
            block.publish_nowait(MailSent())
        with pytest.raises(RuntimeError, match="deferred"):
            await block.publish(MailSent())
        async with block as events:
            events.publish_nowait(OrderPlaced())
        with pytest.raises(RuntimeError, match="deferred"):
            await events.publish(MailSent())
    await bus.join()
    assert seen == ["OrderPlaced"] * 2


async def test_nothing_is_left_over_from_a_failed_block(bus):
    """C9: events that were dropped do not come back with the next use of the same block."""
    seen = listen(bus)
    block = bus.deferred()
    with pytest.raises(LookupError):
        async with block as events:
            await events.publish(OrderPlaced())
            raise LookupError
    with pytest.raises(RuntimeError, match="deferred"):
        await events.publish(MailSent())
    async with block as events:
        await events.publish(InvoiceIssued())
    assert seen == ["InvoiceIssued"]


async def test_refused_while_the_events_are_being_published(bus):
    """C9: a handler cannot record on a block that is over; it is told so, and the rest goes on."""
    refused = []

    async def record(event):
        with pytest.raises(RuntimeError, match="deferred"):
            await events.publish(MailSent())
        refused.append(event)

    bus.subscribe(OrderPlaced, record)
    async with bus.deferred() as events:
        await events.publish(OrderPlaced(1))
        await events.publish(OrderPlaced(2))
    assert refused == [OrderPlaced(1), OrderPlaced(2)]


async def test_context_and_handlers_are_those_of_the_end(bus):
    """C9, C4.3, C5.2: handlers see the context, and are the ones, of the end of the block."""
    phase = ContextVar("phase", default="none")
    seen = []
    early = bus.subscribe(OrderPlaced, lambda event: seen.append("early"))
    async with bus.deferred() as events:
        phase.set("inside")
        await events.publish(OrderPlaced())
        events.publish_nowait(OrderPlaced())
        phase.set("end")
        early.cancel()
        bus.subscribe(OrderPlaced, lambda event: seen.append(phase.get()))
    phase.set("after")
    await bus.join()
    assert seen == ["end", "end"]


async def test_a_failing_handler_stops_nothing(bus, errors):
    """C9, C4.4: a handler that fails is logged, and the events behind it are still published."""
    seen = listen(bus)

    def fail(event):
        raise LookupError

    bus.subscribe(OrderPlaced, fail)
    async with bus.deferred() as events:
        await events.publish(OrderPlaced())
        await events.publish(InvoiceIssued())
    assert seen == ["OrderPlaced", "InvoiceIssued"]
    assert [record.exc_info[0] for record in errors] == [LookupError]


async def test_cancelled_while_the_events_are_being_published(bus, errors):
    """C9: handlers under way are cancelled, the rest is dropped and logged by name."""
    started = asyncio.Event()
    log = []

    async def handle(event):
        log.append(("start", event.order_id))
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append(("cancelled", event.order_id))
            raise

    bus.subscribe(OrderPlaced, handle)
    later = []
    bus.subscribe(InvoiceIssued, later.append)
    bus.subscribe(MailSent, later.append)

    async def work():
        async with bus.deferred() as events:
            await events.publish(OrderPlaced(1))
            await events.publish(InvoiceIssued())
            events.publish_nowait(MailSent())

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bus.join()
    assert log == [("start", 1), ("cancelled", 1)]
    assert later == []
    assert [record.levelname for record in errors] == ["ERROR"]
    assert "InvoiceIssued, MailSent" in errors[0].getMessage()
    assert "OrderPlaced" not in errors[0].getMessage()


async def test_cancelled_at_the_last_event(bus, errors):
    """C9: a cancellation that loses no event is raised, and there is nothing to log."""
    started = asyncio.Event()

    async def handle(event):
        started.set()
        await asyncio.Event().wait()

    bus.subscribe(OrderPlaced, handle)

    async def work():
        async with bus.deferred() as events:
            await events.publish(OrderPlaced())

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(errors) == 0


async def test_queue_full_while_the_events_are_being_published(errors):
    """C9, C5.5: beyond `max_pending` the block raises; what is lost is logged, the rest is kept."""
    bus = EventBus(max_pending=1)
    seen = listen(bus)
    with pytest.raises(asyncio.QueueFull):
        async with bus.deferred() as events:
            events.publish_nowait(OrderPlaced())
            events.publish_nowait(MailSent())
            await events.publish(InvoiceIssued())
    await bus.join()
    assert seen == ["OrderPlaced"]
    assert len(errors) == 1
    assert "MailSent, InvoiceIssued" in errors[0].getMessage()
    assert "OrderPlaced" not in errors[0].getMessage()


@pytest.mark.parametrize("way", ["publish", "publish_nowait"])
async def test_bus_closed_before_the_end(bus, errors, way):
    """C9, C6.2: where the bus was closed meanwhile the block raises, and logs all that is lost."""
    seen = listen(bus)
    with pytest.raises(RuntimeError, match="closed"):
        async with bus.deferred() as events:
            if way == "publish":
                await events.publish(OrderPlaced())
            else:
                events.publish_nowait(OrderPlaced())
            await events.publish(InvoiceIssued())
            await bus.aclose()
    assert seen == []
    assert len(errors) == 1
    assert "OrderPlaced, InvoiceIssued" in errors[0].getMessage()


async def test_too_deep_a_chain_at_the_end(errors):
    """C9, C7: an event refused because of its depth is logged among those that were lost."""
    bus = EventBus(max_depth=1)
    seen = []

    async def place(event):
        with pytest.raises(EventCycleError):
            async with bus.deferred() as events:
                await events.publish(InvoiceIssued())
                await events.publish(MailSent())
        seen.append(event)

    def never(event):
        seen.append(event)

    bus.subscribe(OrderPlaced, place)
    bus.subscribe(InvoiceIssued, never)
    await bus.publish(OrderPlaced())
    assert seen == [OrderPlaced()]
    assert len(errors) == 1
    assert "InvoiceIssued, MailSent" in errors[0].getMessage()


@asynccontextmanager
async def transaction(log, *, commits=True):
    """Stand in for that of a database."""
    try:
        yield
    except BaseException:
        log.append("rolled back")
        raise
    if not commits:
        log.append("commit failed")
        raise ConnectionError
    log.append("committed")


async def test_publishes_after_the_commit(bus):
    """C9: `async with bus.deferred() as events, transaction():` commits first."""
    log = listen(bus)
    async with bus.deferred() as events, transaction(log):
        await events.publish(OrderPlaced())
    assert log == ["committed", "OrderPlaced"]


async def test_publishes_nothing_where_the_commit_fails(bus):
    """C9: a commit that fails, or a block that is rolled back, drops the events."""
    log = listen(bus)
    with pytest.raises(ConnectionError):
        async with bus.deferred() as events, transaction(log, commits=False):
            await events.publish(OrderPlaced())
    with pytest.raises(LookupError):
        async with bus.deferred() as events, transaction(log):
            events.publish_nowait(OrderPlaced())
            raise LookupError
    await bus.join()
    assert log == ["commit failed", "rolled back"]


async def test_two_blocks_at_once(bus):
    """C9: each block has its own events, whichever ends first and however."""
    seen = listen(bus)
    outer, inner = bus.deferred(), bus.deferred()
    async with outer as events:
        await events.publish(OrderPlaced())
        async with inner as others:
            await others.publish(MailSent())
            await events.publish(InvoiceIssued())
        assert seen == ["MailSent"]
        with pytest.raises(LookupError):
            async with bus.deferred() as dropped:
                await dropped.publish(MailSent())
                raise LookupError
    assert seen == ["MailSent", "OrderPlaced", "InvoiceIssued"]


async def test_tasks_of_the_block_record_too(bus):
    """C9: tasks that the block waits for record into it, in the order in which they publish."""
    seen = listen(bus)
    async with bus.deferred() as events:
        async with asyncio.TaskGroup() as group:
            group.create_task(events.publish(OrderPlaced()))
            group.create_task(events.publish(MailSent()))
        assert seen == []
    assert seen == ["OrderPlaced", "MailSent"]


async def test_bus_is_not_deferred_itself(bus):
    """C9: what is published on the bus in the block is delivered then and there."""
    seen = listen(bus)
    async with bus.deferred() as events:
        await events.publish(MailSent())
        await bus.publish(OrderPlaced())
        assert seen == ["OrderPlaced"]
    assert seen == ["OrderPlaced", "MailSent"]


async def test_handlers_publish_meanwhile(bus):
    """C9: what a handler publishes and awaits comes before the next event of the block."""
    seen = []

    async def place(event):
        seen.append(event)
        if event.order_id == 1:
            await bus.publish(OrderPlaced(10))
            async with bus.deferred() as events:
                await events.publish(OrderPlaced(11))
            bus.publish_nowait(OrderPlaced(12))

    bus.subscribe(OrderPlaced, place)
    async with bus.deferred() as events:
        await events.publish(OrderPlaced(1))
        await events.publish(OrderPlaced(2))
    await bus.join()
    assert [event.order_id for event in seen if event.order_id != 12] == [1, 10, 11, 2]
    assert OrderPlaced(12) in seen  # before or after the next event: it is nobody's turn


async def test_service_with_either_publisher(bus):
    """C9: a service that is annotated with `Publisher` works with a bus and with a block of it."""
    seen = listen(bus)
    await OrderService(bus).place(7)
    await bus.join()
    async with bus.deferred() as events:
        await OrderService(events).place(8)
    await bus.join()
    assert seen == ["OrderPlaced", "MailSent"] * 2


async def test_both_publishers_have_the_methods_of_the_protocol(bus):
    """C9: parameters, and whether to await, are the same in the protocol and on both sides."""
    async with bus.deferred() as events:
        for publisher in (bus, events):
            for name in ("publish", "publish_nowait"):
                promised, kept = getattr(Publisher, name), getattr(type(publisher), name)
                assert inspect.signature(kept) == inspect.signature(promised)
                assert inspect.iscoroutinefunction(kept) == inspect.iscoroutinefunction(promised)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_end_of_the_program_is_no_refusal(bus, errors, error):
    """C9: an event whose handler ends the program was published; only those after it are lost."""

    def end(event):
        raise error

    bus.subscribe(OrderPlaced, end)
    with pytest.raises(error):
        async with bus.deferred() as events:
            await events.publish(OrderPlaced())
            await events.publish(InvoiceIssued())
    (record,) = errors
    assert "InvoiceIssued" in record.getMessage()
    assert "OrderPlaced" not in record.getMessage()
