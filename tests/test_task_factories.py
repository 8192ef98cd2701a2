# SPDX-License-Identifier: MIT
"""C4.9: with a task factory, or on uvloop, everything is the same."""

import asyncio
import sys

import pytest
from support import (
    FACTORIES,
    PATIENCE,
    Failure,
    InvoiceIssued,
    Numbered,
    OrderPlaced,
    deep,
    fail_late,
    fail_sync,
    forever,
    join,
    plain_factory,
    subscribe_mixed,
    tenant,
    until,
    use,
    with_and_without_plain_factory,
)
from target import PACKAGE, EventBus

# What a factory may say when it makes a task: to start it at once, too, from Python 3.12 on.
every_start = pytest.mark.parametrize(
    "start", [{}, {"eager_start": True}] if sys.version_info >= (3, 12) else [{}]
)


# Task factories


@pytest.mark.parametrize("levels", [1, 20])
async def test_task_factory_makes_the_tasks_of_handlers(bus, levels):
    """C4.9: the handlers run in the tasks that the loop's factory makes, at every depth."""

    class OwnTask(asyncio.Task):
        pass

    use(lambda loop, coro, **options: OwnTask(coro, loop=loop, **options))
    tasks = []

    async def early(event):
        tasks.append(asyncio.current_task())

    async def late(event):
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)

    for handler in (early, late, lambda event: late(event)):
        bus.subscribe(OrderPlaced, handler)
    await deep(bus, levels, lambda: bus.publish(OrderPlaced()))
    assert [type(task) for task in tasks] == [OwnTask] * 3
    names = sorted(handler.name for handler in bus.handlers(OrderPlaced))
    assert sorted(task.get_name() for task in tasks) == names


async def test_task_factory_is_asked_at_every_publish(bus):
    """C4.9: a factory that is set or removed later counts from the next publish on."""
    made = []

    def counting(loop, coro, **options):
        made.append(coro)
        return plain_factory(loop, coro, **options)

    async def handler(event):
        pass

    bus.subscribe(OrderPlaced, handler)
    for factory, count in ((None, 0), (counting, 1), (None, 1), (counting, 2)):
        use(factory)
        await bus.publish(OrderPlaced())
        assert len(made) == count


@pytest.mark.parametrize("turns", [0, 1])
@every_start
async def test_task_that_outlives_the_handler_is_waited_for(bus, start, turns):
    """C4.9: publish waits for the whole task that a factory makes of a handler."""
    log = []

    def factory(loop, coro, **options):
        async def wrapper():
            await coro
            for _ in range(3):
                await asyncio.sleep(0)
            log.append("wrapper")

        return asyncio.Task(wrapper(), loop=loop, **start, **options)

    async def handler(event):
        for _ in range(turns):
            await asyncio.sleep(0)
        log.append("handler")

    bus.subscribe(OrderPlaced, handler)
    use(factory)
    await bus.publish(OrderPlaced())
    assert log == ["handler", "wrapper"]


@pytest.mark.parametrize("factory", FACTORIES)
async def test_cancellation_with_a_task_factory(bus, errors, factory):
    """C4.9: a cancelled publisher cancels the tasks that a factory made, and waits for them."""
    use(factory)
    started, release = asyncio.Event(), asyncio.Event()
    log = []

    async def clean_up(event):
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            log.append("cancelled")
            await release.wait()
            log.append("cleaned up")

    async def wait(event):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            release.set()

    bus.subscribe(OrderPlaced, clean_up)
    bus.subscribe(OrderPlaced, wait)
    publisher = asyncio.create_task(bus.publish(OrderPlaced()))
    async with asyncio.timeout(PATIENCE):
        await started.wait()
        publisher.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publisher
    assert log == ["cancelled", "cancelled", "cleaned up"]
    assert len(errors) == 0


async def test_factory_sees_the_context_of_the_event(bus):
    """C4.9, C5.2: a task factory is called in the context of the moment, as for `publish`."""
    seen = []

    def factory(loop, coro, **options):
        seen.append(tenant.get())
        return asyncio.Task(coro, loop=loop, **options)

    async def handler(event):
        await asyncio.sleep(0)

    bus.subscribe(OrderPlaced, handler)
    use(factory)
    for value in ("one", "two"):
        tenant.set(value)
        bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert seen == ["one", "two"]


async def test_factory_that_fails_is_one_handlers_failure(bus, failures, errors):
    """C4.4, C4.9: the other handlers of the event run, and the failure is reported."""
    got, calls = [], []

    def factory(loop, coro, **options):
        calls.append(coro)
        if len(calls) == 2:
            raise Failure
        return asyncio.Task(coro, loop=loop, **options)

    def make(name):
        async def handler(event):
            got.append(name)

        return handler

    for name in ("first", "second", "third"):
        bus.subscribe(OrderPlaced, make(name))
    bus.subscribe(OrderPlaced, lambda event: got.append("sync"))
    use(factory)
    bus.publish_nowait(OrderPlaced())
    await join(bus)
    assert got == ["first", "third", "sync"]
    assert [type(failure.exception) for failure in failures] == [Failure]
    assert len(errors) == 1


