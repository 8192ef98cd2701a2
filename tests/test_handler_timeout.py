# SPDX-License-Identifier: MIT
"""`handler_timeout`: what overruns it is cancelled and has failed; the one place with real time."""

import asyncio
import contextlib
import time

import pytest
from support import PATIENCE, InvoiceIssued, OrderPlaced, every_way
from target import EventBus

SHORT = 0.1


@pytest.fixture
def bus(failures):
    return EventBus(on_error=failures.append, handler_timeout=SHORT)


def asynchronous(work):
    async def handler(event):
        await work()

    return handler


def returning_coroutine(work):
    def handler(event):
        return work()

    return handler


def returning_task(work):
    def handler(event):
        return asyncio.ensure_future(work())

    return handler


every_kind = pytest.mark.parametrize("kind", [asynchronous, returning_coroutine, returning_task])


async def forever():
    await asyncio.Event().wait()


def assert_overrun(failures, errors, handler):
    """The one failure is that of `handler`, which took too long."""
    (failure,) = failures
    assert type(failure.exception) is TimeoutError
    assert f"handler_timeout={SHORT}" in str(failure.exception)
    assert failure.handler.callback is handler
    assert failure.chain == (OrderPlaced,)
    (record,) = errors
    assert failure.handler.name in record.getMessage()


@every_kind
@every_way
async def test_overrun_is_cancelled_and_reported(bus, failures, errors, kind, publish):
    """C4.4: an overrun is a failure, a `TimeoutError` that names the option, logged once."""
    log = []

    async def work():
        try:
            await forever()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    handler = kind(work)
    bus.subscribe(OrderPlaced, handler)
    await publish(bus, OrderPlaced())
    assert log == ["cancelled"]
    assert_overrun(failures, errors, handler)
    assert bus.pending == 0


async def swallow():
    with contextlib.suppress(asyncio.CancelledError):
        await forever()


async def raise_another():
    try:
        await forever()
    except asyncio.CancelledError:
        raise LookupError("while cleaning up") from None


async def clean_up_slowly():
    try:
        await forever()
    finally:
        await asyncio.sleep(SHORT)


@every_kind
@every_way
@pytest.mark.parametrize("work", [swallow, raise_another, clean_up_slowly])
async def test_overrun_however_the_handler_takes_it(bus, failures, errors, kind, publish, work):
    """C4.4: an overrun is reported as such, whatever the handler does when it is cancelled."""
    handler = kind(work)
    bus.subscribe(OrderPlaced, handler)
    await publish(bus, OrderPlaced())
    assert_overrun(failures, errors, handler)


@every_way
async def test_exception_while_cleaning_up_is_kept(bus, failures, publish):
    """C4.4: what the handler raised when it was cancelled stays visible, as the context."""
    bus.subscribe(OrderPlaced, asynchronous(raise_another))
    await publish(bus, OrderPlaced())
    assert repr(failures[0].exception.__context__) == "LookupError('while cleaning up')"


@every_kind
@every_way
async def test_siblings_are_unaffected(bus, failures, errors, kind, publish):
    """C4.4: one handler's overrun touches no other; a new run has all its time again."""
    log, overrun = [], asyncio.Event()

    async def first():
        await asyncio.sleep(0)
        log.append("first")

    async def late():
        try:
            await forever()
        finally:
            overrun.set()

    async def last():
        log.append("last")

    handler = kind(late)
    bus.subscribe(OrderPlaced, kind(first))
    bus.subscribe(OrderPlaced, handler)
    bus.subscribe(OrderPlaced, lambda event: log.append("sync"))
    bus.subscribe(OrderPlaced, kind(last))
    await publish(bus, OrderPlaced())
    assert overrun.is_set()
    assert sorted(log) == ["first", "last", "sync"]
    assert_overrun(failures, errors, handler)
    bus.unsubscribe(OrderPlaced, handler)
    await publish(bus, OrderPlaced())
    assert len(log) == 6
    assert len(failures) == 1


@every_kind
@every_way
async def test_fast_handler_has_no_timeout(failures, kind, publish):
    """C4.4: who is done in time hears nothing of it, though it waits."""
    bus = EventBus(on_error=failures.append, handler_timeout=60)
    log = []

    async def work():
        await asyncio.sleep(0)
        log.append("done")

    bus.subscribe(OrderPlaced, kind(work))
    await publish(bus, OrderPlaced())
    assert log == ["done"]
    assert failures == []


@every_way
async def test_sync_handler_is_not_limited(bus, failures, publish):
    """C4.4: a sync handler cannot be cancelled, and does not fail for being slow."""
    seen = []

    def slow(event):
        time.sleep(2 * SHORT)
        seen.append(event)

    bus.subscribe(OrderPlaced, slow)
    await publish(bus, OrderPlaced())
    assert len(seen) == 1
    assert failures == []


