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
from asyncio import AbstractEventLoop, CancelledError, InvalidStateError, Task
from collections import Counter, deque
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from inspect import isawaitable
from typing import Any

from ._background import BackgroundRun, report_end, run_in_background
from ._event import Event
from ._failure import report
from ._handler import CompiledHandler, Route
from ._publication import (
    EAGER,
    Body,
    EagerTask,
    Publication,
    cancel_and_wait,
    current,
    get_current,
    level_of,
    set_current,
    start,
)

_logger = logging.getLogger(__name__.rpartition(".")[0])

# Backlogs that are starting handlers or have unfinished ones. A bus may be dropped while its
# handlers run, and a handler may wait for what nothing else refers to; neither is to be
# garbage-collected half-way.
_busy: "set[Backlog]" = set()

# Handler runs that one drain starts before other callbacks of the loop get their turn.
_BATCH = 160


class Backlog:
    """Queued events and running handlers of one bus on one loop."""

    # - queue: events to be handled, each with its route and a copy of its publisher's context.
    # - scheduled: a drain is scheduled or under way. If not, the queue is empty, unless the loop
    #   has refused a callback; then the next event or `join` tries again.
    # - _delivering: whether handlers of an event are being started.
    # - _runs: the unfinished runs by their bodies. It is by them that tasks are referenced.
    # - _unfinished: how many events these runs belong to.
    # - _joining: the bodies of handlers that wait in `join`, which does not wait for them, and in
    #   how many calls of it.
    # - _idle: set when nothing is left that a `join` waits for; its waiters look again.
    __slots__ = (
        "_delivering",
        "_idle",
        "_joining",
        "_loop",
        "_runs",
        "_unfinished",
        "queue",
        "scheduled",
    )

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._delivering = False
        self._runs: dict[Body, BackgroundRun] = {}
        self._unfinished = 0
        self._joining: dict[Body, int] = {}
        self._idle = asyncio.Event()
        self.queue: deque[tuple[Event, Route, Context]] = deque()
        self.scheduled: bool = False

    @property
    def pending(self) -> int:
        """How many events have been accepted and are not finished, queued ones included."""
        return len(self.queue) + self._delivering + self._unfinished

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
        return ", ".join(sorted(run.task.get_name() for run in self._runs.values())) or "none"

    def _drain(self) -> None:
        loop, queue = self._loop, self.queue
        budget = _BATCH
        factory = loop.get_task_factory()
        eager = EAGER and factory is None
        body: Any = None
        task: Any = None
        _busy.add(self)
        self._delivering = True
        try:
            while budget > 0:
                try:
                    event, route, published_in = queue.popleft()
                except IndexError:
                    break
                budget -= route.size
                first: BackgroundRun | None = None  # of those of the event that are waited for
                try:
                    for target in route.handlers:
                        # The last one may have the publisher's copy, which nobody else uses.
                        context = published_in if target is route.last else published_in.copy()
                        if eager and target.is_bare:
                            try:
                                body = target.call(event)
                                if target.has_await:
                                    context.run(set_current, (self, route.event_type, body))
                                elif context.get(current) is not None:
                                    context.run(set_current, None)  # as for sync ones, see below
                                task = EagerTask(
                                    body,
                                    loop=loop,
                                    name=target.name,
                                    context=context,
                                    eager_start=True,
                                )
                                failure = task.exception()
                            except InvalidStateError:  # for once, it waits
                                first = self._hold_bare(target, event, context, body, task, first)
                                continue
                            except (Exception, CancelledError) as exc:  # or it cannot be called
                                failure = exc
                            if failure is not None:
                                self._report_end(target, event, context, failure)
                                task = failure = None  # a traceback leads to this frame
                        elif not target.is_async and (eager or not route.has_async):
                            # But between handlers that start through the loop, it must too.
                            if context.get(current) is not None:
                                context.run(set_current, None)  # that is the publisher's chain
                            try:  # `call_in_place`, written out as in `publish`
                                result = context.run(target.call, event)
                                if result is None or not isawaitable(result):
                                    continue
                            except (Exception, CancelledError) as exc:
                                self._report(target, event, context, exc)
                                continue
                            route.learn(target)
                            rest = target.continuation(result)
                            first = self._start(factory, rest, event, context, first)
                        else:
                            first = self._start(factory, target, event, context, first)
                finally:
                    if first is not None:
                        self._unfinished += 1
                if not eager and route.has_async and queue and not queue[0][1].has_async:
                    break  # its handlers would overtake those that the loop has yet to start
        finally:  # KeyboardInterrupt and SystemExit come through here, and lose no other event
            self._delivering = False
            if not self._runs:
                _busy.discard(self)
            for body in [body for body in self._joining if body not in self._runs]:
                del self._joining[body]  # a handler that has finished, but not a task of its own
            self.scheduled = False
            try:
                if queue:
                    self.schedule()
            finally:
                self._wake_joiners()

    def _start(
        self,
        factory: object,
        target: CompiledHandler,
        event: Event,
        context: Context,
        first: BackgroundRun | None,
    ) -> BackgroundRun | None:
        """Start a handler in this context; return the first run of the event that is held."""
        run = BackgroundRun(self)
        body = run_in_background(target, event, run)
        context.run(set_current, (self, type(event), body) if target.has_await else None)
        try:
            if factory is None:
                task = start(self._loop, None, body, target.name, context)
            else:
                # It sees what the publisher saw, but in a copy: an eager task enters `context`.
                in_copy = context.copy().run
                task = in_copy(start, self._loop, factory, body, target.name, context)
        except Exception as exc:  # which is this handler's failure alone
            self._report(target, event, context, exc)
            return first
        if factory is not None:
            if not task.done() or not run.ended:
                first = self._hold(run, body, task, first)
                task.add_done_callback(partial(run.task_done, target, event), context=context)
        elif task.done():
            target.is_bare = target.may_be_bare
        else:
            target.is_bare = target.may_be_bare = False
            first = self._hold(run, body, task, first)
            run.finishes_itself = True
        return first

    def _hold(
        self, run: BackgroundRun, body: Body, task: Task[Any], first: BackgroundRun | None
    ) -> BackgroundRun:
        """Wait for a run; return the first of those of the same event, which may be this one."""
        if first is None:
            first = run
            first.unfinished = 0
        first.unfinished += 1
        run.first = first
        run.body = body
        run.task = task
        self._runs[body] = run
        return first

    def _hold_bare(
        self,
        target: CompiledHandler,
        event: Event,
        context: Context,
        body: Body,
        task: Task[Any],
        first: BackgroundRun | None,
    ) -> BackgroundRun:
        """Wait for a handler that is the body of its task, for the first and the last time."""
        target.is_bare = target.may_be_bare = False
        run = BackgroundRun(self)

        def bare_task_done(task: Task[Any]) -> None:
            failure: BaseException | None
            try:
                failure = task.exception()
            except CancelledError as exc:
                failure = None if run.cancelled else exc
            try:
                # Of these, whoever runs the loop has had the exception already.
                if failure is not None and not isinstance(failure, KeyboardInterrupt | SystemExit):
                    self._report_end(target, event, context, failure, in_doubt=True)
            finally:
                del failure, task  # a traceback leads to this frame
                self.finish(run)

        task.add_done_callback(bare_task_done)
        return self._hold(run, body, task, first)

    def finish(self, run: BackgroundRun) -> None:
        """Wait for a run no longer, and let go of its task."""
        del self._runs[run.body]
        if not self._runs:
            _busy.discard(self)
        self._joining.pop(run.body, None)
        first = run.first
        first.unfinished -= 1
        if first.unfinished == 0:
            self._unfinished -= 1
        del run.task, run.first
        run.body = None
        self._wake_joiners()

    def _report(
        self, target: CompiledHandler, event: Event, context: Context, failure: BaseException
    ) -> None:
        """Report a failure; have the loop tell of what `on_error` or a log filter raise on it.

        So it does not keep other handlers from being started.
        """
        try:
            context.run(report, target, event, failure, (type(event),))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            message = f"the failure of handler {target.name} could not be reported"
            self._loop.call_exception_handler({"message": message, "exception": error})

    def _report_end(
        self,
        target: CompiledHandler,
        event: Event,
        context: Context,
        failure: BaseException,
        *,
        in_doubt: bool = False,
    ) -> None:
        """Report the failure of a bare task in a task like it, and so as others are reported."""
        body = report_end(target, event, failure, in_doubt)
        context.run(set_current, (self, type(event), body))
        try:
            EagerTask(body, loop=self._loop, name=target.name, context=context, eager_start=True)
        finally:
            del failure  # a traceback leads to this frame

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
            self.queue.clear()
        with self._standing_aside() as own:
            try:
                # Every task has its first step, so that none is cancelled without its knowledge.
                await asyncio.sleep(0)
            finally:
                await self._cancel_runs(own)

    async def _cancel_runs(self, own: Body | None) -> None:
        tasks: list[Task[Any]] = []
        for run in self._runs.values():
            if run.body is not own and not run.task.done():
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
        if any(run.task.done() for run in self._runs.values()):
            await asyncio.sleep(0)  # the loop has yet to call back that they are

    @contextmanager
    def _standing_aside(self) -> Generator[Body | None, None, None]:
        """Have `join` not wait for the handler that the calling code belongs to; yield its body."""
        own = self._calling_handler()
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

    def _calling_handler(self) -> Body | None:
        """Return the body of the unfinished handler that the calling code belongs to, if any."""
        found = get_current()
        level = None if found is None else level_of(found)
        while isinstance(level, Publication):
            level = level.parent
        return level.body if level is not None and level.backlog is self and level.depth else None


def add_backlog(backlogs: dict[AbstractEventLoop, Backlog], loop: AbstractEventLoop) -> Backlog:
    """Add and return a backlog for `loop`, the running one; forget those of closed loops."""
    for busy in list(_busy):
        if busy.is_closed():
            _busy.discard(busy)
    backlog = backlogs[loop] = Backlog(loop)
    for closed in [loop for loop in list(backlogs) if loop.is_closed()]:
        lost = backlogs.pop(closed, None)
        if lost is not None and lost.pending:
            _logger.error(
                "a loop was closed with %d publish_nowait events unfinished: %s running, %s; "
                "await bus.aclose() before the loop ends",
                lost.pending,
                lost.describe_runs(),
                lost.describe_queue(),
            )
    return backlog
