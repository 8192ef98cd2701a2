# SPDX-License-Identifier: MIT
"""The work that `publish_nowait` has accepted on one loop, counted and waited for by event.

Events wait in a queue, to which `EventBus.publish_nowait` adds them. One callback of the loop
drains it in batches, so that a burst costs the loop no callback per event and never holds it for
long. An event whose handlers do not finish at once is held until they have.

Everything here runs on the backlog's own loop, which is all the locking it needs.
"""

import asyncio
import math
import sys
from asyncio import AbstractEventLoop, CancelledError
from collections import Counter, deque
from collections.abc import AsyncGenerator, Collection, Generator, Iterable
from contextlib import contextmanager, suppress
from contextvars import Context

from ._delivery import Publication, deliver, get_current, is_sync, starts_eagerly
from ._event import Event
from ._failure import logger
from ._handler import CompiledHandler

# An event, the handlers of the moment when it was published, and a copy of its publisher's context.
Accepted = tuple[Event, tuple[CompiledHandler, ...], Context]

# Backlogs that are starting handlers or have unfinished ones. A bus may be dropped while its
# handlers run, and a handler may wait for what nothing else refers to; neither is to be
# garbage-collected half-way. Adding and discarding are atomic: loops may run in several threads.
_busy: "set[Backlog]" = set()

# Handler runs that one drain starts before other callbacks of the loop get their turn.
_BATCH = 160

# Seconds after which a `join` says for whom it waits; twice as many until it says so again.
_PATIENCE = 10.0


