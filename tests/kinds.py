# SPDX-License-Identifier: MIT
"""C2.1: every kind of callable that can be a handler; KINDS has functions that make them."""

import asyncio
import functools
from unittest import mock

import pytest
from support import do_nothing

ASYNC = {}
SYNC = {}


def kind(table):
    """Add a maker to the table: given `record`, it makes a handler that calls it."""

    def add(make):
        table[make.__name__] = make
        return make

    return add


@kind(SYNC)
def function(record):
    def handler(event):
        record(event)

    return handler


@kind(ASYNC)
def coroutine_function(record):
    async def handler(event):
        await asyncio.sleep(0)
        record(event)

    return handler


@kind(SYNC)
def one_lambda(record):
    return lambda event: record(event)


@kind(SYNC)
def lambda_of_coroutine(record):
    handler = coroutine_function(record)
    return lambda event: handler(event)


@kind(SYNC)
def default_for_the_rest(record):
    def handler(event, again=False, *more, key=None, **others):
        assert (again, more, key, others) == (False, (), None, {})
        record(event)

    return handler


@kind(SYNC)
def positional_only(record):
    def handler(event, /):
        record(event)

    return handler


class Service:
    def __init__(self, record):
        self.record = record

    def handle(self, event):
        self.record(event)

    async def handle_async(self, event):
        await asyncio.sleep(0)
        self.record(event)

    def handle_twice(self, prefix, event, *, suffix):
        assert (prefix, suffix) == ("a", "z")
        self.record(event)


@kind(SYNC)
def bound_method(record):
    return Service(record).handle


@kind(ASYNC)
def bound_coroutine_method(record):
    return Service(record).handle_async


@kind(SYNC)
def partial(record):
    return functools.partial(Service(record).handle_twice, "a", suffix="z")


@kind(SYNC)
def partial_of_partial(record):
    class Own(functools.partial):  # `partial` does not flatten another class into itself
        pass

    return functools.partial(Own(Service(record).handle_twice, "a"), suffix="z")


@kind(ASYNC)
def partial_of_partial_of_async(record):
    class Own(functools.partial):
        pass

    async def handler(prefix, event, *, suffix):
        await asyncio.sleep(0)
        Service(record).handle_twice(prefix, event, suffix=suffix)

    return functools.partial(Own(handler, "a"), suffix="z")


@kind(SYNC)
def sync_call(record):
    class Callable:
        def __call__(self, event):
            record(event)

    return Callable()


@kind(ASYNC)
def async_call(record):
    class Callable:
        async def __call__(self, event):
            await asyncio.sleep(0)
            record(event)

    return Callable()


@kind(ASYNC)
def partial_of_async_call(record):
    class Callable:
        async def __call__(self, prefix, event):
            await asyncio.sleep(0)
            record(event)

    return functools.partial(Callable(), "a")


@kind(SYNC)
def static_method(record):
    class Owner:
        @staticmethod
        def handle(event):
            record(event)

    return Owner.handle


@kind(ASYNC)
def async_static_method(record):
    class Owner:
        @staticmethod
        async def handle(event):
            await asyncio.sleep(0)
            record(event)

    return Owner().handle


@kind(SYNC)
def class_method(record):
    class Owner:
        @classmethod
        def handle(cls, event):
            assert cls is Owner
            record(event)

    return Owner.handle


@kind(ASYNC)
def async_class_method(record):
    class Owner:
        @classmethod
        async def handle(cls, event):
            await asyncio.sleep(0)
            record(event)

    return Owner.handle


@kind(SYNC)
def a_class(record):
    class Callable:
        def __init__(self, event):
            record(event)

    return Callable


@kind(SYNC)
def parameter_called_self(record):
    def handler(self):
        record(self)

    return handler


@kind(SYNC)
def decorated_bound_method(record):
    service = Service(record)

    @functools.wraps(service.handle)
    def wrapped(*args):
        return service.handle(*args)

    return wrapped


@kind(SYNC)
def wrapper(record):
    @functools.wraps(do_nothing)
    def wrapped(*args, **kwargs):
        return record(*args, **kwargs)

    return wrapped


@kind(SYNC)
def sync_wrapper_of_async(record):
    handler = coroutine_function(record)

    @functools.wraps(handler)
    def wrapped(event):
        return handler(event)

    return wrapped


@kind(ASYNC)
def async_wrapper_of_sync(record):
    handler = function(record)

    @functools.wraps(handler)
    async def wrapped(event):
        await asyncio.sleep(0)
        handler(event)

    return wrapped


@kind(SYNC)
def wrapper_that_injects(record):
    def handler(session, event):
        assert session == "session"
        record(event)

    @functools.wraps(handler)
    def wrapped(event):
        handler("session", event)

    return wrapped


@kind(SYNC)
def sync_wrapper_of_a_generator(record):
    def steps(event):
        yield record(event)

    @functools.wraps(steps)
    def wrapped(event):
        list(steps(event))

    return wrapped


@kind(SYNC)
def cached(record):
    return functools.cache(function(record))


@kind(SYNC)
def simple_mock(record):
    return mock.Mock(side_effect=record)


@kind(SYNC)
def magic_mock(record):
    return mock.MagicMock(side_effect=record)


@kind(ASYNC)
def async_mock(record):
    return mock.AsyncMock(side_effect=record)


@kind(SYNC)
def mock_with_spec(record):
    return mock.Mock(spec=do_nothing, side_effect=record)


@kind(SYNC)
def magic_mock_with_spec(record):
    return mock.MagicMock(spec=do_nothing, side_effect=record)


@kind(SYNC)
def autospec(record):
    return mock.create_autospec(do_nothing, side_effect=record)


KINDS = SYNC | ASYNC
every_callable = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
