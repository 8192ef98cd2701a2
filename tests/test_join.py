# SPDX-License-Identifier: MIT
"""C6.1: join waits for all that happens in the background, whoever joins."""

import asyncio

import pytest
from support import InvoiceIssued, MailSent, OrderPlaced, join, turns
from target import EventBus

# From outside


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


@pytest.mark.parametrize("handlers", [1, 3])
async def test_pending_counts_events(bus, gated, handlers):
    """C6.1: queued or running, an event is one, however many handlers it has left."""
    gates = [asyncio.Event() for _ in range(handlers)]
    for gate in gates:
        bus.subscribe(InvoiceIssued, lambda event, gate=gate: gate.wait())
    bus.publish_nowait(InvoiceIssued())
    bus.publish_nowait(InvoiceIssued())
    assert bus.pending == 2
    await turns()
    bus.publish_nowait(OrderPlaced())
    assert bus.pending == 3
    await gated.started.wait()
    for gate in gates:
        assert bus.pending == 3
        gate.set()
        await turns()
    assert bus.pending == 1
    gated.gate.set()
    await join(bus)
    assert bus.pending == 0


# In a handler


async def test_join_in_a_handler_waits_for_all_other_events(bus, gated):
    """C6.1: a handler that joins waits for the other events, not for its own."""
    order = []

    async def join_inside(event):
        await join(bus)
        order.append(("joined", gated.finished))

    bus.subscribe(InvoiceIssued, join_inside)
    bus.subscribe(MailSent, lambda event: order.append("mail"))
    for event_type in (OrderPlaced, InvoiceIssued, MailSent):
        bus.publish_nowait(event_type())
    await gated.started.wait()
    await turns()
    assert order == ["mail"]
    gated.gate.set()
    await join(bus)
    assert order == ["mail", ("joined", 1)]


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("nested", [False, True])
async def test_join_in_a_handler_does_not_wait_for_its_siblings(bus, nested, first):
    """C6.1: nor does it wait for the other handlers of its event, or of one awaited in it."""
    order, joined = [], asyncio.Event()

    async def join_inside(event):
        await join(bus)
        order.append("joined")
        joined.set()

    async def waits_for_the_join(event):
        await joined.wait()
        await turns()
        order.append("sibling")

    async def publish_inside(event):
        await bus.publish(InvoiceIssued())

    joining = publish_inside if nested else join_inside
    siblings = [joining, waits_for_the_join] if first else [waits_for_the_join, joining]
    for handler in siblings:
        bus.subscribe(OrderPlaced, handler)
    for handler in (waits_for_the_join, join_inside):
        bus.subscribe(InvoiceIssued, handler)
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert order == ["joined"] + ["sibling"] * (1 + nested)
    assert bus.pending == 0


@pytest.mark.parametrize("second", [InvoiceIssued, MailSent], ids=["one event", "two events"])
async def test_two_handlers_join(bus, gated, second):
    """C6.1: handlers that join do not wait for each other, be they of one event or of two."""
    joined = []

    async def join_inside(event):
        await join(bus)
        joined.append(gated.finished)

    bus.subscribe(InvoiceIssued, join_inside)
    bus.subscribe(second, join_inside.__call__)
    for event_type in {OrderPlaced: 1, InvoiceIssued: 2, second: 3}:
        bus.publish_nowait(event_type())
    await gated.started.wait()
    await turns()
    assert joined == []
    gated.gate.set()
    await join(bus)
    assert joined == [1, 1]


@pytest.mark.parametrize("later", [False, True])
async def test_handlers_that_have_joined_may_meet(bus, gated, later):
    """C6.1: those that join at one time do not wait for what another one of them does then."""
    met = asyncio.Barrier(2)

    async def join_and_meet(event):
        await join(bus)
        await met.wait()

    async def join_later_and_meet(event):
        if later:
            await gated.gate.wait()
            await turns()
        await join(bus)
        await met.wait()

    bus.subscribe(InvoiceIssued, join_and_meet)
    bus.subscribe(MailSent, join_later_and_meet)
    for event_type in OrderPlaced, InvoiceIssued, MailSent:
        bus.publish_nowait(event_type())
    await gated.started.wait()
    await turns()
    gated.gate.set()
    await join(bus)
    assert met.n_waiting == 0


async def test_what_a_handler_does_after_its_join_is_waited_for(bus):
    """C6.1: an event whose handler has joined is work again, for joins in handlers too."""
    order, gate = [], asyncio.Event()

    async def join_first(event):
        await join(bus)
        await gate.wait()
        order.append("first")

    async def join_second(event):
        await turns()
        await join(bus)
        order.append("second")

    bus.subscribe(OrderPlaced, join_first)
    bus.subscribe(InvoiceIssued, join_second)
    bus.publish_nowait(OrderPlaced())
    await turns()
    bus.publish_nowait(InvoiceIssued())
    await turns(10)
    assert order == []
    gate.set()
    await join(bus)
    assert order == ["first", "second"]


async def test_a_handler_joins_twice_at_once(bus, gated):
    """C6.1: a handler may join in several tasks of its own, and then again."""
    joined = []

    async def join_inside(event):
        await asyncio.gather(bus.join(), bus.join())
        joined.append(gated.finished)
        await bus.join()
        joined.append(gated.finished)

    bus.subscribe(InvoiceIssued, join_inside)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
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

    bus.subscribe(InvoiceIssued, join_inside)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    await gated.started.wait()
    await turns()
    assert joined == []
    gated.gate.set()
    await join(bus)
    assert joined == [1]


async def test_join_in_a_nested_publish(bus, gated):
    """C6.1: in an awaited publish inside a background handler, join does not wait for that one."""
    joined = []

    async def publish_inside(event):
        await bus.publish(InvoiceIssued())
        joined.append("published")

    async def join_inside(event):
        await join(bus)
        joined.append(gated.finished)

    bus.subscribe(MailSent, publish_inside)
    bus.subscribe(InvoiceIssued, join_inside)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(MailSent())
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


@pytest.mark.parametrize("whence", ["awaited publish", "another bus", "finished handler"])
async def test_join_from_elsewhere_waits_for_a_handler_that_joins(bus, gated, whence):
    """C6.1: whoever handles none of the background's events waits for all that happens there."""
    log, finished, tasks = [], asyncio.Event(), []

    async def join_and_work(event):
        await join(bus)
        await turns()
        log.append("worked")

    async def join_elsewhere(event):
        await join(bus)
        log.append("joined")

    async def leave_behind(event):
        async def join_detached():
            await finished.wait()
            await join_elsewhere(event)

        tasks.append(asyncio.create_task(join_detached()))

    other = EventBus()
    bus.subscribe(InvoiceIssued, join_and_work)
    if whence == "finished handler":
        bus.subscribe(MailSent, leave_behind)
        bus.publish_nowait(MailSent())
        await join(bus)
        finished.set()
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    await gated.started.wait()
    if whence == "awaited publish":
        bus.subscribe(MailSent, join_elsewhere)
        tasks.append(asyncio.create_task(bus.publish(MailSent())))
    elif whence == "another bus":
        other.subscribe(MailSent, join_elsewhere)
        other.publish_nowait(MailSent())
    await turns()
    gated.gate.set()
    await asyncio.gather(join(other), *tasks)
    assert log == ["worked", "joined"]
