# SPDX-License-Identifier: MIT
"""C4.3, C5.2: each handler has a copy of the publisher's context, and a task of its own."""

import asyncio
import sys
from contextlib import suppress
from contextvars import copy_context
from functools import partial

import pytest
from support import (
    Failure,
    InvoiceIssued,
    OrderPlaced,
    deep,
    every_way,
    in_background,
    join,
    tenant,
    use,
    with_and_without_factories,
)
from target import EventBus, EventCycleError

# Context variables


def set_sync(seen, name, event):
    seen.append(tenant.get())
    tenant.set(name)


async def set_early(seen, name, event):
    seen.append(tenant.get())
    tenant.set(name)


async def set_late(seen, name, event):
    tenant.set(name)
    await asyncio.sleep(0)
    seen.append("publisher" if tenant.get() == name else tenant.get())


@pytest.mark.parametrize(
    "kinds",
    [
        [set_sync],
        [set_early],
        [set_late],
        [set_sync, set_sync],
        [set_early, set_early],
        [set_late, set_sync, set_early, set_late, set_sync],
    ],
)
@every_way
@with_and_without_factories
async def test_contexts_are_isolated(bus, factory, publish, kinds):
    """C4.3: a handler sees the publisher's values; what it sets nobody else sees."""
    use(factory)
    seen = []
    for number, kind in enumerate(kinds):
        bus.subscribe(OrderPlaced, partial(kind, seen, f"handler {number}"))
    tenant.set("publisher")
    for _ in range(2):
        await publish(bus, OrderPlaced())
    assert seen == ["publisher"] * len(kinds) * 2
    assert tenant.get() == "publisher"


@with_and_without_factories
async def test_contexts_of_several_events_are_isolated(bus, factory):
    """C4.3, C5.2: so they are for handlers of several events that are queued together."""
    use(factory)
    seen = []
    for number, kind in enumerate([set_sync, set_late, set_early]):
        bus.subscribe(OrderPlaced, partial(kind, seen, f"handler {number}"))
    bus.subscribe(InvoiceIssued, partial(set_sync, seen, "handler of an invoice"))
    tenant.set("publisher")
    for event in (OrderPlaced(), InvoiceIssued(), OrderPlaced()):
        bus.publish_nowait(event)
    await join(bus)
    assert seen == ["publisher"] * 7
    assert tenant.get() == "publisher"


@with_and_without_factories
async def test_publish_leaves_the_context_as_it_was(bus, factory):
    """C4.3: nor does the bus leave anything in the publisher's context."""
    use(factory)
    bus.subscribe(OrderPlaced, lambda event: None)
    bus.subscribe(InvoiceIssued, partial(set_early, [], "handler"))
    before = dict(copy_context())
    for event in (OrderPlaced(), InvoiceIssued()):
        await bus.publish(event)
        bus.publish_nowait(event)
        assert dict(copy_context()) == before
    await bus.join()
    assert dict(copy_context()) == before


async def test_the_publishers_context_is_left_alone():
    """C7, C4.3: keeping track of the chain leaves nothing in a publisher's own context."""
    bus = EventBus(max_depth=2)
    tenant.set("kept")
    unchanged = []

    async def again(event):
        before = dict(copy_context())
        with suppress(EventCycleError):
            await bus.publish(OrderPlaced())
        unchanged.append(dict(copy_context()) == before)

    bus.subscribe(OrderPlaced, again)
    before = dict(copy_context())
    await bus.publish(OrderPlaced())
    bus.publish_nowait(OrderPlaced())
    await bus.join()
    assert dict(copy_context()) == before
    assert tenant.get() == "kept"
    assert unchanged == [True] * 4


@every_way
async def test_context_of_an_awaitable_is_that_of_its_call(bus, publish):
    """C3, C4.3: the second half of a handler in disguise sees what its first half has set."""
    seen, pending = [], []

    async def rest():
        await asyncio.sleep(0)
        seen.append(tenant.get())
        pending.append(bus.pending)

    def disguised(event):
        tenant.set("handler")
        return rest()

    bus.subscribe(OrderPlaced, disguised)
    bus.subscribe(OrderPlaced, partial(set_late, seen, "other"))
    bus.subscribe(OrderPlaced, lambda event: seen.append(tenant.get()))
    tenant.set("publisher")
    await publish(bus, OrderPlaced())
    assert sorted(seen) == ["handler", "publisher", "publisher"]
    assert tenant.get() == "publisher"
    assert pending == [publish is in_background]  # not finished before


