# SPDX-License-Identifier: MIT
"""The kit for tests: `capture` and `strict`."""

import asyncio
import importlib
import weakref

import pytest
from support import (
    PATIENCE,
    Failure,
    InvoiceIssued,
    OrderPlaced,
    every_failure,
    fail_late,
    fail_sync,
)
from target import PACKAGE, EventBus

testing = importlib.import_module(f"{PACKAGE}.testing")
capture, strict = testing.capture, testing.strict


def name_of(handler):
    return f"{handler.__module__}.{handler.__qualname__}"


# capture


async def test_captures_in_delivery_order(bus):
    """Section 5: the list fills with the events of its types alone, in delivery order."""
    first, second, third = OrderPlaced(), InvoiceIssued(), OrderPlaced()
    with capture(bus, OrderPlaced) as orders, capture(bus, OrderPlaced, InvoiceIssued) as both:
        await bus.publish(first)
        bus.publish_nowait(second)
        await bus.join()
        assert both == [first, second]  # while the block runs
        await bus.publish(third)
    assert orders == [first, third]
    assert both == [first, second, third]


@pytest.mark.parametrize("error", [None, Failure])
async def test_capture_ends_with_its_block(bus, error):
    """Section 5: at the end of the block, an exception's included, it has unsubscribed."""
    try:
        with capture(bus, OrderPlaced, InvoiceIssued) as events:
            if error is not None:
                raise error
    except Failure:
        pass
    assert bus.event_types() == ()
    await bus.publish(OrderPlaced())
    assert events == []


async def test_a_type_given_twice_is_captured_once(bus):
    """C2.3: a type that is named twice is no reason to list its events twice."""
    with capture(bus, OrderPlaced, OrderPlaced) as events:
        await bus.publish(OrderPlaced())
    assert len(events) == 1


def test_capture_of_nothing_is_refused(bus):
    """C2.2: without a type, or with what is none, it is a TypeError that names the remedy."""
    with pytest.raises(TypeError, match=r"capture\(bus, OrderPlaced\)"):
        capture(bus)
    with pytest.raises(TypeError, match="pass the class"), capture(bus, OrderPlaced, OrderPlaced()):
        pass
    assert bus.event_types() == ()


# strict


@every_failure
async def test_failures_are_raised_at_the_end(bus, errors, fail):
    """Section 5: every failure of the block is in one group, which names handlers and events."""
    finished = []
    with pytest.raises(ExceptionGroup) as raised, strict(bus):
        bus.subscribe(OrderPlaced, fail)
        bus.subscribe(InvoiceIssued, fail)
        await bus.publish(OrderPlaced())
        bus.publish_nowait(InvoiceIssued())
        await bus.join()
        finished.append(True)
    name = name_of(fail)
    assert raised.value.message == (
        f"2 handlers failed: {name} on OrderPlaced, {name} on InvoiceIssued"
    )
    assert [type(error) for error in raised.value.exceptions] == [Failure, Failure]
    assert finished
    assert len(errors) == 2


async def test_nothing_is_raised_if_nothing_fails(bus):
    """Section 5: handlers that succeed, and events that nobody handles, raise nothing."""
    bus.subscribe(OrderPlaced, lambda event: None)
    with strict(bus):
        await bus.publish(OrderPlaced())
        await bus.publish(InvoiceIssued())


async def test_it_ends_with_its_block(bus):
    """Section 5: a failure before or after the block is none of its own."""
    bus.subscribe(OrderPlaced, fail_sync)
    await bus.publish(OrderPlaced())
    with strict(bus):
        pass
    await bus.publish(OrderPlaced())


async def test_the_message_stays_short(bus):
    """Section 5: of many failures the message names the first few, and the group holds all."""
    bus.subscribe(OrderPlaced, fail_sync)
    with pytest.raises(ExceptionGroup) as raised, strict(bus):
        for _ in range(8):
            await bus.publish(OrderPlaced())
    assert len(raised.value.exceptions) == 8
    assert raised.value.message.count(name_of(fail_sync)) == 5
    assert raised.value.message.endswith(" and 3 more")


async def test_the_exception_of_the_block_is_the_first(bus):
    """Section 5: neither the block's exception nor the handlers' failures hide the other."""
    bus.subscribe(OrderPlaced, fail_sync)
    error = ValueError("block")
    with pytest.raises(ExceptionGroup) as raised, strict(bus):
        await bus.publish(OrderPlaced())
        raise error
    assert raised.value.exceptions[0] is error
    assert isinstance(raised.value.exceptions[1], Failure)
    assert raised.value.message == (
        f"the block raised ValueError, and 1 handler failed: {name_of(fail_sync)} on OrderPlaced"
    )


