# SPDX-License-Identifier: MIT
"""C5: publish_nowait on one loop; several loops are in test_loops.py."""

import asyncio
import contextvars
import functools
import gc
import importlib
import inspect
import logging
import sys
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass

import pytest
from support import (
    PATIENCE,
    Failure,
    InvoiceIssued,
    MailSent,
    OrderPlaced,
    join,
    plain_factory,
)
from target import PACKAGE, Event, EventBus

pytestmark = pytest.mark.usefixtures("history")


@dataclass(frozen=True)
class Numbered(Event):
    number: int


class Fatal(BaseException):
    pass


EAGER = sys.version_info >= (3, 12)


var = contextvars.ContextVar("var", default="default")


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
def loop():
    """A loop to be run by hand, by a test that is no coroutine function."""
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    yield loop
    loop.close()


# C5.1


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


@pytest.mark.parametrize("factory", [None, plain_factory])
async def test_start_order_across_types_and_kinds(bus, factory):
    """C5.1: start order is that of publishing, whatever the types and kinds of the handlers."""
    asyncio.get_running_loop().set_task_factory(factory)
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


# C5.2


async def test_handlers_of_the_moment(bus):
    """C5.2: an event goes to those who were subscribed when it was published."""
    seen = []
    early = bus.subscribe(OrderPlaced, lambda event: seen.append("early"))
    bus.publish_nowait(OrderPlaced())
    early.cancel()
    bus.subscribe(OrderPlaced, lambda event: seen.append("late"))
    await join(bus)
    assert seen == ["early"]


async def test_a_first_handler_subscribed_later_gets_nothing(bus):
    """C5.2: an event that nobody handled when it was published stays unhandled."""
    seen = []
    bus.publish_nowait(OrderPlaced())
    bus.subscribe(OrderPlaced, seen.append)
    await join(bus)
    assert seen == []


async def test_a_handler_cancelled_by_another_still_runs(bus):
    """C4.6, C5.2: a change to the registry made by a handler applies from the next publish on."""
    seen = []
    bus.subscribe(OrderPlaced, lambda event: second.cancel())
    second = bus.subscribe(OrderPlaced, seen.append)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert len(seen) == 2
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert len(seen) == 2


@pytest.mark.parametrize("factory", [None, plain_factory])
async def test_context_of_the_moment(bus, factory):
    """C5.2: handlers see the context variables as they were when the event was published."""
    asyncio.get_running_loop().set_task_factory(factory)
    seen = []

    async def handle(event):
        seen.append(("async", var.get()))

    bus.subscribe(OrderPlaced, lambda event: seen.append(("sync", var.get())))
    bus.subscribe(OrderPlaced, handle)
    bus.subscribe(InvoiceIssued, lambda event: seen.append(("sync only", var.get())))
    for value in ("first", "second"):
        var.set(value)
        bus.publish_nowait(OrderPlaced())
        bus.publish_nowait(InvoiceIssued())
    var.set("afterwards")
    await join(bus)
    assert sorted(seen) == [
        (kind, value) for kind in ("async", "sync", "sync only") for value in ("first", "second")
    ]


@pytest.mark.parametrize("factory", [None, plain_factory])
async def test_contexts_are_isolated(bus, factory):
    """C4.3, C5.2: what a handler sets is seen by no other handler, nor by the publisher."""
    asyncio.get_running_loop().set_task_factory(factory)
    seen = []

    def note(event):
        seen.append(var.get())
        var.set("leaked from a sync handler")

    async def note_async(event):
        note(event)
        await asyncio.sleep(0)
        var.set("leaked from an async handler")

    async def note_again(event):
        await asyncio.sleep(0)
        note(event)

    for handler in (note, note_async, note_again, lambda event: note(event)):
        bus.subscribe(OrderPlaced, handler)
    bus.subscribe(InvoiceIssued, note)
    var.set("published")
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert seen == ["published"] * 9
    assert var.get() == "published"


async def test_sync_awaitable_keeps_its_context(bus):
    """C3, C5.2: an awaitable that a sync handler returns is awaited in that handler's context."""
    seen = []

    def handle(event):
        var.set("handler's own")

        async def rest():
            await asyncio.sleep(0)
            seen.append((var.get(), bus.pending))

        return rest()

    bus.subscribe(OrderPlaced, handle)
    bus.subscribe(OrderPlaced, lambda event: seen.append(var.get()))
    var.set("published")
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert seen == ["published", ("handler's own", 1)]


@pytest.mark.parametrize("factory", [None, plain_factory])
async def test_every_async_handler_has_its_own_named_task(bus, factory):
    """C4.3, C5.2: every async handler has its own current task, named after the handler."""
    asyncio.get_running_loop().set_task_factory(factory)
    tasks = []

    async def first(event):
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        assert asyncio.current_task() is tasks[0]

    async def second(event):
        tasks.append(asyncio.current_task())

    bus.subscribe(OrderPlaced, first)
    bus.subscribe(OrderPlaced, second)
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert [task.get_name() for task in tasks] == [h.name for h in bus.handlers(OrderPlaced)]
    assert "first" in tasks[0].get_name()
    assert len({asyncio.current_task(), *tasks}) == 3


