# SPDX-License-Identifier: MIT
"""C4.5: cancellation in every form, and the exceptions that end the program."""

import asyncio
import contextlib
import contextvars
import gc
import inspect
import signal
import sys
from functools import partial

import pytest
from support import (
    EAGER_FACTORIES,
    Failure,
    Level,
    OrderPlaced,
    deep,
    every_way,
    plain_factory,
    use,
)
from target import EventBus


class Stop(BaseException):
    pass


FACTORIES = [None, plain_factory, *EAGER_FACTORIES]

with_and_without_factories = pytest.mark.parametrize("factory", FACTORIES)


@pytest.fixture(autouse=True)
def no_noise(caplog):
    """After every test: asyncio has logged no exception or task that nobody took care of."""
    gc.freeze()  # what is there already need not be looked through
    yield
    gc.collect()
    gc.unfreeze()
    records = [record for record in caplog.get_records("call") if record.name == "asyncio"]
    assert [record.getMessage() for record in records if record.levelname == "ERROR"] == []


async def start(bus, *handlers):
    """Return a task that publishes to these async handlers, once each of them waits."""
    running = asyncio.Semaphore(0)

    def announced(handler):
        async def run(event):
            running.release()
            await handler(event)

        return run

    for handler in handlers:
        bus.subscribe(OrderPlaced, announced(handler))
    publisher = asyncio.create_task(bus.publish(OrderPlaced()))
    for _ in handlers:
        await running.acquire()
    return publisher


async def forever(event):
    await asyncio.Event().wait()


# A handler's own CancelledError


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


