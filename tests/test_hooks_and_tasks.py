# SPDX-License-Identifier: MIT
"""C10: a hook has the task of its handler to itself, sync handlers included, and may cancel it."""

import asyncio
import functools
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import pytest
from support import (
    InvoiceIssued,
    OrderPlaced,
    asynchronous,
    every_way,
    nothing,
    returning_awaitable,
    subscribe_mixed,
    sync,
    turns,
    use,
    with_and_without_factories,
    with_and_without_plain_factory,
    with_unwrapped_tasks,
)
from target import EventBus

trace = ContextVar("trace", default=None)


def wrapping_async(before, after):
    """Make a sync wrapper of an async handler, as decorators do."""
    handler = asynchronous(before, after)

    @functools.wraps(nothing)
    def wrapper(*arguments):
        return handler(*arguments)

    return wrapper


KINDS = [sync, asynchronous, returning_awaitable, wrapping_async]
every_kind = pytest.mark.parametrize("kind", KINDS)


class FailAfter(AbstractContextManager):
    """What `anyio.fail_after` does: it cancels the task that it was entered in, at its deadline."""

    def __init__(self, delay=0.0):
        self.delay = delay
        self.fired = False

    def __enter__(self):
        self.task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        self.timer = loop.call_later(self.delay, self.cancel) if self.delay is not None else None
        return self

    def cancel(self):
        self.fired = True
        self.task.cancel()

    def __exit__(self, exc_type, exc, traceback):
        assert asyncio.current_task() is self.task
        if self.timer is not None:
            self.timer.cancel()
        if self.fired:
            self.task.uncancel()
            raise TimeoutError("too late") from exc
        return False


# A task for every handler


@every_kind
@every_way
@with_and_without_factories
async def test_hook_and_handler_share_a_task_of_their_own(bus, errors, kind, publish, factory):
    """C10: entered, called and left in one task, which is neither the publisher's nor another's."""
    use(factory)
    tasks = []

    def note():
        tasks[-1].append(asyncio.current_task())

    @contextmanager
    def hook(event, handler):
        tasks.append([])
        note()
        yield
        note()

    bus.instrument(hook)
    bus.subscribe(OrderPlaced, kind(note, note))
    for _ in range(2):
        await publish(bus, OrderPlaced())
    first, second = tasks
    assert len(first) == len(second) == 4
    assert len(set(first)) == len(set(second)) == 1
    assert first[0] is not second[0]
    assert asyncio.current_task() not in first + second
    assert None not in first + second
    assert len(errors) == 0


@every_way
@with_and_without_plain_factory  # an eager factory is told of the name when the task has begun
async def test_tasks_are_named_after_their_handlers(bus, publish, factory):
    """C4.3, C10: those of sync handlers as well."""
    use(factory)
    names = []

    @contextmanager
    def hook(event, handler):
        names.append((asyncio.current_task().get_name(), handler.name))
        yield

    bus.instrument(hook)
    for kind in KINDS:
        bus.subscribe(OrderPlaced, kind(nothing, nothing))
    await publish(bus, OrderPlaced())
    assert len(names) == len(KINDS)
    assert all(task == handler for task, handler in names)


@every_kind
@every_way
@with_and_without_factories
async def test_hook_and_handler_share_a_context(bus, errors, kind, publish, factory):
    """C10, C4.3: what the hook sets the handler sees, and resets; others see none of it."""
    use(factory)
    found = []

    @contextmanager
    def hook(event, handler):
        found.append(trace.get())
        token = trace.set(handler.name)
        try:
            yield
        finally:
            trace.reset(token)

    def look():
        found.append(trace.get())

    bus.instrument(hook)
    handlers = [bus.subscribe(OrderPlaced, kind(look, look)).handler for _ in range(3)]
    trace.set("publisher")
    await publish(bus, OrderPlaced())
    assert found.count("publisher") == 3
    for handler in handlers:
        assert found.count(handler.name) == 6
    assert trace.get() == "publisher"
    assert len(errors) == 0