async def test_handlers_run_concurrently(bus):
    """C4.1, C5.2: handlers of one event wait for each other without harm, and so do events."""
    gates = {event_type: asyncio.Event() for event_type in (OrderPlaced, InvoiceIssued)}
    finished = []

    async def wait(event):
        await gates[type(event)].wait()
        finished.append("waited")

    async def open_the_other(event):
        gates[OrderPlaced if type(event) is InvoiceIssued else InvoiceIssued].set()

    for event_type in gates:
        bus.subscribe(event_type, wait)
        bus.subscribe(event_type, open_the_other)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    await join(bus)
    assert finished == ["waited", "waited"]


def raise_at_once(event):
    raise Failure


async def raise_async(event):
    raise Failure


async def raise_later(event):
    await asyncio.sleep(0)
    raise Failure


def raise_in_awaitable(event):
    return raise_later(event)


@pytest.mark.parametrize("factory", [None, plain_factory])
@pytest.mark.parametrize("handler", [raise_at_once, raise_async, raise_later, raise_in_awaitable])
async def test_failure_is_logged_and_reported_once(errors, handler, factory):
    """C4.4, C5.2: a failure is logged once and reported, with the chain of that event alone."""
    asyncio.get_running_loop().set_task_factory(factory)
    failures, seen = [], []
    bus = EventBus(on_error=failures.append)
    bus.subscribe(Numbered, handler)
    bus.subscribe(Numbered, seen.append)
    event = Numbered(4711)

    async def publish_inside(_):
        bus.publish_nowait(event)

    bus.subscribe(OrderPlaced, publish_inside)
    await bus.publish(OrderPlaced())
    await join(bus)
    assert seen == [event]
    [failure], [record] = failures, errors
    assert type(failure.exception) is Failure
    assert failure.event is event
    assert failure.handler.callback is handler
    assert failure.chain == (Numbered,)
    assert record.levelno == logging.ERROR
    assert record.exc_info[1] is failure.exception
    assert handler.__name__ in record.getMessage()
    assert "Numbered" in record.getMessage()
    assert "OrderPlaced" not in record.getMessage()
    assert "4711" not in record.getMessage()


async def test_chain_below_a_background_event(bus, errors):
    """C4.4, C5.2: the chain of an event awaited by a background handler begins there."""

    async def publish_invoice(event):
        bus.publish_nowait(InvoiceIssued())

    async def await_mail(event):
        await asyncio.sleep(0)
        await bus.publish(MailSent())

    bus.subscribe(OrderPlaced, publish_invoice)
    bus.subscribe(InvoiceIssued, await_mail)
    bus.subscribe(MailSent, raise_at_once)
    await bus.publish(OrderPlaced())
    await join(bus)
    [record] = errors
    assert "InvoiceIssued -> MailSent" in record.getMessage()
    assert "OrderPlaced" not in record.getMessage()


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

    async def leave_task_without_await(event):
        leave_task(event)

    bus.subscribe(OrderPlaced, publish_invoice)
    bus.subscribe(InvoiceIssued, leave_task if kind == "sync" else leave_task_without_await)
    bus.subscribe(MailSent, raise_later)
    async with asyncio.timeout(PATIENCE):
        await bus.publish(OrderPlaced())
    [record] = errors
    assert record.getMessage().endswith("(published as MailSent)")


async def test_chain_in_every_run_and_step(errors):
    """C4.4, C5.2: so it is in a handler's first step and later, in its first run and later."""
    chains = []
    bus = EventBus(on_error=lambda failure: chains.append(failure.chain))

    async def publish_mails(event):
        await bus.publish(MailSent())
        await asyncio.gather(bus.publish(MailSent()))
        await bus.publish(MailSent())

    bus.subscribe(OrderPlaced, publish_mails)
    bus.subscribe(MailSent, raise_at_once)
    for _ in range(3):
        bus.publish_nowait(OrderPlaced())
        await join(bus)
    assert chains == [(OrderPlaced, MailSent)] * 9


@pytest.mark.skipif(not EAGER, reason="eager tasks are new in Python 3.12")
async def test_chain_without_await_is_the_same_in_every_run(errors):
    """C4.4, C7: a handler that cannot await a publish is in no chain, in its first run or later."""
    chains, tasks = [], []
    bus = EventBus(on_error=lambda failure: chains.append(failure.chain))

    async def begin(event):
        loop = asyncio.get_running_loop()
        tasks.append(asyncio.Task(bus.publish(MailSent()), loop=loop, eager_start=True))

    bus.subscribe(OrderPlaced, begin)
    bus.subscribe(MailSent, raise_at_once)
    for _ in range(3):
        bus.publish_nowait(OrderPlaced())
        await join(bus)
    assert chains == [(MailSent,)] * 3


class Mails:
    """What waits for a published mail in every way but by an `await` that one can see."""

    def __init__(self, bus):
        self.publish = lambda: bus.publish(MailSent())
        self.left = 1

    async def __aenter__(self):
        await self.publish()

    async def __aexit__(self, *exception):
        pass

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        await self.publish()


async def await_mail(mails):
    await mails.publish()


async def enter_mails(mails):
    async with mails:
        pass


async def iterate_mails(mails):
    async for _ in mails:
        pass


async def list_mails(mails):
    [None async for _ in mails]


