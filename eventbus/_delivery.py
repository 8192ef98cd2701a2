# SPDX-License-Identifier: MIT
"""One event through its handlers: `deliver` starts them, `run_handler` is the body of their tasks.

- Sync handlers are called in place, each in a context of its own. Async ones have a task each.
- A `Publication` is an event whose handlers may still run. It is made with the first task, so
  that an event with sync handlers alone has none.
- `current` holds, in the context of a handler's task, its publication; the links from there to
  the outermost publish are the chain, by which circles are found.
"""

import sys
from asyncio import AbstractEventLoop, CancelledError, Future, Task, current_task, get_running_loop
from collections.abc import Callable, Generator
from contextvars import Context, ContextVar, copy_context
from functools import partial
from types import CoroutineType, coroutine
from typing import Any, Protocol

from ._event import Event
from ._failure import Chain, EventCycleError, report
from ._handler import CompiledHandler, Route, must_await
from ._loop_end import LoopEnd

# Loosely typed, since `eager_start` is unknown to the checkers of Python 3.11, which has it not.
_EAGER = sys.version_info >= (3, 12)
_EagerTask: Callable[..., Task[Any]] = Task

# What a handler may raise without ending anything but itself.
_FAILURES = (Exception, CancelledError)

# Tasks that start eagerly nest on the stack. At every so many levels of a chain the publisher takes
# a trip through the loop first, and goes on with the loop's short stack.
LEVELS_PER_TRIP = 8


class _Backlog(Protocol):
    """Who has an event that nobody awaits."""

    @property
    def loop_end(self) -> LoopEnd: ...
    def finish(self, publication: "Publication") -> None: ...


class Publication:
    """One event under way: its place in a chain, its running handlers, and whom to tell."""

    __slots__ = ("backlog", "depth", "event", "parent", "running", "stop", "waiter")

    # `deliver` sets them: `__init__` would cost more than they do.
    event: Event
    parent: "Publication | None"  # the level above; None once finished, lest a whole chain is kept
    depth: int  # of the chain, 1 if outermost; 0 once finished. May count levels that have finished
    running: dict[object, Task[None]] | None  # by handler, and by tasks that may outlive it
    backlog: _Backlog | None  # whom to tell of the end of the last one, if nobody awaits the event
    waiter: Future[None] | None  # what the publisher awaits otherwise
    stop: BaseException | None  # why the handlers were cancelled, if they were

    async def wait(self) -> None:
        """Wait for the last handler; raise what the publisher, or the program, is to end with.

        However often the publisher is cancelled meanwhile, each handler is once: passed on, the
        next would cut through its clean-up.
        """
        while self.running:
            self.waiter = Future(loop=get_running_loop())
            try:
                await self.waiter
            except CancelledError as exc:
                if self.stop is None:
                    self.cancel(exc)
        if self.stop is not None:
            raise self.stop

    def cancel(self, reason: BaseException) -> None:
        """Cancel every running handler, unless they were before."""
        before, self.stop = self.stop, reason
        if before is None and self.running:
            for task in dict.fromkeys(self.running.values()):
                task.cancel()

    def has_cancelled(self, target: CompiledHandler, exc: CancelledError) -> bool:
        """Return whether publisher, bus or loop's end has cancelled a handler; else it failed."""
        task = current_task()
        if task is not None and not task.cancelling():  # nobody asked: it is the handler's own
            return False
        if self.stop is not None:
            return True
        if self.backlog is not None:
            chain, context = chain_to(self), copy_context()
            late = partial(failed, target, self.event, exc, context, chain, _end_loop)
            return self.backlog.loop_end.has_cancelled(target.handler.name, late)
        return self.waiter is not None and self.waiter.cancelled()

    def failed(self, target: CompiledHandler, exc: BaseException, context: Context) -> None:
        """Report a failed handler, or have the publisher raise what ends the program."""
        end = self.cancel if self.depth and self.backlog is None else _end_loop
        chain = chain_to(self) or (type(self.event),)
        failed(target, self.event, exc, context, chain, end)

    def ended(self, key: object) -> None:
        """Take a handler off the running ones, and tell of the end of the last."""
        if self.running is None or self.running.pop(key, None) is None or self.running:
            return
        if self.backlog is not None:
            self.backlog.finish(self)
        elif self.waiter is not None and not self.waiter.done():
            try:  # `suppress` takes as long as all the rest
                self.waiter.set_result(None)
            except RuntimeError:  # the loop is closed, and its tasks are garbage-collected
                pass

    def task_ended(self, target: CompiledHandler, task: Task[None]) -> None:
        """See to the end of a factory's task, which its handler may not have seen."""
        if self.running and target in self.running:
            failure = CancelledError("cancelled before its first step")
            if task.cancelled() and not self.has_cancelled(target, failure):
                self.failed(target, failure, copy_context())
            self.ended(target)
        self.ended(task)

    def finish(self) -> None:
        """Leave the chain: what has this in its context, and lives on, starts one of its own."""
        self.depth = 0
        self.parent = self.stop = None
        if not self.running:  # else who published was closed, not cancelled, and they go on
            del self.event


current: ContextVar[Publication | None] = ContextVar("current", default=None)
# Bound once: a method of an imported name would be looked up, and bound, at every call.
get_current = current.get
set_current = current.set


