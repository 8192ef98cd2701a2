# SPDX-License-Identifier: MIT
"""C7: without a limit, a chain of ten thousand levels goes on whatever its handlers are made of."""

import asyncio
import functools
from contextlib import nullcontext
from itertools import pairwise

import pytest
from support import (
    PATIENCE,
    Numbered,
    descend_to,
    use,
    with_and_without_plain_factory,
    with_unwrapped_tasks,
)
from target import Event, EventBus

LEVELS = 10_000

pytestmark = pytest.mark.usefixtures("little_stack")


# Kinds of handlers, made of what they publish


def as_async(go_on):
    async def handler(event):
        await go_on(event)

    return handler


def as_lambda(go_on):
    return lambda event: go_on(event)


def as_partial(go_on):
    async def handler(extra, event):
        await go_on(event)

    return functools.partial(handler, "extra")


def as_partial_of_sync(go_on):
    return functools.partial(lambda extra, event: go_on(event), "extra")


def as_function(go_on):
    def handler(event):
        return go_on(event)

    return handler


def as_shield(go_on):
    async def handler(event):
        await asyncio.shield(go_on(event))

    return handler


def as_method(go_on):
    class Service:
        async def handle(self, event):
            await go_on(event)

    return Service().handle


def as_object(go_on):
    class Service:
        def __call__(self, event):
            return go_on(event)

    return Service()


def as_awaitable(go_on):
    class Lazy:
        def __init__(self, event):
            self.event = event

        def __await__(self):
            return go_on(self.event).__await__()

    return lambda event: Lazy(event)


KINDS = [
    as_async,
    as_lambda,
    as_partial,
    as_partial_of_sync,
    as_function,
    as_shield,
    as_method,
    as_object,
    as_awaitable,
]
every_kind = pytest.mark.parametrize("kind", KINDS)


class Chain:
    """A bus without a limit, and a chain of publishes on it that is so many levels deep."""

    def __init__(self, levels=LEVELS):
        asyncio.get_running_loop().set_debug(False)  # which extracts a traceback for each task
        self.failures = []
        self.bus = EventBus(max_depth=None, on_error=self.failures.append)
        self.levels = levels
        self.entered = []

    async def go_on(self, event):
        self.entered.append(event.number)
        if event.number < self.levels:
            await self.bus.publish(Numbered(event.number + 1))

    async def run(self, background=False):
        async with asyncio.timeout(PATIENCE):
            if background:
                self.bus.publish_nowait(Numbered())
                await self.bus.join()
            else:
                await self.bus.publish(Numbered())

    def assert_whole(self, times=1):
        assert [failure.exception for failure in self.failures] == []
        assert self.entered == list(range(1, self.levels + 1)) * times


@every_kind
@with_unwrapped_tasks
async def test_every_kind_of_handler(errors, kind, factory):
    """C7: with `max_depth=None` ten thousand levels neither overflow the stack nor fail."""
    use(factory)
    chain = Chain()
    chain.bus.subscribe(Numbered, kind(chain.go_on))
    await chain.run()
    chain.assert_whole()
    assert len(errors) == 0


@every_kind
async def test_every_kind_that_is_known_already(errors, kind):
    """C4.2, C7: nor on the second run, when all that there is to learn was learned."""
    chain = Chain(2000)
    chain.bus.subscribe(Numbered, kind(chain.go_on))
    for _ in range(2):
        await chain.run()
    chain.assert_whole(times=2)
    assert len(errors) == 0


@pytest.mark.parametrize("background", [False, True])
@with_unwrapped_tasks
async def test_levels_of_all_kinds_in_turn(errors, background, factory):
    """C7: a chain through event types, each with a handler of another kind, and sync ones."""
    use(factory)
    chain = Chain()
    types = [type(f"Level{number}", (Numbered,), {}) for number in range(len(KINDS))]
    seen = []

    async def go_on(event, following):
        chain.entered.append(event.number)
        if event.number < LEVELS:
            await chain.bus.publish(following(event.number + 1))

    for kind, event_type, following in zip(KINDS, types, types[1:] + types[:1], strict=True):
        chain.bus.subscribe(event_type, lambda event: seen.append(event.number))
        chain.bus.subscribe(event_type, kind(functools.partial(go_on, following=following)))
    async with asyncio.timeout(PATIENCE):
        if background:
            chain.bus.publish_nowait(types[0]())
            await chain.bus.join()
        else:
            await chain.bus.publish(types[0]())
    chain.assert_whole()
    assert seen == chain.entered
    assert len(errors) == 0


@every_kind
@with_and_without_plain_factory
async def test_types_that_are_all_new(errors, kind, factory):
    """C3, C7: a thousand types, whose handlers are only just found to return awaitables."""
    use(factory)
    chain = Chain()
    types = [type(f"Level{number}", (Event,), {}) for number in range(1000)]
    entered = []

    async def go_on(event, following):
        entered.append(type(event))
        await chain.bus.publish(following())

    for event_type, following in pairwise(types):
        chain.bus.subscribe(event_type, kind(functools.partial(go_on, following=following)))
    chain.bus.subscribe(types[-1], lambda event: entered.append(type(event)))
    await chain.bus.publish(types[0]())
    assert [failure.exception for failure in chain.failures] == []
    assert entered == types
    assert len(errors) == 0


@every_kind
async def test_hooks_around_every_level(errors, kind):
    """C7, C10: nor do hooks, which give every handler a task, pile up."""
    chain = Chain(2000)
    chain.bus.subscribe(Numbered, kind(chain.go_on))
    chain.bus.instrument(lambda event, handler: nullcontext())
    await chain.run()
    chain.assert_whole()
    assert len(errors) == 0


async def test_limit_far_below_the_surface(errors):
    """C7: a limit of thousands holds where it is, for handlers in disguise, too."""
    failures = []
    asyncio.get_running_loop().set_debug(False)
    bus = EventBus(max_depth=3000, on_error=failures.append)
    entered, finished = descend_to(bus, LEVELS)
    descend = bus.handlers(Numbered)[0].callback
    bus.unsubscribe(Numbered, descend)
    bus.subscribe(Numbered, lambda event: descend(event))
    await bus.publish(Numbered())
    assert entered == list(range(1, 3001))
    assert finished == list(range(2999, 0, -1))
    (failure,) = failures
    assert type(failure.exception).__name__ == "EventCycleError"
    assert failure.event == Numbered(3000)
    assert len(errors) == 1
