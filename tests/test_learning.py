# SPDX-License-Identifier: MIT
"""C4.2: the context of a first awaitable, and what is learned of who has returned it."""

import asyncio
import functools
import threading

import pytest
from support import (
    InvoiceIssued,
    MailSent,
    OrderPlaced,
    do_nothing,
    every_way,
    hook_logging_to,
    join,
    tenant,
    turns,
    use,
    with_and_without_factories,
    with_and_without_plain_factory,
    with_unwrapped_tasks,
)
from target import EventBus

# Kinds of sync callables that return what an async function makes


def as_lambda(function):
    return lambda event: function(event)


def as_partial(function):
    return functools.partial(lambda event, extra: function(event), extra=None)


def as_object(function):
    class Called:
        def __call__(self, event):
            return function(event)

    return Called()


def as_function(function):
    def handler(event):
        return function(event)

    return handler


every_kind = pytest.mark.parametrize("kind", [as_lambda, as_partial, as_object, as_function])

NEIGHBOURS = {
    "alone": ([], []),
    "after sync": (["sync"], []),
    "before sync": ([], ["sync"]),
    "after async": (["async"], []),
    "before async": ([], ["async"]),
}
every_place = pytest.mark.parametrize("place", NEIGHBOURS.values(), ids=NEIGHBOURS)


def subscribe_between(bus, place, handler):
    """Subscribe a handler, and its neighbours before it and after it."""

    async def wait(event):
        await asyncio.sleep(0)

    neighbours = {"sync": do_nothing, "async": wait}
    before, after = place
    for name in before:
        bus.subscribe(OrderPlaced, neighbours[name])
    bus.subscribe(OrderPlaced, handler)
    for name in after:
        bus.subscribe(OrderPlaced, neighbours[name])


class Called:
    """Makes handlers that note by which task they were called, and which task awaited the rest."""

    def __init__(self):
        self.calls, self.rests = [], []

    def __call__(self, event):
        self.calls.append(asyncio.current_task())
        return self.rest()

    async def rest(self):
        self.rests.append(asyncio.current_task())
        await asyncio.sleep(0)

    def assert_learned(self):
        """Assert that the last call was made by the task that has awaited the rest."""
        assert self.calls[-1] is self.rests[-1]
        assert self.calls[-1] is not asyncio.current_task()
        assert self.calls[-1] is not None


# The context of the call


@every_kind
@every_place
@every_way
@with_and_without_factories
async def test_token_of_the_call_is_reset_in_the_coroutine(
    bus, errors, kind, place, publish, factory
):
    """C4.2, C4.3: call and coroutine share a context, on the first publish as on any other."""
    use(factory)
    found = []
    tenant.set("publisher")

    async def rest(token):
        found.append(tenant.get())
        await asyncio.sleep(0)
        tenant.reset(token)
        found.append(tenant.get())
        tenant.set("rest")

    subscribe_between(bus, place, kind(lambda event: rest(tenant.set("call"))))
    for _ in range(3):
        await publish(bus, OrderPlaced())
    assert found == ["call", "publisher"] * 3
    assert tenant.get() == "publisher"
    assert len(errors) == 0


@every_kind
@every_way
@with_unwrapped_tasks
async def test_context_of_a_first_coroutine_is_nobody_elses(bus, errors, kind, publish, factory):
    """C4.3: what two of them set is not seen by each other, nor by who is called between."""
    use(factory)
    found = []
    tenant.set("publisher")

    def handler(name):
        async def rest():
            await asyncio.sleep(0)
            found.append((name, tenant.get()))

        def call(event):
            assert tenant.get() == "publisher"
            tenant.set(name)
            return rest()

        return kind(call)

    bus.subscribe(OrderPlaced, handler("one"))
    bus.subscribe(OrderPlaced, lambda event: found.append(("sync", tenant.get())))
    bus.subscribe(OrderPlaced, handler("two"))
    for _ in range(2):
        found.clear()
        await publish(bus, OrderPlaced())
        assert sorted(found) == [("one", "one"), ("sync", "publisher"), ("two", "two")]
    assert len(errors) == 0


@every_way
@with_and_without_factories
async def test_failure_of_a_first_coroutine_is_reported_in_its_context(publish, factory):
    """C4.2, C4.4: `on_error` sees what the call has set, and what the coroutine has."""
    use(factory)
    found = []
    bus = EventBus(on_error=lambda failure: found.append(tenant.get()))

    async def rest():
        await asyncio.sleep(0)
        tenant.set(f"{tenant.get()} and rest")
        raise LookupError

    def call(event):
        tenant.set("call")
        return rest()

    bus.subscribe(OrderPlaced, call)
    for _ in range(2):
        await publish(bus, OrderPlaced())
    assert found == ["call and rest"] * 2
    assert tenant.get() is None


