# SPDX-License-Identifier: MIT
"""The work that `publish_nowait` has accepted on one loop, counted and waited for by event.

Events wait in a queue, to which `EventBus.publish_nowait` adds them. One callback of the loop
drains it in batches, so that a burst costs the loop no callback per event and never holds it for
long. An event whose handlers do not finish at once is held until they have.

Everything here runs on the backlog's own loop, which is all the locking it needs.
"""

import asyncio
import math
from asyncio import AbstractEventLoop, CancelledError, Future, Task
from collections import Counter, deque
from collections.abc import Iterable
from contextvars import Context

from ._delivery import EAGER, Publication, deliver, get_current
from ._event import Event
from ._failure import logger
from ._handler import Route
from ._loop_end import LoopEnd

# Backlogs that are starting handlers or have unfinished ones, lest they are garbage-collected: a
# bus may be dropped while they run. Adding and discarding are atomic, for loops in many threads.
_busy: "set[Backlog]" = set()

# Handler runs that one drain starts before other callbacks of the loop get their turn.
_BATCH = 160

# Seconds after which a `join` says for whom it waits; twice as many until it says so again.
_PATIENCE = 10.0

# Seconds that cancelled handlers have at least, for a clean-up that waits for nothing.
_GRACE = 0.05


class Backlog:
    """Queued events and running handlers of one bus on one loop."""

    # - queue: events, with the route of the moment when they were published, and a copy of the
    #   publisher's context.
    # - scheduled: a drain is scheduled or under way. If not, the queue is empty, unless the loop
    #   has refused a callback; then the next event or `join` tries again.
    # - _delivering: whether handlers of an event are being started.
    # - _running: events with handlers that have not ended. (A set would take twice the memory.)
    # - _joining: events whose handlers wait in `join`, which does not wait for them, and in how
    #   many calls of it.
    # - _lull: what every `join` waits for, done when only handlers are left that wait in `join`.
    #   All of them may go on, though the first that does waits there no longer.

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.queue: deque[tuple[Event, Route, Context]] = deque()
        self.scheduled: bool = False
        self._delivering = False
        self._running: dict[Publication, None] = {}
        self._joining: Counter[Publication] = Counter()
        self._lull: Future[None] | None = None
        self.loop_end = LoopEnd(loop, lambda: str(self) if self.pending else "")

    @property
    def pending(self) -> int:
        """How many events have been accepted and are not finished, queued ones included."""
        return len(self.queue) + self._delivering + len(self._running)

    def schedule(self) -> None:
        """Have the loop drain the queue."""
        # In an empty context, lest one drain after the other keeps the first publisher's.
        self.loop.call_soon(self._drain, context=Context())
        self.scheduled = True

    def _drain(self) -> None:
        loop, queue = self.loop, self.queue
        budget = _BATCH
        eager = EAGER and loop.get_task_factory() is None
        _busy.add(self)
        self._delivering = True
        try:
            while budget > 0 and queue:
                event, route, context = queue.popleft()
                budget -= len(route.handlers)
                publication = deliver(event, route, loop, eager, context, None, self)
                if publication is not None:
                    self._running[publication] = None
                    if not eager and queue and queue[0][1].in_place:
                        break  # it would overtake tasks of which the loop takes the first step
        finally:
            self._delivering = False
            self.scheduled = False
            try:
                if queue:
                    self.schedule()
            finally:
                self._wake_joiners()

    def finish(self, publication: Publication) -> None:
        """Take note that the last handler of an event has ended."""
        del self._running[publication]
        publication.finish()
        self._wake_joiners()

    def _wake_joiners(self) -> None:
        if not self._running and not self._delivering:
            _busy.discard(self)
        if not self.scheduled and self._running.keys() <= self._joining.keys():
            lull, self._lull = self._lull, None
            if lull is not None and not self.loop.is_closed():
                lull.set_result(None)

    async def join(self, timeout: float = math.inf) -> bool:
        """Wait until all events are finished; return whether they are within `timeout` seconds.

        In a handler, wait neither for its event nor for those whose handlers wait here as well.
        """
        own = self._calling_event()
        if own is None:
            return await self._wait(timeout, own)
        self._joining[own] += 1
        self._wake_joiners()
        try:
            return await self._wait(timeout, own)
        finally:
            self._joining[own] -= 1
            if self._joining[own] == 0:
                del self._joining[own]

    async def _wait(self, timeout: float, own: Publication | None) -> bool:
        """Wait for all events, or all but `own` and others that wait here; warn of a long wait."""
        aside = frozenset[Publication]() if own is None else self._joining.keys()
        began, patience = self.loop.time(), _PATIENCE
        reminder, deadline = began + patience, began + timeout
        while self.scheduled or self.queue or not self._running.keys() <= aside:
            if not self.scheduled and self.queue:
                self.schedule()
            lull = self._lull = self._lull or self.loop.create_future()
            await asyncio.wait([lull], timeout=min(reminder, deadline) - self.loop.time())
            if lull.done():
                if own is not None:
                    break
            elif deadline <= reminder:
                return False
            else:
                waited = reminder - began
                logger().warning("still waiting, after %.0f seconds: %s", waited, str(self))
                patience *= 2
                reminder += patience
        return True

    async def cancel(self, timeout: float) -> None:
        """Drop the queue, and cancel the handlers of every event but the calling handler's.

        Wait for them, even if cancelled meanwhile; name those that go on after `timeout` seconds.
        """
        interruption: CancelledError | None = None
        try:
            await asyncio.sleep(0)  # in which the loop takes first steps: no coroutine is unawaited
        except CancelledError as exc:
            interruption = exc
        queued, others = self._queued(), self._running.keys() - {self._calling_event()}
        names, has_queued = _names(others), bool(self.queue)
        self.queue.clear()
        for publication in others:
            publication.cancel(CancelledError())
        if has_queued:
            logger().error("closing the bus drops events: %s", queued)
        if names:
            logger().error("closing the bus cancels handlers that are still running: %s", names)
        deadline = self.loop.time() + max(timeout, _GRACE)
        while (left := self._running.keys() & others) and self.loop.time() < deadline:
            try:
                await asyncio.wait(_tasks(left), timeout=deadline - self.loop.time())
            except CancelledError as exc:
                interruption = exc
        if names := _names(left):
            logger().error("handlers ignore that they were cancelled, and are left: %s", names)
        try:
            if interruption is not None:
                raise interruption
        finally:
            del interruption  # whose traceback leads here

    def __str__(self) -> str:
        return f"{len(self._running)} running ({_names(self._running) or 'none'}), {self._queued()}"

    def _queued(self) -> str:
        """Return what waits in the queue: `3 queued (OrderPlaced x2, InvoiceIssued x1)`."""
        names = Counter(type(event).__qualname__ for event, _, _ in self.queue)
        listing = ", ".join(f"{name} x{count}" for name, count in names.items())
        return f"{len(self.queue)} queued ({listing or 'none'})"

    def _calling_event(self) -> Publication | None:
        """Return the unfinished event whose handler the calling code belongs to, if any."""
        level = get_current()
        while level is not None and level.parent is not None:
            level = level.parent
        return level if level is not None and level.depth and level.owner is self else None


def _tasks(publications: Iterable[Publication]) -> set[Task[None]]:
    return {task for each in publications for task in each.tasks()}


def _names(publications: Iterable[Publication]) -> str:
    """Return the names of the handlers that have not ended."""
    return ", ".join(sorted(task.get_name() for task in _tasks(publications) if not task.done()))


def backlog_of(loop: AbstractEventLoop, backlogs: dict[AbstractEventLoop, Backlog]) -> Backlog:
    """Add and return a backlog for `loop`, the running one; forget those of closed loops."""
    backlog = backlogs[loop] = Backlog(loop)
    closed = [backlogs.pop(loop, None) for loop in list(backlogs) if loop.is_closed()]
    for lost in {*filter(None, closed), *(busy for busy in list(_busy) if busy.loop.is_closed())}:
        _busy.discard(lost)
        lost.loop_end.tell()
    return backlog
