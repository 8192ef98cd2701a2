# SPDX-License-Identifier: MIT
"""C10: while hooks are installed every handler has a task, which is its hooks' to do with."""

import asyncio
import contextlib
from contextlib import contextmanager

import pytest
from support import (
    PATIENCE,
    InvoiceIssued,
    MailSent,
    OrderPlaced,
    do_nothing,
    every_kind,
    every_way,
    forever,
    nothing,
    turns,
    use,
    with_and_without_factories,
    with_unwrapped_tasks,
)
from target import EventBus


class FailAfter:
    """What `anyio.fail_after` does: it cancels the task that has entered it, once it is late."""

    def __init__(self, seconds):
        self.seconds, self.late = seconds, False

    def __enter__(self):
        self.task = asyncio.current_task()
        assert self.task is not None
        loop = asyncio.get_running_loop()
        if self.seconds > 0:
            self.timer = loop.call_later(self.seconds, self.cancel)
        else:
            self.timer = loop.call_soon(self.cancel)

    def cancel(self):
        self.late = True
        self.task.cancel()

    def __exit__(self, kind, exc, traceback):
        self.timer.cancel()
        if self.late and self.task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError from exc
        return False


def fail_at_once(event, handler):
    return FailAfter(0)


@every_kind
@every_way
@with_unwrapped_tasks
@pytest.mark.parametrize("neighbours", [False, True])
async def test_hook_and_handler_share_a_task_of_their_own(
    bus, failures, kind, publish, factory, neighbours
):
    """C10: sync handlers and sync wrappers of async ones have one, too, on every publish."""
    use(factory)
    tasks = []

    def note():
        tasks.append(asyncio.current_task())

    @contextmanager
    def hook(event, handler):
        if handler.callback is not do_nothing:
            note()
        yield
        if handler.callback is not do_nothing:
            note()

    if neighbours:
        bus.subscribe(OrderPlaced, do_nothing)
    handler = bus.subscribe(OrderPlaced, kind(note, note)).handler
    await publish(bus, OrderPlaced())
    tasks.clear()
    with bus.instrument(hook):
        for _ in range(2):
            await publish(bus, OrderPlaced())
            assert len(tasks) == 4
            (task,) = set(tasks)
            assert task not in (None, asyncio.current_task())
            assert task.get_name() == handler.name
            tasks.clear()
    await publish(bus, OrderPlaced())
    assert len(tasks) == 2
    assert failures == []


@every_kind
@with_and_without_factories
async def test_no_two_runs_share_a_task(bus, kind, factory):
    """C10: each handler of an event has a task, and neither has the publisher's."""
    use(factory)
    tasks = [asyncio.current_task()]

    @contextmanager
    def hook(event, handler):
        tasks.append(asyncio.current_task())
        yield

    bus.instrument(hook)
    for _ in range(3):
        bus.subscribe(OrderPlaced, kind(nothing, nothing))
    await bus.publish(OrderPlaced())
    await bus.publish(InvoiceIssued())  # which nobody handles
    assert len(tasks) == 5
    assert len(set(map(id, tasks))) == 5


@every_way
@with_unwrapped_tasks
async def test_time_limit_of_a_hook(failures, publish, factory):
    """C10: `anyio.fail_after` as a hook ends its handler, as a failure, and nobody else."""
    use(factory)
    bus, finished = EventBus(on_error=failures.append), []
    slow = bus.subscribe(OrderPlaced, forever).handler
    wrapped = bus.subscribe(OrderPlaced, lambda event: forever(event)).handler

    def limited(event, handler):
        return FailAfter(0.01) if handler in (slow, wrapped) else contextlib.nullcontext()

    async def in_time(event):
        await asyncio.sleep(0.02)
        finished.append(event)

    bus.subscribe(OrderPlaced, in_time)
    bus.subscribe(OrderPlaced, finished.append)
    bus.instrument(limited)
    async with asyncio.timeout(PATIENCE):
        await publish(bus, OrderPlaced())
    assert asyncio.current_task().cancelling() == 0
    assert len(finished) == 2
    assert [failure.handler for failure in failures] == [slow, wrapped]
    assert [type(failure.exception) for failure in failures] == [TimeoutError] * 2


