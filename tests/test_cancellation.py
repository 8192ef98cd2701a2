# SPDX-License-Identifier: MIT
"""C4.5: a publisher that is cancelled cancels its handlers, waits for them, and then raises."""

import asyncio
import contextlib
import inspect

import pytest
from support import (
    Failure,
    Level,
    OrderPlaced,
    deep,
    fail_early,
    forever,
    start_publisher,
    turns,
    use,
    with_and_without_factories,
)
from target import EventBus

pytestmark = pytest.mark.usefixtures("no_noise")


# Cancelling and waiting


@with_and_without_factories
async def test_cancelled_publisher_cancels_and_awaits_its_handlers(bus, errors, factory):
    """C4.5: all are cancelled at once, awaited however long they take, then the publisher is."""
    use(factory)
    release = asyncio.Event()
    log = []

    async def swallow(event):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")

    async def clean_up(event):
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cancelled")
            await release.wait()
            log.append("cleaned up")

    publisher = await start_publisher(bus, clean_up, swallow, clean_up, swallow)
    publisher.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert log == ["cancelled"] * 4
    assert not publisher.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert log[4:] == ["cleaned up"] * 2
    assert publisher.cancelled()
    assert len(errors) == 0


@with_and_without_factories
async def test_failure_during_cancellation_is_reported(bus, failures, errors, factory):
    """C4.5: a handler that fails while it is cancelled is reported, and not mistaken for one."""
    use(factory)

    async def fail(event):
        try:
            await asyncio.Event().wait()
        finally:
            raise Failure

    publisher = await start_publisher(bus, forever, fail, forever)
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert [type(failure.exception) for failure in failures] == [Failure]
    assert len(errors) == 1


async def test_failure_before_cancellation_is_reported_once(bus, errors):
    """C4.5: a failure that came first is not reported again, and the cancellation not lost."""

    async def fail(event):
        raise Failure

    publisher = await start_publisher(bus, forever, fail)
    assert len(errors) == 1
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert len(errors) == 1


@with_and_without_factories
async def test_cancelled_at_every_turn(bus, errors, factory):
    """C4.5: as anyio's scopes do it; each handler sees one cancellation, and cleans up in peace."""
    use(factory)
    log = []

    async def clean_up(event):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        finally:
            await turns(20)
            log.append("cleaned up")

    async def swallow(event):
        for _ in range(2):
            try:
                await turns(20)
            except asyncio.CancelledError:
                log.append("cancelled")

    publisher = await start_publisher(bus, clean_up, swallow, clean_up)
    count = 0
    while not publisher.done():
        publisher.cancel()
        count += 1
        await asyncio.sleep(0)
    assert count > 20
    assert publisher.cancelled()
    assert sorted(log) == ["cancelled"] * 3 + ["cleaned up"] * 2
    assert len(errors) == 0


@with_and_without_factories
async def test_cancelled_again_much_later(bus, errors, factory):
    """C4.5: nor is a handler cancelled again that takes its time."""
    use(factory)
    release = asyncio.Event()
    log = []

    async def stubborn(event):
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                log.append("cancelled")

    publisher = await start_publisher(bus, stubborn, stubborn)
    try:
        for _ in range(3):
            publisher.cancel()
            await turns()
            assert log == ["cancelled"] * 2
            assert not publisher.done()
    finally:
        release.set()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert log == ["cancelled"] * 2
    assert len(errors) == 0


@with_and_without_factories
async def test_cancelled_at_every_turn_down_a_chain(bus, errors, factory):
    """C4.5: a cancellation is passed on once at each level, and every level cleans up."""
    use(factory)
    log = []

    async def descend(event):
        try:
            if event.left:
                await bus.publish(Level(event.left - 1))
            else:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        finally:
            await turns(10)
            log.append(event.left)

    async def start(event):
        await bus.publish(Level(2))

    bus.subscribe(Level, descend)
    publisher = await start_publisher(bus, start)
    await turns(20)
    while not publisher.done():
        publisher.cancel()
        await asyncio.sleep(0)
    assert publisher.cancelled()
    assert log == ["cancelled", 0, "cancelled", 1, "cancelled", 2]
    assert len(errors) == 0


