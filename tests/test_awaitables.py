# SPDX-License-Identifier: MIT
"""C3: whatever a handler returns is awaited if it is awaitable; most else is ignored."""

import asyncio
import functools
import gc
import inspect
import itertools
import sys
import weakref
from unittest import mock

import pytest
from support import PATIENCE, WAYS, InvoiceIssued, OrderPlaced, forever, tenant
from target import EventBus, EventCycleError


class Awaitable:
    """An awaitable that is no coroutine, future or task."""

    def __init__(self, coroutine):
        self.coroutine = coroutine

    def __await__(self):
        return self.coroutine.__await__()


class Lazy:
    """An awaitable that makes its coroutine when it is awaited."""

    def __init__(self, work):
        self.work = work

    def __await__(self):
        return self.work().__await__()


def coroutine(work):
    return work()


def task(work):
    return asyncio.ensure_future(work())


def awaitable(work):
    return Awaitable(work())


every_form = pytest.mark.parametrize("form", [coroutine, task, awaitable, Lazy])


class Delivery:
    """One way from `publish` or `publish_nowait` to a handler, async neighbours in its route."""

    def __init__(self, before, after, publish):
        self.failures = []
        self.bus = EventBus(on_error=self.failures.append)
        self.neighbours = []
        self._before, self._after, self._publish = before, after, publish

    async def __call__(self, handler, event_type=OrderPlaced):
        event = event_type()
        with self.bus.subscribe(event_type, self._neighbour) as first:
            if not self._before:
                first.cancel()
            with self.bus.subscribe(event_type, handler):
                assert not self.bus.handlers(event_type)[-1].is_async
                if self._after:
                    self.bus.subscribe(event_type, self._neighbour)
                await self._publish(self.bus, event)
        assert self.neighbours == [event] * (self._before or self._after)

    async def _neighbour(self, event):
        await asyncio.sleep(0)
        self.neighbours.append(event)


ROUTES = {"alone": (False, False), "after async": (True, False), "before async": (False, True)}


def delivery_of(names):
    route, way = names
    return Delivery(*ROUTES[route], WAYS[way])


@pytest.fixture(params=itertools.product(ROUTES, WAYS), ids=", ".join)
def deliver(request):
    return delivery_of(request.param)


@pytest.fixture(params=itertools.product(ROUTES, ["publish"]), ids=", ".join)
def deliver_awaited(request):
    return delivery_of(request.param)


async def settle():
    """Give whatever can go on without being woken the time to do so."""
    for _ in range(10):
        await asyncio.sleep(0)


@every_form
async def test_what_is_returned_is_awaited(deliver, errors, form):
    """C3: the publish is not over before the awaitable is, whatever it is and who is beside it."""
    log, started, go_on = [], asyncio.Event(), asyncio.Event()

    async def work():
        started.set()
        await go_on.wait()
        log.append("finished")

    publishing = asyncio.ensure_future(deliver(lambda event: form(work)))
    await asyncio.wait_for(started.wait(), PATIENCE)
    await settle()
    assert not publishing.done()
    assert log == []
    go_on.set()
    await publishing
    assert log == ["finished"]
    assert deliver.failures == []
    assert len(errors) == 0


async def test_plain_future_is_awaited(deliver):
    """C3: a future is awaited until somebody sets its result."""
    future = asyncio.get_running_loop().create_future()
    called = asyncio.Event()

    def handler(event):
        called.set()
        return future

    publishing = asyncio.ensure_future(deliver(handler))
    await asyncio.wait_for(called.wait(), PATIENCE)
    await settle()
    assert not publishing.done()
    future.set_result("ignored")
    await publishing
    assert deliver.failures == []


@every_form
async def test_work_that_needs_no_waiting(deliver, errors, form):
    """C3: what is awaited may be over without ever having waited."""
    log = []

    async def work():
        log.append("finished")

    await deliver(lambda event: form(work))
    assert log == ["finished"]
    assert len(errors) == 0


async def test_future_that_is_done_already(deliver, errors):
    """C3: one finished future may be returned to every publish."""
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    await deliver(lambda event: done)
    assert deliver.failures == []
    assert len(errors) == 0


