# SPDX-License-Identifier: MIT
"""What a callable is: whether it is async, its name and place.

All of it is found out once, at subscription. `Handler` is the description that users see;
`CompiledHandler` is what a route holds: the call to make, and all that it needs.
"""

import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, TypeGuard

from ._checks import check_callable

_GENERATORS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Handler:
    """Read-only description of one subscribed handler.

    Attributes:
        callback: The callable as it was subscribed.
        name: Its module-qualified name, `shop.invoices.on_order_placed`.
        is_async: Whether it is known to be asynchronous without being called.
    """

    callback: Callable[[Any], object]
    name: str
    is_async: bool

    @property
    def location(self) -> str | None:
        """Where it is defined, as `file:line`; None for what was not written in Python."""
        for candidate in _candidates(_without_partials(self.callback)):
            try:
                code = getattr(inspect.unwrap(candidate), "__code__", None)
            except ValueError:  # wrapped in itself
                return None
            if type(code) is types.CodeType:  # a mock has something else there
                return f"{code.co_filename}:{code.co_firstlineno}"
        return None

    def __repr__(self) -> str:
        kind = "async" if self.is_async else "sync"
        return f"<Handler {self.name} ({kind}) at {self.location}>"


def describe(callback: Callable[..., object], *, arguments: int = 1) -> Handler:
    """Return the description of `callback`; `TypeError` if it cannot take that many arguments."""
    target: object = _without_partials(callback)
    named: Any = target if isinstance(getattr(target, "__qualname__", None), str) else type(target)
    module = getattr(named, "__module__", None)
    name = f"{module}.{named.__qualname__}" if isinstance(module, str) else named.__qualname__
    function = getattr(target, "__func__", target)
    if type(function) is types.FunctionType and not function.__dict__:  # which may mark it as async
        flags = function.__code__.co_flags  # `inspect` takes twice as long as all the rest
        is_generator, is_async = flags & _GENERATORS, flags & inspect.CO_COROUTINE
    else:
        kinds = _candidates(target)
        is_generator = any(
            inspect.isgeneratorfunction(kind) or inspect.isasyncgenfunction(kind) for kind in kinds
        )
        is_async = any(map(inspect.iscoroutinefunction, kinds))
    if is_generator:
        remedy = "remove the yield" if arguments == 1 else "add @contextlib.contextmanager"
        raise TypeError(f"{name} is a generator function, whose body would never run; {remedy}")
    check_callable(callback, name, arguments)
    return Handler(callback, name, bool(is_async))


def identity(callback: Callable[..., object]) -> Hashable:
    """Return the key by which a callback is found again, valid while the callback is alive."""
    if isinstance(callback, types.MethodType):  # a new object at every access
        return id(callback.__self__), id(callback.__func__)
    if isinstance(callback, types.BuiltinMethodType | types.MethodWrapperType):
        owner = callback.__self__
        if owner is not None and not isinstance(owner, types.ModuleType):
            return id(owner), callback.__name__
    return id(callback)


def _candidates(target: object) -> list[Any]:
    """Return what tells the kind of a callable: itself, and if it is an object its `__call__`.

    Left out is the mock of a function, whose code is a mock, too, which `inspect` cannot take.
    """
    candidates = [target, getattr(type(target), "__call__", None)]  # noqa: B004
    return [
        candidate
        for candidate in candidates
        if isinstance(getattr(getattr(candidate, "__code__", None), "co_flags", 0), int)
    ]


def _without_partials(callback: Any) -> Any:
    while isinstance(callback, functools.partial):
        callback = callback.func
    return callback


@dataclass(slots=True, eq=False, repr=False)
class CompiledHandler:
    """A handler as a route holds it: what to call, and all that the call needs to know."""

    handler: Handler
    call: Callable[[Any], Any]
    on_error: Callable[[Any], object] | None
    is_async: bool  # whether it gets a task; learned of a sync callable that returns an awaitable
    context: Context | None = None  # where the task runs; None for a copy of the publisher's

    def learn(self, awaitable: Awaitable[object], context: Context) -> "CompiledHandler":
        """Be async from now on; return what is left to do of the call that returned `awaitable`."""
        self.is_async = True
        return CompiledHandler(self.handler, lambda _event: awaitable, self.on_error, True, context)


class Route:
    """The handlers of one event type, in subscription order; never added to."""

    __slots__ = ("handlers", "in_place")

    def __init__(self, handlers: tuple[CompiledHandler, ...]) -> None:
        self.handlers: tuple[CompiledHandler, ...] = handlers
        self.in_place: bool = not any(target.is_async for target in handlers)  # as far as is known


def must_await(result: Any) -> TypeGuard[Awaitable[Any]]:
    """Return whether what a handler has returned is to be awaited.

    Raises:
        TypeError: It is a generator, or a context manager made of one, whose body would never run.
    """
    if inspect.isawaitable(result):
        return True
    made_of_generator = type(result).__module__ == "contextlib" and hasattr(result, "gen")
    if made_of_generator or inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError(
            f"the handler returned {result!r}, whose body never runs; iterate over it, or enter "
            "it, in the handler"
        )
    return False
