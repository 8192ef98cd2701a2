# SPDX-License-Identifier: MIT
"""What a callable is: whether it can handle an event, whether it is async, its name and place.

All of it is found out once, at subscription. `Handler` is the description that users see;
`CompiledHandler` is what a route holds: the call to make, hooks and time limit wrapped in.
"""

import asyncio
import dis
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

from ._event import Event

if sys.version_info >= (3, 14):
    # Annotations are of no interest here, and evaluating them can fail. (Imported by name, since
    # the checkers of older interpreters do not know the module.)
    _signature = functools.partial(
        inspect.signature,
        follow_wrapped=False,
        annotation_format=importlib.import_module("annotationlib").Format.STRING,
    )
else:
    _signature = functools.partial(inspect.signature, follow_wrapped=False)


# The instruction by which a coroutine waits.
_YIELD = dis.opmap.get("YIELD_VALUE")


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
        target: object = _without_partials(self.callback)
        candidates: tuple[Any, ...] = (target, getattr(type(target), "__call__", None))
        for candidate in candidates:
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
    """Return the description of `callback`, to be called with that many positional arguments.

    Raises:
        TypeError: It is not callable, does not take the arguments, or is a generator function.
    """
    if not callable(callback):
        raise TypeError(
            f"expected a callable, got {callback!r}; pass the function itself, without calling it"
        )
    target: object = _without_partials(callback)
    name = _name_of(target)
    kinds: list[object] = [target]
    if type(target) not in (types.FunctionType, types.MethodType):
        # An object is what its `__call__` is.
        kinds = list(filter(_inspectable, (target, getattr(type(target), "__call__", None))))
    if any(inspect.isgeneratorfunction(kind) or inspect.isasyncgenfunction(kind) for kind in kinds):
        remedy = (
            "remove the yield" if arguments == 1 else "decorate it with contextlib.contextmanager"
        )
        raise TypeError(f"{name} is a generator function, whose body would never run; {remedy}")
    if not _plainly_takes(callback, arguments):
        _check_signature(callback, name, arguments)
    return Handler(callback, name, is_async=any(map(inspect.iscoroutinefunction, kinds)))


def identity(callback: Callable[..., object]) -> Hashable:
    """Return the key by which a callback is found again, valid while the callback is alive.

    A bound method is a new object at every access: its object and function identify it.
    """
    if isinstance(callback, types.MethodType):
        return id(callback.__self__), id(callback.__func__)
    if isinstance(callback, types.BuiltinMethodType | types.MethodWrapperType):
        owner = callback.__self__
        if owner is not None and not isinstance(owner, types.ModuleType):
            return id(owner), callback.__name__
    return id(callback)


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
    optional_keywords = len(function.__kwdefaults__ or ())
    return required <= arguments <= code.co_argcount and code.co_kwonlyargcount == optional_keywords


def _check_signature(callback: Callable[..., object], name: str, arguments: int) -> None:
    try:
        signature = _signature(callback)
    except (TypeError, ValueError):  # some builtins have none; the first call will tell
        return
    try:
        signature.bind(*[None] * arguments)
    except TypeError as error:
        remedy = "give the other parameters defaults, or bind them with functools.partial"
        if len(signature.parameters) < arguments:
            remedy = f"give it {arguments} parameter{'s' * (arguments > 1)}"
        raise TypeError(
            f"{name}{signature} cannot be called with {arguments} positional "
            f"argument{'s' * (arguments > 1)} ({error}); {remedy}"
        ) from None


def _inspectable(target: object) -> bool:
    """Return whether `inspect` may look at it: the mock of a function has a mock for its code."""
    return isinstance(getattr(getattr(target, "__code__", None), "co_flags", 0), int)


def _without_partials(callback: Any) -> Any:
    while isinstance(callback, functools.partial):
        callback = callback.func
    return callback


def _name_of(target: object) -> str:
    named: Any = target if isinstance(getattr(target, "__qualname__", None), str) else type(target)
    module = getattr(named, "__module__", None)
    return f"{module}.{named.__qualname__}" if isinstance(module, str) else str(named.__qualname__)


Hook = Callable[[Event, Handler | None], AbstractContextManager[object]]


