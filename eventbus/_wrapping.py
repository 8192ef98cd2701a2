# SPDX-License-Identifier: MIT
"""What is wrapped around a handler's call: the time limit of the bus, and its instrument hooks."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from inspect import isawaitable
from typing import Any

from ._event import Event
from ._handler import Handler, must_await

Hook = Callable[[Event, Handler | None], AbstractContextManager[object]]


def limited(call: Callable[[Any], object], seconds: float) -> Callable[[Any], object]:
    """Wrap a call so that what it awaits is cancelled after `seconds`, as a `TimeoutError`."""

    def overrun() -> TimeoutError:
        return TimeoutError(f"still running after handler_timeout={seconds} seconds")

    async def limit(awaitable: Awaitable[object]) -> object:
        # However the handler takes its cancellation, swallowing it included, it has overrun.
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                result = await awaitable
        except (Exception, asyncio.CancelledError) as exc:
            if scope.expired():
                raise overrun() from exc
            raise
        if scope.expired():
            raise overrun()
        return result

    def call_limited(event: Any) -> object:
        result = call(event)
        return limit(result) if isawaitable(result) else result

    return call_limited


def observed(
    call: Callable[[Any], object], handler: Handler | None, hooks: Sequence[Hook]
) -> Callable[[Any], object]:
    """Wrap a call in the context managers of `hooks`, the first one outermost.

    It is async, so that they are entered and left in a task of the handler's own.
    """

    async def call_observed(event: Any) -> object:
        result: Any = None
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
            if result is not None and must_await(result):
                result = await result
        return result

    return call_observed
