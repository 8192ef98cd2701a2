# SPDX-License-Identifier: MIT
"""C6.1: join in a task of a handler is a join in the handler, while its event is not finished."""

import asyncio
import sys

import pytest
from support import PATIENCE, InvoiceIssued, MailSent, OrderPlaced, join, turns, until, use
from target import EventBus


@pytest.mark.parametrize("waits", [False, True], ids=["first step", "after waiting"])
async def test_join_in_a_task_that_its_handler_awaits(bus, gated, waits):
    """C6.1: so it is in a task of the handler's, made in its first step or later."""
    joined = []

    async def join_inside(event):
        if waits:
            await asyncio.sleep(0)
        await asyncio.shield(asyncio.create_task(bus.join()))
        joined.append(gated.finished)

    bus.subscribe(InvoiceIssued, join_inside)
    for number in (1, 2):
        gated.started.clear()
        gated.gate.clear()
        bus.publish_nowait(OrderPlaced())
        bus.publish_nowait(InvoiceIssued())
        await gated.started.wait()
        await turns()
        assert len(joined) == number - 1
        gated.gate.set()
        await join(bus)
    assert joined == [1, 2]


@pytest.mark.parametrize("place", [0, 1, 2, 3])
async def test_join_in_a_task_that_one_of_several_handlers_awaits(bus, gated, place):
    """C6.1: neither the place of the handler nor the others of its event make a difference."""
    log, joined = [], asyncio.Event()

    async def at_once(event):
        log.append("at once")

    async def waits(event):
        await joined.wait()
        log.append("waited")

    async def join_inside(event):
        await asyncio.shield(asyncio.create_task(bus.join()))
        log.append("joined")
        joined.set()

    handlers = [at_once, waits, lambda event: log.append("sync")]
    handlers.insert(place, join_inside)
    for handler in handlers:
        bus.subscribe(InvoiceIssued, handler)
    for _ in range(2):
        log.clear()
        joined.clear()
        gated.gate.clear()
        bus.publish_nowait(InvoiceIssued())
        bus.publish_nowait(OrderPlaced())
        await turns()
        assert log == ["at once", "sync"]
        gated.gate.set()
        await join(bus)
        assert log == ["at once", "sync", "joined", "waited"]


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


@pytest.mark.parametrize("alone", [False, True])
async def test_tasks_left_behind_as_their_handler_ends(alone):
    """C6.1, C7: a task belongs to its event, for join and chain, until the last handler's end."""
    chains, joined, tasks, last_step = [], [], [], asyncio.Event()
    gate, gone, ended = asyncio.Event(), asyncio.Event(), []
    bus = EventBus(on_error=lambda failure: chains.append(failure.chain))

    async def publish_and_join():
        await bus.publish(MailSent())
        await join(bus)
        joined.append(len(ended))

    async def go_on():
        await last_step.wait()
        await publish_and_join()
        await gone.wait()
        await publish_and_join()

    async def leave_behind(event):
        tasks.append(asyncio.create_task(go_on()))
        await turns()
        last_step.set()

    async def sibling(event):
        await gate.wait()
        ended.append(event)

    async def other(event):
        await asyncio.sleep(0)

    def fail(event):
        raise LookupError

    bus.subscribe(OrderPlaced, leave_behind)
    if not alone:
        bus.subscribe(OrderPlaced, sibling)
    bus.subscribe(InvoiceIssued, other)
    bus.subscribe(MailSent, fail)
    bus.publish_nowait(OrderPlaced())
    await turns(10)
    bus.publish_nowait(InvoiceIssued())
    await until(lambda: joined)
    gate.set()
    await join(bus)
    gone.set()
    await asyncio.gather(*tasks)
    assert chains == [(MailSent,) if alone else (OrderPlaced, MailSent), (MailSent,)]
    assert joined == [0, 0 if alone else 1]


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
    use(asyncio.eager_task_factory)
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