@with_and_without_factories
async def test_only_handler_swallows(bus, factory):
    """C4.5: a handler that swallows its cancellation cannot make the publisher lose it."""
    use(factory)
    passed = []

    async def swallow(event):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async def publish():
        await bus.publish(OrderPlaced())
        passed.append("publish")

    started = asyncio.Event()
    bus.subscribe(OrderPlaced, swallow)
    bus.subscribe(OrderPlaced, lambda event: started.set())
    publisher = asyncio.create_task(publish())
    await started.wait()
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert passed == []


async def test_message_of_the_cancellation_is_kept(bus):
    """C4.5: the CancelledError that the publisher gets is its own, with its message."""
    caught = []

    async def fail(event):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise asyncio.CancelledError("the handler's") from None

    async def publish():
        try:
            await bus.publish(OrderPlaced())
        except asyncio.CancelledError as error:
            caught.append(error.args)

    started = asyncio.Event()
    bus.subscribe(OrderPlaced, fail)
    bus.subscribe(OrderPlaced, lambda event: started.set())
    publisher = asyncio.create_task(publish())
    await started.wait()
    publisher.cancel("the publisher's")
    await publisher
    assert caught == [("the publisher's",)]


async def test_publisher_cancelled_by_its_handler(bus, errors):
    """C4.5: a handler that cancels its publisher is cancelled with all the others."""
    publisher = None
    log = []

    async def cancel_publisher(event):
        publisher.cancel()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    bus.subscribe(OrderPlaced, cancel_publisher)
    bus.subscribe(OrderPlaced, forever)
    publisher = asyncio.create_task(bus.publish(OrderPlaced()))
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert log == ["cancelled"]
    assert len(errors) == 0


@with_and_without_factories
async def test_publish_while_handling_a_cancellation(bus, errors, factory):
    """C4.5: publishing works in an `except CancelledError` block and in a `finally`."""
    use(factory)
    finished = []

    async def handler(event):
        await asyncio.sleep(0)
        finished.append(event.left)

    async def work():
        try:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await bus.publish(Level(1))
                raise
        finally:
            await bus.publish(Level(2))

    bus.subscribe(Level, handler)
    bus.subscribe(Level, lambda event: finished.append(event.left))
    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(finished) == [1, 1, 2, 2]
    assert len(errors) == 0


@with_and_without_factories
async def test_handlers_publish_while_they_are_cancelled(bus, errors, factory):
    """C4.5: a cancelled handler may publish what undoes its work, and is waited for."""
    use(factory)
    undone = []

    async def undo(event):
        await asyncio.sleep(0)
        undone.append(event)

    async def handler(event):
        try:
            await asyncio.Event().wait()
        finally:
            await bus.publish(Level(0))

    bus.subscribe(Level, undo)
    publisher = await start_publisher(bus, handler)
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert len(undone) == 1
    assert len(errors) == 0


async def test_bus_is_sound_after_all_that(bus, errors):
    """C4.5: after a cancelled publish the next one starts a chain of its own."""
    publisher = await start_publisher(bus, forever)
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    failures = []
    bus = EventBus(on_error=failures.append, max_depth=1)
    bus.subscribe(Level, fail_early)
    for _ in range(3):
        await bus.publish(Level(0))
    assert [failure.chain for failure in failures] == [(Level,)] * 3


# Timeouts and task groups


@pytest.mark.parametrize("swallows", [False, True])
@with_and_without_factories
async def test_timeout_around_publish(bus, errors, factory, swallows):
    """C4.5: `asyncio.timeout` around publish becomes a TimeoutError, and leaves nothing behind."""
    use(factory)
    log = []

    async def slow(event):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            if not swallows:
                raise

    bus.subscribe(OrderPlaced, slow)
    bus.subscribe(OrderPlaced, slow.__call__)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await bus.publish(OrderPlaced())
        assert asyncio.current_task().cancelling() == 0
    assert log == ["cancelled"] * 4
    assert len(errors) == 0


