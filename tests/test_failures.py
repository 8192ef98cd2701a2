# SPDX-License-Identifier: MIT
"""C4.4: a failure is logged once, then reported, and touches nobody else."""

import asyncio
import gc
import inspect
import logging
import sys

import pytest
from support import (
    FAILING,
    PATIENCE,
    Failure,
    InvoiceIssued,
    Numbered,
    OrderPlaced,
    Stop,
    cancel_next_task,
    every_failure,
    every_way,
    fail_early,
    fail_late,
    fail_sync,
    forever,
    join,
    tenant,
    until,
    use,
    with_and_without_factories,
)
from target import PACKAGE, Event, EventBus

# Once, and alone


@every_failure
@every_way
@with_and_without_factories
async def test_failure_is_reported_once(bus, failures, errors, fail, publish, factory):
    """C4.4: one ERROR record with its traceback, then one call of `on_error`."""
    use(factory)
    bus.subscribe(OrderPlaced, fail)
    event = OrderPlaced()
    await publish(bus, event)

    (failure,) = failures
    assert failure.event is event
    assert failure.handler is bus.handlers(OrderPlaced)[0]
    assert failure.handler.callback is fail
    assert type(failure.exception) is Failure
    assert failure.chain == (OrderPlaced,)

    (record,) = errors
    assert record.levelname == "ERROR"
    assert failure.handler.name in record.getMessage()
    assert fail.__name__ in record.getMessage()
    assert "OrderPlaced" in record.getMessage()
    assert record.exc_info[1] is failure.exception
    traceback = failure.exception.__traceback__
    while traceback.tb_next:
        traceback = traceback.tb_next
    assert traceback.tb_frame.f_code.co_name in (fail.__name__, "fail_late")


@every_failure
async def test_failure_touches_neither_siblings_nor_publisher(bus, errors, fail):
    """C4.4: the handlers before and after the one that fails all finish, and so does publish."""
    log = []

    async def waiting(event):
        log.append("started")
        await asyncio.sleep(0)
        log.append("finished")

    bus.subscribe(OrderPlaced, waiting)
    bus.subscribe(OrderPlaced, lambda event: log.append("sync"))
    bus.subscribe(OrderPlaced, fail)
    bus.subscribe(OrderPlaced, lambda event: log.append("sync"))
    bus.subscribe(OrderPlaced, lambda event: waiting(event))
    await bus.publish(OrderPlaced())
    assert sorted(log) == ["finished", "finished", "started", "started", "sync", "sync"]
    assert asyncio.current_task().cancelling() == 0
    assert len(errors) == 1


async def test_every_failing_handler_is_reported(bus, errors):
    """C4.4: of several handlers that fail, each one is logged."""
    for fail in FAILING:
        bus.subscribe(OrderPlaced, fail)
    await bus.publish(OrderPlaced())
    messages = " ".join(record.getMessage() for record in errors)
    assert len(errors) == 4
    assert all(handler.name in messages for handler in bus.handlers(OrderPlaced))


@every_failure
@every_way
async def test_payload_is_not_logged(bus, errors, fail, publish):
    """C4.4: the message has the event's type, not its payload."""

    class Payment(Event):
        def __init__(self):
            self.card = "4111-1111"

        def __repr__(self):
            return self.card

    bus.subscribe(Payment, fail)
    await publish(bus, Payment())
    (record,) = errors
    assert "Payment" in record.getMessage()
    assert "4111" not in record.getMessage()


async def test_failure_is_logged_while_siblings_run(errors):
    """C4.4: a failure is reported at once, not when the slowest sibling has finished."""
    failed = asyncio.Event()
    bus = EventBus(on_error=lambda failure: failed.set())
    log = []

    async def patient(event):
        await failed.wait()
        log.append(len(errors))

    bus.subscribe(OrderPlaced, patient)
    bus.subscribe(OrderPlaced, fail_late)
    async with asyncio.timeout(PATIENCE):
        await bus.publish(OrderPlaced())
    assert log == [1]


async def test_failure_after_a_nested_publish_is_its_own_handler_s(bus, errors):
    """C4.4: a handler whose nested publish has a failing handler does not fail itself."""
    log = []

    async def issue(event):
        await bus.publish(InvoiceIssued())
        log.append("issued")

    bus.subscribe(OrderPlaced, issue)
    bus.subscribe(InvoiceIssued, fail_late)
    await bus.publish(OrderPlaced())
    assert log == ["issued"]
    assert [record.exc_info[0] for record in errors] == [Failure]


@pytest.mark.parametrize("error", [Failure, asyncio.CancelledError])
@pytest.mark.parametrize("waits", ["never", "always", "at last"])
async def test_outcome_of_every_run(errors, waits, error):
    """C4.3-C4.5, C5.2: each run's failure is reported once, in the handler's context."""
    reported, tasks = [], []
    bus = EventBus(
        on_error=lambda failure: reported.append((tenant.get(), failure.event, failure.exception))
    )
    raised = [error() for _ in range(3)]

    async def handle(event):
        tasks.append(asyncio.current_task())
        tenant.set(event.number)
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