class CompiledHandler:
    """A handler as a route holds it: what to call, and all that the call needs to know."""

    # - may_be_bare: whether it is an `async def` that has never waited in the background.
    # - is_bare: whether it has finished at once there besides, so that what it returns is the body
    #   of its next task.
    # - has_await: whether there is an `await` in it. If not, nothing that it publishes or begins is
    #   ever waited for by it, and it need not be known where it came from.
    __slots__ = (
        "call",
        "handler",
        "has_await",
        "is_async",
        "is_bare",
        "may_be_bare",
        "name",
        "on_error",
    )

    def __init__(
        self,
        handler: Handler,
        call: Callable[[Any], object],
        on_error: Callable[[Any], object] | None,
    ) -> None:
        self.handler: Handler = handler
        self.call: Callable[[Any], Any] = call
        self.on_error: Callable[[Any], object] | None = on_error
        self.name: str = handler.name
        self.is_async: bool = handler.is_async
        code = _coroutine_code(call)
        self.may_be_bare: bool = code is not None
        self.is_bare: bool = False
        self.has_await: bool = code is None or _has_await(code)

    def continuation(self, awaitable: Awaitable[object]) -> "CompiledHandler":
        """Return what is left to do of a call that has returned `awaitable`."""
        return CompiledHandler(self.handler, lambda _event: awaitable, self.on_error)


def _coroutine_code(call: object) -> types.CodeType | None:
    """Return the code of what is an `async def` itself, or a bound method that is one."""
    function = call.__func__ if isinstance(call, types.MethodType) else call
    if type(function) is not types.FunctionType:
        return None
    code = function.__code__
    return code if code.co_flags & inspect.CO_COROUTINE else None


def _has_await(code: types.CodeType) -> bool:
    """Return whether a coroutine can wait: whatever awaits, `async with` and `for` too, yields."""
    return _YIELD is None or _YIELD in code.co_code[::2]


class Route:
    """The compiled handlers of one event type, in subscription order; never added to."""

    # - only: the one handler, if there is only one, and it is sync.
    __slots__ = ("event_type", "handlers", "has_async", "last", "only", "size")

    def __init__(self, event_type: type[Event], handlers: tuple[CompiledHandler, ...]) -> None:
        self.event_type: type[Event] = event_type
        self.handlers: tuple[CompiledHandler, ...] = handlers
        self.size: int = len(handlers)
        self.last: CompiledHandler | None = handlers[-1] if handlers else None
        self.has_async: bool = any(target.is_async for target in handlers)
        self.only: CompiledHandler | None = None
        if len(handlers) == 1 and not self.has_async:
            self.only = handlers[0]

    def learn(self, target: CompiledHandler) -> None:
        """Treat a handler that has returned an awaitable as async from the next event on."""
        target.is_async = self.has_async = True
        self.only = None


def limited(call: Callable[[Any], object], seconds: float) -> Callable[[Any], object]:
    """Wrap a call so that what it awaits is cancelled after `seconds`, as a `TimeoutError`."""

    def overrun() -> TimeoutError:
        return TimeoutError(f"still running after handler_timeout={seconds} seconds")

    async def limit(awaitable: Awaitable[object]) -> None:
        # However the handler takes its cancellation, swallowing it included, it has overrun.
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                await awaitable
        except (Exception, asyncio.CancelledError) as exc:
            if scope.expired():
                raise overrun() from exc
            raise
        if scope.expired():
            raise overrun()

    def call_limited(event: Any) -> object:
        result = call(event)
        return limit(result) if inspect.isawaitable(result) else None

    return call_limited


def observed(
    call: Callable[[Any], object], handler: Handler | None, hooks: Sequence[Hook]
) -> Callable[[Any], object]:
    """Wrap a call in the context managers of `hooks`, the first one outermost."""

    async def finish(awaitable: Awaitable[object], stack: ExitStack) -> None:
        with stack:
            await awaitable

    def call_observed(event: Any) -> object:
        with ExitStack() as stack:
            for hook in hooks:
                manager = hook(event, handler)
                if not hasattr(manager, "__exit__"):
                    raise TypeError(
                        f"{hook!r} returned {manager!r}, which is no context manager; "
                        "decorate it with contextlib.contextmanager"
                    )
                stack.enter_context(manager)
            result = call(event)
            if inspect.isawaitable(result):
                return finish(result, stack.pop_all())
        return None

    return call_observed