async def test_wait_for_around_publish(bus, errors):
    """C4.5: `asyncio.wait_for` returns when the handlers have cleaned up."""
    log = []

    async def slow(event):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")

    bus.subscribe(OrderPlaced, slow)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bus.publish(OrderPlaced()), 0.01)
    assert log == ["cleaned up"]
    assert len(errors) == 0


async def test_cancellation_on_top_of_a_timeout(bus):
    """C4.5: cancelled while its timeout is being handled, the publisher is cancelled after all."""
    cleaning_up, release = asyncio.Event(), asyncio.Event()
    outcome = []

    async def slow(event):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cleaning_up.set()
            await release.wait()

    async def publish():
        try:
            async with asyncio.timeout(0.01):
                await bus.publish(OrderPlaced())
        except BaseException as error:
            outcome.append(type(error))
            raise

    bus.subscribe(OrderPlaced, slow)
    publisher = asyncio.create_task(publish())
    await cleaning_up.wait()
    publisher.cancel()
    await turns()
    assert not publisher.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert outcome == [asyncio.CancelledError]


@with_and_without_factories
async def test_task_group_cancels_the_publisher(bus, errors, factory):
    """C4.5: a TaskGroup with a publisher ends when its handlers are done, and reports its own."""
    use(factory)
    started = asyncio.Event()
    log = []

    async def slow(event):
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")

    async def fail():
        await started.wait()
        raise Failure

    bus.subscribe(OrderPlaced, slow)
    with pytest.raises(ExceptionGroup) as info:
        async with asyncio.TaskGroup() as group:
            group.create_task(bus.publish(OrderPlaced()))
            group.create_task(fail())
    assert [type(error) for error in info.value.exceptions] == [Failure]
    assert log == ["cleaned up"]
    assert len(errors) == 0


# Moments


async def test_publisher_cancelled_before_it_runs(bus, errors):
    """C4.5: a publisher that is cancelled before its first step runs no handler."""
    seen = []
    bus.subscribe(OrderPlaced, seen.append)
    bus.subscribe(OrderPlaced, forever)
    publisher = asyncio.create_task(bus.publish(OrderPlaced()))
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert seen == []
    assert len(errors) == 0


@with_and_without_factories
async def test_publisher_cancelled_while_its_handlers_start(bus, errors, factory):
    """C4.5: cancelled right after its first step, it awaits its handlers just the same."""
    use(factory)
    log = []

    async def handler(event):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            log.append("cleaned up")

    bus.subscribe(OrderPlaced, handler)
    bus.subscribe(OrderPlaced, handler.__call__)
    publisher = asyncio.create_task(bus.publish(OrderPlaced()))
    asyncio.get_running_loop().call_soon(publisher.cancel)
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert log == ["cleaned up"] * 2
    assert len(errors) == 0


@pytest.mark.parametrize("levels", range(1, 17))
async def test_publisher_cancelled_with_an_awaitable_in_hand(bus, levels):
    """C4.5: what a handler in disguise has returned is awaited, or closed, at every depth."""
    coroutines = []

    def disguised(event):
        asyncio.current_task().cancel()
        coroutines.append(forever(event))
        return coroutines[0]

    bus.subscribe(OrderPlaced, disguised)
    await deep(bus, levels, lambda: bus.publish(OrderPlaced()))
    state = inspect.getcoroutinestate(coroutines[0])
    coroutines[0].close()
    assert state == inspect.CORO_CLOSED


@pytest.mark.parametrize("soon", [False, True])
@with_and_without_factories
async def test_cancelled_as_the_last_handler_finishes(bus, errors, factory, soon):
    """C4.5: a cancellation that meets the last handler's end is not lost either."""
    use(factory)
    gate = asyncio.Event()
    log = []
    publisher = None

    async def handler(event):
        await gate.wait()
        if soon:
            asyncio.get_running_loop().call_soon(publisher.cancel)
        else:
            publisher.cancel()
        log.append("finished")

    publisher = await start_publisher(bus, handler)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert log == ["finished"]
    assert len(errors) == 0
