# SPDX-License-Identifier: MIT
"""One event on its way through its handlers: the chain it belongs to, and how a handler runs.

- `current` holds, in the context of a handler, the publication that the handler belongs to, or
  a mark if it is one of `publish_nowait`'s. The links from there to the outermost publish are the
  chain, by which circles are found.
- `run_handler` is the body of an awaited handler's task: whatever the handler does ends there.
- A finished publication has depth 0, whereby code that outlives it (a task that a handler has
  left behind, whose context still points here) starts a chain of its own.
"""

import asyncio
import sys
from asyncio import AbstractEventLoop, CancelledError, Future, Task
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context, ContextVar, copy_context
from inspect import CORO_CREATED, getcoroutinelocals, getcoroutinestate, isawaitable
from types import CoroutineType
from typing import Any

from ._event import Event
from ._failure import Chain, EventCycleError, report
from ._handler import CompiledHandler

# Whether a task can have its first step while it is made (3.12+). Loosely typed, since
# `eager_start` is unknown to older interpreters.
EAGER = sys.version_info >= (3, 12)
EagerTask: Callable[..., Task[Any]] = Task

# A handler that starts eagerly runs on its publisher's stack. At every so many levels of a chain
# the publisher takes a trip through the loop first, and goes on with the loop's short stack.
EAGER_LEVELS = 8


# The body of a handler's task.
Body = Coroutine[Any, Any, Any]

# What stands for a handler of `publish_nowait`'s in its context: its backlog, the type of its event
# and its body. A tuple, since nothing is made faster, and few handlers need more.
Mark = tuple[object, type[Event], Body]


class BackgroundLevel:
    """The outermost level of a chain, where that is a handler of `publish_nowait`'s."""

    # - event_type, parent, depth: as `Publication` has them.
    __slots__ = ("backlog", "body", "event_type")

    parent = None

    def __init__(self, mark: Mark) -> None:
        self.backlog, self.event_type, self.body = mark

    @property
    def depth(self) -> int:
        body: Any = self.body
        # The last is exact, but slow; it may have gone on in another thread between the others.
        return 1 if body.cr_running or body.cr_suspended or body.cr_frame is not None else 0


class Publication:
    """An awaited publish under way."""

    # - parent: the level above it in the chain, if any.
    # - depth: levels of the chain down to here, 1 for the outermost; 0 once finished. May count
    #   outer levels that have finished meanwhile; `check_depth` does not.
    # - waiter: what the publisher waits on, from when it waits.
    # - running: how many handlers are left then, if they count themselves down; 0 otherwise.
    # - stop: why the handlers are cancelled: the publisher's own cancellation, or an exception
    #   that ends the program. None as long as they are not.
    # `publish` sets them: `__init__` would cost more than they do.
    __slots__ = ("depth", "event_type", "parent", "running", "stop", "waiter")

    event_type: type[Event]
    parent: "Level | None"
    depth: int
    waiter: Future[None] | None
    running: int
    stop: BaseException | None

    @property
    def stopped(self) -> bool:
        """Whether the handlers are cancelled, or about to be: the publisher's wait already is."""
        return self.stop is not None or (self.waiter is not None and self.waiter.cancelled())

    def end(self, exception: BaseException) -> None:
        """Have the publisher cancel the other handlers and raise what ends the program."""
        if self.depth == 0:  # its coroutine was closed: nobody waits
            raise exception
        self.stop = exception
        self.wake()

    def never_started(self, target: CompiledHandler, event: Event) -> None:
        """See to a handler whose task has ended, cancelled before its first step."""
        try:
            if self.depth and not self.stopped:  # 0: the publish has ended, by an exception
                report_never_started(target, event, chain_to(self))
        finally:
            self.running -= 1
            if self.running == 0:
                self.wake()

    def wake(self) -> None:
        """Have the publisher go on, if it waits."""
        if self.waiter is not None and not self.waiter.done():
            try:
                self.waiter.set_result(None)
            except RuntimeError:  # the loop is closed, and its tasks are garbage-collected
                pass


Level = Publication | BackgroundLevel

current: ContextVar[Publication | Mark | None] = ContextVar("current", default=None)
# Bound once: a method of an imported name would be looked up, and bound, at every call.
get_current = current.get
set_current = current.set
reset_current = current.reset


def level_of(found: Publication | Mark) -> Level:
    """Return the level that code with this in its context belongs to."""
    return found if isinstance(found, Publication) else BackgroundLevel(found)


def chain_to(level: Level | None) -> Chain:
    """Return the event types of the chain down to `level`, outermost first."""
    if level is not None and level.depth == 1:  # the outermost: most levels are
        return (level.event_type,)
    chain: list[type[Event]] = []
    while level is not None and level.depth:
        chain.append(level.event_type)
        level = level.parent
    return tuple(reversed(chain))


