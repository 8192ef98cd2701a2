# SPDX-License-Identifier: MIT
"""Stack, memory, loop or program at its end, on every kind of loop: what can be kept is kept."""

import asyncio
import collections
import contextlib
import functools
import gc
import sys

import pytest
from lab import TYPES, Ping
from target import PACKAGE, EventBus


def uvloop_or_skip():
    return pytest.importorskip("uvloop").new_event_loop()


def eager_loop():
    if sys.version_info < (3, 12):
        pytest.skip("eager tasks came with Python 3.12")
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


def factory_loop():
    loop = asyncio.new_event_loop()
    loop.set_task_factory(lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs))
    return loop


every_loop = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, factory_loop, eager_loop, uvloop_or_skip]
)


# C4.4: what a handler may do to the interpreter


def exhaust_stack(_event):
    exhaust_stack(_event)


def exhaust_memory(_event):
    bytearray(sys.maxsize)


async def exhaust_stack_later(event):
    await asyncio.sleep(0)
    exhaust_stack(event)


async def exhaust_memory_later(event):
    await asyncio.sleep(0)
    exhaust_memory(event)


async def exhaust_stack_by_awaiting(event):
    await exhaust_stack_by_awaiting(event)


@every_loop
@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (exhaust_stack, RecursionError),
        (exhaust_stack_later, RecursionError),
        (exhaust_stack_by_awaiting, RecursionError),
        (exhaust_memory, MemoryError),
        (exhaust_memory_later, MemoryError),
    ],
)
def test_exhausted_handler_is_isolated(quiet, new_loop, handler, error):
    """C4.4: RecursionError and MemoryError are failures like any other, logged once each."""
    failures, got = [], []
    bus = EventBus(on_error=lambda failure: failures.append(type(failure.exception)))

    async def other(event):
        await asyncio.sleep(0)
        got.append(event)

    async def main():
        for each in (got.append, handler, other):
            bus.subscribe(Ping, each)
        await bus.publish(Ping())
        bus.publish_nowait(Ping())
        await bus.join()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    assert failures == [error] * 2
    assert len(got) == 4
    assert [logger for logger, _ in quiet] == [PACKAGE] * 2


def depth_of_stack():
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("way", ["publish", "publish_nowait", "chain"])
def test_hardly_any_stack_left(log, monkeypatch, way):
    """C4.4: with few frames left the error is somebody's, and the bus is as good as new after."""
    outcomes = collections.Counter()
    # Whoever listens to errors needs more stack than there is.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)

    async def attempt(bus, room):
        limit = sys.getrecursionlimit()
        error = None
        try:
            sys.setrecursionlimit(depth_of_stack() + room)
            if way == "publish_nowait":
                bus.publish_nowait(TYPES[0]())
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            else:
                await bus.publish(TYPES[0]())
        except RecursionError as exc:
            error = exc
        finally:
            sys.setrecursionlimit(limit)
        outcomes["refused" if error else "passed"] += 1

    async def main(room):
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        bus, got = EventBus(max_depth=None), []

        async def pass_on(event):
            if event.number < (150 if way == "chain" else 1):
                await bus.publish(TYPES[0](event.number + 1))

        bus.subscribe(TYPES[0], pass_on)
        bus.subscribe(TYPES[0], lambda event: None)
        bus.subscribe(TYPES[1], got.append)
        await asyncio.create_task(attempt(bus, room))
        async with asyncio.timeout(20):  # or else it hangs for ever
            await bus.join()
        await bus.publish(TYPES[1]())
        bus.publish_nowait(TYPES[1]())
        await bus.join()
        assert len(got) == 2
        assert bus.pending == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    for room in range(4, 120, 3):
        asyncio.run(main(room))
    assert outcomes["passed"]


class HardPressedLoop(asyncio.SelectorEventLoop):
    """A loop that can be out of memory."""

    exhausted = False

    def call_soon(self, *args, **kwargs):
        if self.exhausted:
            raise MemoryError
        return super().call_soon(*args, **kwargs)


