# SPDX-License-Identifier: MIT
"""C4.5: a handler that is cancelled by itself, or by a third party, has failed, and it alone."""

import asyncio
import contextlib

import pytest
from support import (
    EAGER_FACTORIES,
    Level,
    OrderPlaced,
    cancel_next_task,
    cancel_tasks_of,
    deep,
    every_way,
    forever,
    join,
    start_publisher,
    tenant,
    until,
    use,
    with_and_without_factories,
    with_and_without_plain_factory,
)
from target import EventBus

pytestmark = pytest.mark.usefixtures("no_noise")


# By itself


def raise_sync(event):
    raise asyncio.CancelledError("own")


async def raise_early(event):
    raise asyncio.CancelledError("own")


async def raise_late(event):
    await asyncio.sleep(0)
    raise asyncio.CancelledError("own")


def raise_awaited(event):
    return raise_late(event)


async def await_cancelled(event):
    future = asyncio.get_running_loop().create_future()
    future.cancel("own")
    await future


async def cancel_itself(event):
    asyncio.current_task().cancel("own")
    await asyncio.sleep(0)


async def cancel_itself_early(event):
    asyncio.current_task().cancel("own")
    raise asyncio.CancelledError("own")


every_own = pytest.mark.parametrize(
    "handler",
    [
        raise_sync,
        raise_early,
        raise_late,
        raise_awaited,
        await_cancelled,
        cancel_itself,
        cancel_itself_early,
    ],
)


@every_own
@with_and_without_factories
async def test_own_cancelled_error_of_the_only_handler(bus, errors, factory, handler):
    """C4.5: a handler that raises CancelledError does not cancel its publisher with it."""
    use(factory)
    bus.subscribe(OrderPlaced, handler)
    assert await bus.publish(OrderPlaced()) is None
    assert [record.levelname for record in errors] == ["ERROR"]
    assert isinstance(errors[0].exc_info[1], asyncio.CancelledError)
    assert asyncio.current_task().cancelling() == 0


@with_and_without_factories
async def test_own_cancelled_error_meets_that_of_the_publisher(bus, failures, errors, factory):
    """C4.5: what nobody asked for is the handler's own, also in the turn that cancels others."""
    use(factory)
    gate = asyncio.Event()

    async def wait_and_raise(event):
        await gate.wait()
        raise asyncio.CancelledError("own")

    publisher = await start_publisher(bus, wait_and_raise)
    gate.set()
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert [failure.exception.args for failure in failures] == [("own",)]
    assert len(errors) == 1


@every_own
@every_way
@with_and_without_factories
async def test_own_cancelled_error_is_a_failure(bus, failures, errors, factory, publish, handler):
    """C4.5: a handler that raises CancelledError has failed; nobody else notices."""
    use(factory)
    finished = []

    async def sibling(event):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        finished.append(event)

    bus.subscribe(OrderPlaced, sibling)
    bus.subscribe(OrderPlaced, handler)
    bus.subscribe(OrderPlaced, finished.append)
    await publish(bus, OrderPlaced())
    assert len(finished) == 2
    (failure,) = failures
    assert failure.handler.callback is handler
    assert type(failure.exception) is asyncio.CancelledError
    assert failure.exception.args == ("own",)
    assert [record.levelname for record in errors] == ["ERROR"]
    assert asyncio.current_task().cancelling() == 0
    assert bus.pending == 0


@pytest.mark.parametrize("waits", [False, True])
async def test_handler_that_cancels_its_own_task_and_returns(bus, errors, waits):
    """C4.4, C5.2: that is no failure: it has returned, in its first run and later."""
    runs = []

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
    assert len(errors) == 0


# By a third party


@with_and_without_factories
async def test_handler_cancelled_by_a_third_party(bus, failures, errors, factory):
    """C4.5: a handler whose task is cancelled by anyone but the publisher has failed."""
    use(factory)
    finished, tasks = [], []
    gate = asyncio.Event()

    async def victim(event):
        tasks.append(asyncio.current_task())
        await asyncio.Event().wait()

    async def sibling(event):
        await gate.wait()
        finished.append(event)

    publisher = await start_publisher(bus, victim, sibling)
    tasks[0].cancel()
    await asyncio.wait([*tasks])
    assert len(failures) == len(errors) == 1
    assert not publisher.done()
    gate.set()
    assert await publisher is None
    assert len(finished) == 1
    assert isinstance(failures[0].exception, asyncio.CancelledError)


@with_and_without_factories
async def test_only_handler_cancelled_by_a_third_party(bus, errors, factory):
    """C4.5: the same if it is the only handler: the publisher is not cancelled with it."""
    use(factory)
    tasks = []

    async def victim(event):
        tasks.append(asyncio.current_task())
        await asyncio.Event().wait()

    publisher = await start_publisher(bus, victim)
    tasks[0].cancel()
    assert await publisher is None
    assert len(errors) == 1


async def test_third_party_cancellation_that_is_swallowed(bus, errors):
    """C4.5: a handler that takes a third party's cancellation in its stride has not failed."""
    tasks = []

    async def victim(event):
        tasks.append(asyncio.current_task())
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    publisher = await start_publisher(bus, victim)
    tasks[0].cancel()
    assert await publisher is None
    assert len(errors) == 0


