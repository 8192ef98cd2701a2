# SPDX-License-Identifier: MIT
"""What several test files share: events, ways of publishing, task factories, handlers, hooks."""

import asyncio
import importlib
import re
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

import pytest
from target import PACKAGE, Event

PATIENCE = 10  # seconds, before what hangs has failed

tenant = ContextVar("tenant", default=None)


class OrderPlaced(Event):
    pass


class InvoiceIssued(Event):
    pass


class MailSent(Event):
    pass


class Namesakes:
    class OrderPlaced(Event):
        pass


@dataclass(frozen=True, slots=True)
class Numbered(Event):
    number: int = 1


class Failure(Exception):
    pass


class Stop(BaseException):
    pass


# Ways of publishing


async def awaited(bus, event):
    async with asyncio.timeout(PATIENCE):
        await bus.publish(event)


async def join(bus):
    async with asyncio.timeout(PATIENCE):
        await bus.join()


async def in_background(bus, event):
    bus.publish_nowait(event)
    await join(bus)


WAYS = {"publish": awaited, "publish_nowait": in_background}
every_way = pytest.mark.parametrize("publish", WAYS.values(), ids=WAYS)


# Waiting and closing


async def turns(count=5):
    """Give whatever could go on by now the chance to do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


async def aclose(bus, timeout=None):
    async with asyncio.timeout(PATIENCE):
        await bus.aclose(timeout)


async def assert_closed(bus, *event_types):
    """Assert that the bus refuses to publish."""
    for event_type in event_types or (OrderPlaced,):
        with pytest.raises(RuntimeError, match="closed"):
            async with asyncio.timeout(PATIENCE):
                await bus.publish(event_type())
        with pytest.raises(RuntimeError, match="closed"):
            bus.publish_nowait(event_type())
        with pytest.raises(RuntimeError, match="closed"):
            bus.wait_for(event_type)


# Task factories


def use(factory):
    asyncio.get_running_loop().set_task_factory(factory)


def plain_factory(loop, coro, **options):
    return asyncio.Task(coro, loop=loop, **options)


def wrapping_factory(loop, coro, **options):
    """Run the coroutine in another one, which waits once more when that has finished."""

    async def wrapper():
        try:
            return await coro
        finally:
            await asyncio.sleep(0)

    return asyncio.Task(wrapper(), loop=loop, **options)


# From Python 3.12 on.
EAGER_FACTORIES = [asyncio.eager_task_factory] if hasattr(asyncio, "eager_task_factory") else []
FACTORIES = [plain_factory, wrapping_factory, *EAGER_FACTORIES]

# The first one is none: the loop makes the tasks itself.
with_and_without_factories = pytest.mark.parametrize("factory", [None, *FACTORIES])
with_unwrapped_tasks = pytest.mark.parametrize("factory", [None, plain_factory, *EAGER_FACTORIES])
with_and_without_plain_factory = pytest.mark.parametrize("factory", [None, plain_factory])


# Handlers


def do_nothing(event):
    pass


async def forever(event):
    await asyncio.Event().wait()


def fail_sync(event):
    raise Failure("no paper")


async def fail_early(event):
    raise Failure("no paper")


async def fail_late(event):
    await asyncio.sleep(0)
    raise Failure("no paper")


def fail_awaited(event):
    return fail_late(event)


FAILING = [fail_sync, fail_early, fail_late, fail_awaited]
every_failure = pytest.mark.parametrize("fail", FAILING)


def subscribe_mixed(bus):
    """Subscribe sync and async handlers in turn; return the list of who started, in order."""
    started = []

    def sync(name, event):
        started.append(name)

    async def early(name, event):
        started.append(name)

    async def late(name, event):
        started.append(name)
        await asyncio.sleep(0)

    kinds = [late, sync, early, sync, sync, late, early, late, sync]
    for name, kind in enumerate(kinds):
        bus.subscribe(OrderPlaced, partial(kind, name))
    return started


def callbacks(bus, event_type=OrderPlaced):
    return [handler.callback for handler in bus.handlers(event_type)]


def cancel_tasks_of(handler):
    """Cancel the tasks of a handler, running or yet to start, and return them."""
    tasks = [task for task in asyncio.all_tasks() if task.get_name() == handler.name]
    for task in tasks:
        task.cancel()
    return tasks


def cancel_next_task():
    """Have the loop cancel the next task that is made, before its first step."""
    loop = asyncio.get_running_loop()

    def cancelling_factory(loop, coro, **options):
        task = plain_factory(loop, coro, **options)
        task.cancel()
        loop.set_task_factory(None)
        return task

    loop.set_task_factory(cancelling_factory)


async def start_publisher(bus, *handlers):
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


# Handlers of every kind, made of what they do before and after they wait


def sync(before, after):
    def handler(event):
        before()
        after()

    return handler


def asynchronous(before, after):
    async def handler(event):
        before()
        await asyncio.sleep(0)
        after()

    return handler


def returning_awaitable(before, after):
    async def rest():
        await asyncio.sleep(0)
        after()

    def handler(event):
        before()
        return rest()

    return handler


every_kind = pytest.mark.parametrize("kind", [sync, asynchronous, returning_awaitable])


def waiting(kind, started):
    """Return a handler of that kind that waits for ever, and sets `started` when it does."""

    async def wait():
        started.set()
        await asyncio.Event().wait()

    async def handler(event):
        await wait()

    return handler if kind is asynchronous else lambda event: wait()


def nothing():
    pass


def fail_now():
    raise LookupError("handler")


def hook_logging_to(log, name="hook"):
    """Return a hook that logs how it is entered and left."""

    @contextmanager
    def hook(event, handler):
        log.append(f"enter {name}")
        try:
            yield
        except BaseException as exc:
            log.append(f"{type(exc).__name__} in {name}")
            raise
        finally:
            log.append(f"leave {name}")

    return hook


# Chains


class Level(Event):
    def __init__(self, left):
        self.left = left


async def deep(bus, levels, publish):
    """Call `publish` that many levels down in a chain of awaited publishes."""

    async def descend(event):
        if event.left:
            await bus.publish(Level(event.left - 1))
        else:
            await publish()

    bus.subscribe(Level, descend)
    await bus.publish(Level(levels - 1))


def descend_to(bus, deepest):
    """Have every number up to `deepest` publish the next one; return the numbers in two lists."""
    entered, finished = [], []

    async def descend(event):
        entered.append(event.number)
        if event.number < deepest:
            await bus.publish(Numbered(event.number + 1))
        finished.append(event.number)

    bus.subscribe(Numbered, descend)
    return entered, finished


# Records

record = importlib.import_module(f"{PACKAGE}.flow").record


def short(function):
    """Give a handler that is defined in a test a short name."""
    function.__qualname__ = function.__name__
    return function


def going_on(bus, *events, publish="publish"):
    """Return a handler that publishes these events."""

    @short
    async def go_on(event):
        for made in events:
            result = getattr(bus, publish)(made())
            if result is not None:
                await result

    return go_on


def plain_lines(tree):
    """Return the lines of a tree without milliseconds, alignment and the names of test modules."""
    tree = re.sub(r"\b(support|test_\w+)\.", "", re.sub(r"[\d,.]+ ms", "", tree))
    return [re.sub(r"(?<=\w)  +", "  ", line).rstrip() for line in tree.splitlines()]