async def collect_mails(mails):
    return [await publish() for publish in [mails.publish]]


@pytest.mark.parametrize(
    "wait", [await_mail, enter_mails, iterate_mails, list_mails, collect_mails]
)
async def test_chain_however_a_handler_awaits(errors, wait):
    """C4.4, C5.2: what a handler awaits belongs to its chain, in whatever way it awaits it."""
    chains = []
    bus = EventBus(on_error=lambda failure: chains.append(failure.chain))

    class Order(Mails, Event):
        pass

    bus.subscribe(Order, wait)
    bus.subscribe(MailSent, raise_at_once)
    bus.publish_nowait(Order(bus))
    await join(bus)
    assert chains == [(Order, MailSent)]


async def test_chains_of_several_handlers_of_one_event(errors):
    """C4.4, C7: each is in the chain while it runs, and no task that it leaves behind is later."""
    chains, tasks, over = [], [], asyncio.Event()
    bus = EventBus(on_error=lambda failure: chains.append(failure.chain))

    def fail(event):
        raise Failure

    def leave_behind():
        async def later():
            await over.wait()
            await bus.publish(MailSent())

        tasks.append(asyncio.create_task(later()))

    async def at_once(event):
        leave_behind()
        await bus.publish(MailSent())

    async def without_await(event):
        leave_behind()

    async def waits(event):
        leave_behind()
        await asyncio.gather(bus.publish(MailSent()))
        await asyncio.sleep(0)
        await bus.publish(MailSent())

    async def last(event):
        await at_once(event)

    bus.subscribe(MailSent, fail)
    for handler in (at_once, lambda event: leave_behind(), without_await, waits, last):
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
    bus.subscribe(MailSent, raise_at_once)
    for _ in range(2):
        bus.publish_nowait(OrderPlaced())
        await join(bus)
    assert chains == [(OrderPlaced, MailSent)] * 2


@pytest.mark.parametrize("error", [Failure, asyncio.CancelledError])
@pytest.mark.parametrize("waits", ["never", "always", "at last"])
async def test_outcome_of_every_run(errors, waits, error):
    """C4.3-C4.5, C5.2: each run's failure is reported once, in the handler's context."""
    reported, tasks = [], []
    bus = EventBus(
        on_error=lambda failure: reported.append((var.get(), failure.event, failure.exception))
    )
    raised = [error() for _ in range(3)]

    async def handle(event):
        tasks.append(asyncio.current_task())
        var.set(event.number)
        if waits == "always" or (waits == "at last" and event.number == 2):
            await asyncio.sleep(0)
        raise raised[event.number]

    bus.subscribe(Numbered, handle)
    for number in range(3):
        bus.publish_nowait(Numbered(number))
        await join(bus)
    assert reported == [(number, Numbered(number), raised[number]) for number in range(3)]
    assert len(errors) == 3
    assert len(set(tasks)) == 3
    assert {task.get_name() for task in tasks} == {f"{__name__}.{handle.__qualname__}"}
    assert bus.pending == 0


async def test_on_error_that_raises_changes_nothing_else(errors):
    """C4.4, C5.2: an on_error that raises is logged too, and the other handlers run."""

    def on_error(failure):
        raise ZeroDivisionError

    bus, seen = EventBus(on_error=on_error), []
    for handler in (raise_at_once, raise_async, seen.append):
        bus.subscribe(OrderPlaced, handler)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert len(seen) == 2
    assert len(errors) == 8
    assert bus.pending == 0


def cancelled_at_once(event):
    raise asyncio.CancelledError


async def cancelled_async(event):
    raise asyncio.CancelledError


async def cancelled_later(event):
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


@pytest.mark.parametrize("factory", [None, plain_factory])
@pytest.mark.parametrize("handler", [cancelled_at_once, cancelled_async, cancelled_later])
async def test_own_cancelled_error_is_a_failure(errors, handler, factory):
    """C4.5, C5.2: a handler's own CancelledError is reported like any failure."""
    asyncio.get_running_loop().set_task_factory(factory)
    failures, seen = [], []
    bus = EventBus(on_error=failures.append)
    bus.subscribe(OrderPlaced, handler)
    bus.subscribe(OrderPlaced, seen.append)
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert [type(failure.exception) for failure in failures] == [asyncio.CancelledError]
    assert len(errors) == 1
    assert len(seen) == 1


@pytest.mark.parametrize("waits", [False, True])
async def test_handler_that_cancels_its_own_task_and_returns(errors, history, waits):
    """C4.4, C5.2: that is no failure: it has returned, in its first run and later."""
    bus, runs = EventBus(), []

    async def stop_everything(event):
        if waits:
            await asyncio.sleep(0)
        asyncio.current_task().cancel()
        runs.append(event)

    bus.subscribe(OrderPlaced, stop_everything)
    for _ in range(3):
        bus.publish_nowait(OrderPlaced())
        await join(bus)
    assert len(runs) == 3
    # Unless it waits for the first time after it never did: there it cannot be told from the next.
    assert len(errors) == (waits and history and EAGER)


