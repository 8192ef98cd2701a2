# SPDX-License-Identifier: MIT
"""C2.1: every kind of callable is a handler, and is described as what it is."""

import asyncio
import collections
import functools
import gc
import queue
import weakref
from unittest import mock

import pytest
import support
from kinds import ASYNC, Service, a_class, async_call, every_callable, one_lambda, wrapper
from support import OrderPlaced, do_nothing

# Every kind


@every_callable
async def test_every_kind_of_callable_is_delivered_to(bus, errors, make):
    """C2.1: functions, methods, partials, objects with `__call__`, mocks: however decorated."""
    seen = []
    handler = make(lambda event: seen.append(event))
    bus.subscribe(OrderPlaced, handler)
    first, second = OrderPlaced(), OrderPlaced()
    await bus.publish(first)
    assert seen == [first]
    bus.publish_nowait(second)
    await bus.join()
    assert seen == [first, second]
    bus.unsubscribe(OrderPlaced, handler)
    await bus.publish(OrderPlaced())
    assert seen == [first, second]
    assert len(errors) == 0


@every_callable
def test_every_kind_of_callable_is_described(bus, make):
    """C2.1: `is_async` is what can be known without a call; name and callback are the handler's."""
    handler = make(lambda event: None)
    subscription = bus.subscribe(OrderPlaced, handler)
    described = subscription.handler
    assert described.is_async == (make.__name__ in ASYNC)
    assert described.callback is handler
    assert isinstance(described.name, str)
    assert described.location is None or described.location.rpartition(":")[2].isdigit()
    assert described.name in repr(described)
    assert ("(async)" in repr(described)) == described.is_async


@every_callable
async def test_subscribed_twice_is_delivered_once(bus, make):
    """C2.3: once an event, for as long as one of its subscriptions is left."""
    seen = []
    handler = make(lambda event: seen.append(event))
    first = bus.subscribe(OrderPlaced, handler)
    second = bus.subscribe(OrderPlaced, handler)
    await bus.publish(OrderPlaced())
    assert len(seen) == 1
    first.cancel()
    await bus.publish(OrderPlaced())
    assert len(seen) == 2
    second.cancel()
    assert bus.handlers(OrderPlaced) == ()


@pytest.mark.usefixtures("classes_die")
@every_callable
async def test_handler_gone_is_let_go(bus, make):
    """C2.5: nothing of the bus holds a handler that has left, once it was called."""

    def record(event):
        pass

    handler = make(record)
    died = weakref.ref(record)
    bus.subscribe(OrderPlaced, handler)
    bus.subscribe(OrderPlaced, do_nothing)
    await bus.publish(OrderPlaced())
    bus.unsubscribe(OrderPlaced, handler)
    del handler, record
    gc.collect()
    assert died() is None


@pytest.mark.parametrize(
    ("made", "method", "drain"),
    [
        (list, "append", lambda made: made),
        (collections.deque, "append", list),
        (queue.SimpleQueue, "put_nowait", lambda made: [made.get_nowait()]),
        (asyncio.Queue, "put_nowait", lambda made: [made.get_nowait()]),
        (asyncio.Queue, "put", lambda made: [made.get_nowait()]),
    ],
)
async def test_methods_of_containers(bus, errors, made, method, drain):
    """C2.1: builtins and coroutine methods of containers are handlers as they are."""
    container = made()
    bus.subscribe(OrderPlaced, getattr(container, method))
    event = OrderPlaced()
    await bus.publish(event)
    assert drain(container) == [event]
    bus.unsubscribe(OrderPlaced, getattr(container, method))
    assert bus.handlers(OrderPlaced) == ()
    assert len(errors) == 0


async def test_decorating_object_counts_for_what_it_takes_itself(bus):
    """C2.1: an object that wraps a function and passes it a further argument is a handler."""
    seen = []

    class WithDatabase:
        def __init__(self, function):
            functools.update_wrapper(self, function)

        def __call__(self, event):
            self.__wrapped__(event, "database")

    bus.subscribe(OrderPlaced, WithDatabase(lambda *arguments: seen.append(arguments)))
    bus.subscribe(OrderPlaced, WithDatabase(lambda event, database: seen.append(database)))
    event = OrderPlaced()
    await bus.publish(event)
    assert seen == [(event, "database"), "database"]


# Name and place


def test_handler_of_a_function(bus):
    """C2.1: name, place, kind and repr of a function."""
    handler = bus.subscribe(OrderPlaced, do_nothing).handler
    assert handler.name == "support.do_nothing"
    assert handler.location == f"{support.__file__}:{do_nothing.__code__.co_firstlineno}"
    assert handler.is_async is False
    assert handler.callback is do_nothing
    assert repr(handler) == f"<Handler {handler.name} (sync) at {handler.location}>"


NAMES = {
    "method": (
        Service(None).handle_async,
        "kinds.Service.handle_async",
        Service.handle_async,
    ),
    "partial": (functools.partial(do_nothing), "support.do_nothing", do_nothing),
    "partial of a method": (
        functools.partial(Service(None).handle_twice, "a", suffix="z"),
        "kinds.Service.handle_twice",
        Service.handle_twice,
    ),
    "object": (
        async_call(None),
        "kinds.async_call.<locals>.Callable",
        type(async_call(None)).__call__,
    ),
    "wrapped": (wrapper(None), "support.do_nothing", do_nothing),
    "lambda": (one_lambda(None), "kinds.one_lambda.<locals>.<lambda>", ...),
    "class": (a_class(None), "kinds.a_class.<locals>.Callable", ...),
    "mock": (mock.Mock(), "unittest.mock.Mock", ...),
    "builtin method": ([].append, "list.append", None),
    "builtin function": (print, "builtins.print", None),
    "coroutine method": (
        functools.partial(asyncio.Queue.put, None),
        "asyncio.queues.Queue.put",
        asyncio.Queue.put,
    ),
}


@pytest.mark.parametrize(("callback", "name", "place"), NAMES.values(), ids=NAMES)
def test_handler_has_name_and_place(bus, callback, name, place):
    """C2.1: the module-qualified name, and the `file:line` of what was written in Python."""
    handler = bus.subscribe(OrderPlaced, callback).handler
    assert handler.name == name
    if place is None:
        assert handler.location is None
    elif place is not ...:  # somewhere, or not: no promise
        code = place.__code__
        assert handler.location == f"{code.co_filename}:{code.co_firstlineno}"


def test_handler_that_wraps_itself_has_no_place(bus):
    """C2.1: no place is found where `__wrapped__` goes round in a circle; nothing else is wrong."""

    def circular(event):
        pass

    circular.__wrapped__ = circular
    assert bus.subscribe(OrderPlaced, circular).handler.location is None


@pytest.mark.parametrize("attribute", ["name", "location", "is_async", "callback", "other"])
def test_handler_is_read_only(bus, attribute):
    """C2.1: a `Handler` describes, and changes nothing."""
    handler = bus.subscribe(OrderPlaced, do_nothing).handler
    before = repr(handler)
    with pytest.raises((AttributeError, TypeError)):  # dataclasses raise the one or the other
        setattr(handler, attribute, do_nothing)
    assert repr(handler) == before