@every_way
@with_and_without_factories
async def test_publish_in_a_first_coroutine_is_a_level(publish, factory):
    """C4.2, C7: what a first coroutine publishes belongs to the chain of its event."""
    use(factory)
    chains = []
    bus = EventBus(on_error=lambda failure: chains.append(failure.chain))

    async def rest():
        await bus.publish(InvoiceIssued())

    async def send(event):
        await asyncio.sleep(0)
        raise LookupError

    bus.subscribe(OrderPlaced, lambda event: rest())
    bus.subscribe(InvoiceIssued, lambda event: send(event))
    for _ in range(2):
        await publish(bus, OrderPlaced())
    assert chains == [(OrderPlaced, InvoiceIssued)] * 2


# What was learned


async def instrumented_meanwhile(bus):
    with bus.instrument(hook_logging_to([])):
        await bus.publish(OrderPlaced())


async def cleared_type_of_others(bus):
    bus.subscribe(MailSent, do_nothing).cancel()


async def many_subscribed_and_cancelled(bus):
    handlers = [lambda event: None for _ in range(100)]
    subscriptions = [bus.subscribe(OrderPlaced, handler) for handler in handlers]
    await bus.publish(OrderPlaced())
    for subscription in subscriptions:
        subscription.cancel()


async def subscribed_in_a_thread(bus):
    thread = threading.Thread(target=bus.subscribe, args=(OrderPlaced, lambda event: None))
    thread.start()
    thread.join()


async def another_learned(bus):
    subscription = bus.subscribe(OrderPlaced, lambda event: asyncio.sleep(0))
    await bus.publish(OrderPlaced())
    subscription.cancel()


async def waited_for(bus):
    future = bus.wait_for(OrderPlaced)
    await bus.publish(OrderPlaced())
    assert future.done()


CHANGES = [
    instrumented_meanwhile,
    cleared_type_of_others,
    many_subscribed_and_cancelled,
    subscribed_in_a_thread,
    another_learned,
    waited_for,
]


@every_place
@every_way
@pytest.mark.parametrize("change", CHANGES)
@with_and_without_plain_factory
async def test_learned_whatever_comes_and_goes(bus, errors, place, publish, change, factory):
    """C4.2: from the second publish on the call is made in a task of its own, and stays so."""
    use(factory)
    called = Called()
    subscribe_between(bus, place, called)
    await publish(bus, OrderPlaced())
    for _ in range(2):
        await change(bus)
        await publish(bus, OrderPlaced())
        called.assert_learned()
    assert len(errors) == 0


@every_place
@pytest.mark.parametrize("ways", ["publish twice", "nowait first", "nowait second", "nowait twice"])
async def test_learned_of_either_way(bus, place, ways):
    """C4.2: a subscription learns, not one way of publishing."""
    called = Called()
    subscribe_between(bus, place, called)
    first, second = {
        "publish twice": (False, False),
        "nowait first": (True, False),
        "nowait second": (False, True),
        "nowait twice": (True, True),
    }[ways]
    for background in (first, second):
        if background:
            bus.publish_nowait(OrderPlaced())
            await join(bus)
        else:
            await bus.publish(OrderPlaced())
    called.assert_learned()


async def test_learned_while_the_first_event_is_under_way(bus):
    """C4.2: an event that overlaps with the first one finds what was learned of it."""
    gate, tasks = asyncio.Event(), []

    def call(event):
        tasks.append(asyncio.current_task())
        return gate.wait()

    bus.subscribe(OrderPlaced, call)
    publishers = [asyncio.create_task(bus.publish(OrderPlaced())) for _ in range(3)]
    await turns()
    gate.set()
    await asyncio.gather(*publishers)
    assert len(set(tasks)) == 3
    assert tasks[0] is publishers[0]
    assert not set(tasks[1:]) & set(publishers)


async def test_learned_of_events_queued_before(bus):
    """C4.2, C5.2: queued events have the handlers of their call, and what is known by now."""
    called = Called()
    bus.subscribe(OrderPlaced, called)
    for _ in range(3):
        bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert called.calls[1:] == called.rests[1:]


async def test_hook_installed_and_removed_while_running(bus):
    """C4.2, C10: the hook's own route knows nothing that the subscription does not."""
    called = Called()
    bus.subscribe(OrderPlaced, called)
    await bus.publish(OrderPlaced())
    hook = bus.instrument(hook_logging_to([]))
    publisher = asyncio.create_task(bus.publish(OrderPlaced()))
    await asyncio.sleep(0)
    hook.cancel()
    await publisher
    await bus.publish(OrderPlaced())
    called.assert_learned()


async def test_time_limit_holds_for_a_first_coroutine(failures, errors):
    """C4.2: `handler_timeout` cancels it like any other, on the first publish already."""
    bus = EventBus(on_error=failures.append, handler_timeout=0.01)
    bus.subscribe(OrderPlaced, lambda event: asyncio.Event().wait())
    for _ in range(2):
        await bus.publish(OrderPlaced())
    assert [type(failure.exception) for failure in failures] == [TimeoutError] * 2
    assert len(errors) == 2