every_own = pytest.mark.parametrize(
    "handler",
    [raise_sync, raise_early, raise_late, raise_awaited, await_cancelled, cancel_itself],
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


@every_own
@with_and_without_factories
async def test_own_cancelled_error_is_a_failure(errors, factory, handler):
    """C4.5: a handler that raises CancelledError has failed; nobody else notices."""
    use(factory)
    failures, finished = [], []
    bus = EventBus(on_error=failures.append)

    async def sibling(event):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        finished.append(event)

    bus.subscribe(OrderPlaced, sibling)
    bus.subscribe(OrderPlaced, handler)
    bus.subscribe(OrderPlaced, finished.append)
    assert await bus.publish(OrderPlaced()) is None
    assert len(finished) == 2
    (failure,) = failures
    assert failure.handler.callback is handler
    assert isinstance(failure.exception, asyncio.CancelledError)
    assert failure.exception.args == ("own",)
    assert [record.levelname for record in errors] == ["ERROR"]
    assert asyncio.current_task().cancelling() == 0


@with_and_without_factories
async def test_handler_cancelled_by_a_third_party(errors, factory):
    """C4.5: a handler whose task is cancelled by anyone but the publisher has failed."""
    use(factory)
    failures, finished, tasks = [], [], []
    bus = EventBus(on_error=failures.append)
    gate = asyncio.Event()

    async def victim(event):
        tasks.append(asyncio.current_task())
        await asyncio.Event().wait()

    async def sibling(event):
        await gate.wait()
        finished.append(event)

    publisher = await start(bus, victim, sibling)
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

    publisher = await start(bus, victim)
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

    publisher = await start(bus, victim)
    tasks[0].cancel()
    assert await publisher is None
    assert len(errors) == 0


@pytest.mark.parametrize("factory", [None, plain_factory])
@pytest.mark.parametrize("levels", [1, 20])
async def test_handler_cancelled_before_its_first_step(errors, factory, levels):
    """C4.5: a task that is cancelled before the handler was called is a failure of the handler."""
    use(factory)
    failures, finished = [], []
    bus = EventBus(on_error=failures.append)

    def cancel_the_next(event):
        for task in asyncio.all_tasks():
            if task.get_name() == bus.handlers(OrderPlaced)[1].name:
                task.cancel()
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
@pytest.mark.parametrize("factory", [None, plain_factory])
async def test_handler_cancelled_twice_before_its_first_step(errors, factory, publish):
    """C4.3, C4.5: it has failed once, and on_error sees what its publisher saw."""
    use(factory)
    var = contextvars.ContextVar("var", default="default")
    seen, victims = [], []
    bus = EventBus(on_error=lambda failure: seen.append((failure.exception, var.get())))

    def cancel_the_next(event):
        var.set("of the one who cancels")
        victims.extend(
            task
            for task in asyncio.all_tasks()
            if task.get_name() == bus.handlers(OrderPlaced)[1].name
        )
        for task in victims:
            task.cancel()
            task.uncancel()
            task.cancel()

    async def victim(event):
        seen.append("victim")

    for handler in (cancel_the_next, victim):
        bus.subscribe(OrderPlaced, handler)
    var.set("of the publisher")
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
@pytest.mark.parametrize("factory", [None, plain_factory])
async def test_unfinished_handlers_beside_one_never_started(bus, errors, factory, publish):
    """C4.1, C5.3: who publishes still waits for the others, and holds on to nobody."""
    use(factory)
    started, gate, finished = asyncio.Event(), asyncio.Event(), []

    def cancel_the_next(event):
        for task in asyncio.all_tasks():
            if task.get_name() == bus.handlers(OrderPlaced)[1].name:
                task.cancel()

    async def victim(event):
        await asyncio.Event().wait()

    async def sibling(event):
        started.set()
        await gate.wait()
        finished.append("sibling")

    for handler in (cancel_the_next, victim, sibling):
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


@with_and_without_factories
async def test_nested_publisher_cancelled_by_a_third_party(errors, factory):
    """C4.5: a handler cancelled in its own publish cancels those handlers, and fails, alone."""
    use(factory)
    failures, tasks = [], []
    bus = EventBus(on_error=failures.append)
    innermost_runs = asyncio.Event()

    async def nested(event):
        tasks.append(asyncio.current_task())
        await bus.publish(Level(0))

    async def innermost(event):
        tasks.append(asyncio.current_task())
        innermost_runs.set()
        await asyncio.Event().wait()

    bus.subscribe(Level, innermost)
    publisher = await start(bus, nested)
    await innermost_runs.wait()
    tasks[0].cancel()
    assert await publisher is None
    assert [failure.chain for failure in failures] == [(OrderPlaced,)]
    assert tasks[1].cancelled()
    assert len(errors) == 1


# The publisher's cancellation


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

    publisher = await start(bus, clean_up, swallow, clean_up, swallow)
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
async def test_failure_during_cancellation_is_reported(errors, factory):
    """C4.5: a handler that fails while it is cancelled is reported, and not mistaken for one."""
    use(factory)
    failures = []
    bus = EventBus(on_error=failures.append)

    async def fail(event):
        try:
            await asyncio.Event().wait()
        finally:
            raise Failure

    publisher = await start(bus, forever, fail, forever)
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert [type(failure.exception) for failure in failures] == [Failure]
    assert len(errors) == 1


async def test_failure_before_cancellation_is_reported_once(bus, errors):
    """C4.5: a failure that came first is not reported again, and the cancellation not lost."""

    async def fail(event):
        raise Failure

    publisher = await start(bus, forever, fail)
    assert len(errors) == 1
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert len(errors) == 1


@with_and_without_factories
async def test_cancelled_twice(bus, errors, factory):
    """C4.5: cancelled again while handlers clean up, the publisher still waits for them."""
    use(factory)
    release = asyncio.Event()
    log = []

    async def stubborn(event):
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                log.append("cancelled")

    publisher = await start(bus, stubborn, stubborn)
    try:
        for count in (1, 2, 3):
            publisher.cancel()
            for _ in range(4):
                await asyncio.sleep(0)
            assert len(log) == 2 * count
            assert not publisher.done()
    finally:
        release.set()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert log == ["cancelled"] * 6
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
            with contextlib.suppress(asyncio.CancelledError):
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
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert outcome == [asyncio.CancelledError]


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
    publisher = await start(bus, handler)
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert len(undone) == 1
    assert len(errors) == 0


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

    publisher = await start(bus, handler)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert log == ["finished"]
    assert len(errors) == 0


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


# Chains


@with_and_without_factories
async def test_cancellation_goes_down_a_chain(bus, errors, factory):
    """C4.5: every level of a chain is cancelled, and the innermost has finished first."""
    use(factory)
    bottom = asyncio.Event()
    log = []

    async def descend(event):
        try:
            if event.left:
                await bus.publish(Level(event.left - 1))
            else:
                bottom.set()
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            log.append(event.left)
            raise

    bus.subscribe(Level, descend)
    publisher = asyncio.create_task(bus.publish(Level(20)))
    await bottom.wait()
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert log == list(range(21))
    assert len(errors) == 0


async def test_swallowed_at_the_bottom_of_a_chain(bus, errors):
    """C4.5: the innermost handler swallows; the publishes above it raise CancelledError still."""
    bottom = asyncio.Event()
    log = []

    async def descend(event):
        if event.left:
            await bus.publish(Level(event.left - 1))
        else:
            bottom.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        log.append(event.left)

    bus.subscribe(Level, descend)
    publisher = asyncio.create_task(bus.publish(Level(5)))
    await bottom.wait()
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert log == [0]
    assert len(errors) == 0


@pytest.mark.parametrize("factory", [None, plain_factory])
async def test_cancellation_of_a_very_deep_chain(errors, factory):
    """C4.5: thousands of levels are cancelled, without a RecursionError."""
    asyncio.get_running_loop().set_debug(False)
    use(factory)
    bus = EventBus(max_depth=None)
    bottom = asyncio.Event()
    cancelled = []

    async def descend(event):
        try:
            if event.left:
                await bus.publish(Level(event.left - 1))
            else:
                bottom.set()
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(event.left)
            raise

    bus.subscribe(Level, descend)
    publisher = asyncio.create_task(bus.publish(Level(5000)))
    await bottom.wait()
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert cancelled == list(range(5001))
    assert len(errors) == 0


async def test_handler_of_a_chain_fails_while_the_chain_is_cancelled(errors):
    """C4.5: the failure of one level is reported with its chain; the rest is cancelled."""
    failures = []
    bus = EventBus(on_error=failures.append)
    bottom = asyncio.Event()

    async def descend(event):
        if event.left:
            await bus.publish(Level(event.left - 1))
        else:
            bottom.set()
            try:
                await asyncio.Event().wait()
            finally:
                raise Failure

    bus.subscribe(Level, descend)
    publisher = asyncio.create_task(bus.publish(Level(2)))
    await bottom.wait()
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert [failure.chain for failure in failures] == [(Level,) * 3]
    assert [type(failure.exception) for failure in failures] == [Failure]


# What ends the program


def end_sync(error, event):
    raise error


async def end_early(error, event):
    raise error


async def end_late(error, event):
    await asyncio.sleep(0)
    raise error


def end_awaited(error, event):
    return end_late(error, event)


every_end = pytest.mark.parametrize("end", [end_sync, end_early, end_late, end_awaited])
every_error = pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, Stop])