@every_kind
@every_way
@with_unwrapped_tasks
async def test_hook_that_cancels_its_task(bus, failures, kind, publish, factory):
    """C10: whatever the handler is, the publisher is not touched, nor the handlers beside it."""
    use(factory)
    log = []

    class Cancelling:
        def __init__(self, event, handler):
            self.applies = handler.callback is cancelled.callback

        def __enter__(self):
            if self.applies:
                asyncio.current_task().cancel()

        def __exit__(self, *exc_info):
            pass

    bus.subscribe(OrderPlaced, lambda event: log.append("before"))
    cancelled = bus.subscribe(OrderPlaced, kind(nothing, nothing)).handler
    bus.subscribe(OrderPlaced, lambda event: log.append("after"))
    bus.instrument(Cancelling)
    for _ in range(2):
        await publish(bus, OrderPlaced())
    await turns()
    assert asyncio.current_task().cancelling() == 0
    assert log == ["before", "after"] * 2
    for failure in failures:
        assert failure.handler is cancelled
        assert type(failure.exception) is asyncio.CancelledError


@with_unwrapped_tasks
async def test_time_limit_around_a_nested_publish(bus, failures, factory):
    """C10, C4.5: the publisher that a hook cancels is the handler inside it, with all below."""
    use(factory)
    log = []

    async def publish_inside(event):
        try:
            await bus.publish(InvoiceIssued())
        except asyncio.CancelledError:
            log.append("publisher")
            raise

    async def slow(event):
        try:
            await forever(event)
        finally:
            await turns()
            log.append("handler")

    def hook(event, handler):
        if type(event) is OrderPlaced:
            return FailAfter(0.01)
        return contextlib.nullcontext()

    outer = bus.subscribe(OrderPlaced, publish_inside).handler
    bus.subscribe(InvoiceIssued, slow)
    bus.instrument(hook)
    await bus.publish(OrderPlaced())
    assert log == ["handler", "publisher"]
    assert [failure.handler for failure in failures] == [outer]
    assert type(failures[0].exception) is TimeoutError


@every_way
async def test_hook_for_nobody_has_a_task(bus, errors, publish):
    """C10: around an event that nobody handles as well, and not the publisher's."""
    tasks = []

    @contextmanager
    def hook(event, handler):
        assert handler is None
        tasks.append(asyncio.current_task())
        with FailAfter(0):
            yield

    with bus.instrument(hook):
        await publish(bus, MailSent())
    (task,) = tasks
    assert task not in (None, asyncio.current_task())
    await turns()
    assert asyncio.current_task().cancelling() == 0
    assert len(errors) == 0


@every_kind
async def test_anyio_time_limit(bus, failures, kind):
    """C10: the real one."""
    anyio = pytest.importorskip("anyio")

    def hook(event, handler):
        return anyio.fail_after(0.01 if handler is slow else PATIENCE)

    slow = bus.subscribe(OrderPlaced, forever).handler
    seen = []
    bus.subscribe(OrderPlaced, kind(nothing, lambda: seen.append("finished")))
    bus.instrument(hook)
    for _ in range(2):
        await bus.publish(OrderPlaced())
    assert asyncio.current_task().cancelling() == 0
    assert seen == ["finished"] * 2
    assert [failure.handler for failure in failures] == [slow] * 2
    assert [type(failure.exception) for failure in failures] == [TimeoutError] * 2


def test_hooks_need_a_loop(bus):
    """C10: a task has a loop; without one, publish says so, to a sync handler too."""
    bus.subscribe(OrderPlaced, do_nothing)
    with bus.instrument(fail_at_once), pytest.raises(RuntimeError, match="asyncio event loop"):
        bus.publish(OrderPlaced()).send(None)
    with pytest.raises(StopIteration):
        bus.publish(OrderPlaced()).send(None)
