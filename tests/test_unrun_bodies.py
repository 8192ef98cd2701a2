# SPDX-License-Identifier: MIT
"""C3: a handler that returns what has a body that nobody runs has failed."""

import asyncio
import contextlib
import functools

import pytest
from support import (
    InvoiceIssued,
    OrderPlaced,
    do_nothing,
    every_way,
    use,
    with_and_without_factories,
)
from target import EventBus


def generator():
    yield


async def async_generator():
    yield


manager = contextlib.contextmanager(generator)
async_manager = contextlib.asynccontextmanager(async_generator)

every_body = pytest.mark.parametrize("make", [generator, async_generator, manager, async_manager])


async def wait_for_nothing(event):
    pass


NEIGHBOURS = {
    "alone": ([], []),
    "before sync": ([], [do_nothing]),
    "after sync": ([do_nothing], []),
    "between async": ([wait_for_nothing], [wait_for_nothing.__call__]),
}
every_place = pytest.mark.parametrize(("before", "after"), NEIGHBOURS.values(), ids=NEIGHBOURS)


@every_body
@every_place
@every_way
@with_and_without_factories
async def test_body_that_nobody_runs(bus, failures, errors, make, before, after, publish, factory):
    """C3, C4.4: a `TypeError` with the remedy, told once a run, and the others have their turn."""
    use(factory)
    seen = []
    handlers = [*before, lambda event: make(), *after, seen.append]
    for handler in handlers:
        bus.subscribe(OrderPlaced, handler)
    for count in (1, 2):
        await publish(bus, OrderPlaced())
        assert len(seen) == len(failures) == len(errors) == count
    for failure in failures:
        assert failure.handler.callback is handlers[len(before)]
        with pytest.raises(TypeError, match="body never runs; iterate over it, or enter it, in"):
            raise failure.exception


@every_body
@every_way
async def test_body_of_a_handler_in_disguise(bus, failures, make, publish):
    """C3: nor is it overlooked where the handler has returned awaitables before."""
    returned = [wait_for_nothing(None), make(), wait_for_nothing(None)]
    bus.subscribe(OrderPlaced, lambda event: returned.pop(0))
    for _ in range(3):
        await publish(bus, OrderPlaced())
    assert [type(failure.exception) for failure in failures] == [TypeError]


@every_body
@every_way
@pytest.mark.parametrize("waits", [False, True])
@with_and_without_factories
async def test_body_returned_by_an_async_handler(bus, failures, make, publish, waits, factory):
    """C3: nor where the handler is async, and returns it when it has finished."""
    use(factory)

    async def handler(event):
        if waits:
            await asyncio.sleep(0)
        return make()

    bus.subscribe(OrderPlaced, handler)
    await publish(bus, OrderPlaced())
    assert [type(failure.exception) for failure in failures] == [TypeError]


@pytest.mark.parametrize("options", [{}, {"handler_timeout": 10}], ids=["no limit", "limit"])
@every_body
async def test_body_behind_hook_and_time_limit(failures, make, options):
    """C3, C10: nor where a hook or a time limit is around the handler, which the hook sees."""
    bus, seen = EventBus(on_error=failures.append, **options), []

    @contextlib.contextmanager
    def hook(event, handler):
        try:
            yield
        except BaseException as exc:
            seen.append(exc)
            raise

    bus.subscribe(OrderPlaced, functools.partial(lambda make, event: make(), make))
    await bus.publish(OrderPlaced())
    with bus.instrument(hook):
        await bus.publish(OrderPlaced())
    assert [type(failure.exception) for failure in failures] == [TypeError] * 2
    assert seen == [failures[1].exception]


async def test_other_context_managers_are_ignored(bus, errors):
    """C3: what is not made of a generator runs nothing, and is a return value like others."""
    made = [
        contextlib.nullcontext(),
        contextlib.ExitStack(),
        contextlib.suppress(KeyError),
        range(3),
    ]
    made += [iter([]), map(str, []), (each for each in [])]
    *ignored, generator_expression = made
    for each in ignored:
        bus.subscribe(OrderPlaced, lambda event, each=each: each)
    await bus.publish(OrderPlaced())
    assert len(errors) == 0
    bus.subscribe(InvoiceIssued, lambda event: generator_expression)
    await bus.publish(InvoiceIssued())
    assert len(errors) == 1