@every_kind
@every_way
async def test_no_option_no_limit(failures, kind, publish):
    """C4.4: without `handler_timeout` a handler takes the time it takes."""
    bus = EventBus(on_error=failures.append)
    log = []

    async def work():
        await asyncio.sleep(2 * SHORT)
        log.append("done")

    bus.subscribe(OrderPlaced, kind(work))
    await publish(bus, OrderPlaced())
    assert log == ["done"]
    assert failures == []


async def raise_own():
    raise TimeoutError("own")


async def own_timeout():
    async with asyncio.timeout(SHORT):
        await forever()


@every_kind
@every_way
@pytest.mark.parametrize("work", [raise_own, own_timeout])
async def test_own_timeout_stays_its_own(failures, kind, publish, work):
    """C4.4: a `TimeoutError` of the handler's own making is not taken for an overrun."""
    bus = EventBus(on_error=failures.append, handler_timeout=60)
    bus.subscribe(OrderPlaced, kind(work))
    await publish(bus, OrderPlaced())
    (failure,) = failures
    assert type(failure.exception) is TimeoutError
    assert "handler_timeout" not in str(failure.exception)


@every_kind
@every_way
async def test_own_cancellation_stays_its_own(failures, kind, publish):
    """C4.5: a handler's own `CancelledError` is not taken for an overrun either."""
    bus = EventBus(on_error=failures.append, handler_timeout=60)

    async def work():
        raise asyncio.CancelledError

    bus.subscribe(OrderPlaced, kind(work))
    await publish(bus, OrderPlaced())
    assert [type(failure.exception) for failure in failures] == [asyncio.CancelledError]


@every_kind
async def test_publishers_own_timeout_works(failures, errors, kind):
    """C4.5: `asyncio.timeout` around the publish cancels the handlers, which is no failure."""
    bus = EventBus(on_error=failures.append, handler_timeout=60)
    log = []

    async def work():
        try:
            await forever()
        finally:
            log.append("ended")

    bus.subscribe(OrderPlaced, kind(work))
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(SHORT):
            await bus.publish(OrderPlaced())
    assert log == ["ended"]
    assert "handler_timeout" not in str(caught.value)
    assert failures == []
    assert len(errors) == 0


@every_kind
async def test_publisher_cancelled_during_an_overrun(bus, failures, errors, kind):
    """C4.5: the publisher's cancellation arrives, and the overrun is reported all the same."""
    cleaning = asyncio.Event()

    async def work():
        try:
            await forever()
        finally:
            cleaning.set()
            await forever()

    handler = kind(work)
    bus.subscribe(OrderPlaced, handler)
    publishing = asyncio.ensure_future(bus.publish(OrderPlaced()))
    await asyncio.wait_for(cleaning.wait(), PATIENCE)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert_overrun(failures, errors, handler)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_end_of_the_program_is_not_taken_for_an_overrun(bus, failures, error):
    """C4.5: `SystemExit` propagates, also from a handler that was cancelled for its overrun."""

    async def handler(event):
        try:
            await forever()
        except asyncio.CancelledError:
            raise error from None

    bus.subscribe(OrderPlaced, handler)
    with pytest.raises(error):
        asyncio.run(bus.publish(OrderPlaced()))
    assert failures == []


@every_kind
async def test_nested_publish_is_part_of_the_handlers_time(bus, failures, kind):
    """C4.5: an overrun cancels the publish that the handler waits for, and its handlers."""
    log = []

    async def inner(event):
        try:
            await forever()
        except asyncio.CancelledError:
            log.append("inner cancelled")
            raise

    # The inner handler has overrun as well, a moment later; the outer one comes first.
    bus.subscribe(InvoiceIssued, inner)
    handler = kind(lambda: bus.publish(InvoiceIssued()))
    bus.subscribe(OrderPlaced, handler)
    await bus.publish(OrderPlaced())
    assert log == ["inner cancelled"]
    assert handler in [failure.handler.callback for failure in failures]


@every_kind
@every_way
async def test_hook_sees_the_overrun(bus, failures, errors, kind, publish):
    """C10: a hook is left with the `TimeoutError` of an overrun."""
    left = []

    @bus.instrument
    @contextlib.contextmanager
    def hook(event, handler):
        try:
            yield
        except BaseException as exc:
            left.append(exc)
            raise

    handler = kind(forever)
    bus.subscribe(OrderPlaced, handler)
    await publish(bus, OrderPlaced())
    assert_overrun(failures, errors, handler)
    assert left == [failures[0].exception]
