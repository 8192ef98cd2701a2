# SPDX-License-Identifier: MIT
"""One event through its handlers: `deliver` starts them, `run_handler` is the body of their tasks.

- Sync handlers are called in place, each in a context of its own. Async ones have a task each.
- A `Publication` is an event whose handlers may still run. It is made with the first task, so
  that an event with sync handlers alone has none.
- `current` holds, in the context of a handler's task, its publication; the links from there to
  the outermost publish are the chain, by which circles are found.
"""

import asyncio
import sys
from asyncio import AbstractEventLoop, CancelledError, Future, Task, get_running_loop
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, ContextVar
from functools import partial
from inspect import CORO_CLOSED, getcoroutinestate
from types import CoroutineType, coroutine
from typing import Any, Protocol

from ._event import Event
from ._failure import Chain, EventCycleError, report
from ._handler import CompiledHandler, Route, must_await
from ._loop_end import LoopEnd

# Whether a task can have its first step at once. On a loop with a task factory none has.
EAGER = sys.version_info >= (3, 12)
# Loosely typed, since `eager_start` is unknown to the checkers of Python 3.11, which has it not.
_EagerTask: Callable[..., Task[Any]] = Task

_Begin = Callable[[], Awaitable[None]] | None
_End = Callable[[BaseException], object]

# Levels of a chain, whose eager tasks nest, between two trips through the loop's short stack.
LEVELS_PER_TRIP = 8


class _Backlog(Protocol):
    """Who has an event that nobody awaits."""

    @property
    def loop_end(self) -> LoopEnd: ...
    def finish(self, publication: "Publication") -> None: ...


class Publication:
    """One event under way: its place in a chain, its running handlers, and whom to tell."""

    __slots__ = ("depth", "event", "held", "owner", "parent", "running", "stop")

    # `deliver` sets them: `__init__` would cost more than they do.
    event: Event  # deleted once finished, lest it is kept
    parent: "Publication | None"  # the level above; None once finished, lest a whole chain is kept
    depth: int  # of the chain, 1 if outermost; 0 once finished. May count levels that have finished
    owner: "Future[None] | _Backlog | None"  # whom to tell of the last end; the first, if awaited
    running: int  # handlers, and other ends, that are waited for; 0 while they are being started
    held: Task[None] | list[Task[None]] | None  # of handlers that run on, lest they are collected
    stop: BaseException | None  # why the handlers were cancelled, if they were

    async def wait(self) -> None:
        """Wait for the last handler; raise what the publisher, or the program, is to end with."""
        try:
            while self.running:
                waiter = self.owner = Future()
                try:
                    await waiter
                except CancelledError as exc:
                    if self.stop is None:  # else again, which would cut through clean-ups
                        self.cancel(exc)
            if self.stop is not None:
                raise self.stop
        finally:
            self.finish()

    def cancel(self, reason: BaseException) -> None:
        """Cancel every running handler, unless they were before."""
        before, self.stop = self.stop, reason
        if before is None:
            for task in self.tasks():
                task.cancel()

    def has_cancelled(self, target: CompiledHandler, exc: CancelledError) -> bool:
        """Return whether publisher, bus or loop's end has cancelled a handler; else it failed."""
        task = asyncio.current_task()
        if task is not None and not task.cancelling():  # nobody asked: it is the handler's own
            return False
        if self.stop is not None or self.owner is None:
            return self.stop is not None
        if isinstance(self.owner, Future):
            return self.owner.cancelled()
        late = partial(failed, target, self.event, exc, self.parent, _end_loop)
        return self.owner.loop_end.has_cancelled(target.handler.name, late)

    def survives(self, target: CompiledHandler) -> bool:
        """Return whether a task outlives what its handler raises now: a failure, then reported."""
        exc = sys.exception()
        cancelled = isinstance(exc, CancelledError) and self.has_cancelled(target, exc)
        if cancelled or exc is None or isinstance(exc, GeneratorExit):  # the loop is gone
            return False
        self.failed(target, exc)
        return True

    def failed(self, target: CompiledHandler, exc: BaseException) -> None:
        """Report a failed handler; see to what ends the program."""
        failed(target, self.event, exc, self.parent, self.end)

    def end(self, exc: BaseException) -> None:
        """Have the publisher, or the loop if nobody awaits, raise what ends the program."""
        awaited = self.depth and (self.owner is None or isinstance(self.owner, Future))
        (self.cancel if awaited else _end_loop)(exc)

    def hold(self, task: Task[None]) -> None:
        """Keep a handler's task until the last handler has ended; one alone without a list."""
        if self.held is None:
            self.held = task
        elif isinstance(self.held, list):
            self.held.append(task)
        else:
            self.held = [self.held, task]

    def tasks(self) -> list[Task[None]]:
        """Return the tasks of handlers that did not end at once."""
        held = [] if self.held is None else self.held
        return held if isinstance(held, list) else [held]

    def ended(self) -> None:
        """Take note that a handler has ended, and tell of the end of the last."""
        self.running -= 1
        if self.running:
            return
        self.held, owner = None, self.owner
        if isinstance(owner, Future):
            try:
                owner.set_result(None)
            except (asyncio.InvalidStateError, RuntimeError):
                pass  # the publisher has been cancelled in this turn, or the loop is closed
        else:
            assert owner is not None  # if anybody awaits the event, by now there is a future
            owner.finish(self)

    def task_ended(self, target: CompiledHandler, begun: list[bool], task: Task[None]) -> None:
        """See to the end of a factory's task, in which the handler may never have begun."""
        failure = CancelledError("its task ended before its first step")
        if not begun:
            if not (task.cancelled() and self.has_cancelled(target, failure)):
                self.failed(target, failure)
            self.ended()
        self.ended()

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
    return tuple(chain[::-1])