def chain_to(level: Publication | None) -> Chain:
    """Return the event types of the unfinished levels down to `level`, outermost first."""
    chain: list[type[Event]] = []
    while level is not None and level.depth:
        chain.append(type(level.event))
        level = level.parent
    return tuple(reversed(chain))


def check_depth(parent: Publication, event_type: type[Event], max_depth: float) -> None:
    """Raise `EventCycleError` if the unfinished levels down to `parent` use up `max_depth`."""
    if parent.depth >= max_depth and len(chain := chain_to(parent)) >= max_depth:
        raise EventCycleError((*chain, event_type), int(max_depth))


def starts_eagerly(loop: AbstractEventLoop) -> bool:
    """Return whether a handler's task has its first step at once, not when the loop takes it."""
    return _EAGER and loop.get_task_factory() is None


def deliver(
    event: Event,
    route: Route,
    loop: AbstractEventLoop,
    eager: bool,
    context: Context,
    parent: Publication | None,
    backlog: _Backlog | None,
) -> Publication | None:
    """Start the handlers of an event in order; return what is under way, None if none needs a task.

    Each has a copy of `context`, a copy itself. Sync ones are called here, but never overtake tasks
    that start later, which all do unless `eager`, that is `starts_eagerly(loop)`. `parent` is the
    level above, and `backlog` whom to tell of the end of the last one, if nobody awaits it.
    """
    publication: Publication | None = None
    in_place = eager or route.in_place
    for target in route.handlers:
        if publication is not None and publication.stop is not None:
            break
        if in_place and not target.is_async:
            own = context.copy()
            try:
                result = own.run(target.call, event)
                if result is None or not must_await(result):
                    continue
                target = target.learn(result, own)
            except BaseException as exc:
                if publication is not None:
                    publication.failed(target, exc, own)
                else:
                    end = end_publisher if backlog is None else _end_loop
                    failed(target, event, exc, own, (*chain_to(parent), type(event)), end)
                continue
        if publication is None:
            in_place = eager
            publication = Publication()
            publication.event = event
            publication.parent = parent
            publication.depth = 1 if parent is None else parent.depth + 1
            publication.backlog = backlog
            publication.running = publication.waiter = publication.stop = None
            context.run(set_current, publication)
        if target.context is None:
            own = context.copy()
        else:
            own = target.context
            own.run(set_current, publication)
        if not eager:
            _schedule(loop, target, publication, own)
            continue
        body = run_handler(target, publication)
        task = _EagerTask(body, loop=loop, name=target.handler.name, context=own, eager_start=True)
        if not task.done():
            if publication.running is None:
                publication.running = {target: task}
            else:
                publication.running[target] = task
    return publication


def failed(
    target: CompiledHandler,
    event: Event,
    exc: BaseException,
    context: Context,
    chain: Chain,
    end: Callable[[BaseException], object],
) -> None:
    """Report a failed handler; call `end` with what it, or the report, ends the program by."""
    try:
        if isinstance(exc, _FAILURES):
            context.run(report, target, event, exc, chain)
            return
    except BaseException as error:
        end(error)
    else:
        end(exc)


def end_publisher(exc: BaseException) -> None:
    """Raise what ends the program where the handler was called."""
    raise exc


def _end_loop(exc: BaseException) -> None:
    get_running_loop().call_soon(end_publisher, exc)


def _schedule(
    loop: AbstractEventLoop, target: CompiledHandler, publication: Publication, context: Context
) -> None:
    """Have the loop start a handler's task; if that cannot be made, the handler has failed."""
    running = publication.running = publication.running or {}
    has_factory = loop.get_task_factory() is not None
    body = run_handler(target, publication, starts_later=not has_factory)
    try:
        if not has_factory:
            body.send(None)  # to where the first step of its task goes on, or a cancellation
            running[target] = Task(body, loop=loop, name=target.handler.name, context=context)
            return
        if target.context is None:  # the task copies the current one: not every factory takes one
            made = context.run(loop.create_task, body, name=target.handler.name)
        else:
            made = loop.create_task(body, name=target.handler.name, context=context)
    except Exception as exc:
        body.close()
        publication.failed(target, exc, context)
        return
    if not made.done():
        running[target] = running[made] = made  # the factory may have wrapped the handler
        made.add_done_callback(partial(publication.task_ended, target), context=context)


@coroutine
def _first_step() -> Generator[None, None, None]:
    yield


async def run_handler(
    target: CompiledHandler, publication: Publication, starts_later: bool = False
) -> None:
    """Run one handler to its end, as the body of its task; whatever it raises ends here."""
    try:
        if starts_later:
            await _first_step()
        result: Any = target.call(publication.event)
        # The first test is the likely one, and spares the slow, exact second one.
        if type(result) is CoroutineType or (result is not None and must_await(result)):
            result = await result  # pyright: ignore[reportUnknownVariableType]
            if result is not None:
                must_await(result)  # for what it raises alone
    except GeneratorExit:  # the loop is gone
        raise
    except BaseException as exc:
        if isinstance(exc, CancelledError) and publication.has_cancelled(target, exc):
            raise
        publication.failed(target, exc, copy_context())
    finally:
        if publication.running:
            publication.ended(target)