@every_form
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("error", [LookupError("lost"), asyncio.CancelledError("own")], ids=repr)
async def test_failure_in_the_awaited_part(deliver, errors, form, waits, error):
    """C3: what the awaitable raises is a failure of the handler, logged and reported once."""

    async def work():
        if waits:
            await asyncio.sleep(0)
        raise error

    def handler(event):
        return form(work)

    await deliver(handler)
    (failure,) = deliver.failures
    assert type(failure.exception) is type(error)
    assert failure.exception.args == error.args
    assert failure.handler.callback is handler
    assert failure.chain == (OrderPlaced,)
    (record,) = errors
    assert failure.handler.name in record.getMessage()


async def test_failures_leave_the_others_alone(deliver, errors):
    """C3: of several awaitables, each one fails or finishes on its own."""
    log = []

    async def work(name):
        await asyncio.sleep(0)
        if name == "bad":
            raise LookupError(name)
        log.append(name)

    for name in ("first", "bad"):
        deliver.bus.subscribe(OrderPlaced, functools.partial(lambda name, event: work(name), name))
    await deliver(lambda event: work("last"))
    assert log == ["first", "last"]
    assert [repr(failure.exception) for failure in deliver.failures] == ["LookupError('bad')"]
    assert len(errors) == 1


async def test_awaitables_run_concurrently(deliver):
    """C3: awaitables are awaited at once, not one after the other; their sync parts in order."""
    log, meeting = [], asyncio.Barrier(3)

    async def work():
        await meeting.wait()

    def handler(name, event):
        log.append(name)
        return work()

    deliver.bus.subscribe(OrderPlaced, functools.partial(handler, 1))
    deliver.bus.subscribe(OrderPlaced, functools.partial(handler, 2))
    async with asyncio.timeout(PATIENCE):
        await deliver(functools.partial(handler, 3))
    assert log == [1, 2, 3]


async def test_both_parts_share_a_context_of_their_own(deliver, errors):
    """C3: what the sync part sets in a contextvar the awaited part sees, and nobody else."""
    seen = []

    async def work():
        seen.append(tenant.get())
        await asyncio.sleep(0)
        tenant.set("by the awaited part")

    def handler(event):
        seen.append(tenant.get())
        tenant.set("by the sync part")
        return work()

    tenant.set("by the publisher")
    deliver.bus.subscribe(OrderPlaced, functools.partial(handler))
    await deliver(handler)
    assert sorted(seen) == ["by the publisher"] * 2 + ["by the sync part"] * 2
    assert tenant.get() == "by the publisher"
    assert len(errors) == 0


async def test_awaited_part_has_a_task_of_its_own(deliver):
    """C3: as of an async handler, its task is named after the handler."""
    tasks = []

    async def work():
        tasks.append(asyncio.current_task())

    def handler(event):
        return work()

    await deliver(handler)
    (task,) = tasks
    assert task is not asyncio.current_task()
    assert task.get_name() == f"{__name__}.{handler.__qualname__}"


@every_form
@pytest.mark.parametrize("publish", WAYS.values(), ids=WAYS)
async def test_every_event_is_treated_alike(bus, errors, form, publish):
    """C3: the second event finds the same order and contexts, whatever the first has taught."""
    log = []

    async def work():
        await asyncio.sleep(0)
        log.append("awaited")

    def handler(event):
        log.append(tenant.get())
        tenant.set("by the handler")
        return form(work)

    def after(event):
        log.append(f"after {tenant.get()}")

    bus.subscribe(OrderPlaced, handler)
    bus.subscribe(OrderPlaced, after)
    for _ in range(3):
        await publish(bus, OrderPlaced())
        assert log == [None, "after None", "awaited"]
        log.clear()
    assert tenant.get() is None
    assert len(errors) == 0


# Everything else is ignored, but for a body that would never run (see test_unrun_bodies)


class PretendsOnInstance:
    """`__await__` counts on the class only."""

    def __init__(self):
        self.__await__ = None


