# SPDX-License-Identifier: MIT
"""The handler behind `EventBus.wait_for`: it resolves a future and unsubscribes.

The future, and whatever else of a waiter changes, is touched on the loop of `wait_for` alone.
Other threads and loops come through `call_soon_threadsafe`.
"""

from asyncio import AbstractEventLoop, CancelledError, Future, get_running_loop
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from ._checks import running_loop
from ._event import Event
from ._handler import Handler, describe
from ._subscription import Subscription

E = TypeVar("E", bound=Event)


class EventWaiter(Generic[E]):
    """Subscribed by `wait_for`; the end of its future ends the subscription."""

    def __init__(self, where: Callable[[E], object] | None) -> None:
        if where is not None and describe(where).is_async:
            raise TypeError(f"where must be a plain function, got the async {where!r}")
        self._loop = running_loop("wait_for")
        self._where = where
        self._future: Future[E] | None = None  # while it is pending
        self._subscription: Subscription | None = None

    def wait(self, subscription: Subscription) -> Future[E]:
        """Return a future, which takes `subscription` back when it is done."""
        self._subscription = subscription
        future = self._future = self._loop.create_future()
        future.add_done_callback(self._stop)
        return future

    def __call__(self, event: E) -> None:
        """Resolve the future, on its loop, with an event that was published on any."""
        self._on_loop(self._resolve, event)

    def cancel(self, loop: AbstractEventLoop | None = None) -> None:
        """Cancel the future, on its loop, if that is `loop` or none is given."""
        if loop in (None, self._loop):
            self._on_loop(self._cancel)

    def _on_loop(self, call: Callable[..., object], *arguments: object) -> None:
        try:
            here = get_running_loop()
        except RuntimeError:
            here = None
        if here is self._loop:
            call(*arguments)
            return
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # that loop is closed: nobody waits any more
            self._stop()

    def _cancel(self) -> None:
        if self._future is not None:
            self._future.cancel()

    def _resolve(self, event: E) -> None:
        future = self._future
        if future is None or future.done():
            return
        try:
            if self._where is not None and not self._where(event):
                return
        except StopIteration as exc:  # which no future accepts
            future.set_exception(RuntimeError(f"where raised {exc!r}"))
        except (Exception, CancelledError) as exc:  # noqa: BLE001
            future.set_exception(exc)
        else:
            future.set_result(event)
        finally:
            del future  # to which the exception's traceback leads
        self._stop()

    def _stop(self, _future: object = None) -> None:
        """Unsubscribe, and break the reference cycles through subscription and future."""
        subscription, self._subscription, self._future = self._subscription, None, None
        if subscription is not None:
            subscription.cancel()


def waiters_among(handlers: Iterable[Handler]) -> list[EventWaiter[Any]]:
    """Return what `wait_for` has subscribed."""
    callbacks: list[Any] = [handler.callback for handler in handlers]
    return [callback for callback in callbacks if isinstance(callback, EventWaiter)]