@every_error
@every_end
@pytest.mark.parametrize("levels", [1, 20])
@with_and_without_factories
def test_what_ends_the_program_reaches_the_publisher(errors, factory, end, error, levels):
    """C4.5: KeyboardInterrupt and its like are raised when no other handler runs any more."""
    bus = EventBus()
    log = []

    async def sibling(event):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            log.append("sibling")

    async def publish():
        try:
            async with asyncio.timeout(0.5):
                await bus.publish(OrderPlaced())
        except BaseException as raised:
            log.append(type(raised))
            raise

    async def main():
        use(factory)
        with contextlib.suppress(error):
            await deep(bus, levels, publish)

    bus.subscribe(OrderPlaced, sibling)
    bus.subscribe(OrderPlaced, partial(end, error()))
    with asyncio.Runner(debug=True) as runner:
        loop = runner.get_loop()
        program = loop.create_task(main())
        while not program.done():  # the loop itself may let go for a moment
            with contextlib.suppress(error):
                loop.run_until_complete(program)
        left = asyncio.all_tasks(loop)
    assert log == ["sibling", error]
    assert left == set()
    assert len(errors) == 0


@every_error
@every_end
@with_and_without_factories
def test_what_ends_the_program_leaves_the_loop(bus, errors, factory, end, error):
    """C4.5: from `asyncio.run` they come out, and no handler is left behind."""
    log = []

    async def sibling(event):
        try:
            await asyncio.Event().wait()
        finally:
            log.append("sibling")

    async def main():
        use(factory)
        async with asyncio.timeout(0.5):
            await bus.publish(OrderPlaced())

    bus.subscribe(OrderPlaced, sibling)
    bus.subscribe(OrderPlaced, partial(end, error()))
    with pytest.raises(error):
        asyncio.run(main(), debug=True)
    assert log == ["sibling"]
    assert len(errors) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@with_and_without_factories
