# SPDX-License-Identifier: MIT
"""The work that `publish_nowait` has accepted on one loop.

Events wait in a queue, which one callback of the loop drains in batches, so that a burst costs
the loop no callback per event and never holds it for long. Sync handlers run in the drain;
async handlers that do not finish at once become `BackgroundRun`s, held here until they have.

Everything here runs on the backlog's own loop, which is all the locking it needs.
"""

import asyncio
import logging
from asyncio import AbstractEventLoop, CancelledError, Task
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from functools import partial

from ._event import Event
from ._handler import CompiledHandler, Route
from ._publication import (
    EAGER,
    Publication,
    call_in_place,
    cancel_and_wait,
    get_current,
    report_if_never_started,
    set_current,
    start,
)

_logger = logging.getLogger(__package__)

# Handler runs that one drain starts before other callbacks of the loop get their turn.
_BATCH = 128


class BackgroundRun(Publication):
    """The run of one async handler of a `publish_nowait` event; the outermost level of its chain."""

    # Set once the handler has to be waited for:
    # - siblings: the unfinished runs of the same event, this one included; shared by them.
    task: Task[None]
    siblings: "set[BackgroundRun]"

    def __init__(self, event_type: type[Event], backlog: "Backlog") -> None:
        # Not by way of the base class, which would cost as much again.
        self.event_type = event_type
        self.parent = None
        self.depth = 1
        self.waiter = None
        self.stop = None
        self.counted_by_handlers = False
        self.backlog = backlog

    def end(self, exception: BaseException) -> None:
        """Raise what ends the program, since nobody waits who could."""
        raise exception


