# SPDX-License-Identifier: MIT
"""C4.5: KeyboardInterrupt, SystemExit and their like go through, and are nobody's failure."""

import asyncio
import contextlib
import gc
import signal
import sys
from functools import partial

import pytest
from support import (
    PATIENCE,
    InvoiceIssued,
    Level,
    Numbered,
    OrderPlaced,
    Stop,
    cancel_tasks_of,
    deep,
    fail_sync,
    forever,
    join,
    use,
    with_and_without_factories,
    with_unwrapped_tasks,
)
from target import EventBus

pytestmark = pytest.mark.usefixtures("no_noise")


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


# In a handler that is awaited


every_error = pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, Stop])


@every_end
@with_and_without_factories
def test_only_handler_ends_the_program(bus, errors, no_noise, factory, end):
    """C4.5: what it raises is raised once, by the publish; asyncio complains of nothing."""

    async def main():
        use(factory)
        with pytest.raises(Stop):
            await bus.publish(OrderPlaced())

    bus.subscribe(OrderPlaced, partial(end, Stop()))
    asyncio.run(main(), debug=True)
    assert len(errors) == 0


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


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@with_and_without_factories
def test_cancellation_does_not_undo_what_ends_the_program(bus, errors, factory, error):
    """C4.5: a publisher cancelled while the other handlers clean up raises it just the same."""
    log = []

    async def interrupted(event):
        await asyncio.sleep(0)
        raise error

    async def sibling(event):
        try:
            await asyncio.Event().wait()
        finally:
            publisher.cancel()
            await asyncio.sleep(0)
            log.append("sibling")

    async def main():
        nonlocal publisher
        use(factory)
        publisher = asyncio.current_task()
        await bus.publish(OrderPlaced())

    publisher = None
    bus.subscribe(OrderPlaced, sibling)
    bus.subscribe(OrderPlaced, interrupted)
    with pytest.raises(error):
        asyncio.run(main(), debug=True)
    assert log == ["sibling"]
    assert len(errors) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@with_and_without_factories
def test_end_of_the_program_after_the_publisher_was_closed(bus, errors, factory, error):
    """C4.5: a handler whose publishing coroutine was thrown away ends the program, too."""
    going = asyncio.Event()

    async def wait_and_end(event):
        await going.wait()
        raise error

    async def main():
        use(factory)
        coroutine = bus.publish(OrderPlaced())
        coroutine.send(None)
        coroutine.close()
        going.set()
        await asyncio.Event().wait()

    bus.subscribe(OrderPlaced, wait_and_end)
    with pytest.raises(error):
        asyncio.run(asyncio.wait_for(main(), PATIENCE), debug=True)
    assert len(errors) == 0


@with_unwrapped_tasks
async def test_nothing_is_reported_after_the_end_of_the_publish(bus, failures, errors, factory):
    """C4.5, C4.8: nor a handler, cancelled before its first step, of a publish that has raised."""
    use(factory)

    def cancel_the_next_and_end(event):
        cancel_tasks_of(bus.handlers(OrderPlaced)[1])
        raise Stop

    bus.subscribe(OrderPlaced, cancel_the_next_and_end)
    bus.subscribe(OrderPlaced, forever)
    with pytest.raises(Stop):
        await bus.publish(OrderPlaced())
    await asyncio.sleep(0)
    assert failures == []
    assert len(errors) == 0


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


# Elsewhere


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


@with_unwrapped_tasks
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


# In the background


@every_end
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_program_end_stops_the_loop_and_loses_no_other_event(bus, loop, errors, error, end):
    """C4.5, C5.3: KeyboardInterrupt and SystemExit leave the loop; other events stay queued."""
    seen, started, gate = [], [], asyncio.Event()
    loop.set_exception_handler(lambda loop, context: None)  # "exception was never retrieved"

    async def wait(event):
        started.append(event)
        await gate.wait()
        seen.append(event)

    bus.subscribe(InvoiceIssued, wait)
    bus.subscribe(Numbered, lambda event: seen.append(event.number))
    bus.subscribe(OrderPlaced, partial(end, error))

    def publish():
        bus.publish_nowait(InvoiceIssued())
        for number in range(200):
            bus.publish_nowait(Numbered(number))
        bus.publish_nowait(OrderPlaced())
        for number in range(200, 400):
            bus.publish_nowait(Numbered(number))

    loop.call_soon(publish)
    loop.call_later(PATIENCE, loop.stop)
    with pytest.raises(error):
        loop.run_forever()
    assert len(started) == 1

    async def go_on():
        gate.set()
        await join(bus)
        assert bus.pending == 0
        bus.publish_nowait(Numbered(400))
        await join(bus)

    loop.run_until_complete(go_on())
    assert sorted(number for number in seen if isinstance(number, int)) == list(range(401))
    assert started[0] in seen
    assert len(errors) == 0
    gc.collect()


@every_end
def test_program_end_by_the_only_event(bus, loop, end):
    """C4.5, C5.3: an event that ended the program is finished, and the next one is delivered."""
    loop.set_exception_handler(lambda loop, context: None)
    bus.subscribe(OrderPlaced, partial(end, KeyboardInterrupt))
    loop.call_soon(bus.publish_nowait, OrderPlaced())
    loop.call_later(PATIENCE, loop.stop)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    seen = []
    bus.subscribe(Numbered, seen.append)

    async def go_on():
        assert bus.pending == 0
        bus.publish_nowait(Numbered(1))
        await join(bus)

    loop.run_until_complete(go_on())
    assert seen == [Numbered(1)]
    gc.collect()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_program_end_by_on_error(loop, errors, error):
    """C4.5, C5.2: what ends the program goes through, and loses no other event."""

    def end(failure):
        raise error

    bus, seen = EventBus(on_error=end), []
    bus.subscribe(OrderPlaced, fail_sync)
    bus.subscribe(InvoiceIssued, seen.append)

    def publish():
        bus.publish_nowait(OrderPlaced())
        bus.publish_nowait(InvoiceIssued())

    loop.call_soon(publish)
    loop.call_later(PATIENCE, loop.stop)
    with pytest.raises(error):
        loop.run_forever()
    loop.run_until_complete(join(bus))
    assert len(seen) == len(errors) == 1


@every_end
async def test_other_base_exceptions_go_to_the_loop(bus, errors, end):
    """C4.5, C5.2: another BaseException is the loop's exception handler's, and stops no event."""
    contexts, seen = [], []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: contexts.append(context))
    bus.subscribe(OrderPlaced, partial(end, Stop))
    bus.subscribe(InvoiceIssued, seen.append)
    bus.publish_nowait(InvoiceIssued())
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    await join(bus)
    assert bus.pending == 0
    assert len(seen) == 2
    gc.collect()
    assert [type(context["exception"]) for context in contexts] == [Stop]
    assert len(errors) == 0