async def test_handler_that_cannot_be_called(bus, failures, errors):
    """C4.4, C5.2: one whose signature lies fails alone, in its first run and later."""

    async def handle(event, session):
        pass

    handle.__signature__ = inspect.signature(lambda event: None)
    seen = []
    bus.subscribe(OrderPlaced, handle)
    bus.subscribe(OrderPlaced, seen.append)
    for _ in range(2):
        bus.publish_nowait(OrderPlaced())
        await join(bus)
    assert [type(failure.exception) for failure in failures] == [TypeError] * 2
    assert len(errors) == len(seen) == 2


# on_error


async def test_failure_is_logged_before_on_error(errors):
    """C4.4: `on_error` finds the failure in the log."""
    found = []
    bus = EventBus(on_error=lambda failure: found.append(len(errors)))
    for fail in (fail_sync, fail_late):
        bus.subscribe(OrderPlaced, fail)
    await bus.publish(OrderPlaced())
    assert found == [1, 2]


@every_failure
@every_way
@pytest.mark.parametrize("error", [ValueError("on_error is broken"), asyncio.CancelledError()])
async def test_on_error_that_raises_is_logged(errors, fail, publish, error):
    """C4.4: what `on_error` raises is logged too, and changes nothing else."""

    def on_error(failure):
        raise error

    bus = EventBus(on_error=on_error)
    seen = []
    bus.subscribe(OrderPlaced, fail)
    bus.subscribe(OrderPlaced, seen.append)
    for number in (1, 2):
        await publish(bus, OrderPlaced())
        assert len(seen) == number
        assert [record.levelname for record in errors] == ["ERROR", "ERROR"] * number
        assert isinstance(errors[-2].exc_info[1], Failure)
        assert errors[-1].exc_info[1] is error
    assert bus.pending == 0


@every_failure
@pytest.mark.parametrize("alone", [True, False])
async def test_on_error_runs_in_the_context_of_the_handler(fail, alone):
    """C4.4: `on_error` sees what the failing handler has set, and the handler's task."""
    seen = []

    def on_error(failure):
        seen.append((tenant.get(), asyncio.current_task().get_name()))
        tenant.set("on_error")

    bus = EventBus(on_error=on_error)

    def set_and_fail(event):
        tenant.set("handler")
        return fail(event)

    async def set_and_fail_async(event):
        tenant.set("handler")
        await fail(event)

    is_async = fail in (fail_early, fail_late)
    bus.subscribe(OrderPlaced, set_and_fail_async if is_async else set_and_fail)

    async def set_another(event):
        tenant.set("other")
        await asyncio.sleep(0)

    if not alone:
        bus.subscribe(OrderPlaced, set_another)
    tenant.set("publisher")
    await bus.publish(OrderPlaced())
    ((value, task),) = seen
    assert value == "handler"
    assert task == bus.handlers(OrderPlaced)[0].name or fail is fail_sync
    assert tenant.get() == "publisher"


@pytest.mark.parametrize("handler", [*FAILING, forever])
async def test_on_error_sees_the_context_of_the_event(handler):
    """C4.3, C5.2: on_error sees the context of the event, of a handler never started too."""
    values = []

    bus = EventBus(on_error=lambda failure: values.append(tenant.get()))
    bus.subscribe(InvoiceIssued, lambda event: None)
    bus.subscribe(OrderPlaced, handler)
    tenant.set("of an event before")
    bus.publish_nowait(InvoiceIssued())
    tenant.set("of this event")
    bus.publish_nowait(OrderPlaced())
    tenant.set("afterwards")
    if handler is forever:
        cancel_next_task()
    await join(bus)
    assert values == ["of this event"]


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


@pytest.mark.parametrize("culprit", ["on_error", "log filter"])
@pytest.mark.parametrize("handler", [fail_sync, fail_early, fail_late])
async def test_reporting_that_fails_stops_nobody(monkeypatch, handler, culprit):
    """C4.4, C5.2: the other handlers run all the same, and the loop is told."""
    told, seen = [], []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: told.append(type(context["exception"])))

    def fail(_):
        raise Stop

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
    assert told == [Stop] * 2


@with_and_without_factories
async def test_failure_after_the_publisher_was_closed(bus, failures, errors, factory):
    """C4.4: handlers go on when the publishing coroutine is thrown away, and fail loudly."""
    going = asyncio.Event()

    async def wait_and_fail(event):
        await going.wait()
        raise Failure

    bus.subscribe(OrderPlaced, wait_and_fail)
    use(factory)
    coroutine = bus.publish(OrderPlaced())
    coroutine.send(None)
    coroutine.close()
    going.set()
    await until(lambda: failures)
    assert type(failures[0].exception) is Failure
    assert type(failures[0].event) is OrderPlaced
    assert failures[0].chain == (OrderPlaced,)
    assert len(errors) == 1
