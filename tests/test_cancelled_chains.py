# SPDX-License-Identifier: MIT
"""C4.5: cancellation goes down a chain; so does the end of a publish that is never finished."""

import asyncio
import contextlib
import gc

import pytest
from support import (
    PATIENCE,
    Failure,
    Level,
    deep,
    use,
    with_and_without_factories,
    with_unwrapped_tasks,
)

pytestmark = pytest.mark.usefixtures("no_noise")


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


async def test_handler_of_a_chain_fails_while_the_chain_is_cancelled(bus, failures, errors):
    """C4.5: the failure of one level is reported with its chain; the rest is cancelled."""
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
    async with asyncio.timeout(PATIENCE):
        await finished.wait()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)
    assert len(errors) == 0


@pytest.mark.parametrize("levels", [1, 20])
@with_unwrapped_tasks
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