def test_what_ends_the_program_outdoes_a_cancellation(bus, errors, factory, error):
    """C4.5: raised by a handler that is being cancelled, they come out just the same."""
    log = []

    async def interrupted(event):
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    async def sibling(event):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            log.append("sibling")

    async def main():
        use(factory)
        async with asyncio.timeout(0.01):
            await bus.publish(OrderPlaced())

    bus.subscribe(OrderPlaced, sibling)
    bus.subscribe(OrderPlaced, interrupted)
    with pytest.raises(error):
        asyncio.run(main(), debug=True)
    assert log == ["sibling"]
    assert len(errors) == 0


@with_and_without_factories
def test_interrupted_program_logs_no_failure(bus, errors, factory):
    """C4.5: a KeyboardInterrupt elsewhere, with publishes in several tasks, is nobody's failure."""
    ended, tasks = [], []
    started = asyncio.Semaphore(0)

    async def innermost(event):
        started.release()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(event)

    async def nested(event):
        await bus.publish(Level(0))

    async def main():
        use(factory)
        tasks.extend(asyncio.create_task(bus.publish(OrderPlaced())) for _ in range(10))
        for _ in range(20):
            await started.acquire()
        raise KeyboardInterrupt

    bus.subscribe(OrderPlaced, nested)
    bus.subscribe(OrderPlaced, innermost)
    bus.subscribe(Level, innermost)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main(), debug=True)
    assert len(ended) == 20
    assert all(task.cancelled() for task in tasks)
    assert [record.getMessage() for record in errors] == []


@with_and_without_factories
async def test_nothing_is_reported_after_the_end_of_the_publish(errors, factory):
    """C4.5, C4.8: nor a handler, cancelled before its first step, of a publish that has raised."""
    use(factory)
    failures = []
    bus = EventBus(on_error=failures.append)

    def cancel_the_next_and_end(event):
        for task in asyncio.all_tasks():
            if task.get_name() == bus.handlers(OrderPlaced)[1].name:
                task.cancel()
        raise Stop

    bus.subscribe(OrderPlaced, cancel_the_next_and_end)
    bus.subscribe(OrderPlaced, forever)
    with pytest.raises(Stop):
        await bus.publish(OrderPlaced())
    await asyncio.sleep(0)
    assert failures == []
    assert len(errors) == 0