@with_and_without_factories
async def test_nested_publisher_cancelled_by_a_third_party(bus, failures, errors, factory):
    """C4.5: a handler cancelled in its own publish cancels those handlers, and fails, alone."""
    use(factory)
    tasks = []
    innermost_runs = asyncio.Event()

    async def nested(event):
        tasks.append(asyncio.current_task())
        await bus.publish(Level(0))

    async def innermost(event):
        tasks.append(asyncio.current_task())
        innermost_runs.set()
        await asyncio.Event().wait()

    bus.subscribe(Level, innermost)
    publisher = await start_publisher(bus, nested)
    await innermost_runs.wait()
    tasks[0].cancel()
    assert await publisher is None
    assert [failure.chain for failure in failures] == [(OrderPlaced,)]
    assert tasks[1].cancelled()
    assert len(errors) == 1


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
        with contextlib.suppress(asyncio.CancelledError):
            await tasks[-1]
        await join(bus)
        assert len(errors) == number
        ended.clear()


# Before the first step


@with_and_without_plain_factory
@pytest.mark.parametrize("levels", [1, 20])
async def test_handler_cancelled_before_its_first_step(bus, failures, errors, factory, levels):
    """C4.5: a task that is cancelled before the handler was called is a failure of the handler."""
    use(factory)
    finished = []

    def cancel_the_next(event):
        if cancel_tasks_of(bus.handlers(OrderPlaced)[1]):
            finished.append("cancelled the next")

    async def victim(event):
        finished.append("victim")

    async def sibling(event):
        await asyncio.sleep(0)
        finished.append("sibling")

    for handler in (cancel_the_next, victim, sibling):
        bus.subscribe(OrderPlaced, handler)
    await deep(bus, levels, lambda: bus.publish(OrderPlaced()))
    if finished == ["victim", "sibling"]:  # started eagerly: nobody could cancel it so soon
        assert factory is None
        return
    assert finished == ["cancelled the next", "sibling"]
    (failure,) = failures
    assert failure.handler.callback is victim
    assert failure.chain == (*[Level] * levels, OrderPlaced)
    assert isinstance(failure.exception, asyncio.CancelledError)
    assert len(errors) == 1


@every_way
@with_and_without_plain_factory
async def test_handler_cancelled_twice_before_its_first_step(errors, factory, publish):
    """C4.3, C4.5: it has failed once, and on_error sees what its publisher saw."""
    use(factory)
    seen, victims = [], []
    bus = EventBus(on_error=lambda failure: seen.append((failure.exception, tenant.get())))

    def cancel_the_next(event):
        tenant.set("of the one who cancels")
        victims.extend(cancel_tasks_of(bus.handlers(OrderPlaced)[1]))
        for task in victims:
            task.uncancel()
            task.cancel()

    async def victim(event):
        seen.append("victim")

    for handler in (cancel_the_next, victim):
        bus.subscribe(OrderPlaced, handler)
    tenant.set("of the publisher")
    await publish(bus, OrderPlaced())
    if not victims:  # started eagerly: nobody could cancel it so soon
        assert factory is None
        assert seen == ["victim"]
        return
    ((exception, context),) = seen
    assert isinstance(exception, asyncio.CancelledError)
    assert context == "of the publisher"
    assert len(errors) == 1


@every_way
@with_and_without_plain_factory
async def test_unfinished_handlers_beside_one_never_started(bus, errors, factory, publish):
    """C4.1, C5.3: who publishes still waits for the others, and holds on to nobody."""
    use(factory)
    started, gate, finished = asyncio.Event(), asyncio.Event(), []

    def cancel_the_next(event):
        cancel_tasks_of(bus.handlers(OrderPlaced)[1])

    async def sibling(event):
        started.set()
        await gate.wait()
        finished.append("sibling")

    for handler in (cancel_the_next, forever, sibling):
        bus.subscribe(OrderPlaced, handler)
    publisher = asyncio.create_task(publish(bus, OrderPlaced()))
    await started.wait()
    await asyncio.sleep(0)
    if factory is None and EAGER_FACTORIES:  # started eagerly, before it could be cancelled
        cancel_the_next(None)
    assert not publisher.done()
    gate.set()
    await publisher
    assert finished == ["sibling"]
    assert len(errors) == 1
    assert bus.pending == 0


async def test_cancelled_before_the_first_step_is_a_failure(bus, failures, errors):
    """C4.5, C5.2: a handler whose task is cancelled before it could start is reported too."""
    ran = []

    async def handle(event):
        ran.append(event)

    bus.subscribe(OrderPlaced, handle)
    cancel_next_task()
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert ran == []
    assert [type(failure.exception) for failure in failures] == [asyncio.CancelledError]
    assert failures[0].chain == (OrderPlaced,)
    assert len(errors) == 1
    assert bus.pending == 0


async def test_cancelled_by_others_as_soon_as_its_task_is_there(bus, failures, errors):
    """C4.5, C5.2: so is one that others cancel at once, before its first step on Python 3.11."""

    def cancel_others(me):
        for task in asyncio.all_tasks() - {me}:
            task.cancel()

    bus.subscribe(OrderPlaced, forever)
    bus.publish_nowait(OrderPlaced())
    asyncio.get_running_loop().call_soon(cancel_others, asyncio.current_task())
    await join(bus)
    assert [type(failure.exception) for failure in failures] == [asyncio.CancelledError]
    assert failures[0].chain == (OrderPlaced,)
    assert len(errors) == 1
    assert bus.pending == 0
