# SPDX-License-Identifier: MIT
"""The handler behind `EventBus.wait_for`: it resolves a future and unsubscribes."""

from asyncio import AbstractEventLoop, CancelledError, Future, get_running_loop
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
        """Unsubscribe, and break the reference cycles through subscription and future."""
        subscription, self.subscription = self.subscription, None
        if subscription is not None:
            subscription.cancel()
            del self.future

    def _resolve(self, event: E) -> None:
        if self.subscription is None or self.future.done():
            return
        try:
            if self._where is not None and not self._where(event):
                return
        except StopIteration as exc:  # which no future accepts
            self.future.set_exception(RuntimeError(f"where raised {exc!r}"))
        except (Exception, CancelledError) as exc:
            self.future.set_exception(exc)
        else:
            self.future.set_result(event)
        self.stop()
