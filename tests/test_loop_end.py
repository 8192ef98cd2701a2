# SPDX-License-Identifier: MIT
"""C5.7: what a loop's end cuts short is told at that end, once, with the remedy."""

import asyncio
import contextlib
import gc
import json
import logging
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from support import (
    InvoiceIssued,
    Numbered,
    OrderPlaced,
    cancel_tasks_of,
    do_nothing,
    forever,
    join,
    turns,
    until,
    use,
    with_and_without_factories,
    with_and_without_plain_factory,
    with_unwrapped_tasks,
)
from target import PACKAGE, EventBus, package

ROOT = Path(package.__file__).parents[len(PACKAGE.split("."))]


def run(main, factory=None):
    """Run `main` as a program would, and let go of what is left of it."""

    async def program():
        use(factory)
        await main()

    try:
        asyncio.run(program(), debug=False)
    finally:
        gc.collect()


def the_message(errors):
    """Return the message of the one record that there is."""
    (record,) = errors
    assert record.levelno == logging.ERROR
    assert record.name == PACKAGE
    message = record.getMessage()
    assert "aclose" in message
    return message


async def shielded(event):
    """A handler whose clean-up takes a few turns of the loop."""
    try:
        await asyncio.Event().wait()
    finally:
        await turns(3)


async def gathering(count, event):
    """A handler whose clean-up makes tasks, which end after so many turns of the loop."""
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.gather(turns(count), turns(1))


async def nested(bus, event):
    """A handler that waits for a publish of its own."""
    await bus.publish(InvoiceIssued())


# Cut short


@pytest.mark.parametrize("count", [1, 3])
@with_and_without_factories
def test_running_handlers_are_told_of_once(bus, failures, errors, count, factory):
    """C5.7: in one record, with their number and names; none is a failure besides."""

    async def main():
        for _ in range(count):
            bus.publish_nowait(OrderPlaced())
        await turns()

    bus.subscribe(OrderPlaced, forever)
    bus.subscribe(OrderPlaced, shielded)
    run(main, factory)
    message = the_message(errors)
    assert str(2 * count) in message
    assert message.count("forever") == message.count("shielded") == count
    assert failures == []


@with_unwrapped_tasks
def test_handlers_of_the_last_moment_are_told_of(bus, failures, errors, factory):
    """C5.7: those of an event that was published right before the end, too."""

    async def main():
        bus.publish_nowait(OrderPlaced())

    bus.subscribe(OrderPlaced, forever)
    run(main, factory)
    message = the_message(errors)
    assert "forever" in message or "OrderPlaced" in message
    assert failures == []


@with_and_without_factories
def test_local_bus_is_told_of(errors, factory):
    """C5.7: a bus that only the program knew does not take the message with it."""
    failures = []

    async def main():
        bus = EventBus(on_error=failures.append)
        bus.subscribe(OrderPlaced, forever)
        bus.publish_nowait(OrderPlaced())
        await turns()

    run(main, factory)
    message = the_message(errors)
    assert "1" in message
    assert "forever" in message
    assert failures == []


def test_told_before_the_program_goes_on(errors):
    """C5.7: at the end of that loop, not when somebody comes across it later."""
    buses = [EventBus()]

    async def main():
        buses.append(EventBus())
        for bus in buses:
            bus.subscribe(OrderPlaced, forever)
            bus.publish_nowait(OrderPlaced())
        del bus
        buses.pop()
        await turns()

    gc.disable()
    try:
        asyncio.run(main())
        assert len(errors) == 2
        gc.collect()
        assert len(errors) == 2
    finally:
        gc.enable()


def test_told_once_though_the_bus_is_used_again(bus, errors):
    """C5.7, C5.6: the next loop does not repeat it, and finds the bus as good as new."""
    seen = []
    bus.subscribe(OrderPlaced, forever)
    bus.subscribe(InvoiceIssued, seen.append)

    async def cut_short():
        bus.publish_nowait(OrderPlaced())
        await turns()

    async def complete():
        assert bus.pending == 0
        bus.publish_nowait(InvoiceIssued())
        await join(bus)

    run(cut_short)
    the_message(errors)
    for _ in range(2):
        run(complete)
    assert len(seen) == 2
    the_message(errors)
    run(cut_short)
    assert len(errors) == 2