@pytest.mark.parametrize("error", [Failure, asyncio.CancelledError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("fails", [False, True])
async def test_the_exception_of_the_block_comes_through(bus, error, fails):
    """Section 5: what no group may hold leaves the block as it is, and so does a sole exception."""
    if fails and error is not Failure:
        bus.subscribe(OrderPlaced, fail_sync)
    with pytest.raises(error), strict(bus):
        await bus.publish(OrderPlaced())
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_the_end_of_the_program_is_no_failure(bus, error):
    """C4.5: KeyboardInterrupt and SystemExit of a handler go through, ungrouped."""

    def leave(event):
        raise error

    bus.subscribe(OrderPlaced, leave)
    with pytest.raises(error), strict(bus):
        await bus.publish(OrderPlaced())


# strict, and cancellation


def raise_cancelled(event):
    raise asyncio.CancelledError


async def await_cancelled(event):
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@pytest.mark.parametrize("handler", [raise_cancelled, await_cancelled])
@pytest.mark.parametrize("cleaning_up", [False, True])
async def test_a_cancelled_error_of_its_own_is_a_failure(bus, errors, handler, cleaning_up):
    """C4.5: it is in the group, even where the publisher cleans up after its own cancellation."""
    bus.subscribe(OrderPlaced, handler)
    group = []

    async def publish():
        try:
            if cleaning_up:
                await asyncio.sleep(PATIENCE)
        finally:
            try:
                with strict(bus):
                    await bus.publish(OrderPlaced())
            except* RuntimeError as raised:
                group.extend(raised.exceptions)

    task = asyncio.create_task(publish())
    if cleaning_up:
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait([task])
    assert len(errors) == 1
    assert [str(error) for error in group] == [f"{name_of(handler)} raised a CancelledError"]
    assert isinstance(group[0].__cause__, asyncio.CancelledError)


async def test_the_publishers_cancellation_is_no_failure(bus, errors):
    """C4.5: handlers that are cancelled with their publisher have not failed."""
    started = asyncio.Event()

    async def wait(event):
        started.set()
        await asyncio.Event().wait()

    def wait_when_awaited(event):
        return wait(event)

    bus.subscribe(OrderPlaced, wait)
    bus.subscribe(OrderPlaced, wait_when_awaited)
    with strict(bus):
        task = asyncio.create_task(bus.publish(OrderPlaced()))
        await started.wait()
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
    assert list(errors) == []


async def test_handlers_that_overrun_have_failed(errors):
    """C4.5: the cancellation by `handler_timeout` is a failure, with a TimeoutError."""
    bus = EventBus(handler_timeout=0.001)

    async def wait(event):
        await asyncio.Event().wait()

    bus.subscribe(OrderPlaced, wait)
    with pytest.raises(ExceptionGroup) as raised, strict(bus):
        await bus.publish(OrderPlaced())
    assert [type(error) for error in raised.value.exceptions] == [TimeoutError]


async def test_the_group_is_in_no_reference_cycle(bus, no_log, no_gc):
    """C4.8: with the group goes all that it holds, without help of the garbage collector."""
    bus.subscribe(OrderPlaced, fail_late)
    error = None
    try:
        with strict(bus):
            await bus.publish(OrderPlaced())
    except ExceptionGroup as group:
        error = weakref.ref(group.exceptions[0])
    assert error is not None
    assert error() is None


@pytest.mark.parametrize("fails", [False, True])
async def test_work_that_is_unfinished(bus, gated, fails):
    """Section 5: a block that leaves `publish_nowait` work behind fails, with the remedy."""
    if fails:
        bus.subscribe(InvoiceIssued, fail_sync)
    refused = pytest.raises(ExceptionGroup, match="1 publish_nowait events are unfinished")
    with refused as caught, strict(bus):
        bus.publish_nowait(OrderPlaced())
        await gated.started.wait()
        await bus.publish(InvoiceIssued())
    assert [type(each) for each in caught.value.exceptions] == [Failure] * fails + [RuntimeError]
    assert "await bus.join()" in str(caught.value.exceptions[-1])
    gated.gate.set()
    with strict(bus):
        await bus.join()
