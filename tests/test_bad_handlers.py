# SPDX-License-Identifier: MIT
"""C2.2: what can be no handler, event type or option is refused at once, with the remedy."""

import functools
import gc
import importlib.util
import sys
from pathlib import Path
from typing import Generic, TypeVar, Union

import pytest
from kinds import async_call, coroutine_function
from support import InvoiceIssued, OrderPlaced, callbacks, do_nothing
from target import Event, EventBus, package

# Event types and handlers


T = TypeVar("T")


class Box(Event, Generic[T]):
    pass


class NoEvent:
    pass


BAD_TYPES = {
    "other class": (NoEvent, r"NoEvent.*; derive its class: class NoEvent\("),
    "builtin": (int, r"int.*; define an event: class"),
    "instance": (OrderPlaced(), "OrderPlaced.*; pass the class OrderPlaced, not an instance"),
    "generic alias": (Box[int], r"Box\[int\]; .* exact class: pass Box$"),
    "builtin alias": (list[int], r"list\[int\]; .* exact class: pass list$"),
    "union": (OrderPlaced | InvoiceIssued, r"OrderPlaced \| .*; name each type: .*@bus.on\(A, B\)"),
    "typing union": (Union[OrderPlaced, InvoiceIssued], "; name each type: "),  # noqa: UP007
    "optional": (OrderPlaced | None, "OrderPlaced.*; name each type: "),
    "tuple": ((OrderPlaced, InvoiceIssued), "InvoiceIssued.*; pass a class derived from Event"),
    "list": ([OrderPlaced], "OrderPlaced.*; pass a class derived from Event"),
    "name": ("OrderPlaced", "'OrderPlaced'; pass a class derived from Event"),
    "None": (None, "None; pass a class derived from Event"),
    "function": (
        do_nothing,
        r"function do_nothing.*; name the class first: .*@bus.on\(OrderPlaced\)",
    ),
}


@pytest.mark.parametrize(("wrong", "message"), BAD_TYPES.values(), ids=BAD_TYPES)
def test_what_is_no_event_type_is_refused(bus, wrong, message):
    """C2.2: a `TypeError` with the remedy, from every method that takes an event type."""
    for call in (
        lambda: bus.subscribe(wrong, do_nothing),
        lambda: bus.unsubscribe(wrong, do_nothing),
        lambda: bus.on(wrong),
        lambda: bus.on(OrderPlaced, wrong),
        lambda: bus.handlers(wrong),
    ):
        with pytest.raises(TypeError, match=f"^expected a subclass of Event, got .*{message}"):
            call()
    assert bus.event_types() == ()


@pytest.fixture
def other_event():
    """The `Event` of another copy of the package."""
    before = dict(sys.modules)
    place = Path(package.__file__)
    spec = importlib.util.spec_from_file_location(
        "vendored_copy", place, submodule_search_locations=[str(place.parent)]
    )
    copy = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    yield copy.Event
    for name in sys.modules.keys() - before.keys():
        del sys.modules[name]


async def test_event_of_another_copy_of_the_package(bus, other_event):
    """C2.2, C4.7: whoever mixes two copies is told so, with the modules of both."""

    class Foreign(other_event):
        pass

    for call in (
        lambda: bus.subscribe(Foreign, do_nothing),
        lambda: bus.unsubscribe(Foreign, do_nothing),
        lambda: bus.on(Foreign),
        lambda: bus.handlers(Foreign),
        lambda: bus.wait_for(Foreign),
        lambda: bus.publish_nowait(Foreign()),
        lambda: bus.publish(Foreign()).send(None),
    ):
        with pytest.raises(TypeError, match="another copy of this package") as info:
            call()
        assert other_event.__module__ in str(info.value)
        assert Event.__module__ in str(info.value)
    assert other_event.__module__ != Event.__module__
    assert bus.event_types() == ()


def generator(event):
    yield


async def async_generator(event):
    yield


class GeneratorCall:
    def __call__(self, event):
        yield


class AsyncGeneratorCall:
    async def __call__(self, event):
        yield


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def decorated_for_one(function):
    @functools.wraps(function)
    def wrapper(self, event=None):
        return function(self, event)

    return wrapper