@every_way
@with_and_without_factories
async def test_order_stays(bus, publish, factory):
    """C4.2, C10: handlers start in their order, under hooks as without."""
    use(factory)
    started = subscribe_mixed(bus)
    bus.instrument(lambda event, handler: nullcontext())
    await publish(bus, OrderPlaced())
    assert started == sorted(started)
    assert len(started) == 9


@every_way
async def test_unhandled_event_has_a_task_too(bus, publish):
    """C10: a hook that is called with None may be bound to its task as well."""
    scopes = []

    def hook(event, handler):
        scopes.append(FailAfter(10))
        return scopes[-1]

    bus.instrument(hook)
    await publish(bus, OrderPlaced())
    (scope,) = scopes
    assert scope.task is not asyncio.current_task()


# A hook that cancels its task


def fail_after_for(name, delay):
    """Return a hook that limits one handler, by the end of its name, and no other."""

    def hook(event, handler):
        return FailAfter(delay) if handler.name.endswith(name) else nullcontext()

    return hook


@every_way
@with_and_without_factories
async def test_time_limit_is_one_handlers_failure(publish, factory):
    """C10: like `anyio.fail_after`: its TimeoutError fails the run, and touches nobody else."""
    use(factory)
    failures, finished = [], []
    bus = EventBus(on_error=failures.append)

    async def limited(event):
        await asyncio.Event().wait()

    async def sibling(event):
        await asyncio.sleep(0.02)
        finished.append("async")

    bus.instrument(fail_after_for("limited", 0.001))
    bus.subscribe(OrderPlaced, sibling)
    bus.subscribe(OrderPlaced, limited)
    bus.subscribe(OrderPlaced, lambda event: finished.append("sync"))
    before = asyncio.current_task().cancelling()
    for count in (1, 2):
        await publish(bus, OrderPlaced())
        assert [type(failure.exception) for failure in failures] == [TimeoutError] * count
        assert finished == ["sync", "async"] * count
    assert {failure.handler.name.rpartition(".")[2] for failure in failures} == {"limited"}
    assert asyncio.current_task().cancelling() == before
    await asyncio.sleep(0)  # which a cancellation that was left behind would hit
    assert bus.pending == 0


class CancelAtOnce(FailAfter):
    """A scope that is cancelled as it is entered: its deadline has passed already."""

    def __init__(self):
        super().__init__(None)

    def __enter__(self):
        super().__enter__()
        self.cancel()
        return self


class CancelAtTheEnd(FailAfter):
    """A scope that is cancelled while the handler runs, by the time it is left."""

    def __init__(self):
        super().__init__(None)

    def __exit__(self, *exc_info):
        self.cancel()
        return super().__exit__(*exc_info)


@every_kind
@every_way
@pytest.mark.parametrize("scope", [CancelAtOnce, CancelAtTheEnd])
@with_and_without_factories
async def test_hook_that_cancels_its_own_task(kind, publish, scope, factory):
    """C10: even around a sync handler it never touches the publisher or the other handlers."""
    use(factory)
    failures, finished = [], []
    bus = EventBus(on_error=failures.append)
    limited = kind(nothing, nothing)

    def hook(event, handler):
        return scope() if handler.callback is limited else nullcontext()

    for other in KINDS:
        bus.subscribe(OrderPlaced, other(nothing, lambda: finished.append(1)))
    bus.subscribe(OrderPlaced, limited)
    for other in KINDS:
        bus.subscribe(OrderPlaced, other(nothing, lambda: finished.append(1)))
    bus.instrument(hook)
    for count in (1, 2):
        await publish(bus, OrderPlaced())
        await turns()
        assert len(finished) == 8 * count
        assert [type(failure.exception) for failure in failures] == [TimeoutError] * count
    assert all(failure.handler.callback is limited for failure in failures)
    assert asyncio.current_task().cancelling() == 0
    assert bus.pending == 0


