# SPDX-License-Identifier: MIT
"""The work that `publish_nowait` has accepted on one loop.

Events wait in a queue, to which `EventBus.publish_nowait` adds them. One callback of the loop
drains it in batches, so that a burst costs the loop no callback per event and never holds it for
long. Sync handlers run in the drain; async ones that do not finish at once are held until they
have.

Everything here runs on the backlog's own loop, which is all the locking it needs.
"""

import asyncio
import logging
from asyncio import AbstractEventLoop, CancelledError, Task
from collections import Counter, deque
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import Context
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
    start,
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

    def never_started(self, target: CompiledHandler, event: Event, task: Task[None]) -> None:
        try:
            if not self.cancelled:
                report_never_started(target, event, (self.event_type,))
        finally:
            self.backlog.finish(self)

    def task_done(self, target: CompiledHandler, event: Event, task: Task[None]) -> None:
        """See to the end of a task that a factory has made: it may be later than the handler's."""
        if task.cancelled() and self.depth:  # 0: the handler has run
            self.never_started(target, event, task)
        else:
            self.backlog.finish(self)


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


class Backlog:
    """Queued events and running handlers of one bus on one loop."""

    # - queue: events to be handled, each with its route and a copy of its publisher's context.
    # - pending: events accepted and not finished, those in the queue included.
    # - scheduled: a drain is scheduled or under way. If not, the queue is empty, unless the loop
    #   has refused a callback; then the next event or `join` tries again.
    # - _runs: the unfinished runs, by which their tasks are referenced.
    # - _joining: those of them whose handler waits in `join`, which does not wait for them, and in
    #   how many calls of it.
    # - _idle: set when nothing is left that a `join` waits for; its waiters look again.
    __slots__ = ("_idle", "_joining", "_loop", "_runs", "pending", "queue", "scheduled")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._runs: set[BackgroundRun] = set()
        self._joining: dict[BackgroundRun, int] = {}
        self._idle = asyncio.Event()
        self.queue: deque[tuple[Event, Route, Context]] = deque()
        self.pending: int = 0
        self.scheduled: bool = False

    def schedule(self) -> None:
        """Have the loop drain the queue."""
        # In an empty context, lest one drain after the other keeps the first publisher's.
        self._loop.call_soon(self._drain, context=Context())
        self.scheduled = True

    def is_closed(self) -> bool:
        """Return whether the loop is closed, so that nothing here will go on."""
        return self._loop.is_closed()

    def describe_queue(self) -> str:
        """Return what waits in the queue: `3 queued (OrderPlaced x2, InvoiceIssued x1)`."""
        names = Counter(type(event).__qualname__ for event, _, _ in self.queue)
        listing = ", ".join(f"{name} x{count}" for name, count in names.items())
        return f"{len(self.queue)} queued ({listing or 'none'})"

    def describe_runs(self) -> str:
        """Return the names of the handlers that have not finished."""
        return ", ".join(sorted(run.task.get_name() for run in self._runs)) or "none"

    def _drain(self) -> None:
        loop, queue = self._loop, self.queue
        budget = _BATCH
        factory = loop.get_task_factory()
        eager = EAGER and factory is None
        overtaking = False  # whether a handler called now would overtake one yet to start
        try:
            while queue and budget > 0:
                if overtaking and not queue[0][1].has_async:
                    break
                event, route, published_in = queue.popleft()
                # Between handlers that start through the loop, a sync one must too.
                in_place = eager or not route.has_async
                first: BackgroundRun | None = None  # of those of the event that are waited for
                try:
                    for target in route.handlers:
                        budget -= 1
                        # The last one may have the publisher's copy, which nobody else uses.
                        context = published_in if target is route.last else published_in.copy()
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
                        run = BackgroundRun()
                        run.event_type = type(event)
                        run.parent = None
                        run.depth = 1
                        run.backlog = self
                        run.finishes_itself = run.cancelled = False
                        if eager:  # `start`, written out
                            task: Task[None] | None = EagerTask(
                                run_in_background(target, event, run),
                                loop=loop,
                                name=target.name,
                                context=context,
                                eager_start=True,
                            )
                        else:
                            task = self._start_by_loop(factory, target, event, run, context)
                        if task is None:
                            continue
                        if not task.done():
                            first = self._hold(run, task, first)
                            overtaking = not eager
                            run.finishes_itself = factory is None
                        elif self._joining:
                            self._joining.pop(run, None)
                finally:
                    if first is None:
                        self.pending -= 1
        finally:  # KeyboardInterrupt and SystemExit come through here, and lose no other event
            self.scheduled = False
            try:
                if queue:
                    self.schedule()
            finally:
                self._wake_joiners()

    def _start_by_loop(
        self,
        factory: object,
        target: CompiledHandler,
        event: Event,
        run: BackgroundRun,
        context: Context,
    ) -> Task[None] | None:
        """Have the loop, or its task factory, start a handler; return None if that failed."""
        arguments = self._loop, factory, run_in_background, target, event, run, context
        if factory is None:
            return start(*arguments)
        try:
            # It sees what the publisher saw, but in a copy: an eager task enters `context` itself.
            task = context.copy().run(start, *arguments)
        except Exception as exc:  # which is this handler's failure alone
            context.run(report, target, event, exc, (run.event_type,))
            return None
        if not task.done():
            task.add_done_callback(partial(run.task_done, target, event), context=context)
        return task

    def _hold(
        self, run: BackgroundRun, task: Task[None], first: BackgroundRun | None
    ) -> BackgroundRun:
        """Wait for a run; return the first of those of the same event, which may be this one."""
        if first is None:
            first = run
            first.unfinished = 0
        first.unfinished += 1
        run.first = first
        run.task = task
        if not self._runs:
            _busy.add(self)
        self._runs.add(run)
        return first

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
        if not self.scheduled and len(self._runs) == len(self._joining):
            self._idle.set()

    async def join(self) -> None:
        """Wait until all work is finished, inside a handler all but that of handlers in `join`."""
        with self._standing_aside() as own:
            while (
                self.scheduled or self.queue or len(self._runs) > (len(self._joining) if own else 0)
            ):
                if not self.scheduled and self.queue:
                    self.schedule()
                self._idle.clear()
                await self._idle.wait()

    async def cancel(self) -> None:
        """Drop the queue, cancel every run but the calling handler's, and wait for them."""
        if self.queue:
            _logger.error("closing the bus drops events: %s", self.describe_queue())
            self.pending -= len(self.queue)
            self.queue.clear()
        with self._standing_aside() as own:
            try:
                # Every task has its first step, so that none is cancelled without its knowledge.
                await asyncio.sleep(0)
            finally:
                await self._cancel_runs(own)

    async def _cancel_runs(self, own: BackgroundRun | None) -> None:
        tasks: list[Task[None]] = []
        for run in self._runs:
            if run is not own and not run.task.done():
                run.cancelled = True
                tasks.append(run.task)
        if tasks:
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
        if any(run.task.done() for run in self._runs):
            await asyncio.sleep(0)  # the loop has yet to call back that they are

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