def decorated_async(function):
    @functools.wraps(function)
    async def wrapper(*args, **kwargs):
        return await function(*args, **kwargs)

    return wrapper


class CallableObjects:
    def __init__(self, event):
        pass

    def __call__(self, event):
        pass


class AsyncCallableObjects(CallableObjects):
    async def __call__(self, event):
        pass


class Inheriting(AsyncCallableObjects):
    pass


class Methods:
    def nothing(self):
        pass

    def one(self, event):
        pass

    async def one_async(self, event):
        pass

    def default(self, event=None):
        pass

    def rest(self, *events):
        pass

    def alone(self, /):
        pass

    wrapped = decorated(one)
    wrapped_twice = decorated(decorated_for_one(one))
    wrapped_async = decorated_async(one_async)
    wrapped_default = decorated(default)
    cached = functools.cache(default)

    def two(self, first, second):
        pass

    def steps(self, event):
        yield


BAD_HANDLERS = {
    "None": (None, "None; pass the function itself"),
    "name": ("do_nothing", "'do_nothing'; pass the function itself"),
    "event": (OrderPlaced(), "OrderPlaced.*; pass the function itself"),
    "no argument": (lambda: None, r"<lambda>\(\) .* 1 positional argument .*; give it 1 parameter"),
    "two arguments": (lambda a, b: None, r"\(a, b\) .*'b'.*functools.partial"),
    "keyword only": (lambda *, event: None, r"\(\*, event\) .* passed by position: remove the \*"),
    "required keyword": (lambda event, *, key: None, "'key'.*functools.partial"),
    "method without": (Methods().nothing, r"Methods.nothing\(\) .*; give it 1 parameter"),
    "method with two": (Methods().two, r"Methods.two\(first, second\) .*functools.partial"),
    "static method object": (
        staticmethod(do_nothing),
        "do_nothing is a staticmethod object; .* outside",
    ),
    "class method object": (
        classmethod(do_nothing),
        "do_nothing is a classmethod object; .* outside",
    ),
    "class of callables": (
        CallableObjects,
        r"a class whose instances .*: CallableObjects\(\.\.\.\)$",
    ),
    "class of async callables": (
        AsyncCallableObjects,
        r"a class .* pass one: AsyncCallableObjects\(",
    ),
    "class that inherits it": (
        Inheriting,
        r"a class whose instances are callable; .*: Inheriting\(",
    ),
    "full partial": (functools.partial(do_nothing, 1), r"do_nothing\(\) .*; give it 1 parameter"),
    "class without": (NoEvent, r"NoEvent\(\) .*; give it 1 parameter"),
    "builtin": ([].clear, r"list.clear\(\) .*; give it 1 parameter"),
    "generator": (generator, r"\.generator is a generator function.*; remove the yield"),
    "async generator": (async_generator, r"async_generator is a .*; remove the yield"),
    "generator method": (Methods().steps, r"Methods.steps is a .*; remove the yield"),
    "partial generator": (functools.partial(generator), r"\.generator is a .*; remove the yield"),
    "generator call": (GeneratorCall(), "GeneratorCall is a .*; remove the yield"),
    "async generator call": (AsyncGeneratorCall(), "GeneratorCall is a .*; remove the yield"),
}


@pytest.mark.parametrize(("wrong", "message"), BAD_HANDLERS.values(), ids=BAD_HANDLERS)
def test_what_cannot_handle_is_refused(bus, wrong, message):
    """C2.2: a `TypeError` with the remedy, and nothing is subscribed."""
    for call in (
        lambda: bus.subscribe(OrderPlaced, wrong),
        lambda: bus.on(OrderPlaced, InvoiceIssued)(wrong),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    assert bus.event_types() == ()
    assert bus.handlers(OrderPlaced) == ()


@pytest.mark.parametrize(
    "name", [name for name in vars(Methods) if not name.startswith("__") and name != "steps"]
)
def test_method_without_its_object_is_refused(bus, name):
    """C2.2: a second parameter with a default does not make `self` the event, decorated or not."""
    with pytest.raises(TypeError, match=r"is a method without its object; subscribe instance\.\w+"):
        bus.subscribe(OrderPlaced, getattr(Methods, name))
    assert bus.event_types() == ()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (lambda function: function, r"m is a method without its object; subscribe instance\.m"),
        (decorated, r"m is a method without its object; subscribe instance\.m"),
        (decorated_async, r"m is a method without its object; subscribe instance\.m"),
        (staticmethod, "m is a staticmethod object; subscribe it outside of the class"),
        (classmethod, "m is a classmethod object; subscribe it outside of the class"),
    ],
)
def test_decorated_in_the_class_body(bus, kind, message):
    """C2.2: `@bus.on` in a class body sees no object yet, and says where to subscribe instead."""
    with pytest.raises(TypeError, match=message):

        class Service:
            @bus.on(OrderPlaced)
            @kind
            def m(self, event=None):
                pass

    assert bus.event_types() == ()