def check_depth(parent: Level | None, event_type: type[Event], max_depth: int) -> None:
    """Raise `EventCycleError` if the unfinished levels down to `parent` use up `max_depth`."""
    if parent is None or parent.depth < max_depth:
        return
    chain = chain_to(parent)
    if len(chain) >= max_depth:
        raise EventCycleError((*chain, event_type), max_depth)


async def run_handler(target: CompiledHandler, event: Event, publication: Publication) -> None:
    """Run one handler to its end, as the body of its task; what it raises ends here."""
    try:
        result = target.call(event)
        # The first test is the likely one, and spares the slow, exact second one.
        if type(result) is CoroutineType or (result is not None and isawaitable(result)):
            await result
    except Exception as exc:
        report(target, event, exc, chain_to(publication))
    except CancelledError as exc:
        if publication.stopped:
            raise
        report(target, event, exc, chain_to(publication))
    except BaseException as exc:
        publication.end(exc)
    finally:
        if publication.running:
            publication.running -= 1
            waiter = publication.waiter
            if publication.running == 0 and waiter is not None and not waiter.done():
                try:  # `wake`, written out
                    waiter.set_result(None)
                except RuntimeError:
                    pass


def call_in_place(
    target: CompiledHandler, event: Event, parent: Level | None, context: Context
) -> CompiledHandler | None:
    """Call a sync handler in a context of its own.

    Returns the rest of the run, to be started in the same context, if the handler returned an
    awaitable.
    """
    try:
        result = context.run(target.call, event)
        if result is not None and isawaitable(result):
            return target.continuation(result)
    except (Exception, CancelledError) as exc:
        context.run(report, target, event, exc, (*chain_to(parent), type(event)))
    return None


class ScheduledTask(Task[None]):
    """A handler's task whose first step the loop takes.

    If it is cancelled before that, no line of its body runs, and who waits for it is told instead.
    """

    # - context: where its end is reported then; None once that is arranged.
    __slots__ = ("context",)

    context: Context | None

    def cancel(self, msg: Any = None) -> bool:
        body: Any = self.get_coro()
        if getcoroutinestate(body) == CORO_CREATED and self.context is not None:
            # Before the first step, its locals are its arguments.
            target, event, waiting = getcoroutinelocals(body).values()
            self.add_done_callback(
                lambda _task: waiting.never_started(target, event), context=self.context
            )
            self.context = None
        return super().cancel(msg)


def start(
    loop: AbstractEventLoop,
    factory: object,
    body: Coroutine[Any, Any, None],
    name: str,
    context: Context | None = None,
    *,
    soon: bool = False,
) -> Task[None]:
    """Start a handler's task: at once, if that can be.

    Args:
        factory: The loop's task factory, if it has one, by which the task is made then.
        body: `run_handler(...)` or `run_in_background(...)`.
        context: Where it runs; None for a copy of the current context.
        soon: Leave the first step to the loop, unless a factory decides otherwise.
    """
    try:
        if factory is not None:
            return loop.create_task(body, name=name, context=context)
        if EAGER and not soon:
            return EagerTask(body, loop=loop, name=name, context=context, eager_start=True)
        context = copy_context() if context is None else context
        task = ScheduledTask(body, loop=loop, name=name, context=context)
        task.context = context
        return task
    except BaseException:
        body.close()
        raise


async def wait_for_tasks(
    loop: AbstractEventLoop,
    running: dict[Task[None], CompiledHandler],
    event: Event,
    publication: Publication,
) -> None:
    """Wait for tasks that a task factory has made, or until the publication is stopped.

    The factory may have wrapped the handlers, so that a task can end later than `run_handler` in
    it. Tasks that are done leave `running`.
    """
    await asyncio.sleep(0)  # the loop takes first steps in the order in which they were scheduled
    for task in [task for task in running if task.done()]:
        target = running.pop(task)
        if task.cancelled() and publication.stop is None:
            report_never_started(target, event, chain_to(publication))
    if not running or publication.stop is not None:
        return
    publication.waiter = loop.create_future()

    def finished(task: Task[None]) -> None:
        del running[task]
        if not running:
            publication.wake()

    for task in list(running):
        task.add_done_callback(finished)
    await publication.waiter


def report_never_started(target: CompiledHandler, event: Event, chain: Chain) -> None:
    """Report a handler whose task was cancelled before the handler could see it."""
    report(target, event, CancelledError("cancelled before its first step"), chain)


async def cancel_and_wait(tasks: Iterable[Task[None]]) -> bool:
    """Cancel the tasks and wait until every one is done, even one that swallows it.

    Cancelled meanwhile, it cancels them again and goes on waiting; returns whether it was.
    """
    interrupted = False
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        try:
            await asyncio.wait(running)
        except CancelledError:
            interrupted = True
    return interrupted
