# SPDX-License-Identifier: MIT
"""C2.4, C4.2, C5.1: handlers start in subscription order, and events in the order published."""

import asyncio

import pytest
from support import (
    InvoiceIssued,
    MailSent,
    Numbered,
    OrderPlaced,
    callbacks,
    deep,
    join,
    subscribe_mixed,
    use,
    with_and_without_factories,
)

# Subscription order


def named(seen, name):
    return lambda event: seen.append(name)


async def test_delivery_order_is_subscription_order(bus):
    """C2.4: in the order subscribed; who cancels and comes back goes to the end."""
    seen = []
    one, two, three = (named(seen, name) for name in (1, 2, 3))
    subscription = bus.subscribe(OrderPlaced, one)
    bus.subscribe(OrderPlaced, two)
    bus.subscribe(OrderPlaced, three)
    await bus.publish(OrderPlaced())
    subscription.cancel()
    await bus.publish(OrderPlaced())
    bus.subscribe(OrderPlaced, one)
    await bus.publish(OrderPlaced())
    assert seen == [1, 2, 3, 2, 3, 2, 3, 1]
    assert callbacks(bus) == [two, three, one]


async def test_second_subscription_keeps_the_place(bus):
    """C2.4: subscribing again moves nothing."""
    seen = []
    one, two = named(seen, 1), named(seen, 2)
    for handler in (one, two, one):
        bus.subscribe(OrderPlaced, handler)
    await bus.publish(OrderPlaced())
    assert seen == [1, 2]


@with_and_without_factories
async def test_start_order(bus, factory):
    """C4.2: sync and async handlers start in subscription order, whoever makes the tasks."""
    use(factory)
    started = subscribe_mixed(bus)
    for _ in range(3):
        await bus.publish(OrderPlaced())
        assert started == list(range(9))
        started.clear()


@with_and_without_factories
@pytest.mark.parametrize("levels", [1, 7, 8, 9, 30])
async def test_start_order_deep_in_a_chain(bus, factory, levels):
    """C4.2: the order is the same at every depth of a chain of publishes."""
    use(factory)
    started = subscribe_mixed(bus)
    await deep(bus, levels, lambda: bus.publish(OrderPlaced()))
    assert started == list(range(9))


async def test_sync_handler_only_in_disguise_keeps_its_turn(bus):
    """C4.2: a sync callable that returns an awaitable is called in its turn, and awaited."""
    log = []

    async def rest():
        log.append("rest")

    def disguised(event):
        log.append("disguised")
        return rest()

    async def last(event):
        log.append("last")

    bus.subscribe(OrderPlaced, lambda event: log.append("first"))
    bus.subscribe(OrderPlaced, disguised)
    bus.subscribe(OrderPlaced, last)
    for _ in range(2):
        await bus.publish(OrderPlaced())
        assert [name for name in log if name != "rest"] == ["first", "disguised", "last"]
        assert log.count("rest") == 1
        log.clear()


# The order of publishing


async def test_no_handler_code_before_it_returns(bus):
    """C5.1: handlers, sync and async ones, run after publish_nowait has returned."""
    seen = []

    async def handle(event):
        seen.append("async")

    bus.subscribe(OrderPlaced, lambda event: seen.append("sync"))
    bus.subscribe(OrderPlaced, handle)
    bus.subscribe(InvoiceIssued, lambda event: seen.append("sync only"))
    assert bus.publish_nowait(OrderPlaced()) is None
    assert bus.publish_nowait(InvoiceIssued()) is None
    assert seen == []
    await join(bus)
    assert sorted(seen) == ["async", "sync", "sync only"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_events_start_in_the_order_published(bus, is_async):
    """C5.1: hundreds of events start in the order published."""
    seen = []

    async def handle(event):
        seen.append(event.number)
        await asyncio.sleep(0)

    bus.subscribe(Numbered, handle if is_async else lambda event: seen.append(event.number))
    for number in range(500):
        bus.publish_nowait(Numbered(number))
    await join(bus)
    assert seen == list(range(500))


@with_and_without_factories
async def test_start_order_across_types_and_kinds(bus, factory):
    """C5.1: start order is that of publishing, whatever the types and kinds of the handlers."""
    use(factory)
    seen = []

    def sync(name):
        return lambda event: seen.append(name)

    def waiting(name):
        async def handle(event):
            seen.append(name)
            await asyncio.sleep(0)

        return handle

    bus.subscribe(OrderPlaced, waiting("order: async"))
    bus.subscribe(InvoiceIssued, sync("invoice: sync"))
    for name, kind in [("1", sync), ("2", waiting), ("3", sync), ("4", waiting)]:
        bus.subscribe(MailSent, kind(f"mail: {name}"))
    runs = {
        OrderPlaced: ["order: async"],
        InvoiceIssued: ["invoice: sync"],
        MailSent: ["mail: 1", "mail: 2", "mail: 3", "mail: 4"],
    }
    published = [OrderPlaced, InvoiceIssued, MailSent, InvoiceIssued, MailSent, OrderPlaced] * 50
    for event_type in published:
        bus.publish_nowait(event_type())
    await join(bus)
    assert seen == [name for event_type in published for name in runs[event_type]]


@pytest.mark.parametrize("is_async", [False, True])
async def test_published_by_a_handler_comes_after_those_queued(bus, is_async):
    """C5.1: what a handler publishes starts after all that was published before."""
    seen = []

    def follow_up(event):
        seen.append(event.number)
        if event.number < 200:
            bus.publish_nowait(Numbered(event.number + 200))

    async def follow_up_async(event):
        follow_up(event)

    bus.subscribe(Numbered, follow_up_async if is_async else follow_up)
    for number in range(200):
        bus.publish_nowait(Numbered(number))
    await join(bus)
    assert seen == list(range(400))