@with_and_without_factories
def test_program_interrupted_before_handlers_start(bus, errors, factory):
    """C4.5: nor is one of handlers that the loop has yet to start."""

    async def handle(event):
        await asyncio.Event().wait()

    def interrupt():
        raise KeyboardInterrupt

    async def main():
        use(factory)
        publisher = asyncio.create_task(bus.publish(OrderPlaced()))
        asyncio.get_running_loop().call_soon(interrupt)
        await publisher

    bus.subscribe(OrderPlaced, handle)
    bus.subscribe(OrderPlaced, forever)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main(), debug=True)
    assert [record.getMessage() for record in errors] == []


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the loop starts all, before any can raise")
def test_nobody_starts_after_the_end_of_the_program(bus, errors):
    """C4.5: once a handler has raised what ends the program, no further one is started."""
    started = []

    async def end(event):
        raise KeyboardInterrupt

    async def late(event):
        started.append(event)

    bus.subscribe(OrderPlaced, end)
    bus.subscribe(OrderPlaced, late)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(bus.publish(OrderPlaced()))
    assert started == []
    assert len(errors) == 0


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, though whoever has started the tests in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@with_and_without_factories
def test_ctrl_c_logs_no_failure(bus, errors, factory, interruptible):
    """C4.5: Ctrl-C cancels the main task, and with it the handlers it waits for."""
    ended = []

    async def handler(event):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(event)

    async def main():
        use(factory)
        asyncio.get_running_loop().call_later(0.01, signal.raise_signal, signal.SIGINT)
        await asyncio.gather(bus.publish(OrderPlaced()), bus.publish(OrderPlaced()))

    bus.subscribe(OrderPlaced, handler)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main(), debug=True)
    assert len(ended) == 2
    assert len(errors) == 0


# A publish that is never finished


def drive(publishing):
    """Take the steps of a coroutine until it waits for a future."""
    while publishing.send(None) is None:
        yield


@pytest.mark.parametrize("levels", [1, 20])
@pytest.mark.parametrize("collected", [False, True])
@with_and_without_factories
async def test_publish_closed_while_it_waits(bus, errors, factory, collected, levels):
    """C4.5: a coroutine that is closed, or collected, while it waits makes no noise."""
    use(factory)
    started, gate, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(event):
        started.set()
        await gate.wait()
        finished.set()

    async def descend(event):
        if event.left:
            await bus.publish(Level(event.left - 1))
        else:
            await handler(event)

    bus.subscribe(Level, descend)
    publishing = bus.publish(Level(levels - 1))
    for _ in drive(publishing):
        await asyncio.sleep(0)
    await started.wait()
    if not collected:
        publishing.close()
    del publishing
    gc.collect()
    gate.set()
    async with asyncio.timeout(1):
        await finished.wait()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)
    assert len(errors) == 0


async def test_publish_never_awaited(bus):
    """C4.5: a coroutine that is closed before its first step has started nothing."""
    seen = []
    bus.subscribe(OrderPlaced, seen.append)
    publishing = bus.publish(OrderPlaced())
    publishing.close()
    assert seen == []


@pytest.mark.parametrize("levels", [1, 20])
@with_and_without_factories
def test_loop_closed_under_a_publish(bus, errors, factory, levels):
    """C4.5: a loop that is closed with a publish under way is no failure of any handler."""
    started = asyncio.Event()
    log = []

    async def handler():
        started.set()
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            log.append(type(error))
            raise

    async def main():
        use(factory)
        publishers.append(asyncio.create_task(deep(bus, levels, handler)))
        await started.wait()

    publishers = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # asyncio would complain of the tasks
    loop.close()
    del loop, task
    publishers.clear()
    gc.collect()
    assert log == [GeneratorExit]
    assert len(errors) == 0


async def test_bus_is_sound_after_all_that(bus, errors):
    """C4.5: after a cancelled publish the next one starts a chain of its own."""
    publisher = await start(bus, forever)
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    failures = []
    bus = EventBus(on_error=failures.append, max_depth=1)
    bus.subscribe(Level, raise_early)
    for _ in range(3):
        await bus.publish(Level(0))
    assert [failure.chain for failure in failures] == [(Level,)] * 3
