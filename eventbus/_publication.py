# SPDX-License-Identifier: MIT
"""One event on its way through its handlers: the chain it belongs to, and how a handler runs.

- `current` holds, in the context of a handler, the publication that the handler belongs to. The
  links from there to the outermost publish are the chain, by which circles are found.
- `run_handler` is the body of every handler's task: whatever the handler does ends there.
- A finished publication has depth 0, whereby code that outlives it (a task that a handler has
  left behind, whose context still points here) starts a chain of its own.
"""

import asyncio
import sys
from asyncio import AbstractEventLoop, CancelledError, Future, Task
from collections.abc import Iterable
from contextvars import Context, ContextVar, copy_context
from inspect import isawaitable
from types import CoroutineType
from typing import Any

from ._event import Event
from ._failure import Chain, report
from ._handler import CompiledHandler

# Eager tasks (3.12+) run on the stack of whoever starts them; deeper in a chain they would eat
# it up, and handlers are started through the loop.
EAGER_DEPTH = 8 if sys.version_info >= (3, 12) else 0
# Loosely typed, since `eager_start` is unknown to older interpreters.
EagerTask: Any = Task


class Publication:
    """An awaited publish under way."""

    # - depth: levels of the chain down to here, 1 for the outermost; 0 once finished. May count
    #   outer levels that have finished meanwhile: `active_depth` counts exactly.
    # - waiter: what the publisher waits on, from when it waits; `running` handlers are left then.
    # - stop: why the handlers are cancelled: the publisher's own cancellation, or an exception
    #   that ends the program. None as long as they are not.
    __slots__ = ("depth", "event_type", "parent", "running", "stop", "waiter")

    running: int

    def __init__(self, event_type: type[Event], parent: "Publication | None", depth: int) -> None:
        self.event_type = event_type
        self.parent = parent
        self.depth = depth
        self.waiter: Future[None] | None = None
        self.stop: BaseException | None = None

    @property
    def stopped(self) -> bool:
        """Whether the handlers are cancelled, or about to be: the publisher's wait already is."""
        return self.stop is not None or (self.waiter is not None and self.waiter.cancelled())

    def left(self) -> None:
        """Count a handler that had to be waited for as finished."""
        self.running -= 1
        if self.running == 0:
            self.wake()

    def wake(self) -> None:
        """Let the publisher go on, if it waits."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


current: ContextVar[Publication | None] = ContextVar("current", default=None)


def chain_to(publication: Publication | None, *event_types: type[Event]) -> Chain:
    """Return the chain down to `publication`, outermost first, and `event_types` below it."""
    chain: list[type[Event]] = []
    while publication is not None and publication.depth:
        chain.append(publication.event_type)
        publication = publication.parent
    return (*reversed(chain), *event_types)


def active_depth(publication: Publication | None) -> int:
    """Return how many levels of the chain down to `publication` are still unfinished."""
    depth = 0
    while publication is not None and publication.depth:
        depth += 1
        publication = publication.parent
    return depth


async def run_handler(target: CompiledHandler, event: Event, publication: Publication) -> None:
    """Run one handler to its end, as the body of its task; what it raises ends here."""
    try:
        result = target.call(event)
        # The first test is the likely one and spares the slow, exact second one.
        if type(result) is CoroutineType or (result is not None and isawaitable(result)):
            await result
    except Exception as exc:
        report(target, event, exc, chain_to(publication))
    except CancelledError as exc:
        if publication.stopped:
            raise
        report(target, event, exc, chain_to(publication))
    except GeneratorExit:  # the loop is gone, and with it whoever waited
        publication.waiter = None
        raise
    except BaseException as exc:
        publication.stop = exc
        publication.wake()
        raise
    finally:
        if publication.waiter is not None:
            publication.left()


def call_in_place(
    target: CompiledHandler, event: Event, parent: Publication | None
) -> tuple[CompiledHandler, Context] | None:
    """Call a sync handler in a copy of the current context.

    Returns the rest of the run, for `start_scheduled`, if the handler returned an awaitable.
    """
    context = copy_context()
    try:
        result = context.run(target.call, event)
    except (Exception, CancelledError) as exc:
        context.run(report, target, event, exc, chain_to(parent, type(event)))
    else:
        if result is not None and isawaitable(result):
            return target.awaiting(result), context
    return None


def start_scheduled(
    loop: AbstractEventLoop,
    target: CompiledHandler,
    event: Event,
    publication: Publication,
    context: Context | None = None,
) -> Task[None]:
    """Start a handler's task through the loop, by its task factory if it has one.

    Args:
        context: The context to run in, of a handler already called; a copy of the current one
            otherwise.
    """
    if context is None:
        return loop.create_task(run_handler(target, event, publication), name=target.name)
    context.run(current.set, publication)
    return loop.create_task(
        run_handler(target, event, publication), name=target.name, context=context
    )


async def first_steps(
    event: Event, publication: Publication, running: dict[Task[None], CompiledHandler]
) -> None:
    """Let tasks started through the loop have their first step; keep in `running` who still runs.

    The loop runs callbacks in the order in which they were scheduled, first steps included.
    """
    await asyncio.sleep(0)
    for task, target in list(running.items()):
        if task.done():
            del running[task]
            report_if_never_started(task, target, event, publication)


def report_if_never_started(
    task: Task[None], target: CompiledHandler, event: Event, publication: Publication
) -> None:
    """Report a finished task that was cancelled before `run_handler` could see it."""
    if task.cancelled() and publication.stop is None:
        error = CancelledError("cancelled before its first step")
        report(target, event, error, chain_to(publication))


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