def check_depth(parent: Publication, event_type: type[Event], max_depth: float) -> None:
    """Raise `EventCycleError` if the unfinished levels down to `parent` use up `max_depth`."""
    if parent.depth >= max_depth and len(chain := chain_to(parent)) >= max_depth:
        raise EventCycleError((*chain, event_type), int(max_depth))


def deliver(
    event: Event,
    route: Route,
    loop: AbstractEventLoop,
    eager: bool,
    context: Context,
    parent: Publication | None,
    backlog: _Backlog | None,
) -> Publication | None:
    """Start the handlers of an event in order; return what is under way then, None if all is done.

    Each has a copy of `context`, a copy itself. Sync ones are called here, but never overtake tasks
    that start later, which all do unless `eager`: the loop has no task factory, and `EAGER` is
    true. `parent` is the level above, and `backlog` whom to tell of the end of the last one, if
    nobody awaits it.
    """
    publication: Publication | None = None
    running, in_place = 0, eager or route.in_place
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
            except BaseException as exc:  # noqa: BLE001 - whatever a handler raises
                end = end_publisher if publication is None else publication.cancel
                own.run(failed, target, event, exc, parent, end if backlog is None else _end_loop)
                continue
        if publication is None:
            in_place = eager
            publication = Publication()
            publication.event = event
            publication.parent = parent
            publication.depth = 1 if parent is None else parent.depth + 1
            publication.owner = backlog
            publication.running = 0
            publication.held = publication.stop = None
            context.run(set_current, publication)
        own = context.copy() if target.context is None else target.context
        if own is target.context:
            own.run(set_current, publication)
        if not eager:
            running += _schedule(target, publication, own)
            continue
        body = run_handler(target, publication, None)
        task = _EagerTask(body, loop=loop, name=target.handler.name, context=own, eager_start=True)
        if not task.done():
            publication.hold(task)
            running += 1
    if publication is not None:
        if not running and publication.stop is None:
            publication.depth, publication.parent = 0, None  # `finish` would cost a call
            del publication.event
            return None
        publication.running = running
    return publication


def failed(
    target: CompiledHandler, event: Event, exc: BaseException, parent: Publication | None, end: _End
) -> None:
    """Report a failed handler, in its context; call `end` with what is to end the program."""
    try:
        if isinstance(exc, (Exception, CancelledError)):
            report(target, event, exc, (*chain_to(parent), type(event)))
            return
    except BaseException as error:  # noqa: BLE001 - as above
        exc = error
    end(exc)


def end_publisher(exc: BaseException) -> None:
    """Raise what ends the program where the handler was called."""
    raise exc


def _end_loop(exc: BaseException) -> None:
    get_running_loop().call_soon(end_publisher, exc)


def _schedule(target: CompiledHandler, publication: Publication, context: Context) -> int:
    """Have the loop start a handler's task; return for how many ends to wait."""
    loop = get_running_loop()
    has_factory = loop.get_task_factory() is not None
    begun: list[bool] = []
    begin = partial(_note, begun) if has_factory else _yield_once
    body = run_handler(target, publication, begin)
    try:
        if not has_factory:
            body.send(None)  # to where the first step of its task goes on, or a cancellation
            publication.hold(Task(body, loop=loop, name=target.handler.name, context=context))
            return 1
        if target.context is None:  # the task copies the current one: not every factory takes one
            made: Any = context.run(loop.create_task, body, name=target.handler.name)
        else:
            made = loop.create_task(body, name=target.handler.name, context=context)
    except BaseException as exc:  # noqa: BLE001 - whatever a task factory raises
        body.close()
        context.run(publication.failed, target, exc)
        return 0
    has_ended = begun and getcoroutinestate(body) == CORO_CLOSED
    if has_ended and made.done():
        return 0
    publication.hold(made)
    made.add_done_callback(partial(publication.task_ended, target, begun), context=context)
    return 1 if has_ended else 2  # the handler's end, and the task's, which may come first


async def _note(begun: list[bool]) -> None:
    begun.append(True)


@coroutine
def _yield_once() -> Generator[None, None, None]:
    yield


async def run_handler(target: CompiledHandler, publication: Publication, begin: _Begin) -> None:
    """Run one handler to its end, as the body of its task; whatever it raises ends here."""
    try:
        if begin is not None:
            await begin()
        result: Any = target.call(publication.event)
        # The first test is the likely one, and spares the slow, exact second one.
        if type(result) is CoroutineType or (result is not None and must_await(result)):
            result = await result  # pyright: ignore[reportUnknownVariableType]
            if result is not None:
                must_await(result)  # for what it raises alone
    except BaseException:
        if not publication.survives(target):
            raise
    finally:
        if publication.running:
            publication.ended()
