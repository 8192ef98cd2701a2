# SPDX-License-Identifier: MIT
"""C4.4, C7: the chain of an event, from the outermost publish that somebody awaits."""

import asyncio
import contextvars
import threading

import pytest
from support import (
    PATIENCE,
    Failure,
    InvoiceIssued,
    Level,
    MailSent,
    OrderPlaced,
    deep,
    every_failure,
    every_way,
    fail_late,
    fail_sync,
    join,
)
from target import Event, EventBus

# Below


@every_failure
@pytest.mark.parametrize("levels", [1, 20])
@pytest.mark.parametrize("alone", [True, False])
async def test_chain_runs_from_the_outermost_publish(bus, failures, errors, fail, levels, alone):
    """C4.4: the chain names every level, outermost first, in the log and for `on_error`."""

    async def issue(event):
        await bus.publish(InvoiceIssued())

    async def other(event):
        pass

    bus.subscribe(OrderPlaced, issue)
    if not alone:
        bus.subscribe(InvoiceIssued, other)
    bus.subscribe(InvoiceIssued, fail)
    await deep(bus, levels, lambda: bus.publish(OrderPlaced()))
    (failure,) = failures
    assert failure.chain == (*[Level] * levels, OrderPlaced, InvoiceIssued)
    assert "Level -> OrderPlaced -> InvoiceIssued" in errors[0].getMessage()


@every_failure
async def test_chain_of_a_background_event_begins_with_it(bus, failures, errors, fail):
    """C4.4, C5.2: whoever published it in a handler is not in the chain of the failure."""
    seen = []
    bus.subscribe(OrderPlaced, lambda event: bus.publish_nowait(InvoiceIssued()))
    bus.subscribe(InvoiceIssued, fail)
    bus.subscribe(InvoiceIssued, seen.append)
    await bus.publish(OrderPlaced())
    await join(bus)
    assert len(seen) == 1
    assert [failure.chain for failure in failures] == [(InvoiceIssued,)]
    (record,) = errors
    assert "InvoiceIssued" in record.getMessage()
    assert "OrderPlaced" not in record.getMessage()


async def test_chain_below_a_background_event(bus, errors):
    """C4.4, C5.2: the chain of an event awaited by a background handler begins there."""

    async def publish_invoice(event):
        bus.publish_nowait(InvoiceIssued())

    async def await_mail(event):
        await asyncio.sleep(0)
        await bus.publish(MailSent())

    bus.subscribe(OrderPlaced, publish_invoice)
    bus.subscribe(InvoiceIssued, await_mail)
    bus.subscribe(MailSent, fail_sync)
    await bus.publish(OrderPlaced())
    await join(bus)
    [record] = errors
    assert "InvoiceIssued -> MailSent" in record.getMessage()
    assert "OrderPlaced" not in record.getMessage()


async def test_chain_across_two_buses(errors):
    """C7: a circle is found although it runs over two buses, and its chain names both sides."""
    failures = []
    orders = EventBus(max_depth=5, on_error=failures.append)
    invoices = EventBus(max_depth=5, on_error=failures.append)

    async def issue(event):
        await invoices.publish(InvoiceIssued())

    async def order(event):
        await orders.publish(OrderPlaced())

    orders.subscribe(OrderPlaced, issue)
    invoices.subscribe(InvoiceIssued, order)
    await orders.publish(OrderPlaced())
    assert len(failures) == len(errors) == 1
    assert failures[0].exception.chain == (OrderPlaced, InvoiceIssued) * 3
    assert failures[0].chain == failures[0].exception.chain[:-1]


class CartFilled(Event):
    pass


async def test_publish_nowait_inside_a_chain_starts_another():
    """C7: nobody awaits a `publish_nowait` event, so its chain starts with itself."""
    failures, failed = [], asyncio.Event()
    bus = EventBus(max_depth=2, on_error=lambda failure: (failures.append(failure), failed.set()))

    async def place(event):
        await bus.publish(InvoiceIssued())

    async def issue(event):
        bus.publish_nowait(CartFilled())
        await failed.wait()

    async def fill(event):
        await bus.publish(MailSent())

    bus.subscribe(OrderPlaced, place)
    bus.subscribe(InvoiceIssued, issue)
    bus.subscribe(CartFilled, fill)
    bus.subscribe(MailSent, fail_sync)
    await bus.publish(OrderPlaced())
    await bus.join()
    assert [type(failure.exception) for failure in failures] == [Failure]
    assert failures[0].chain == (CartFilled, MailSent)


async def test_chain_in_every_run_and_step(errors):
    """C4.4, C5.2: so it is in a handler's first step and later, in its first run and later."""
    chains = []
    bus = EventBus(on_error=lambda failure: chains.append(failure.chain))

    async def publish_mails(event):
        await bus.publish(MailSent())
        await asyncio.gather(bus.publish(MailSent()))
        await bus.publish(MailSent())

    bus.subscribe(OrderPlaced, publish_mails)
    bus.subscribe(MailSent, fail_sync)
    for _ in range(3):
        bus.publish_nowait(OrderPlaced())
        await join(bus)
    assert chains == [(OrderPlaced, MailSent)] * 9


@pytest.mark.parametrize("waits", [False, True], ids=["first step", "after waiting"])
async def test_chain_in_a_thread(errors, waits):
    """C4.4, C5.2: so it is in a thread that has a copy of the handler's context."""
    chains = []
    bus = EventBus(on_error=lambda failure: chains.append(failure.chain))

    async def publish_mail(event):
        if waits:
            await asyncio.sleep(0)
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(asyncio.run, bus.publish(MailSent())))
        thread.start()
        thread.join()

    bus.subscribe(OrderPlaced, publish_mail)
    bus.subscribe(MailSent, fail_sync)
    for _ in range(2):
        bus.publish_nowait(OrderPlaced())
        await join(bus)
    assert chains == [(OrderPlaced, MailSent)] * 2


