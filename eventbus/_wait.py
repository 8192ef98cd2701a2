# SPDX-License-Identifier: MIT
"""The handler behind `EventBus.wait_for`: it resolves a future and unsubscribes."""

from asyncio import CancelledError, Future, get_running_loop
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from ._event import Event
from ._handler import describe

E = TypeVar("E", bound=Event)


class _Cancellable(Protocol):
    def cancel(self) -> None: ...


class EventWaiter(Generic[E]):
    """Subscribed by `wait_for`; the future's done callback is what ends the subscription."""

    def __init__(self, where: Callable[[E], object] | None) -> None:
        if where is not None and describe(where).is_async:
            raise TypeError(f"where must be a plain function, got the async {where!r}")
        try:
            self._loop = get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "wait_for needs a running event loop; call it in a coroutine"
            ) from None
        self._where = where
        self._future: Future[E] = self._loop.create_future()
        self._subscription: _Cancellable | None = None

    def wait(self, subscription: _Cancellable) -> Future[E]:
        """Return the future, which takes `subscription` back when it is done."""
        self._subscription = subscription
        self._future.add_done_callback(self._stop)
        return self._future

    def __call__(self, event: E) -> None:
        """Take an event, published on any loop, to the loop of the future."""
        if get_running_loop() is self._loop:
            self._resolve(event)
            return
        try:
            self._loop.call_soon_threadsafe(self._resolve, event)
        except RuntimeError:  # that loop is closed: nobody waits any more
            self._stop()

    def _stop(self, _future: object = None) -> None:
        """Unsubscribe, and break the reference cycles through subscription and future."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.cancel()
            del self._future

    def _resolve(self, event: E) -> None:
        if self._subscription is None or self._future.done():
            return
        try:
            if self._where is not None and not self._where(event):
                return
        except StopIteration as exc:  # which no future accepts
            self._future.set_exception(RuntimeError(f"where raised {exc!r}"))
        except (Exception, CancelledError) as exc:
            self._future.set_exception(exc)
        else:
            self._future.set_result(event)
        self._stop()
