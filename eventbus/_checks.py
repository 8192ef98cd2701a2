# SPDX-License-Identifier: MIT
"""What is refused, and what to do instead: what is no event, no handler, or has no loop.

None of it is on the way of an event; a check that is passed costs little, even at subscription.
"""

import functools
import importlib
import inspect
import sys
import types
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Callable
from typing import Any, Union, get_origin

from ._event import Event

_signature = functools.partial(inspect.signature, follow_wrapped=False)
if sys.version_info >= (3, 14):
    # Annotations are of no interest here, and evaluating them can fail. (Imported by name, since
    # the checkers of older interpreters do not know the module.)
    _format = importlib.import_module("annotationlib").Format.STRING
    _signature = functools.partial(_signature, annotation_format=_format)


def check_event_type(event_type: object) -> None:
    """Raise `TypeError`, naming the remedy, unless `event_type` is a class of events."""
    if isinstance(event_type, type) and issubclass(event_type, Event):
        return
    origin = get_origin(event_type)
    if isinstance(event_type, Event):
        remedy = f"pass the class {type(event_type).__qualname__}, not an instance of it"
    elif origin in (Union, types.UnionType):
        remedy = "name each type: subscribe(A, handler) and subscribe(B, handler), or @bus.on(A, B)"
    elif isinstance(origin, type):
        remedy = f"events are told apart by their exact class: pass {origin.__qualname__}"
    elif isinstance(event_type, type):
        remedy = _derive(event_type)
    elif callable(event_type):
        remedy = "name the class first: subscribe(OrderPlaced, handler), @bus.on(OrderPlaced)"
    else:
        remedy = "pass a class derived from Event"
    raise TypeError(f"expected a subclass of Event, got {event_type!r}; {remedy}")


def check_event(event: object) -> None:
    """Raise `TypeError`, naming the remedy, unless `event` is an instance of an event class."""
    event_type: type[object] = type(event)
    if issubclass(event_type, Event):  # isinstance would believe a mock's `__class__`
        return
    if isinstance(event, type) and issubclass(event, Event):
        name = event.__qualname__
        raise TypeError(
            f"expected an instance of an event, got the class {name}; make one: {name}()"
        )
    raise TypeError(
        f"expected an instance of a subclass of Event, got {event!r}; {_derive(event_type)}"
    )


def _derive(other: type[object]) -> str:
    """Return the remedy for a class that is no event's."""
    for base in other.__mro__:
        if base.__qualname__ == "Event" and base.__module__.endswith("._event"):
            return (
                f"it derives from the Event of another copy of this package, {base.__module__}, "
                f"and this bus is of {Event.__module__}: import both from one of them"
            )
    if other.__module__ == "builtins":
        return "define an event: class OrderPlaced(Event)"
    return f"derive its class: class {other.__name__}(Event)"


def check_callable(callback: Any, name: str, arguments: int) -> None:
    """Raise `TypeError`, with the remedy, unless it can be called with so many arguments."""
    if not _plainly_takes(callback, arguments):
        _check_kind(callback, name)
        _check_signature(callback, name, arguments)


def _plainly_takes(callback: Callable[..., object], arguments: int) -> bool:
    """Return True for a plain function with fitting parameters: most are, and `inspect` is slow."""
    function: Any = callback
    if isinstance(callback, types.MethodType):
        function = callback.__func__
        arguments += 1
    if type(function) is not types.FunctionType:
        return False
    code = function.__code__
    required = code.co_argcount - len(function.__defaults__ or ())
    return (
        required <= arguments <= code.co_argcount
        and code.co_kwonlyargcount == len(function.__kwdefaults__ or ())
        and (function is not callback or code.co_varnames[0] != "self")
    )


def _check_kind(callback: object, name: str) -> None:
    """Raise `TypeError` for what is no handler, though some of it can be called."""
    if inspect.iscoroutine(callback):
        callback.close()  # or else Python would complain of it as well
        problem = "a coroutine object; pass the function itself, without calling it"
    elif isinstance(callback, classmethod | staticmethod):
        kind = "classmethod" if isinstance(callback, classmethod) else "staticmethod"
        problem = f"a {kind} object; subscribe it outside of the class, as the class's attribute"
    elif not callable(callback):
        raise TypeError(
            f"expected a callable, got {callback!r}; pass the function itself, without calling it"
        )
    elif isinstance(callback, type) and any("__call__" in vars(cls) for cls in callback.__mro__):
        problem = f"a class whose instances are callable; pass one: {callback.__name__}(...)"
    elif _lacks_self(callback):
        method = f"instance.{name.rpartition('.')[2]}"
        problem = (
            f"a method without its object; subscribe {method}, in __init__ or where the instance "
            "is made"
        )
    else:
        return
    raise TypeError(f"{name} is {problem}")


def _without_partials(callback: Any) -> Any:
    """Return what is called in the end, if no partial on the way gives a positional argument."""
    while isinstance(callback, functools.partial) and not callback.args:
        callback = callback.func
    return callback  # pyright: ignore[reportUnknownVariableType]


def _lacks_self(callback: Any) -> bool:
    """Return whether it was defined in a class, and waits for the object as its first argument."""
    function = callback = _without_partials(callback)
    # A decorator's wrapper that takes *args, or is not written in Python, is what it wraps.
    while type(function) is not types.FunctionType or function.__code__.co_argcount == 0:
        if function is None or isinstance(function, types.MethodType):
            return False
        function = getattr(function, "__wrapped__", None)
    owner = str(getattr(callback, "__qualname__", "")).rpartition(".")[0].rpartition(".")[2]
    return function.__code__.co_varnames[0] == "self" and owner not in ("", "<locals>")


def _check_signature(callback: Callable[..., object], name: str, arguments: int) -> None:
    try:
        signature = _signature(callback)
    except (TypeError, ValueError):  # some builtins have none; the first call will tell
        return
    try:
        signature.bind(*[None] * arguments)
    except TypeError as error:
        kinds = [parameter.kind for parameter in signature.parameters.values()]
        remedy = "give the other parameters defaults, or bind them with functools.partial"
        if len(kinds) < arguments:
            remedy = f"give it {arguments} parameter{'s' * (arguments > 1)}"
        elif kinds[0] is inspect.Parameter.KEYWORD_ONLY:
            remedy = "the event is passed by position: remove the * before its parameter"
        raise TypeError(
            f"{name}{signature} cannot be called with {arguments} positional "
            f"argument{'s' * (arguments > 1)} ({error}); {remedy}"
        ) from None


def check_limits(
    handler_timeout: float | None, max_depth: int | None, max_pending: int | None
) -> None:
    """Raise `ValueError` for a limit of the bus that is out of its range."""
    if handler_timeout is not None and not handler_timeout > 0:
        raise ValueError(f"handler_timeout must be above 0 seconds, got {handler_timeout!r}")
    for name, limit in (("max_depth", max_depth), ("max_pending", max_pending)):
        if limit is not None and not limit >= 1:
            raise ValueError(f"{name} must be at least 1, or None for no limit, got {limit!r}")


def running_loop(caller: str) -> AbstractEventLoop:
    """Return the asyncio loop of this thread, or raise `RuntimeError`, naming the remedy."""
    try:
        return get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            f"{caller} needs a running asyncio event loop in this thread (trio's is none); from "
            "another thread, call loop.call_soon_threadsafe(bus.publish_nowait, event)"
        ) from None