@with_and_without_factories
async def test_context_of_the_moment(bus, factory):
    """C5.2: handlers see the context variables as they were when the event was published."""
    use(factory)
    seen = []

    async def handle(event):
        seen.append(("async", tenant.get()))

    bus.subscribe(OrderPlaced, lambda event: seen.append(("sync", tenant.get())))
    bus.subscribe(OrderPlaced, handle)
    bus.subscribe(InvoiceIssued, lambda event: seen.append(("sync only", tenant.get())))
    for value in ("first", "second"):
        tenant.set(value)
        bus.publish_nowait(OrderPlaced())
        bus.publish_nowait(InvoiceIssued())
    tenant.set("afterwards")
    await join(bus)
    assert sorted(seen) == [
        (kind, value) for kind in ("async", "sync", "sync only") for value in ("first", "second")
    ]


# Tasks


@pytest.mark.parametrize("count", [1, 3])
@every_way
@with_and_without_factories
async def test_every_async_handler_has_its_own_task(bus, factory, publish, count):
    """C4.3: each async handler runs in a task of its own and of its name, a single one as well."""
    use(factory)
    tasks = [asyncio.current_task()]

    def make(number):
        async def handler(event):
            task = asyncio.current_task()
            tasks.append(task)
            if number != 1:
                await asyncio.sleep(0)
            assert asyncio.current_task() is task

        handler.__qualname__ = f"handler_{number}"
        return handler

    for number in range(count):
        bus.subscribe(OrderPlaced, make(number))
    await publish(bus, OrderPlaced())
    assert len(set(tasks)) == len(tasks) == count + 1
    names = [f"{__name__}.handler_{number}" for number in range(count)]
    assert [task.get_name() for task in tasks[1:]] == names
    assert [handler.name for handler in bus.handlers(OrderPlaced)] == names
    assert asyncio.current_task() is tasks[0]


@pytest.mark.parametrize("value", [None, 42])
@pytest.mark.parametrize("place", ["alone", "first", "last"])
@every_way
async def test_sync_handler_is_called_in_place(bus, publish, place, value):
    """Section 3: it has no task of its own, unless it would overtake an async one there."""
    tasks = []

    def handler(event):
        tasks.append(asyncio.current_task())
        return value

    async def beside(event):
        await asyncio.sleep(0)

    places = {"alone": [handler], "first": [handler, beside], "last": [beside, handler]}
    for each in places[place]:
        bus.subscribe(OrderPlaced, each)
    await publish(bus, OrderPlaced())
    await publish(bus, OrderPlaced())
    starts_eagerly = sys.version_info >= (3, 12)
    in_place = [task in (asyncio.current_task(), None) for task in tasks]
    assert in_place == [starts_eagerly or place == "alone"] * 2


@pytest.mark.parametrize("levels", [1, 20])
async def test_task_is_named_after_the_handler(bus, levels):
    """C4.3: the task's name is the handler's, in its first step already and at every depth."""
    names = []

    async def handler(event):
        names.append(asyncio.current_task().get_name())
        await asyncio.sleep(0)
        names.append(asyncio.current_task().get_name())

    bus.subscribe(OrderPlaced, handler)
    await deep(bus, levels, lambda: bus.publish(OrderPlaced()))
    assert names == [bus.handlers(OrderPlaced)[0].name] * 2


async def test_timeout_in_the_first_step(bus, errors):
    """C4.3: `asyncio.timeout` in a handler's first step cancels that handler alone."""
    log = []

    async def impatient(event):
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            log.append("timed out")

    async def patient(event):
        await asyncio.sleep(0)
        log.append("patient")

    bus.subscribe(OrderPlaced, impatient)
    bus.subscribe(OrderPlaced, patient)
    await bus.publish(OrderPlaced())
    assert sorted(log) == ["patient", "timed out"]
    assert asyncio.current_task().cancelling() == 0
    assert len(errors) == 0


async def test_task_group_in_the_first_step(bus, errors):
    """C4.3: a TaskGroup in a handler's first step cancels that handler alone when it fails."""
    log = []

    async def fail():
        raise Failure

    async def grouping(event):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.Event().wait()
        except* Failure:
            log.append("group failed")

    async def patient(event):
        await asyncio.sleep(0)
        log.append("patient")

    bus.subscribe(OrderPlaced, grouping)
    bus.subscribe(OrderPlaced, patient)
    await bus.publish(OrderPlaced())
    assert sorted(log) == ["group failed", "patient"]
    assert asyncio.current_task().cancelling() == 0
    assert len(errors) == 0


async def test_cancel_scope_in_the_first_step(bus, errors):
    """C4.3: a scope that cancels the current task, and takes it back, is the handler's affair."""
    log = []

    async def scoped(event):
        task = asyncio.current_task()
        task.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            log.append(task.uncancel())

    bus.subscribe(OrderPlaced, scoped)
    await bus.publish(OrderPlaced())
    assert log == [0]
    assert asyncio.current_task().cancelling() == 0
    assert len(errors) == 0