async def test_outcome_that_somebody_else_has_asked_for(errors):
    """C4.5, C5.2: a cancelled handler is reported, even if its task has told that before."""
    bus, ended, tasks = EventBus(), asyncio.Event(), []

    async def handle(event):
        tasks.append(asyncio.current_task())
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    bus.subscribe(OrderPlaced, handle)
    for number in (1, 2):
        bus.publish_nowait(OrderPlaced())
        await until(lambda number=number: len(tasks) == number)
        tasks[-1].cancel()
        await ended.wait()
        with suppress(asyncio.CancelledError):
            await tasks[-1]
        await join(bus)
        assert len(errors) == number
        ended.clear()


@pytest.mark.parametrize("waits", ["never", "always", "at last"])
async def test_failure_is_reported_in_a_task_of_the_handlers_name(errors, waits):
    """C4.3, C4.4, C5.2: `on_error` and the log find one, in a handler's first run and later."""
    names = []
    bus = EventBus(on_error=lambda failure: names.append(asyncio.current_task().get_name()))

    async def handle(event):
        if waits == "always" or (waits == "at last" and event.number == 2):
            await asyncio.sleep(0)
        raise Failure

    bus.subscribe(Numbered, handle)
    for number in range(3):
        bus.publish_nowait(Numbered(number))
        await join(bus)
    assert names == [f"{__name__}.{handle.__qualname__}"] * 3
    assert [record.taskName for record in errors if hasattr(record, "taskName")] in (names, [])


@pytest.mark.parametrize("culprit", ["on_error", "log filter"])
@pytest.mark.parametrize("handler", [raise_at_once, raise_async, raise_later])
async def test_reporting_that_fails_stops_nobody(monkeypatch, handler, culprit):
    """C4.4, C5.2: the other handlers run all the same, and the loop is told."""
    told, seen = [], []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: told.append(type(context["exception"])))

    def fail(_):
        raise Fatal

    async def see(event):
        seen.append(event)

    logger = logging.getLogger(PACKAGE)
    if culprit == "on_error":
        bus = EventBus(on_error=fail)
        monkeypatch.setattr(logger, "disabled", True)  # pytest keeps the records
    else:
        bus = EventBus()
        monkeypatch.setattr(logger, "filters", [fail])
    for each in (handler, see, seen.append):
        bus.subscribe(OrderPlaced, each)
    for _ in range(2):
        bus.publish_nowait(OrderPlaced())
        await join(bus)
        await asyncio.sleep(0)
    gc.collect()  # when it goes, a task tells of what nobody has asked it for
    assert len(seen) == 4
    assert told == [Fatal] * 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_program_end_by_on_error(loop, errors, error):
    """C4.5, C5.2: what ends the program goes through, and loses no other event."""

    def end(failure):
        raise error

    bus, seen = EventBus(on_error=end), []
    bus.subscribe(OrderPlaced, raise_at_once)
    bus.subscribe(InvoiceIssued, seen.append)

    def publish():
        bus.publish_nowait(OrderPlaced())
        bus.publish_nowait(InvoiceIssued())

    loop.call_soon(publish)
    loop.call_later(PATIENCE, loop.stop)
    with pytest.raises(error):
        loop.run_forever()
    loop.run_until_complete(join(bus))
    assert len(seen) == len(errors) == 1


async def test_handler_that_cannot_be_started(errors, monkeypatch):
    """C4.4, C5.2: that is a failure of its own, and the others run."""
    failures, seen, started = [], [], []
    start = importlib.import_module(f"{PACKAGE}._backlog").start

    def start_at_second_try(loop, factory, body, *options):
        started.append(body)
        if len(started) > 1:
            return start(loop, factory, body, *options)
        body.close()
        raise MemoryError

    async def see(event):
        seen.append(event)

    bus = EventBus(on_error=failures.append)
    for handler in (functools.partial(see), see, seen.append):
        bus.subscribe(OrderPlaced, handler)
    monkeypatch.setattr(f"{PACKAGE}._backlog.start", start_at_second_try)
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert [type(failure.exception) for failure in failures] == [MemoryError]
    assert len(errors) == 1
    assert len(seen) == 2


async def test_handler_that_cannot_be_called(errors):
    """C4.4, C5.2: one whose signature lies fails alone, in its first run and later."""

    async def handle(event, session):
        pass

    handle.__signature__ = inspect.signature(lambda event: None)
    failures, seen = [], []
    bus = EventBus(on_error=failures.append)
    bus.subscribe(OrderPlaced, handle)
    bus.subscribe(OrderPlaced, seen.append)
    for _ in range(2):
        bus.publish_nowait(OrderPlaced())
        await join(bus)
    assert [type(failure.exception) for failure in failures] == [TypeError] * 2
    assert len(errors) == len(seen) == 2


@pytest.mark.parametrize("waits", [False, True])
async def test_on_error_finds_the_exception_being_handled(errors, waits):
    """C4.4, C5.2: `sys.exc_info()` in `on_error` is the failure, traceback included."""
    found = []

    def on_error(failure):
        exception = sys.exc_info()[1]
        code = exception.__traceback__.tb_next or exception.__traceback__
        found.append((exception is failure.exception, code.tb_frame.f_code.co_name))

    bus = EventBus(on_error=on_error)

    async def handle(event):
        if waits:
            await asyncio.sleep(0)
        raise Failure

    bus.subscribe(OrderPlaced, handle)
    for _ in range(3):
        bus.publish_nowait(OrderPlaced())
        await join(bus)
    assert found == [(True, "handle")] * 3