def test_refused_by_the_loop(quiet):
    """C5.3: an event that the loop has no memory for is refused, and those after it are not."""
    bus, got = EventBus(), []
    bus.subscribe(Ping, lambda event: got.append(event.number))

    async def main():
        loop = asyncio.get_running_loop()
        loop.exhausted = True
        with pytest.raises(MemoryError):
            bus.publish_nowait(Ping(1))
        loop.exhausted = False
        assert bus.pending == 0
        bus.publish_nowait(Ping(2))
        async with asyncio.timeout(20):  # or else it hangs for ever
            await bus.join()
        assert got == [2]

    with asyncio.Runner(loop_factory=HardPressedLoop) as runner:
        runner.run(main())
    assert quiet == []


# C4.5: what ends the program


@every_loop
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("kind", ["sync", "async", "later", "nested"])
@pytest.mark.parametrize("way", ["publish", "publish_nowait"])
def test_no_sibling_outlives_the_program(log, new_loop, error, kind, way):
    """C4.5: KeyboardInterrupt and SystemExit leave `run`, and no handler runs after it."""
    bus, started, ended = EventBus(), collections.Counter(), collections.Counter()

    async def sibling(event):
        started[type(event)] += 1
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            ended[type(event)] += 1

    def end(_event):
        raise error

    async def end_at_once(_event):
        raise error

    async def end_later(_event):
        await asyncio.sleep(0)
        raise error

    async def end_below(_event):
        await bus.publish(TYPES[1]())

    kinds = {"sync": end, "async": end_at_once, "later": end_later, "nested": end_below}
    bus.subscribe(TYPES[0], sibling)
    bus.subscribe(TYPES[0], kinds[kind])
    bus.subscribe(TYPES[0], functools.partial(sibling))
    for each in (functools.partial(sibling), end_later, functools.partial(sibling)):
        bus.subscribe(TYPES[1], each)

    async def main():
        if way == "publish":
            await bus.publish(TYPES[0]())
        else:
            bus.publish_nowait(TYPES[0]())
            await bus.join()

    runner = asyncio.Runner(loop_factory=new_loop)
    with pytest.raises(error), runner:
        runner.run(main())
    assert started == ended
    assert started
    del runner
    gc.collect()
    assert log == [] or way == "publish_nowait"


# asyncio's debug mode


@every_loop
def test_debug_mode_has_nothing_to_say(quiet, new_loop):
    """C5.4: no slow callback in a burst; nothing is never awaited or never retrieved."""
    bus = EventBus(handler_timeout=5.0)

    def spin(_event):
        for _ in range(2_000):
            pass

    async def spin_async(event):
        spin(event)

    async def wait(_event):
        await asyncio.sleep(0.001)

    async def fail(event):
        await asyncio.sleep(0)
        raise LookupError

    def disguised(event):
        return wait(event)

    async def nested(_event):
        await bus.publish(TYPES[2]())
        bus.publish_nowait(TYPES[1]())

    async def main():
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.5  # a burst in one go would take seconds
        for event_type, handlers in zip(
            TYPES,
            ([nested, wait, spin], [fail, disguised], [disguised, spin_async], [spin]),
            strict=True,
        ):
            for handler in handlers:
                bus.subscribe(event_type, handler)
        for _ in range(20_000):
            bus.publish_nowait(TYPES[3]())
        for _ in range(100):
            bus.publish_nowait(TYPES[0]())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.0005):
                    await bus.publish(TYPES[0]())
        publish = asyncio.create_task(bus.publish(TYPES[0]()))
        await asyncio.sleep(0)
        publish.cancel()
        waiting = bus.wait_for(TYPES[2], where=lambda event: 1 / 0)
        await bus.publish(TYPES[2]())
        with pytest.raises(ZeroDivisionError):
            await waiting
        await bus.join()
        bus.publish_nowait(TYPES[0]())
        await bus.aclose(timeout=0)

    with asyncio.Runner(debug=True, loop_factory=new_loop) as runner:
        runner.run(main())
