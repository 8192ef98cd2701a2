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
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import Context, copy_context
from functools import partial
from inspect import isawaitable
from types import CoroutineType

from ._event import Event
from ._failure import report
from ._handler import CompiledHandler, Route
from ._publication import (
    EAGER,
    EagerTask,
    Level,
    cancel_and_wait,
    get_current,
    report_never_started,
    set_current,
)

_logger = logging.getLogger(__name__.rpartition(".")[0])

# Backlogs with unfinished runs. A bus may be dropped while its handlers run, and a handler may wait
# for what nothing else refers to; neither is to be garbage-collected half-way.
_busy: "set[Backlog]" = set()

# Handler runs that one drain starts before other callbacks of the loop get their turn.
_BATCH = 128


class BackgroundRun(Level):
    """The run of one async handler of a `publish_nowait` event: a chain's outermost level."""

    # - finishes_itself: whether `run_in_background` tells the backlog of its end.
    # - cancelled: whether the bus has cancelled it, which is no failure.
    # Set while it is waited for:
    # - first: the first of the unfinished runs of the same event, which counts them all.
    __slots__ = ("backlog", "cancelled", "finishes_itself", "first", "task", "unfinished")

    backlog: "Backlog"
    cancelled: bool
    finishes_itself: bool
    first: "BackgroundRun"
    task: Task[None]
    unfinished: int


async def run_in_background(target: CompiledHandler, event: Event, run: BackgroundRun) -> None:
    """Run one handler to its end, as the body of its task, like `run_handler` for `publish`.

    `KeyboardInterrupt` and its like go through, to whoever runs the loop: nobody else waits.
    """
    set_current(run)  # in the task's own context
    try:
        result = target.call(event)
        if type(result) is CoroutineType or (result is not None and isawaitable(result)):
            await result
    except Exception as exc:
        report(target, event, exc, (run.event_type,))
    except CancelledError as exc:
        if run.cancelled:
            raise
        report(target, event, exc, (run.event_type,))
    finally:
        run.depth = 0
        if run.finishes_itself:
            run.backlog.finish(run)


# A run that the loop has yet to start, with what is to be reported if it never does.
Scheduled = tuple[BackgroundRun, CompiledHandler, Event, Context]