OTHERS = {
    "0": lambda: 0,
    "text": lambda: "text",
    "class": lambda: Awaitable,
    "exception": lambda: LookupError("returned, not raised"),
    "not implemented": lambda: NotImplemented,
    "coroutine function": lambda: asyncio.sleep,
    "on the instance": PretendsOnInstance,
    "Mock": mock.Mock,
    "MagicMock": mock.MagicMock,
    "AsyncMock": mock.AsyncMock,
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
async def test_other_values_are_ignored(deliver, errors, make):
    """C3: what is not awaitable is dropped, and is no failure; the next handler has its turn."""
    log = []

    def handler(event):
        log.append("called")
        return make()

    deliver.bus.subscribe(OrderPlaced, handler)
    await deliver(lambda event: log.append("next"))
    assert log == ["called", "next"]
    assert deliver.failures == []
    assert len(errors) == 0


async def test_value_that_cannot_be_told_apart(deliver):
    """C3: a value of which even `isinstance` raises is its handler's affair alone."""

    class Mortal:
        pass

    log = []

    def handler(event):
        log.append("called")
        return weakref.proxy(Mortal())  # of an object that is gone at once

    deliver.bus.subscribe(OrderPlaced, handler)
    await deliver(lambda event: log.append("next"))
    assert log == ["called", "next"]
    assert {failure.handler.callback for failure in deliver.failures} <= {handler}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="inspect cannot be told before 3.12")
@pytest.mark.parametrize("value", [None, 0, mock.MagicMock()], ids=["None", "0", "MagicMock"])
@pytest.mark.parametrize("publish", WAYS.values(), ids=WAYS)
async def test_async_by_name_only(bus, errors, value, publish):
    """C3: a handler that `inspect` calls async may return what is not awaitable."""
    seen = []

    @inspect.markcoroutinefunction
    def handler(event):
        seen.append(event)
        return value

    bus.subscribe(OrderPlaced, handler)
    assert bus.handlers(OrderPlaced)[0].is_async
    await publish(bus, OrderPlaced())
    assert len(seen) == 1
    assert len(errors) == 0


@pytest.mark.skipif(sys.version_info < (3, 12), reason="inspect cannot be told before 3.12")
@pytest.mark.parametrize("publish", WAYS.values(), ids=WAYS)
async def test_async_by_name_with_a_body_that_never_runs(bus, failures, publish):
    """C3: such a handler has failed, too, if what it returns is a generator."""

    @inspect.markcoroutinefunction
    def handler(event):
        return (step for step in [event])

    bus.subscribe(OrderPlaced, handler)
    await publish(bus, OrderPlaced())
    [failure] = failures
    with pytest.raises(TypeError, match="body never runs"):
        raise failure.exception


@pytest.mark.skipif(sys.version_info < (3, 12), reason="inspect cannot be told before 3.12")
@every_form
@pytest.mark.parametrize("publish", WAYS.values(), ids=WAYS)
async def test_async_by_name_with_any_awaitable(bus, errors, form, publish):
    """C3: what a handler that `inspect` calls async returns may be any awaitable."""
    log = []

    async def work():
        await asyncio.sleep(0)
        log.append("finished")

    bus.subscribe(OrderPlaced, inspect.markcoroutinefunction(lambda event: form(work)))
    assert bus.handlers(OrderPlaced)[0].is_async
    await publish(bus, OrderPlaced())
    assert log == ["finished"]
    assert len(errors) == 0


# Part of the publish


@every_form
async def test_cancelled_publisher_cancels_the_awaited_part(deliver_awaited, errors, form):
    """C3: a cancelled publisher cancels the awaitable, and waits until it has ended."""
    log, started = [], asyncio.Event()

    async def work():
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            log.append("cleaned up")
            raise

    publishing = asyncio.ensure_future(deliver_awaited(lambda event: form(work)))
    await asyncio.wait_for(started.wait(), PATIENCE)
    await settle()
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert log == ["cleaned up"]
    assert deliver_awaited.failures == []
    assert len(errors) == 0


async def test_cancelled_publisher_cancels_a_plain_future(bus, errors):
    """C3: a future that a handler returned is cancelled with the publisher."""
    future = asyncio.get_running_loop().create_future()
    bus.subscribe(OrderPlaced, lambda event: future)
    publishing = asyncio.ensure_future(bus.publish(OrderPlaced()))
    await settle()
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert future.cancelled()
    assert len(errors) == 0