async def test_events_of_failed_handlers_are_not_kept_alive(bus, monkeypatch):
    """C4.8, C5.2: not even until the next garbage collection, whichever handler failed last."""
    monkeypatch.setattr(logging.getLogger(PACKAGE), "disabled", True)  # pytest keeps the records

    async def fail(event):
        raise Failure

    async def wait(event):
        await asyncio.sleep(0)

    bus.subscribe(OrderPlaced, fail)
    bus.subscribe(InvoiceIssued, fail)
    bus.subscribe(InvoiceIssued, wait)
    gc.collect()
    gc.disable()
    try:
        for event_type in (OrderPlaced, InvoiceIssued) * 2:
            event = event_type()
            alive = weakref.ref(event)
            bus.publish_nowait(event)
            del event
            await join(bus)
            await asyncio.sleep(0)
            assert alive() is None
    finally:
        gc.enable()


def cancel_next_task():
    """Have the loop cancel the next task that is made, before its first step."""
    loop = asyncio.get_running_loop()

    def cancelling_factory(loop, coro, **options):
        task = plain_factory(loop, coro, **options)
        task.cancel()
        loop.set_task_factory(None)
        return task

    loop.set_task_factory(cancelling_factory)


async def test_cancelled_before_the_first_step_is_a_failure(errors):
    """C4.5, C5.2: a handler whose task is cancelled before it could start is reported too."""
    failures, ran = [], []

    async def handle(event):
        ran.append(event)

    bus = EventBus(on_error=failures.append)
    bus.subscribe(OrderPlaced, handle)
    cancel_next_task()
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert ran == []
    assert [type(failure.exception) for failure in failures] == [asyncio.CancelledError]
    assert failures[0].chain == (OrderPlaced,)
    assert len(errors) == 1
    assert bus.pending == 0


async def test_cancelled_by_others_as_soon_as_its_task_is_there(errors):
    """C4.5, C5.2: so is one that others cancel at once, before its first step on Python 3.11."""
    failures = []

    async def handle(event):
        await asyncio.Event().wait()

    def cancel_others(me):
        for task in asyncio.all_tasks() - {me}:
            task.cancel()

    bus = EventBus(on_error=failures.append)
    bus.subscribe(OrderPlaced, handle)
    bus.publish_nowait(OrderPlaced())
    asyncio.get_running_loop().call_soon(cancel_others, asyncio.current_task())
    await join(bus)
    assert [type(failure.exception) for failure in failures] == [asyncio.CancelledError]
    assert failures[0].chain == (OrderPlaced,)
    assert len(errors) == 1
    assert bus.pending == 0


@pytest.mark.parametrize(
    "handler", [raise_at_once, raise_async, raise_later, raise_in_awaitable, None]
)
async def test_on_error_sees_the_context_of_the_event(handler):
    """C4.3, C5.2: on_error sees the context of the event, of a handler never started too."""
    values = []

    async def never_started(event):
        pass

    bus = EventBus(on_error=lambda failure: values.append(var.get()))
    bus.subscribe(InvoiceIssued, lambda event: None)
    bus.subscribe(OrderPlaced, handler or never_started)
    var.set("of an event before")
    bus.publish_nowait(InvoiceIssued())
    var.set("of this event")
    bus.publish_nowait(OrderPlaced())
    var.set("afterwards")
    if handler is None:
        cancel_next_task()
    await join(bus)
    assert values == ["of this event"]


async def test_cancelling_the_publisher_does_not_touch_the_event(bus, errors):
    """C5.2: the publisher's cancellation is not that of the handlers."""
    started, gate, finished = asyncio.Event(), asyncio.Event(), []

    async def handle(event):
        started.set()
        await gate.wait()
        finished.append(event)

    bus.subscribe(OrderPlaced, handle)

    async def publisher():
        bus.publish_nowait(OrderPlaced())
        await asyncio.Event().wait()

    publishing = asyncio.create_task(publisher())
    await started.wait()
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    gate.set()
    await join(bus)
    assert len(finished) == 1
    assert len(errors) == 0


@pytest.mark.parametrize("handled", [False, True])
async def test_what_is_no_event_instance_is_refused(bus, handled):
    """C4.7, C5.2: TypeError for what is not an Event instance; of a class it says "instance"."""
    if handled:
        bus.subscribe(OrderPlaced, lambda event: None)
    with pytest.raises(TypeError, match="instance"):
        bus.publish_nowait(OrderPlaced)
    with pytest.raises(TypeError):
        bus.publish_nowait("OrderPlaced")
    assert bus.pending == 0


# C5.3


@pytest.mark.parametrize("factory", [None, plain_factory])
async def test_running_handlers_survive_garbage_collection(bus, factory):
    """C5.3: a running handler that nothing else refers to is not collected half-way."""
    asyncio.get_running_loop().set_task_factory(factory)
    waiting, finished = [], []

    async def handle(event):
        future = asyncio.get_running_loop().create_future()
        waiting.append(weakref.ref(future))
        await future
        finished.append(event)

    bus.subscribe(OrderPlaced, handle)
    for _ in range(2):
        bus.publish_nowait(OrderPlaced())
    await until(lambda: len(waiting) == 2)
    gc.collect()
    for future in waiting:
        future().set_result(None)
    await join(bus)
    assert len(finished) == 2