@every_kind
@with_unwrapped_tasks
async def test_scope_that_swallows_its_cancellation(bus, failures, errors, kind, factory):
    """C10: like `anyio.move_on_after`: the run ends there, and has not failed."""
    use(factory)
    finished = []

    class MoveOn(CancelAtOnce):
        def __exit__(self, exc_type, exc, traceback):
            self.task.uncancel()
            return isinstance(exc, asyncio.CancelledError)

    limited = kind(nothing, nothing)
    bus.subscribe(OrderPlaced, limited)
    bus.subscribe(OrderPlaced, asynchronous(nothing, lambda: finished.append(1)))
    bus.instrument(
        lambda event, handler: MoveOn() if handler.callback is limited else nullcontext()
    )
    await bus.publish(OrderPlaced())
    await turns()
    assert finished == [1]
    assert failures == []
    assert len(errors) == 0


@with_unwrapped_tasks
async def test_publisher_cancelled_beside_a_time_limit(bus, failures, errors, factory):
    """C4.5, C10: the publisher's cancellation is no timeout, and ends the handlers as ever."""
    use(factory)
    entered, left = asyncio.Event(), []

    class Scope(FailAfter):
        def __enter__(self):
            entered.set()
            return super().__enter__()

        def __exit__(self, exc_type, exc, traceback):
            left.append(exc_type)
            return super().__exit__(exc_type, exc, traceback)

    async def wait(event):
        await asyncio.Event().wait()

    bus.instrument(lambda event, handler: Scope(10))
    bus.subscribe(OrderPlaced, wait)
    publisher = asyncio.create_task(bus.publish(OrderPlaced()))
    await entered.wait()
    await turns()
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert left == [asyncio.CancelledError]
    assert failures == []
    assert len(errors) == 0


@with_and_without_factories
async def test_time_limit_around_a_nested_publish(factory):
    """C4.5, C10: handlers of a publish that the limited handler awaits are cancelled with it."""
    use(factory)
    failures, cancelled = [], []
    bus = EventBus(on_error=failures.append)

    async def outer(event):
        await bus.publish(InvoiceIssued())

    async def inner(event):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(event)

    bus.instrument(fail_after_for("outer", 0.001))
    bus.subscribe(OrderPlaced, outer)
    bus.subscribe(InvoiceIssued, inner)
    await bus.publish(OrderPlaced())
    assert len(cancelled) == 1
    assert [type(failure.exception) for failure in failures] == [TimeoutError]
    assert failures[0].handler.name.endswith("outer")


# Without hooks


@with_and_without_plain_factory
async def test_sync_handler_runs_in_the_publishers_task(bus, factory):
    """C10: no hook, no task: neither before one is installed nor after it is removed."""
    use(factory)
    tasks = []
    bus.subscribe(OrderPlaced, lambda event: tasks.append(asyncio.current_task()))
    await bus.publish(OrderPlaced())
    with bus.instrument(lambda event, handler: nullcontext()):
        await bus.publish(OrderPlaced())
    await bus.publish(OrderPlaced())
    own = asyncio.current_task()
    assert [task is own for task in tasks] == [True, False, True]


async def test_hook_of_another_bus_makes_no_task(bus):
    """C10: hooks are a bus's own."""
    tasks = []
    other = EventBus()
    bus.subscribe(OrderPlaced, lambda event: tasks.append(asyncio.current_task()))
    with other.instrument(lambda event, handler: nullcontext()):
        await bus.publish(OrderPlaced())
    assert tasks == [asyncio.current_task()]


def test_hooks_need_a_loop(bus):
    """C10: a task has a loop; without one, publish says so, to a sync handler too."""
    bus.subscribe(OrderPlaced, lambda event: None)
    hook = bus.instrument(lambda event, handler: None)
    with hook, pytest.raises(RuntimeError, match="asyncio event loop"):
        bus.publish(OrderPlaced()).send(None)
    with pytest.raises(StopIteration):
        bus.publish(OrderPlaced()).send(None)