async def test_chains_of_several_handlers_of_one_event(errors):
    """C4.4, C7: each is in the chain while it runs, and no task that it leaves behind is later."""
    chains, tasks, over = [], [], asyncio.Event()
    bus = EventBus(on_error=lambda failure: chains.append(failure.chain))

    def leave_behind():
        async def later():
            await over.wait()
            await bus.publish(MailSent())

        tasks.append(asyncio.create_task(later()))

    async def at_once(event):
        leave_behind()
        await bus.publish(MailSent())

    async def only_leaves_behind(event):
        leave_behind()

    async def waits(event):
        leave_behind()
        await asyncio.gather(bus.publish(MailSent()))
        await asyncio.sleep(0)
        await bus.publish(MailSent())

    async def last(event):
        await at_once(event)

    bus.subscribe(MailSent, fail_sync)
    for handler in (at_once, lambda event: leave_behind(), only_leaves_behind, waits, last):
        bus.subscribe(OrderPlaced, handler)
    for _ in range(2):
        chains.clear()
        over.clear()
        bus.publish_nowait(OrderPlaced())
        await join(bus)
        assert chains == [(OrderPlaced, MailSent)] * 4
        chains.clear()
        over.set()
        await asyncio.gather(*tasks)
        assert chains == [(MailSent,)] * 5
        tasks.clear()


# Tasks that a handler leaves behind


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_tasks_of_a_handler_are_not_the_publishers(bus, errors, kind):
    """C4.4, C5.2: the publisher's chain does not go on in a task that a handler leaves."""
    gate, tasks = asyncio.Event(), []

    async def publish_invoice(event):
        bus.publish_nowait(InvoiceIssued())
        await gate.wait()

    def leave_task(event):
        tasks.append(asyncio.create_task(bus.publish(MailSent())))
        tasks[0].add_done_callback(lambda task: gate.set())

    async def leave_task_async(event):
        leave_task(event)

    bus.subscribe(OrderPlaced, publish_invoice)
    bus.subscribe(InvoiceIssued, leave_task if kind == "sync" else leave_task_async)
    bus.subscribe(MailSent, fail_late)
    async with asyncio.timeout(PATIENCE):
        await bus.publish(OrderPlaced())
    [record] = errors
    assert record.getMessage().endswith("(published as MailSent)")


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside an async handler"])
async def test_task_of_a_background_handler_is_not_in_the_outer_chain(beside):
    """C7: nor is what a handler of a `publish_nowait` event starts charged to that chain."""
    failures, failed = [], asyncio.Event()
    bus = EventBus(on_error=lambda failure: (failures.append(failure), failed.set()))
    tasks = []

    async def place(event):
        bus.publish_nowait(InvoiceIssued())
        await failed.wait()

    def issue(event):
        tasks.append(asyncio.create_task(bus.publish(MailSent())))

    async def idle(event):
        pass

    bus.subscribe(OrderPlaced, place)
    bus.subscribe(InvoiceIssued, issue)
    if beside:
        bus.subscribe(InvoiceIssued, idle)
    bus.subscribe(MailSent, fail_sync)
    await bus.publish(OrderPlaced())
    await asyncio.gather(*tasks)
    assert [type(failure.exception) for failure in failures] == [Failure]
    assert OrderPlaced not in failures[0].chain


async def test_finished_outer_levels_do_not_count(errors):
    """C7: of a chain that outlives its outer levels, those still under way are counted exactly."""
    bus = EventBus(max_depth=2)
    first_is_over = asyncio.Event()
    second_has_started = asyncio.Event()
    tasks, mails = [], []

    async def place(event):
        tasks.append(asyncio.create_task(bus.publish(InvoiceIssued())))
        await second_has_started.wait()

    async def issue(event):
        second_has_started.set()
        await first_is_over.wait()
        await bus.publish(CartFilled())

    async def fill(event):
        mails.append("published")
        await bus.publish(MailSent())

    bus.subscribe(OrderPlaced, place)
    bus.subscribe(InvoiceIssued, issue)
    bus.subscribe(CartFilled, fill)
    bus.subscribe(MailSent, mails.append)
    await bus.publish(OrderPlaced())
    first_is_over.set()
    await asyncio.gather(*tasks)
    assert mails == ["published"]
    assert [record.exc_info[1].chain for record in errors] == [
        (InvoiceIssued, CartFilled, MailSent)
    ]


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after waiting"])
@every_way
async def test_task_left_behind_starts_a_chain_of_its_own(publish, waits):
    """C7: a task that outlives the publish of its handler is no longer part of that chain."""
    failures = []
    bus = EventBus(max_depth=1, on_error=failures.append)
    gate = asyncio.Event()
    tasks = []

    async def later():
        await gate.wait()
        await bus.publish(MailSent())

    async def leave(event):
        if waits:
            await asyncio.sleep(0)
        tasks.append(asyncio.create_task(later()))

    bus.subscribe(OrderPlaced, leave)
    bus.subscribe(MailSent, fail_sync)
    await publish(bus, OrderPlaced())
    gate.set()
    await asyncio.gather(*tasks)
    assert [type(failure.exception) for failure in failures] == [Failure]
    assert failures[0].chain == (MailSent,)
