# SPDX-License-Identifier: MIT
"""C10: hooks that raise, swallow, or are none."""

import asyncio
import contextlib
from contextlib import contextmanager

import pytest
from support import (
    PATIENCE,
    InvoiceIssued,
    OrderPlaced,
    asynchronous,
    every_kind,
    every_way,
    fail_now,
    hook_logging_to,
    nothing,
    returning_awaitable,
    waiting,
)

# Hooks that raise, swallow or publish


def raising_when(moment):
    """Return a hook that raises at that moment, for the handler named `victim` alone."""

    @contextmanager
    def raising(event, handler):
        if handler is not None and "victim" not in handler.name:
            yield
            return
        if moment == "entered":
            raise ZeroDivisionError("hook")
        try:
            yield
        finally:
            if moment == "left":
                raise ZeroDivisionError("hook")

    def hook(event, handler):
        if moment == "called" and (handler is None or "victim" in handler.name):
            raise ZeroDivisionError("hook")
        if moment == "no manager" and (handler is None or "victim" in handler.name):
            return None
        return raising(event, handler)

    return hook


def victim(kind, before, after):
    handler = kind(before, after)
    handler.__qualname__ = "victim"
    return handler


MOMENTS = ["called", "entered", "left", "no manager"]


@every_kind
@every_way
@pytest.mark.parametrize("moment", MOMENTS)
async def test_hook_that_raises(bus, failures, errors, kind, publish, moment):
    """C10: that is a failure of that run, which does not begin unless the hook was entered."""
    log = []
    bus.instrument(hook_logging_to(log, "outer"))
    bus.instrument(raising_when(moment))
    bus.subscribe(OrderPlaced, victim(kind, lambda: log.append("begin"), lambda: log.append("end")))
    await publish(bus, OrderPlaced())
    expected = TypeError if moment == "no manager" else ZeroDivisionError
    ran = ["begin", "end"] if moment == "left" else []
    assert log == ["enter outer", *ran, f"{expected.__name__} in outer", "leave outer"]
    (failure,) = failures
    assert type(failure.exception) is expected
    assert failure.handler is bus.handlers(OrderPlaced)[0]
    assert failure.chain == (OrderPlaced,)
    assert len(errors) == 1


@every_kind
@every_way
@pytest.mark.parametrize("moment", MOMENTS)
async def test_hook_that_raises_hurts_no_other_handler(bus, failures, kind, publish, moment):
    """C10: the other runs of the same event, before and after, are as ever."""
    log = []
    bus.instrument(raising_when(moment))
    bus.subscribe(OrderPlaced, kind(nothing, lambda: log.append("first")))
    bus.subscribe(OrderPlaced, victim(kind, nothing, nothing))
    bus.subscribe(OrderPlaced, kind(nothing, lambda: log.append("last")))
    await publish(bus, OrderPlaced())
    assert log == ["first", "last"]
    assert len(failures) == 1


@every_kind
@every_way
async def test_exit_that_raises_keeps_the_handlers_exception(bus, failures, kind, publish):
    """C10: what the exit raises replaces the handler's exception, which stays its context."""
    bus.instrument(raising_when("left"))
    bus.subscribe(OrderPlaced, victim(kind, nothing, fail_now))
    await publish(bus, OrderPlaced())
    (failure,) = failures
    assert repr(failure.exception) == "ZeroDivisionError('hook')"
    assert repr(failure.exception.__context__) == "LookupError('handler')"


@every_way
@pytest.mark.parametrize("moment", MOMENTS)
async def test_hook_that_raises_for_nobody(bus, failures, errors, publish, moment):
    """C10: with no handler to blame, the failure names the hook; other hooks are called."""
    log = []
    hook = raising_when(moment)
    bus.instrument(hook)
    bus.instrument(hook_logging_to(log))
    await publish(bus, OrderPlaced())
    (failure,) = failures
    assert failure.handler.callback is hook
    assert failure.chain == (OrderPlaced,)
    assert len(errors) == 1
    assert log == ["enter hook", "leave hook"]


@every_kind
@every_way
@pytest.mark.parametrize(("before", "after"), [(fail_now, nothing), (nothing, fail_now)])
async def test_hook_that_swallows(bus, failures, errors, kind, publish, before, after):
    """C10: a context manager that swallows the exception makes it no failure."""
    log = []

    def swallowing(event, handler):
        return contextlib.suppress(LookupError)

    bus.instrument(hook_logging_to(log, "outer"))
    bus.instrument(swallowing)
    bus.subscribe(OrderPlaced, kind(before, after))
    await publish(bus, OrderPlaced())
    assert log == ["enter outer", "leave outer"]
    assert failures == []
    assert len(errors) == 0


@pytest.mark.parametrize("kind", [asynchronous, returning_awaitable])
async def test_hook_cannot_swallow_the_publishers_cancellation(bus, kind):
    """C10: as little as a handler can."""
    started = asyncio.Event()

    bus.instrument(lambda event, handler: contextlib.suppress(BaseException))
    bus.subscribe(OrderPlaced, waiting(kind, started))
    publishing = asyncio.ensure_future(bus.publish(OrderPlaced()))
    await asyncio.wait_for(started.wait(), PATIENCE)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing


@every_way
async def test_hook_may_publish(bus, failures, publish):
    """C10: a hook may use the bus, here for an event that another type's handler takes."""
    seen = []

    @contextmanager
    def hook(event, handler):
        yield
        if isinstance(event, OrderPlaced):
            bus.publish_nowait(InvoiceIssued())

    bus.instrument(hook)
    bus.subscribe(OrderPlaced, lambda event: None)
    bus.subscribe(InvoiceIssued, seen.append)
    await publish(bus, OrderPlaced())
    await bus.join()
    assert len(seen) == 1
    assert failures == []


# What is no hook


async def async_hook(event, handler):
    pass


def bare_generator(event, handler):
    yield


class AsyncCall:
    async def __call__(self, event, handler):
        pass


BAD_HOOKS = {
    "async": (async_hook, "async_hook"),
    "async call": (AsyncCall(), "AsyncCall"),
    "no argument": (lambda: contextlib.nullcontext(), "2 positional arguments"),
    "one argument": (lambda event: contextlib.nullcontext(), "2 positional arguments"),
    "three arguments": (lambda event, handler, more: None, "'more'"),
    "bare generator": (bare_generator, "contextmanager"),
    "manager": (contextlib.nullcontext(), "expected a callable"),
    "None": (None, "expected a callable"),
}


@pytest.mark.parametrize(("wrong", "message"), BAD_HOOKS.values(), ids=BAD_HOOKS)
async def test_what_is_no_hook_is_refused(bus, failures, wrong, message):
    """C10: a `TypeError` at once, with the remedy; nothing is installed."""
    seen = []
    bus.subscribe(OrderPlaced, seen.append)
    with pytest.raises(TypeError, match=message):
        bus.instrument(wrong)
    await bus.publish(OrderPlaced())
    await bus.publish(InvoiceIssued())
    assert len(seen) == 1
    assert failures == []


@contextlib.asynccontextmanager
async def async_manager(event, handler):
    yield


@every_way
async def test_async_context_manager_fails_the_run(bus, failures, publish):
    """C10: a hook that returns an async context manager cannot be told at once."""
    seen = []
    bus.instrument(async_manager)
    bus.subscribe(OrderPlaced, seen.append)
    await publish(bus, OrderPlaced())
    assert seen == []
    assert [type(failure.exception) for failure in failures] == [TypeError]


async def test_handle_says_what_it_is(bus):
    """C10: the repr of the handle names the hook."""
    assert "async_manager" in repr(bus.instrument(async_manager))