class Backlog:
    """Queued events and running handlers of one bus on one loop."""

    # - pending: events accepted and not finished, those in the queue included.
    # - _scheduled: a drain is scheduled or under way. If not, the queue is empty, unless the loop
    #   has refused a callback; then `add` or `join` tries again.
    # - _runs: the unfinished runs, by which their tasks are referenced.
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
        if not self._scheduled:
            self._schedule()  # which may fail: nothing is accepted then
        self._queue.append((event, route, context))
        self.pending += 1

    def _schedule(self) -> None:
        # In an empty context, lest one drain after the other keeps the first publisher's.
        self._loop.call_soon(self._drain, context=Context())
        self._scheduled = True

    def is_closed(self) -> bool:
        """Return whether the loop is closed, so that nothing here will go on."""
        return self._loop.is_closed()

    def describe_queue(self) -> str:
        """Return what waits in the queue: `3 queued (OrderPlaced x2, InvoiceIssued x1)`."""
        names = Counter(type(event).__qualname__ for event, _, _ in self._queue)
        listing = ", ".join(f"{name} x{count}" for name, count in names.items())
        return f"{len(self._queue)} queued ({listing or 'none'})"

    def describe_runs(self) -> str:
        """Return the names of the handlers that have not finished."""
        return ", ".join(sorted(run.task.get_name() for run in self._runs)) or "none"

    def _drain(self) -> None:
        queue = self._queue
        budget = _BATCH
        factory = self._loop.get_task_factory()
        eager = EAGER and factory is None
        scheduled: list[Scheduled] = []
        try:
            while queue and budget > 0:
                if scheduled and not queue[0][1].has_async:
                    break  # its handlers would overtake those that the loop has yet to start
                event, route, published_in = queue.popleft()
                budget -= len(route.handlers)
                # Between handlers that start through the loop, a sync one must too.
                in_place = eager or not route.has_async
                first: BackgroundRun | None = None
                last = route.handlers[-1]
                try:
                    for target in route.handlers:
                        # The last one may have the publisher's copy, which nobody else uses.
                        context = published_in if target is last else published_in.copy()
                        if in_place and not target.is_async:
                            try:  # `call_in_place`, written out as in `publish`
                                result = context.run(target.call, event)
                                if result is None or not isawaitable(result):
                                    continue
                            except (Exception, CancelledError) as exc:
                                context.run(report, target, event, exc, (type(event),))
                                continue
                            route.learn(target)
                            target = target.continuation(result)
                        first = self._start(target, event, context, first, factory, scheduled)
                finally:
                    if first is None:
                        self.pending -= 1
        finally:  # KeyboardInterrupt and SystemExit come through here, and lose no other event
            self._drained(scheduled, factory)

    def _drained(self, scheduled: list[Scheduled], factory: object) -> None:
        """See to the runs that the loop has yet to start, and to the rest of the queue.

        Nothing is lost if the loop refuses a callback.
        """
        try:
            if factory is not None:
                # It may have wrapped the handlers, and their tasks end later.
                for run, target, event, context in scheduled:
                    run.task.add_done_callback(
                        partial(self._task_done, run, target, event), context=context
                    )
            elif scheduled:
                for run, *_ in scheduled:
                    run.finishes_itself = True
                self._loop.call_soon(self._first_steps_taken, scheduled, context=Context())
        finally:
            self._scheduled = False
            try:
                if self._queue:
                    self._schedule()
            finally:
                self._wake_joiners()

    def _start(
        self,
        target: CompiledHandler,
        event: Event,
        context: Context,
        first: BackgroundRun | None,
        factory: object,
        scheduled: list[Scheduled],
    ) -> BackgroundRun | None:
        """Start an async handler in a context of its own, and wait for it if it does.

        Adds it to `scheduled` if the loop has yet to start it.

        Args:
            first: The first of the event's runs that are waited for, if there is one already.
            factory: The loop's task factory, if it has one.

        Returns:
            The same after this start.
        """
        run = BackgroundRun()
        run.event_type = type(event)
        run.parent = None
        run.depth = 1
        run.backlog = self
        run.finishes_itself = run.cancelled = False
        coroutine = run_in_background(target, event, run)
        eager = EAGER and factory is None
        if eager:
            task = EagerTask(
                coroutine, loop=self._loop, name=target.name, context=context, eager_start=True
            )
        elif factory is None:
            task = Task(coroutine, loop=self._loop, name=target.name, context=context)
        else:
            create = partial(self._loop.create_task, coroutine, name=target.name, context=context)
            try:
                # It sees what the publisher saw, in a copy: an eager task enters `context` itself.
                task = context.copy().run(create)
            except Exception as exc:  # which is this handler's failure alone
                coroutine.close()
                context.run(report, target, event, exc, (type(event),))
                return first
        if task.done():
            if self._joining:
                self._joining.pop(run, None)
            return first
        if first is None:
            first = run
            first.unfinished = 0
        first.unfinished += 1
        run.first = first
        run.task = task
        run.finishes_itself = eager
        if not self._runs:
            _busy.add(self)
        self._runs.add(run)
        if not eager:
            scheduled.append((run, target, event, context))
        return first

    def _first_steps_taken(self, scheduled: list[Scheduled]) -> None:
        for run, target, event, context in scheduled:
            if run in self._runs and run.task.done():  # cancelled before it had one
                context.run(self._task_done, run, target, event, run.task)

    def _task_done(
        self, run: BackgroundRun, target: CompiledHandler, event: Event, task: Task[None]
    ) -> None:
        try:
            if task.cancelled() and run.depth and not run.cancelled:  # 0: the handler has run
                report_never_started(target, event, (run.event_type,))
        finally:
            self.finish(run)

    def finish(self, run: BackgroundRun) -> None:
        """Wait for a run no longer, and let go of its task, whose context refers to the run."""
        run.depth = 0
        self._runs.discard(run)
        if not self._runs:
            _busy.discard(self)
        self._joining.pop(run, None)
        first = run.first
        first.unfinished -= 1
        if first.unfinished == 0:
            self.pending -= 1
        del run.task, run.first
        self._wake_joiners()

    def _wake_joiners(self) -> None:
        if not self._scheduled and len(self._runs) == len(self._joining):
            self._idle.set()

    async def join(self) -> None:
        """Wait until all work is finished, inside a handler all but that of handlers in `join`."""
        with self._standing_aside() as own:
            while (
                self._scheduled
                or self._queue
                or len(self._runs) > (len(self._joining) if own else 0)
            ):
                if not self._scheduled and self._queue:
                    self._schedule()
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
        tasks: list[Task[None]] = []
        for run in self._runs:
            if run is not own:
                run.cancelled = True
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
    def _standing_aside(self) -> Generator[BackgroundRun | None, None, None]:
        """Have `join` not wait for the run that the calling code belongs to, if any; yield it."""
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
        level = get_current()
        while level is not None and level.parent is not None:
            level = level.parent
        if isinstance(level, BackgroundRun) and level.backlog is self and level.depth:
            return level
        return None


def add_backlog(backlogs: dict[AbstractEventLoop, Backlog], loop: AbstractEventLoop) -> Backlog:
    """Add and return a backlog for `loop`, the running one; forget those of closed loops."""
    for busy in list(_busy):
        if busy.is_closed():
            _busy.discard(busy)
    backlog = backlogs[loop] = Backlog(loop)
    for other in list(backlogs):
        if not other.is_closed():
            continue
        lost = backlogs.pop(other, None)
        if lost is not None and lost.pending:
            _logger.error(
                "a loop was closed with %d publish_nowait events unfinished: %s running, %s; "
                "await bus.aclose() before the loop ends",
                lost.pending,
                lost.describe_runs(),
                lost.describe_queue(),
            )
    return backlog