def test_queued_events_are_told_of(bus, errors):
    """C5.7: events that no handler was called for are counted by type."""

    async def main():
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)
        for _ in range(2000):
            bus.publish_nowait(OrderPlaced())
        for _ in range(3):
            bus.publish_nowait(InvoiceIssued())

    bus.subscribe(OrderPlaced, do_nothing)
    bus.subscribe(InvoiceIssued, do_nothing)
    run(main)
    message = the_message(errors)
    assert "InvoiceIssued" in message
    assert "3" in message
    assert "OrderPlaced" in message


def test_queued_and_running(bus, failures, errors):
    """C5.7: both are in one record."""

    async def main():
        bus.publish_nowait(OrderPlaced())
        await turns()
        for _ in range(2000):
            bus.publish_nowait(InvoiceIssued())

    bus.subscribe(OrderPlaced, forever)
    bus.subscribe(InvoiceIssued, do_nothing)
    run(main)
    message = the_message(errors)
    assert "forever" in message
    assert "InvoiceIssued" in message
    assert failures == []


@with_and_without_factories
def test_nested_publishes_are_part_of_it(bus, failures, errors, factory):
    """C5.7: who waits for a publish of its own is cut short, and no handler of that fails."""

    async def main():
        bus.publish_nowait(OrderPlaced())
        await turns(10)

    bus.subscribe(OrderPlaced, partial(nested, bus))
    bus.subscribe(InvoiceIssued, forever)
    bus.subscribe(InvoiceIssued, shielded)
    run(main, factory)
    assert "nested" in the_message(errors)
    assert failures == []


@with_and_without_plain_factory
def test_disguised_handlers(bus, failures, errors, factory):
    """C5.7, C3: what a sync handler has returned is cut short like an async one."""

    async def main():
        for _ in range(2):
            bus.publish_nowait(OrderPlaced())
            await turns()

    bus.subscribe(OrderPlaced, lambda event: forever(event))
    run(main, factory)
    assert the_message(errors).count("lambda") == 2
    assert failures == []


def test_handlers_of_an_awaited_publish_are_not_counted(bus, failures, errors):
    """C5.7, C4.5: with its publisher cancelled, an awaited handler is nobody's loss or failure."""

    async def main():
        publisher = asyncio.create_task(bus.publish(OrderPlaced()))
        await turns()
        assert not publisher.done()

    bus.subscribe(OrderPlaced, forever)
    run(main)
    assert [record.getMessage() for record in errors] == []
    assert failures == []


def test_handler_that_fails_at_the_end(bus, failures, errors):
    """C5.7, C4.4: an exception in a clean-up is a failure of the handler, at the end as well."""

    async def fail(event):
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError("clean-up")

    async def main():
        bus.publish_nowait(OrderPlaced())
        await turns()

    bus.subscribe(OrderPlaced, forever)
    bus.subscribe(OrderPlaced, fail)
    run(main)
    assert [type(failure.exception) for failure in failures] == [LookupError]
    assert len(errors) == 2
    (told,) = [record.getMessage() for record in errors if "aclose" in record.getMessage()]
    assert "forever" in told


def test_handler_that_goes_on_and_finishes(bus, failures, errors):
    """C5.7: one that swallows its cancellation and finishes is not cut short."""
    finished = []

    async def finish(event):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await turns(3)
        finished.append(event)

    async def main():
        bus.publish_nowait(OrderPlaced())
        await turns()

    bus.subscribe(OrderPlaced, finish)
    run(main)
    assert len(finished) == 1
    assert failures == []
    assert [record.getMessage() for record in errors] == []


def test_each_bus_tells_its_own(errors):
    """C5.7: a record for each bus that has lost something, none for the others."""
    buses = [EventBus() for _ in range(3)]

    async def main():
        for bus, handler in zip(buses, [forever, do_nothing, forever], strict=True):
            bus.subscribe(OrderPlaced, handler)
            bus.publish_nowait(OrderPlaced())
        await turns()

    run(main)
    assert len(errors) == 2
    assert all("forever" in record.getMessage() for record in errors)