async def test_queued_events_outlive_the_bus():
    """C5.3: an event that was accepted is delivered, even if the bus is dropped meanwhile."""
    bus, seen = EventBus(), []
    bus.subscribe(OrderPlaced, seen.append)
    bus.publish_nowait(OrderPlaced())
    del bus
    gc.collect()
    await asyncio.sleep(0)
    assert len(seen) == 1


async def test_pending_counts_events(bus):
    """C5.3: `pending` counts events, queued and running, not their handlers."""
    started, finished, gates = [], [], [asyncio.Event(), asyncio.Event()]

    async def first(event):
        started.append(event)
        await gates[0].wait()
        finished.append(event)

    async def second(event):
        started.append(event)
        await gates[1].wait()

    for handler in (first, second, lambda event: None):
        bus.subscribe(OrderPlaced, handler)
    bus.subscribe(InvoiceIssued, lambda event: gates[0].set())
    assert bus.pending == 0
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(OrderPlaced())
    assert bus.pending == 2  # queued
    await until(lambda: len(started) == 4)
    assert bus.pending == 2  # running
    bus.publish_nowait(InvoiceIssued())
    assert bus.pending == 3  # both
    await until(lambda: bus.pending < 3 and len(finished) == 2)
    await asyncio.sleep(0)
    assert bus.pending == 2  # each with one of its handlers finished
    gates[1].set()
    await join(bus)
    assert bus.pending == 0


@pytest.mark.parametrize(
    "handler",
    [raise_at_once, raise_async, raise_later, raise_in_awaitable, cancelled_at_once],
)
async def test_failed_events_are_not_pending(bus, handler):
    """C5.3: an event whose handlers have failed is finished."""
    bus.subscribe(OrderPlaced, handler)
    for _ in range(3):
        bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert bus.pending == 0


async def test_awaited_publishes_are_not_pending(bus):
    """C5.3: an awaited publish is its caller's."""
    seen = []

    async def handle(event):
        await asyncio.sleep(0)
        seen.append(bus.pending)

    bus.subscribe(OrderPlaced, handle)
    await bus.publish(OrderPlaced())
    assert seen == [0]


# C5.4


async def count_turns(bus):
    """Join the bus, and return how many turns other callbacks of the loop had meanwhile."""
    loop, turns = asyncio.get_running_loop(), 0

    def turn():
        nonlocal turns
        if bus.pending:
            turns += 1
            loop.call_soon(turn)

    loop.call_soon(turn)
    async with asyncio.timeout(60):
        await bus.join()
    return turns


async def test_a_burst_does_not_hold_the_loop(bus):
    """C5.4: during 200,000 events other callbacks of the loop get their turn."""
    seen, event = [], OrderPlaced()
    bus.subscribe(OrderPlaced, seen.append)
    for _ in range(200_000):
        bus.publish_nowait(event)
    assert await count_turns(bus) >= 20
    assert len(seen) == 200_000


async def test_a_burst_of_async_handlers_does_not_hold_the_loop(bus):
    """C5.4: so they do during a burst of async handlers that never wait."""
    seen, event = [], OrderPlaced()

    async def handle(event):
        seen.append(event)

    bus.subscribe(OrderPlaced, handle)
    for _ in range(4000):
        bus.publish_nowait(event)
    assert await count_turns(bus) >= 20
    assert len(seen) == 4000


async def test_handlers_count_towards_the_bound(bus):
    """C5.4: a few events with a thousand handlers each do not hold the loop either."""
    seen, event = [], OrderPlaced()
    for _ in range(1000):
        bus.subscribe(OrderPlaced, lambda event: seen.append(event))
    for _ in range(40):
        bus.publish_nowait(event)
    assert await count_turns(bus) >= 20
    assert len(seen) == 40_000


async def test_a_chain_without_end_does_not_hold_the_loop(bus):
    """C5.4: a handler that publishes its own event again, for ever, leaves turns to others."""
    left = 100_000

    def publish_again(event):
        nonlocal left
        left -= 1
        if left > 0:
            bus.publish_nowait(event)

    bus.subscribe(OrderPlaced, publish_again)
    bus.publish_nowait(OrderPlaced())
    for _ in range(20):
        await asyncio.sleep(0)
    assert left > 0
    assert bus.pending == 1
    left = 0
    await join(bus)


# C5.5


@pytest.mark.parametrize("handled", [False, True])
def test_without_a_running_loop(bus, handled):
    """C5.5: RuntimeError without a running loop; the message names the remedy."""
    if handled:
        bus.subscribe(OrderPlaced, lambda event: None)
    with pytest.raises(RuntimeError, match=r"loop\.call_soon_threadsafe\(bus\.publish_nowait"):
        bus.publish_nowait(OrderPlaced())
    assert bus.pending == 0


async def test_from_a_thread_without_a_loop(bus):
    """C5.5: RuntimeError from another thread, although the loop is running in this one."""
    seen, caught = [], []
    bus.subscribe(OrderPlaced, seen.append)

    def publish():
        try:
            bus.publish_nowait(OrderPlaced())
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=publish)
    thread.start()
    thread.join()
    assert "call_soon_threadsafe" in caught[0]
    await join(bus)
    assert seen == []