async def test_wrapper_cancelled_after_the_handler(bus, errors):
    """C4.5: a wrapper of the factory's that ends as cancelled is no failure of its handler."""
    done = []

    async def wrap(coro):
        await coro
        raise asyncio.CancelledError

    def factory(loop, coro, **options):
        return plain_factory(loop, wrap(coro), **options)

    async def handler(event):
        await asyncio.sleep(0)
        done.append(event)

    bus.subscribe(OrderPlaced, handler)
    use(factory)
    bus.publish_nowait(OrderPlaced())
    use(None)
    await until(lambda: done or not bus.pending)
    use(factory)
    bus.publish_nowait(OrderPlaced())
    await asyncio.sleep(0)
    use(None)
    await join(bus)
    assert len(done) == 2
    assert len(errors) == 0


@every_start
async def test_factory_that_throws_the_handler_away(bus, failures, errors, start):
    """C4.4: a handler that a factory never begins has failed, once, though its task succeeds."""

    async def nothing():
        pass

    def factory(loop, coro, **options):
        coro.close()
        return asyncio.Task(nothing(), loop=loop, **start)

    async def handler(event):
        raise AssertionError

    bus.subscribe(OrderPlaced, handler)
    bus.subscribe(OrderPlaced, forever)
    use(factory)
    await bus.publish(OrderPlaced())
    assert [failure.handler.callback for failure in failures] == [handler, forever]
    assert len(errors) == 2


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no task starts eagerly")
@pytest.mark.parametrize("background", [False, True])
async def test_factorys_task_that_has_ended_before_the_handler(bus, background):
    """C4.1, C6.1: it is the handler that is waited for, whatever task the factory returns."""
    done, tasks = [], []

    async def nothing():
        pass

    def factory(loop, coro, **options):
        tasks.append(asyncio.Task(coro, loop=loop, eager_start=True, **options))
        return asyncio.Task(nothing(), loop=loop, eager_start=True)

    async def handler(event):
        for _ in range(10):
            await asyncio.sleep(0)
        done.append(event)

    bus.subscribe(OrderPlaced, handler)
    use(factory)
    if background:
        bus.publish_nowait(OrderPlaced())
        await bus.join()
    else:
        await bus.publish(OrderPlaced())
    assert len(done) == 1


async def test_factory_that_ends_the_program(bus):
    """C4.5: the handlers that have started are cancelled and awaited before that is raised."""
    log = []

    def factory(loop, coro, **options):
        if log:
            raise KeyboardInterrupt
        log.append("a task is made")
        return plain_factory(loop, coro, **options)

    async def handler(event):
        try:
            await asyncio.Event().wait()
        finally:
            log.append("the handler has ended")

    async def other(event):
        raise AssertionError

    bus.subscribe(OrderPlaced, handler)
    bus.subscribe(OrderPlaced, other)
    use(factory)
    with pytest.raises(KeyboardInterrupt):
        await bus.publish(OrderPlaced())
    use(None)
    assert log[0] == "a task is made"
    assert all(task is asyncio.current_task() for task in asyncio.all_tasks())


# Loops


@pytest.mark.parametrize("is_async", [False, True])
def test_loop_that_refuses_the_bus(errors, is_async):
    """C5.3: events that a failing `call_soon` leaves in the queue are handled all the same."""

    class ExhaustedLoop(asyncio.SelectorEventLoop):
        exhausted = False

        def call_soon(self, callback, *args, context=None):
            if self.exhausted and str(getattr(callback, "__module__", "")).startswith(PACKAGE):
                self.exhausted = False
                raise MemoryError
            return super().call_soon(callback, *args, context=context)

    bus, got = EventBus(), []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: None)

        def handle(event):
            got.append(event.number)
            if event.number == 0:
                loop.exhausted = True

        async def handle_async(event):
            handle(event)

        bus.subscribe(Numbered, handle_async if is_async else handle)
        for number in range(2000):
            bus.publish_nowait(Numbered(number))
        await join(bus)
        assert got == list(range(2000))
        assert not loop.exhausted  # any more: it has refused once
        loop.exhausted = True
        with pytest.raises(MemoryError):
            bus.publish_nowait(Numbered(0))
        assert bus.pending == 0

    with asyncio.Runner(loop_factory=ExhaustedLoop) as runner:
        runner.run(main())


@with_and_without_plain_factory
def test_uvloop(bus, failures, errors, factory):
    """C4.9: order, failures, tasks and cancellation are the same on uvloop."""
    uvloop = pytest.importorskip("uvloop")
    tasks = []

    async def own_task(event):
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)

    async def main():
        use(factory)
        started = subscribe_mixed(bus)
        bus.subscribe(OrderPlaced, own_task)
        bus.subscribe(OrderPlaced, fail_sync)
        bus.subscribe(OrderPlaced, fail_late)
        await bus.publish(OrderPlaced())
        assert started == list(range(9))
        assert asyncio.current_task() not in tasks
        bus.subscribe(InvoiceIssued, lambda event: asyncio.Event().wait())
        async with asyncio.timeout(0.01):
            await bus.publish(InvoiceIssued())

    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop, debug=True)
    with runner, pytest.raises(TimeoutError):
        runner.run(main())
    assert [task.get_name() for task in tasks] == [bus.handlers(OrderPlaced)[9].name]
    assert [type(failure.exception) for failure in failures] == [Failure, Failure]
    assert len(errors) == 2