@every_form
async def test_pending_until_the_awaited_part_is_over(bus, form):
    """C3: `publish_nowait` counts the event as pending for as long."""
    started, go_on = asyncio.Event(), asyncio.Event()

    async def work():
        started.set()
        await go_on.wait()

    bus.subscribe(OrderPlaced, lambda event: form(work))
    bus.publish_nowait(OrderPlaced())
    await asyncio.wait_for(started.wait(), PATIENCE)
    await settle()
    assert bus.pending == 1
    go_on.set()
    await bus.join()
    assert bus.pending == 0


async def test_close_before_the_awaited_part_has_started(bus, errors):
    """C3: what `aclose` cancels has been awaited, were it only to be cancelled."""
    log = []

    async def work():
        log.append("started")
        try:
            await asyncio.Event().wait()
        finally:
            log.append("ended")

    bus.subscribe(InvoiceIssued, forever)
    bus.subscribe(OrderPlaced, lambda event: work())
    bus.publish_nowait(InvoiceIssued())
    await settle()
    # Its sync part runs after the time is over, but before `aclose` hears of it.
    asyncio.get_running_loop().call_soon(bus.publish_nowait, OrderPlaced())
    await bus.aclose(timeout=0)
    gc.collect()  # complains about a coroutine that was never awaited
    assert log in ([], ["started", "ended"])
    assert bus.pending == 0


def failing(event):
    raise LookupError


@pytest.mark.parametrize("form", [coroutine, awaitable, Lazy])
async def test_nested_publish_belongs_to_the_chain(deliver, form):
    """C3: a publish that the awaited part awaits is a level of the chain."""
    bus = deliver.bus
    bus.subscribe(InvoiceIssued, failing)

    async def work():
        await asyncio.sleep(0)
        await bus.publish(InvoiceIssued())

    await deliver(lambda event: form(work))
    assert [failure.chain for failure in deliver.failures] == [(OrderPlaced, InvoiceIssued)]


async def test_returned_publish_belongs_to_the_chain(deliver):
    """C3: so is a publish that the handler returns for the bus to await."""
    bus = deliver.bus
    bus.subscribe(InvoiceIssued, failing)
    await deliver(lambda event: bus.publish(InvoiceIssued()))
    assert [failure.chain for failure in deliver.failures] == [(OrderPlaced, InvoiceIssued)]


@pytest.mark.parametrize("publish", WAYS.values(), ids=WAYS)
async def test_nested_publish_in_a_returned_task_belongs_to_the_chain(publish):
    """C3: and so is one in a task of the sync part, once the bus has seen what it returns."""
    chains = []
    bus = EventBus(on_error=lambda failure: chains.append(failure.chain))
    bus.subscribe(InvoiceIssued, failing)
    bus.subscribe(OrderPlaced, lambda event: task(lambda: bus.publish(InvoiceIssued())))
    await publish(bus, OrderPlaced())
    await publish(bus, OrderPlaced())
    assert chains[1:] == [(OrderPlaced, InvoiceIssued)]


@pytest.mark.parametrize("form", [coroutine, task, awaitable, Lazy])
async def test_circle_through_awaitables_is_refused(form):
    """C3: a circle of publishes that sync handlers return is as deep as `max_depth` at most."""
    failures = []
    bus = EventBus(on_error=failures.append, max_depth=5)
    levels = itertools.count(1)
    reached = 0

    def handler(event):
        nonlocal reached
        reached = next(levels)
        return form(lambda: bus.publish(OrderPlaced())) if reached < 20 else None

    bus.subscribe(OrderPlaced, handler)
    await bus.publish(OrderPlaced())
    # The first level of a task is not known as one yet when the task starts.
    assert reached == (6 if form is task else 5)
    assert [type(failure.exception) for failure in failures] == [EventCycleError]


async def test_disguise_is_seen_through_beside_an_async_handler(bus):
    """C3, C4.3: from the next event on, what has returned an awaitable runs in its own task."""
    names = []

    async def asynchronous(event):
        pass

    def disguised(event):
        names.append(asyncio.current_task().get_name())
        return asyncio.sleep(0)

    bus.subscribe(OrderPlaced, asynchronous)
    bus.subscribe(OrderPlaced, disguised)
    await bus.publish(OrderPlaced())
    await bus.publish(OrderPlaced())
    assert names[1].endswith("disguised")
