# SPDX-License-Identifier: MIT
"""The handler behind `EventBus.wait_for`: it resolves a future and unsubscribes."""

from asyncio import AbstractEventLoop, Future, get_running_loop
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from ._event import Event

E = TypeVar("E", bound=Event)


class _Cancellable(Protocol):
    def cancel(self) -> None: ...


class EventWaiter(Generic[E]):
    """Subscribed by `wait_for`; the future's done callback is what ends the subscription."""

    def __init__(self, loop: AbstractEventLoop, where: Callable[[E], object] | None) -> None:
        self.future: Future[E] = loop.create_future()
        self.subscription: _Cancellable | None = None
        self._loop = loop
        self._where = where

    def __call__(self, event: E) -> None:
        """Take an event, published on any loop, to the loop of the future."""
        if get_running_loop() is self._loop:
            self._resolve(event)
            return
        try:
            self._loop.call_soon_threadsafe(self._resolve, event)
        except RuntimeError:  # that loop is closed: nobody waits any more
            self.stop()

    def stop(self, _future: object = None) -> None:
        """Unsubscribe; also breaks the reference cycle through the subscription."""
        if self.subscription is not None:
            self.subscription.cancel()
            self.subscription = None

    def _resolve(self, event: E) -> None:
        if self.future.done():
            return
        try:
            if self._where is not None and not self._where(event):
                return
        except Exception as exc:
            error = exc
            if isinstance(exc, StopIteration):  # which no future accepts
                error = RuntimeError(f"where raised {exc!r}")
            # Without this frame, which knows the future, the traceback makes no cycle.
            tb = exc.__traceback__
            self.future.set_exception(error.with_traceback(tb.tb_next if tb else None))
            del error, tb
        else:
            self.future.set_result(event)
        self.stop()