class Backlog:
    """Queued events and running handlers of one bus on one loop."""

    # - pending: events accepted and not finished, those in the queue included.
    # - _scheduled: a drain is scheduled or under way; False implies that the queue is empty.
    # - _runs: the unfinished runs; the only strong references to their tasks.
    # - _joining: those of them whose handler waits in `join`, which does not wait for them, and in
    #   how many calls of it.
    # - _idle: set when nothing is left that a `join` waits for; its waiters look again.
    __slots__ = ("_idle", "_joining", "_loop", "_queue", "_runs", "_scheduled", "pending")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: deque[tuple[Event, Route, Context]] = deque()
        self._runs: set[BackgroundRun] = set()
        self._joining: dict[BackgroundRun, int] = {}
        self._idle = asyncio.Event()
        self._scheduled = False
        self.pending = 0

    def add(self, event: Event, route: Route) -> None:
        """Accept an event, to be handled in copies of the current context."""
        context = copy_context()
        if get_current() is not None:
            context.run(set_current, None)  # nobody awaits this event: its chain starts here
        self._queue.append((event, route, context))
        self.pending += 1
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def describe_queue(self) -> str:
        """Return what waits in the queue: `3 queued (OrderPlaced x2, InvoiceIssued x1)`."""
        names = Counter(type(event).__qualname__ for event, _, _ in self._queue)
        listing = ", ".join(f"{name} x{count}" for name, count in names.items())
        return f"{len(self._queue)} queued ({listing or 'none'})"

    def _drain(self) -> None:
        queue = self._queue
        budget = _BATCH
        eager = EAGER and self._loop.get_task_factory() is None
        behind = False  # the loop has yet to take the first steps of an earlier event's handlers
        try:
            while queue and budget > 0:
                if not eager:
                    if queue[0][1].has_async:
                        behind = True
                    elif behind:
                        break
                event, route, context = queue.popleft()
                budget -= len(route.handlers)
                self._start(event, route, context, eager)
        finally:  # KeyboardInterrupt and SystemExit come through here, and lose no other event
            if queue:
                self._loop.call_soon(self._drain)
            else:
                self._scheduled = False
                self._wake_joiners()

    def _start(self, event: Event, route: Route, published_in: Context, eager: bool) -> None:
        """Start the handlers of one event, each in a copy of the context it was published in."""
        # Between handlers that start through the loop, a sync one must too, to keep its turn.
        in_place = eager or not route.has_async
        siblings: set[BackgroundRun] | None = None
        try:
            for target in route.handlers:
                context = published_in.copy()
                rest: CompiledHandler | None = None
                if in_place and not target.is_async:
                    rest = call_in_place(target, event, None, context)
                    if rest is None:
                        continue
                    route.learn(target)
                run = BackgroundRun(type(event), self)
                task = start(self._loop, eager, rest or target, event, run, context)
                if task.done():
                    self._forget(run)
                    continue
                if siblings is None:
                    siblings = set()
                run.task = task
                run.siblings = siblings
                siblings.add(run)
                self._runs.add(run)
                task.add_done_callback(partial(self._finish, run, target, event), context=context)
        finally:
            if siblings is None:
                self.pending -= 1

    def _finish(
        self, run: BackgroundRun, target: CompiledHandler, event: Event, task: Task[None]
    ) -> None:
        try:
            report_if_never_started(task, target, event, run)
        finally:
            self._forget(run)
            run.stop = None
            del run.task  # whose context refers to the run
            self._runs.discard(run)
            run.siblings.discard(run)
            if not run.siblings:
                self.pending -= 1
            self._wake_joiners()

    def _forget(self, run: BackgroundRun) -> None:
        """Have code that outlives a finished run start anew, and nobody wait on its behalf."""
        run.depth = 0
        if self._joining:
            self._joining.pop(run, None)

    def _wake_joiners(self) -> None:
        if not self._scheduled and len(self._runs) == len(self._joining):
            self._idle.set()

    async def join(self) -> None:
        """Wait until all work is finished; inside a handler, but that of handlers that wait too."""
        with self._standing_aside() as own:
            while self._scheduled or len(self._runs) > (len(self._joining) if own else 0):
                self._idle.clear()
                await self._idle.wait()

    async def cancel(self) -> None:
        """Drop the queue, cancel every run but the calling handler's, and wait for them."""
        if self._queue:
            _logger.error("closing the bus drops events: %s", self.describe_queue())
            self.pending -= len(self._queue)
            self._queue.clear()
        with self._standing_aside() as own:
            try:
                # Every task has its first step, so that none is cancelled without its knowledge.
                await asyncio.sleep(0)
            finally:
                await self._cancel_runs(own)

    async def _cancel_runs(self, own: BackgroundRun | None) -> None:
        tasks = []
        for run in self._runs:
            if run is not own:
                run.stop = CancelledError()
                tasks.append(run.task)
        if not tasks:
            return
        names = ", ".join(sorted(task.get_name() for task in tasks))
        _logger.error("closing the bus cancels handlers that are still running: %s", names)
        if own is None:
            if await cancel_and_wait(tasks):
                raise CancelledError
        else:
            # Once only: two handlers that close the bus would go on cancelling each other.
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    @contextmanager
    def _standing_aside(self) -> Iterator[BackgroundRun | None]:
        """Let others not wait for the run that the calling code belongs to, if any; yield it."""
        own = self._calling_run()
        if own is None:
            yield None
            return
        self._joining[own] = self._joining.get(own, 0) + 1
        self._wake_joiners()
        try:
            yield own
        finally:
            if own in self._joining:
                self._joining[own] -= 1
                if self._joining[own] == 0:
                    del self._joining[own]

    def _calling_run(self) -> BackgroundRun | None:
        """Return the unfinished run, of this backlog, that the calling code belongs to."""
        publication = get_current()
        while publication is not None and publication.parent is not None:
            publication = publication.parent
        if isinstance(publication, BackgroundRun) and publication.backlog is self:
            return publication if publication.depth else None
        return None


def add_backlog(backlogs: dict[AbstractEventLoop, Backlog], loop: AbstractEventLoop) -> Backlog:
    """Add and return a backlog for `loop`, the running one; forget those of closed loops."""
    backlog = backlogs[loop] = Backlog(loop)
    for other in list(backlogs):
        if not other.is_closed():
            continue
        lost = backlogs.pop(other, None)
        if lost is not None and lost.pending:
            _logger.error(
                "a loop was closed with %d publish_nowait events unfinished, of which %s; "
                "await bus.aclose() before the loop ends",
                lost.pending,
                lost.describe_queue(),
            )
    return backlog