class Backlog:
    """Queued events and running handlers of one bus on one loop."""

    # - queue: events to be handled.
    # - scheduled: a drain is scheduled or under way. If not, the queue is empty, unless the loop
    #   has refused a callback; then the next event or `join` tries again.
    # - _delivering: whether handlers of an event are being started.
    # - _running: events with handlers that have not ended.
    # - _joining: events whose handlers wait in `join`, which does not wait for them, and in how
    #   many calls of it.
    # - _idle: set when nothing is left that a `join` waits for; its waiters look again.
    # - _cut_short, _is_ending, _watch: see `is_cut_short` and `_watch_loop`.
    __slots__ = (
        "_cut_short",
        "_delivering",
        "_idle",
        "_is_ending",
        "_joining",
        "_loop",
        "_running",
        "_watch",
        "queue",
        "scheduled",
    )

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._delivering = False
        self._running: set[Publication] = set()
        self._joining: Counter[Publication] = Counter()
        self._idle = asyncio.Event()
        self._cut_short: list[str] = []
        self._is_ending: bool | None = None
        self._watch = self._watch_loop()
        self.queue: deque[Accepted] = deque()
        self.scheduled: bool = False
        # The loop takes note of an async generator at its first step. It is to close it at its
        # end, but not to make a task for it if the garbage collector comes first.
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=None)
        try:
            with suppress(StopIteration):
                self._watch.__anext__().__await__().__next__()
        finally:
            sys.set_asyncgen_hooks(*hooks)

    @property
    def pending(self) -> int:
        """How many events have been accepted and are not finished, queued ones included."""
        return len(self.queue) + self._delivering + len(self._running)

    def schedule(self) -> None:
        """Have the loop drain the queue."""
        # In an empty context, lest one drain after the other keeps the first publisher's.
        self._loop.call_soon(self._drain, context=Context())
        self.scheduled = True

    def _drain(self) -> None:
        loop, queue = self._loop, self.queue
        budget = _BATCH
        eager = starts_eagerly(loop)
        _busy.add(self)
        self._delivering = True
        try:
            while budget > 0 and queue:
                event, handlers, context = queue.popleft()
                budget -= len(handlers)
                publication = context.run(deliver, event, handlers, loop, eager, None, self)
                if publication is None:
                    continue
                if publication.running:
                    self._running.add(publication)
                else:
                    publication.depth = 0
                    if self._joining:
                        self._joining.pop(publication, None)
                if not eager and queue and is_sync(queue[0][1]):
                    break  # it would overtake tasks of which the loop is to take the first step
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
        if publication in self._running:  # or else it is being delivered, and `_drain` sees to it
            self._running.remove(publication)
            self._end(publication)
            self._wake_joiners()

    def _end(self, publication: Publication) -> None:
        publication.finish()
        if self._joining:  # a handler has finished, but not a task of its own that waits there
            self._joining.pop(publication, None)

    def _wake_joiners(self) -> None:
        if not self._running and not self._delivering:
            _busy.discard(self)
        if not self.scheduled and len(self._running) == len(self._joining):
            with suppress(RuntimeError):  # the loop is closed, and its tasks are garbage-collected
                self._idle.set()

    async def join(self, timeout: float | None = None) -> bool:
        """Wait until all events are finished, in a handler all but those whose handlers join.

        Return whether they are, or `timeout` seconds have passed; say meanwhile for whom it waits.
        """
        began, patience = self._loop.time(), _PATIENCE
        reminder = began + patience
        deadline = math.inf if timeout is None else began + timeout
        with self._standing_aside() as aside:
            while self.scheduled or self.queue or len(self._running) > len(aside):
                if not self.scheduled and self.queue:
                    self.schedule()
                self._idle.clear()
                try:
                    async with asyncio.timeout_at(min(reminder, deadline)):
                        await self._idle.wait()
                except TimeoutError:
                    if deadline <= reminder:
                        return False
                    waited = reminder - began
                    logger().warning("still waiting, after %.0f seconds, for %s", waited, self)
                    patience *= 2
                    reminder += patience
        return True

    async def cancel(self, timeout: float | None) -> None:
        """Drop the queue, and cancel the handlers of every event but the calling handler's.

        Wait for them, and name those that have not ended after `timeout` seconds.
        """
        if self.queue:
            logger().error("closing the bus drops events: %s", _queued(self.queue))
            self.queue.clear()
        own = self._calling_event()
        if others := [publication for publication in self._running if publication is not own]:
            names = _names(others)
            logger().error("closing the bus cancels handlers that are still running: %s", names)
            for publication in others:
                publication.cancel(CancelledError())
        in_time = await self.join(timeout)
        left = [publication for publication in others if publication in self._running]
        if left and not in_time:
            names = _names(left)
            logger().error("handlers ignore that they were cancelled, and are left: %s", names)

    def __str__(self) -> str:
        running = _names(self._running)
        return f"{len(self._running)} running ({running}), {_queued(self.queue)}"

    @contextmanager
    def _standing_aside(self) -> Generator[Collection[Publication], None, None]:
        """Have `join` not wait for the event that the calling code handles.

        Yield those that the caller need not wait for.
        """
        own = self._calling_event()
        if own is None:
            yield ()
            return
        self._joining[own] += 1
        self._wake_joiners()
        try:
            yield self._joining
        finally:
            if own in self._joining:
                self._joining[own] -= 1
                if self._joining[own] == 0:
                    del self._joining[own]

    def _calling_event(self) -> Publication | None:
        """Return the unfinished event whose handler the calling code belongs to, if any."""
        level = get_current()
        while level is not None and level.parent is not None:
            level = level.parent
        if level is None or level.depth == 0 or level.backlog is not self:
            return None
        return level

    # The end of the loop

    async def _watch_loop(self) -> AsyncGenerator[None, None]:
        """Tell, when the loop closes its async generators, or none is left, what it cuts short."""
        try:
            yield
        finally:
            if self._cut_short or self.pending:
                logger().error(
                    "the loop ends with publish_nowait work unfinished: cancelled %d handlers "
                    "(%s), %s; await bus.aclose() before the loop ends",
                    len(self._cut_short),
                    ", ".join(sorted(self._cut_short)),
                    self,
                )

    def is_cut_short(self, target: CompiledHandler) -> bool:
        """Return whether the loop's end has cancelled a handler, and keep its name if so.

        At its end a loop's tasks are cancelled all at once. (Looked at once a turn: there may be
        many.) It does not end for all that? Then the handler is told of when it does.
        """
        if self._is_ending is None:
            self._is_ending = all(task.cancelling() for task in asyncio.all_tasks(self._loop))
            self._loop.call_soon(self._look_again)
        if self._is_ending:
            self._cut_short.append(target.name)
        return self._is_ending

    def _look_again(self) -> None:
        self._is_ending = None


def _queued(queue: Iterable[Accepted]) -> str:
    """Return what waits in a queue: `3 queued (OrderPlaced x2, InvoiceIssued x1)`."""
    names = Counter(type(event).__qualname__ for event, _, _ in queue)
    listing = ", ".join(f"{name} x{count}" for name, count in names.items())
    return f"{names.total()} queued ({listing or 'none'})"


def _names(publications: Iterable[Publication]) -> str:
    """Return the names of the handlers that have not ended."""
    tasks = {task for each in publications for task in (each.running or {}).values()}
    running = [task.get_name() for task in tasks]
    return ", ".join(sorted(running)) or "none"


def backlog_of(loop: AbstractEventLoop, backlogs: dict[AbstractEventLoop, Backlog]) -> Backlog:
    """Add and return a backlog for `loop`, the running one; forget those of closed loops."""
    for busy in [busy for busy in list(_busy) if busy._loop.is_closed()]:
        _busy.discard(busy)
    for closed in [loop for loop in list(backlogs) if loop.is_closed()]:
        backlogs.pop(closed, None)
    return backlogs.setdefault(loop, Backlog(loop))
