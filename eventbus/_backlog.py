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
from contextvars import Context, copy_context
from functools import partial

from ._event import Event
from ._handler import CompiledHandler, Route
from ._publication import (
    EAGER_DEPTH,
    EagerTask,
    Publication,
    call_in_place,
    cancel_and_wait,
    current,
    report_if_never_started,
    run_handler,
    start_scheduled,
)

_logger = logging.getLogger(__package__)

# Handler runs that one drain starts before other callbacks of the loop get their turn.
_BATCH = 128


class BackgroundRun(Publication):
    """The run of one async handler of a `publish_nowait` event; the outermost level of its chain."""

    # - siblings: the unfinished runs of the same event, this one included; shared by them.
    # - joins: how many calls of `join` wait on behalf of this handler.
    __slots__ = ("backlog", "joins", "name", "siblings", "task")

    task: Task[None]

    def __init__(
        self, event_type: type[Event], name: str, backlog: "Backlog", siblings: "set[BackgroundRun]"
    ) -> None:
        super().__init__(event_type, None, 1)
        self.name = name
        self.backlog = backlog
        self.siblings = siblings
        self.joins = 0


class Backlog:
    """Queued events and running handlers of one bus on one loop."""

    # - pending: events accepted and not finished, those in the queue included.
    # - _scheduled: a drain is scheduled or under way; False implies that the queue is empty.
    # - _runs: the unfinished runs; the only strong references to their tasks.
    # - _joining: those of them whose handler waits in `join`, which does not wait for them.
    # - _idle: set when nothing is left that a `join` waits for; its waiters look again.
    __slots__ = ("_idle", "_joining", "_loop", "_queue", "_runs", "_scheduled", "pending")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: deque[tuple[Event, Route, Context]] = deque()
        self._runs: set[BackgroundRun] = set()
        self._joining: set[BackgroundRun] = set()
        self._idle = asyncio.Event()
        self._scheduled = False
        self.pending = 0

    def add(self, event: Event, route: Route) -> None:
        """Accept an event, to be handled in copies of the current context."""
        self._queue.append((event, route, copy_context()))
        self.pending += 1
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def describe_queue(self) -> str:
        """Return what waits in the queue, `2 unhandled events (OrderPlaced x2)`."""
        names = Counter(type(event).__qualname__ for event, _, _ in self._queue)
        listing = ", ".join(f"{name} x{count}" for name, count in names.items())
        return f"{len(self._queue)} unhandled events ({listing})"

    def _drain(self) -> None:
        queue = self._queue
        budget = _BATCH
        try:
            while queue and budget > 0:
                event, route, context = queue.popleft()
                budget -= len(route.handlers)
                context.run(self._start, event, route)
        finally:  # KeyboardInterrupt and SystemExit come through here, and lose no other event
            if queue:
                self._loop.call_soon(self._drain)
            else:
                self._scheduled = False
                self._wake_joiners()

    def _start(self, event: Event, route: Route) -> None:
        """Start the handlers of one event, in the context that its publisher had."""
        if current.get() is not None:
            current.set(None)  # nobody awaits this event: its chain starts here
        loop = self._loop
        eager = EAGER_DEPTH > 0 and loop.get_task_factory() is None
        # Between handlers that start through the loop, a sync one must too, to keep its turn.
        in_place = eager or not route.has_async
        siblings: set[BackgroundRun] = set()
        try:
            for target in route.handlers:
                context = None
                if in_place and not target.is_async:
                    rest = call_in_place(target, event, None)
                    if rest is None:
                        continue
                    target, context = rest
                run = BackgroundRun(type(event), target.name, self, siblings)
                token = current.set(run)
                if eager and context is None:
                    task = EagerTask(
                        run_handler(target, event, run), loop=loop, name=run.name, eager_start=True
                    )
                else:
                    task = start_scheduled(loop, target, event, run, context)
                current.reset(token)
                if task.done():
                    run.depth = 0
                else:
                    run.task = task
                    siblings.add(run)
                    self._runs.add(run)
                    task.add_done_callback(partial(self._finish, run, target, event))
        finally:
            if not siblings:
                self.pending -= 1

    def _finish(
        self, run: BackgroundRun, target: CompiledHandler, event: Event, task: Task[None]
    ) -> None:
        report_if_never_started(task, target, event, run)
        run.depth = 0
        self._runs.discard(run)
        self._joining.discard(run)
        run.siblings.discard(run)
        if not run.siblings:
            self.pending -= 1
        self._wake_joiners()

    def _is_idle(self) -> bool:
        return not self._scheduled and len(self._runs) == len(self._joining)

    def _wake_joiners(self) -> None:
        if self._is_idle():
            self._idle.set()

    async def join(self) -> None:
        """Wait until all work is finished but that of handlers which wait here themselves."""
        own = self._calling_run()
        if own is not None:
            own.joins += 1
            self._joining.add(own)
            self._wake_joiners()
        try:
            while not self._is_idle():
                self._idle.clear()
                await self._idle.wait()
        finally:
            if own is not None:
                own.joins -= 1
                if own.joins == 0:
                    self._joining.discard(own)

    async def cancel(self) -> None:
        """Drop the queue, cancel every run but the calling handler's, and wait for them."""
        own = self._calling_run()
        runs = [run for run in self._runs if run is not own]
        if runs:
            names = ", ".join(sorted(run.name for run in runs))
            _logger.error("closing the bus cancels handlers that are still running: %s", names)
        if self._queue:
            _logger.error("closing the bus drops %s", self.describe_queue())
            self.pending -= len(self._queue)
            self._queue.clear()
        for run in runs:
            run.stop = CancelledError()
        if await cancel_and_wait([run.task for run in runs]):
            raise CancelledError

    def _calling_run(self) -> BackgroundRun | None:
        """Return the unfinished run, of this backlog, that the calling code belongs to."""
        publication = current.get()
        while publication is not None and publication.parent is not None:
            publication = publication.parent
        if isinstance(publication, BackgroundRun) and publication.backlog is self and publication.depth:
            return publication
        return None