async def test_max_pending_refuses_and_loses_nothing():
    """C5.5: beyond max_pending QueueFull; what was accepted is delivered, and room is again."""
    bus, seen = EventBus(max_pending=3), []
    bus.subscribe(Numbered, lambda event: seen.append(event.number))
    for number in range(3):
        bus.publish_nowait(Numbered(number))
    for _ in range(2):
        with pytest.raises(asyncio.QueueFull, match="max_pending=3"):
            bus.publish_nowait(Numbered(99))
    assert bus.pending == 3
    await join(bus)
    for number in range(3, 6):
        bus.publish_nowait(Numbered(number))
    await join(bus)
    assert seen == [0, 1, 2, 3, 4, 5]


async def test_running_handlers_count_for_max_pending():
    """C5.5: an event whose handler is still running takes its place until it has finished."""
    bus, started, gate = EventBus(max_pending=1), asyncio.Event(), asyncio.Event()

    async def handle(event):
        started.set()
        await gate.wait()

    bus.subscribe(OrderPlaced, handle)
    bus.publish_nowait(OrderPlaced())
    await started.wait()
    with pytest.raises(asyncio.QueueFull):
        bus.publish_nowait(OrderPlaced())
    await bus.publish(InvoiceIssued())
    gate.set()
    await join(bus)
    bus.publish_nowait(OrderPlaced())
    await join(bus)


async def test_max_pending_in_a_handler(errors):
    """C5.5: QueueFull in a handler is that handler's failure; awaited publishes have no limit."""
    failures, seen = [], []
    bus = EventBus(max_pending=1, on_error=failures.append)

    async def full(event):
        await bus.publish(InvoiceIssued())
        bus.publish_nowait(InvoiceIssued())

    bus.subscribe(OrderPlaced, full)
    bus.subscribe(InvoiceIssued, seen.append)
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert len(seen) == 1
    assert [type(failure.exception) for failure in failures] == [asyncio.QueueFull]


async def test_unhandled_event_is_accepted_and_not_counted():
    """C1.3, C5.5: an event that nobody handles takes no place, and is accepted at max_pending."""
    bus = EventBus(max_pending=1)
    bus.publish_nowait(InvoiceIssued())
    assert bus.pending == 0
    bus.subscribe(OrderPlaced, lambda event: None)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    bus.publish_nowait(MailSent())
    assert bus.pending == 1
    await join(bus)


# What ends the program, or should


def raising(error, kind):
    """Return a handler that raises `error`."""

    def sync(event):
        raise error

    async def at_once(event):
        raise error

    async def later(event):
        await asyncio.sleep(0)
        raise error

    return {"sync": sync, "async": at_once, "later": later}[kind]


with_kinds = pytest.mark.parametrize("kind", ["sync", "async", "later"])


@with_kinds
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_program_end_stops_the_loop_and_loses_no_other_event(bus, loop, errors, error, kind):
    """C4.5, C5.3: KeyboardInterrupt and SystemExit leave the loop; other events stay queued."""
    seen, started, gate = [], [], asyncio.Event()
    loop.set_exception_handler(lambda loop, context: None)  # "exception was never retrieved"

    async def wait(event):
        started.append(event)
        await gate.wait()
        seen.append(event)

    bus.subscribe(InvoiceIssued, wait)
    bus.subscribe(Numbered, lambda event: seen.append(event.number))
    bus.subscribe(OrderPlaced, raising(error, kind))

    def publish():
        bus.publish_nowait(InvoiceIssued())
        for number in range(200):
            bus.publish_nowait(Numbered(number))
        bus.publish_nowait(OrderPlaced())
        for number in range(200, 400):
            bus.publish_nowait(Numbered(number))

    loop.call_soon(publish)
    loop.call_later(PATIENCE, loop.stop)
    with pytest.raises(error):
        loop.run_forever()
    assert len(started) == 1

    async def go_on():
        gate.set()
        await join(bus)
        assert bus.pending == 0
        bus.publish_nowait(Numbered(400))
        await join(bus)

    loop.run_until_complete(go_on())
    assert sorted(number for number in seen if isinstance(number, int)) == list(range(401))
    assert started[0] in seen
    assert len(errors) == 0
    gc.collect()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_program_end_by_the_only_event(bus, loop, kind):
    """C4.5, C5.3: an event that ended the program is finished, and the next one is delivered."""
    loop.set_exception_handler(lambda loop, context: None)
    bus.subscribe(OrderPlaced, raising(KeyboardInterrupt, kind))
    loop.call_soon(bus.publish_nowait, OrderPlaced())
    loop.call_later(PATIENCE, loop.stop)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    seen = []
    bus.subscribe(Numbered, seen.append)

    async def go_on():
        assert bus.pending == 0
        bus.publish_nowait(Numbered(1))
        await join(bus)

    loop.run_until_complete(go_on())
    assert seen == [Numbered(1)]
    gc.collect()


@with_kinds
async def test_other_base_exceptions_go_to_the_loop(bus, errors, kind):
    """C4.5, C5.2: another BaseException is the loop's exception handler's, and stops no event."""
    contexts, seen = [], []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: contexts.append(context))
    bus.subscribe(OrderPlaced, raising(Fatal, kind))
    bus.subscribe(InvoiceIssued, seen.append)
    bus.publish_nowait(InvoiceIssued())
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    await join(bus)
    assert bus.pending == 0
    assert len(seen) == 2
    gc.collect()
    assert [type(context["exception"]) for context in contexts] == [Fatal]
    assert len(errors) == 0