@with_and_without_plain_factory
def test_a_thousand_handlers(bus, failures, errors, factory):
    """C5.7: many are told of in one record, and quickly."""

    async def main():
        for number in range(1000):
            bus.publish_nowait(Numbered(number))
        await until(lambda: len(started) == 1000)

    started = []

    async def wait(event):
        started.append(event)
        await asyncio.Event().wait()

    bus.subscribe(Numbered, wait)
    before = time.process_time()
    run(main, factory)
    assert time.process_time() - before < 3
    assert "1000" in the_message(errors)
    assert failures == []


# The end of the program


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@with_and_without_factories
def test_program_ended_by_its_main_task(bus, failures, errors, factory, error):
    """C5.7: after `sys.exit` in the main task, or Ctrl-C, it is told just the same."""

    async def main():
        bus.publish_nowait(OrderPlaced())
        await turns()
        raise error

    bus.subscribe(OrderPlaced, forever)
    with pytest.raises(error):
        run(main, factory)
    assert "forever" in the_message(errors)
    assert failures == []


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("background", [False, True])
@with_and_without_factories
def test_program_ended_by_a_handler(bus, failures, errors, factory, background, waits):
    """C5.7: after `sys.exit` in a handler, awaited or not, sync or not."""

    async def leave_late(event):
        await turns()
        sys.exit(3)

    def leave(event):
        sys.exit(3)

    async def main():
        bus.publish_nowait(OrderPlaced())
        await turns()
        if background:
            bus.publish_nowait(InvoiceIssued())
            await asyncio.Event().wait()
        await bus.publish(InvoiceIssued())

    bus.subscribe(OrderPlaced, forever)
    bus.subscribe(InvoiceIssued, leave_late if waits else leave)
    with pytest.raises(SystemExit):
        run(main, factory)
    assert "forever" in the_message(errors)
    assert failures == []


def test_main_task_that_fails(bus, failures, errors):
    """C5.7: after an exception of the program, too."""

    async def main():
        bus.publish_nowait(OrderPlaced())
        await turns()
        raise LookupError

    bus.subscribe(OrderPlaced, forever)
    with pytest.raises(LookupError):
        run(main)
    assert "forever" in the_message(errors)
    assert failures == []


# Nothing to tell


@with_and_without_factories
def test_nothing_is_told_of_finished_work(errors, factory):
    """C5.7: a program whose work is done needs no `aclose`."""
    seen = []

    async def note(event):
        await turns(2)
        seen.append(event)

    async def main():
        bus = EventBus()
        bus.subscribe(OrderPlaced, note)
        bus.subscribe(OrderPlaced, seen.append)
        bus.publish_nowait(OrderPlaced())
        await until(lambda: len(seen) == 2)
        await turns()

    run(main, factory)
    assert [record.getMessage() for record in errors] == []


@pytest.mark.parametrize("leave", ["aclose", "join", "async with"])
@with_unwrapped_tasks
def test_nothing_is_told_after_the_remedy(errors, factory, leave):
    """C5.7: nor is anything where the program has waited for its work."""
    seen = []

    async def note(event):
        await turns()
        seen.append(event)

    async def main():
        bus = EventBus()
        bus.subscribe(OrderPlaced, note)
        if leave == "async with":
            async with bus:
                bus.publish_nowait(OrderPlaced())
            return
        bus.publish_nowait(OrderPlaced())
        await getattr(bus, leave)()

    run(main, factory)
    assert len(seen) == 1
    assert [record.getMessage() for record in errors] == []


def test_nothing_is_told_twice_after_a_close_with_timeout(bus, errors):
    """C5.7, C6.2: what `aclose` has told of and ended is not told of at the loop's end."""

    async def main():
        bus.publish_nowait(OrderPlaced())
        await turns()
        await bus.aclose(timeout=0)

    bus.subscribe(OrderPlaced, forever)
    run(main)
    (record,) = errors
    assert "still running" in record.getMessage()