@pytest.mark.parametrize("name", ["one", "default", "wrapped", "wrapped_default", "rest"])
def test_method_with_its_object_is_accepted(bus, name):
    """C2.1: the remedy works: the same method, taken from an instance."""
    method = getattr(Methods(), name)
    bus.subscribe(OrderPlaced, method)
    assert callbacks(bus) == [method]


def test_coroutine_object_is_refused(bus, recwarn):
    """C2.2: what was called already is told so, and Python does not complain of it besides."""
    handler = coroutine_function(None)
    for call in (lambda made: bus.subscribe(OrderPlaced, made), bus.on(OrderPlaced)):
        with pytest.raises(TypeError, match="is a coroutine object; pass the function itself"):
            call(handler(OrderPlaced()))
    gc.collect()
    assert list(recwarn) == []
    assert bus.event_types() == ()


def test_refused_handler_changes_nothing_for_the_others(bus):
    """C2.2: what was subscribed before a refusal still is, alone."""
    bus.subscribe(OrderPlaced, do_nothing)
    with pytest.raises(TypeError):
        bus.subscribe(OrderPlaced, generator)
    assert [handler.callback for handler in bus.handlers(OrderPlaced)] == [do_nothing]


def test_on_without_parentheses_is_refused(bus):
    """C2.2: `@bus.on` does not swallow the function; the message shows how to write it."""
    with pytest.raises(TypeError, match=r"@bus\.on\(OrderPlaced\)"):

        @bus.on
        def handler(event):
            pass

    assert bus.event_types() == ()


def test_on_with_nothing_is_refused(bus):
    """C2.2: `@bus.on()` would subscribe to nothing."""
    with pytest.raises(TypeError, match=r"@bus\.on\(OrderPlaced\)"):
        bus.on()


# The options of the bus


@pytest.mark.parametrize(
    "options",
    [
        {"handler_timeout": 0},
        {"handler_timeout": -1},
        {"handler_timeout": float("nan")},
        {"max_depth": 0},
        {"max_depth": -1},
        {"max_pending": 0},
        {"max_pending": -1},
    ],
    ids=str,
)
def test_limit_out_of_range_is_refused(options):
    """C2.2, C7: `ValueError` at once, with the name of the option and the value."""
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"^{name} must be .* {value}$"):
        EventBus(**options)


@pytest.mark.parametrize(
    ("on_error", "message"),
    [
        (coroutine_function(None), "must be a plain function.*publish_nowait"),
        (async_call(None), "must be a plain function.*publish_nowait"),
        (lambda: None, "1 positional argument.*; give it 1 parameter"),
        (lambda failure, more: None, "'more'.*functools.partial"),
        (generator, "remove the yield"),
        ("log", "pass the function itself"),
    ],
)
def test_on_error_that_cannot_be_called_is_refused(on_error, message):
    """C2.2: an `on_error` that is async, of another arity, or no function, is a `TypeError`."""
    with pytest.raises(TypeError, match=message):
        EventBus(on_error=on_error)


def test_options_at_their_limits_and_by_name():
    """C2.2: the smallest limits are fine; options are given by name."""
    EventBus(on_error=print, handler_timeout=1e-9, max_depth=1, max_pending=1)
    EventBus(on_error=None, handler_timeout=None, max_depth=None, max_pending=None)
    with pytest.raises(TypeError):
        EventBus(print)