async def test_running_handler_outlives_its_bus():
    """C5.3: a handler that waits for what nobody else holds outlives its bus, uncollected."""
    log, futures = [], []

    async def handler(event):
        future = asyncio.get_running_loop().create_future()
        futures.append(weakref.ref(future))
        await future
        log.append("finished")

    bus = EventBus()
    bus.subscribe(OrderPlaced, handler)
    bus.publish_nowait(OrderPlaced())
    while not futures:
        await asyncio.sleep(0)
    del bus
    gc.collect()
    assert futures[0]() is not None
    futures[0]().set_result(None)
    await asyncio.sleep(0)
    assert log == ["finished"]
    await asyncio.sleep(0)
    gc.collect()
    assert futures[0]() is None


# Loops that refuse, and task factories that interfere


@pytest.mark.parametrize("is_async", [False, True])
def test_loop_that_refuses_the_next_drain(errors, is_async):
    """C5.3: events that a failing `call_soon` leaves in the queue are handled by the next drain."""

    class ExhaustedLoop(asyncio.SelectorEventLoop):
        exhausted = False

        def call_soon(self, callback, *args, context=None):
            if self.exhausted and type(getattr(callback, "__self__", None)).__name__ == "Backlog":
                self.exhausted = False
                raise MemoryError
            return super().call_soon(callback, *args, context=context)

    bus, got = EventBus(), []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: None)

        def handle(event):
            got.append(event.number)
            if event.number == 0:
                loop.exhausted = True

        async def handle_async(event):
            handle(event)

        bus.subscribe(Numbered, handle_async if is_async else handle)
        for number in range(300):
            bus.publish_nowait(Numbered(number))
        await join(bus)
        assert got == list(range(300))
        loop.exhausted = True
        with pytest.raises(MemoryError):
            bus.publish_nowait(Numbered(0))
        assert bus.pending == 0

    with asyncio.Runner(loop_factory=ExhaustedLoop) as runner:
        runner.run(main())


async def test_factory_sees_the_context_of_the_event(bus):
    """C4.9, C5.2: a task factory is called in the context of the moment, as for `publish`."""
    seen = []

    def factory(loop, coro, **options):
        seen.append(var.get())
        return asyncio.Task(coro, loop=loop, **options)

    async def handler(event):
        await asyncio.sleep(0)

    bus.subscribe(OrderPlaced, handler)
    asyncio.get_running_loop().set_task_factory(factory)
    for value in ("one", "two"):
        var.set(value)
        bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert seen == ["one", "two"]


async def test_factory_that_fails_is_one_handlers_failure(errors):
    """C4.4, C4.9: the other handlers of the event run, and the failure is reported."""
    failures, got, calls = [], [], []
    bus = EventBus(on_error=failures.append)

    def factory(loop, coro, **options):
        calls.append(coro)
        if len(calls) == 2:
            raise Failure
        return asyncio.Task(coro, loop=loop, **options)

    def make(name):
        async def handler(event):
            got.append(name)

        return handler

    for name in ("first", "second", "third"):
        bus.subscribe(OrderPlaced, make(name))
    asyncio.get_running_loop().set_task_factory(factory)
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert got == ["first", "third"]
    assert [type(failure.exception) for failure in failures] == [Failure]
    assert len(errors) == 1


async def test_wrapper_cancelled_after_the_handler(bus, errors):
    """C4.5: a wrapper of the factory's that ends as cancelled is no failure of its handler."""
    done = []

    async def wrap(coro):
        await coro
        raise asyncio.CancelledError

    async def handler(event):
        await asyncio.sleep(0)
        done.append(event)

    bus.subscribe(OrderPlaced, handler)
    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coro, **options: plain_factory(loop, wrap(coro), **options))
    bus.publish_nowait(OrderPlaced())
    loop.set_task_factory(None)
    await until(lambda: done or not bus.pending)
    loop.set_task_factory(lambda loop, coro, **options: plain_factory(loop, wrap(coro), **options))
    bus.publish_nowait(OrderPlaced())
    await asyncio.sleep(0)
    loop.set_task_factory(None)
    await join(bus)
    assert len(done) == 2
    assert len(errors) == 0


async def test_drains_keep_no_context(bus):
    """C4.8: what goes on for ever does not hold on to the context of its first publisher."""

    class Value:
        pass

    rounds = 0

    def go_on(event):
        nonlocal rounds
        rounds += 1
        bus.publish_nowait(OrderPlaced())

    def begin():
        value = Value()
        var.set(value)
        bus.publish_nowait(InvoiceIssued())
        return weakref.ref(value)

    def start(event):
        contextvars.Context().run(bus.publish_nowait, OrderPlaced())

    bus.subscribe(InvoiceIssued, start)
    bus.subscribe(OrderPlaced, go_on)
    value = contextvars.copy_context().run(begin)
    await until(lambda: rounds > 10)
    gc.collect()
    assert value() is None
    await bus.aclose(timeout=0)