# While the loop goes on


@with_and_without_factories
def test_handler_cancelled_by_somebody_else(bus, failures, errors, factory):
    """C4.5, C5.7: while the loop goes on that is the handler's own failure, told at once."""

    async def main():
        bus.publish_nowait(OrderPlaced())
        await turns()
        asyncio.get_running_loop().call_soon(cancel_tasks_of, bus.handlers(OrderPlaced)[0])
        await turns()
        assert len(failures) == 1
        assert type(failures[0].exception) is asyncio.CancelledError

    bus.subscribe(OrderPlaced, forever)
    run(main, factory)
    (record,) = errors
    assert "failed" in record.getMessage()


def test_one_handler_cancelled_by_somebody_and_one_by_the_end(bus, failures, errors):
    """C4.5, C5.7: each is told of once, as what it is."""

    async def other(event):
        await asyncio.Event().wait()

    async def main():
        bus.publish_nowait(OrderPlaced())
        await turns()
        assert len(cancel_tasks_of(bus.handlers(OrderPlaced)[0])) == 1
        await turns()

    bus.subscribe(OrderPlaced, forever)
    bus.subscribe(OrderPlaced, other)
    run(main)
    assert [failure.handler.name for failure in failures] == ["support.forever"]
    failed, told = [record.getMessage() for record in errors]
    assert "support.forever" in failed
    assert "aclose" in told
    assert "other" in told
    assert "forever" not in told


async def test_loop_that_goes_on(bus, failures, errors, monkeypatch):
    """C4.5, C5.7: what was taken for the end of the loop was none: the handler has failed."""
    loop, later = asyncio.get_running_loop(), []
    monkeypatch.setattr(loop, "call_later", lambda seconds, *call: later.append((seconds, *call)))
    bus.subscribe(OrderPlaced, forever)
    bus.publish_nowait(OrderPlaced())
    await turns()
    asyncio.current_task().cancel()
    cancel_tasks_of(bus.handlers(OrderPlaced)[0])
    with contextlib.suppress(asyncio.CancelledError):
        await turns()
    await turns()
    asyncio.current_task().uncancel()
    assert failures == []
    ((seconds, report, *arguments),) = later
    assert seconds <= 1
    asyncio.current_task().cancel()  # as if the end took long: it is looked at again, later
    report(*arguments)
    assert later[1:] == later[:1]
    with contextlib.suppress(asyncio.CancelledError):
        await turns()
    asyncio.current_task().uncancel()
    report(*arguments)
    assert [type(failure.exception) for failure in failures] == [asyncio.CancelledError]
    (record,) = errors
    assert "failed" in record.getMessage()


# As a program

PROGRAM = """
import asyncio, json, logging, sys
import {package} as events

records = []

class Keep(logging.Handler):
    def emit(self, record):
        records.append([record.name, record.levelname, record.getMessage()])

logging.getLogger().addHandler(Keep())

class OrderPlaced(events.Event):
    pass

async def send_mail(event):
    await asyncio.Event().wait()

everywhere = events.EventBus()

async def main():
    bus = {bus}
    bus.subscribe(OrderPlaced, send_mail)
    bus.publish_nowait(OrderPlaced())
    await asyncio.sleep(0)
    {end}

try:
    asyncio.run(main())
finally:
    print(json.dumps(records))
"""


@pytest.mark.parametrize("bus", ["everywhere", "events.EventBus()"])
@pytest.mark.parametrize(("end", "status"), [("pass", 0), ("sys.exit(3)", 3)])
def test_program_of_its_own(tmp_path, bus, end, status):
    """C5.7: a program that ends is told of its loss before it is gone, and of nothing else."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(package=PACKAGE, bus=bus, end=end))
    result = subprocess.run(
        [sys.executable, "-W", "error", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (status, "")
    ((name, level, message),) = json.loads(result.stdout)
    assert (name, level) == (PACKAGE, "ERROR")
    assert "1 handlers" in message
    assert "send_mail" in message
    assert "aclose" in message
