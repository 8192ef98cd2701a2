# SPDX-License-Identifier: MIT
"""Publisher, the side of a bus that services see, and the one that publishes after the block."""

from collections import deque
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ._checks import check_event
from ._event import Event
from ._failure import logger


class Publisher(Protocol):
    """Whatever events can be published on: the bus itself, or its deferred publisher."""

    async def publish(self, event: Event) -> None:
        """Publish an event and wait for its handlers; when deferred, only after the block."""

    def publish_nowait(self, event: Event) -> None:
        """Publish an event without waiting for its handlers; when deferred, after the block."""

    def deferred(self) -> "AbstractAsyncContextManager[Publisher]":
        """Return a context manager whose publisher publishes on this one, after its block."""
        ...


class DeferredPublisher:
    """Records events while its block runs; publishes them when the block has succeeded.

    One that was opened on another publishes by recording there, in the outer block.
    """

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._recorded: list[tuple[Event, bool]] = []  # the event, and whether it is awaited
        self._open = False

    async def __aenter__(self) -> Publisher:
        self._open = True
        return self

    async def __aexit__(self, exc_type: object, *_exception: object) -> None:
        self._open = False
        unpublished, self._recorded = deque(self._recorded), []
        if exc_type is not None:
            return
        try:
            while unpublished:
                event, awaited = unpublished.popleft()
                try:
                    if awaited:
                        await self._publisher.publish(event)
                    else:
                        self._publisher.publish_nowait(event)
                except Exception:  # it was refused; anything else cancels its handlers
                    unpublished.appendleft((event, awaited))
                    raise
        finally:
            if unpublished:
                names = ", ".join(type(event).__qualname__ for event, _ in unpublished)
                logger().error("deferred events were not published: %s", names)

    async def publish(self, event: Event) -> None:
        """Record an event, to be published and awaited after the block.

        Raises:
            TypeError: `event` is not an instance of a subclass of `Event`.
            RuntimeError: The block is over.
        """
        self._record(event, awaited=True)

    def publish_nowait(self, event: Event) -> None:
        """Record an event, to be scheduled after the block, in its turn; raises as `publish`."""
        self._record(event, awaited=False)

    def deferred(self) -> AbstractAsyncContextManager[Publisher]:
        """Return a nested block: its events are this one's if it succeeds, and dropped if not."""
        return DeferredPublisher(self)

    def _record(self, event: Event, *, awaited: bool) -> None:
        check_event(event)
        self._check_open()
        self._recorded.append((event, awaited))

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeError(
                "this deferred publisher works inside its `async with bus.deferred()` block only; "
                "publish on the bus itself, or open a new block"
            )
        if isinstance(self._publisher, DeferredPublisher):
            self._publisher._check_open()
