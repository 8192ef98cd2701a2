# SPDX-License-Identifier: MIT
"""How an async handler of `publish_nowait` runs, and what becomes of its outcome.

The body of its task is `run_in_background`, or the handler itself if it is an `async def` that has
finished at once whenever it ran. That costs less to start; but should it wait after all, it takes
a callback of the loop to tell of its end.
"""

from asyncio import CancelledError, Task
from collections.abc import Callable
from inspect import CORO_CLOSED, getcoroutinestate, isawaitable
from types import CoroutineType
from typing import Any, TypeVar

from ._event import Event
from ._failure import report
from ._handler import CompiledHandler
from ._publication import report_never_started

E = TypeVar("E", bound=BaseException)


class BackgroundRun:
    """The run of one async handler of a `publish_nowait` event: a chain's outermost level."""

    # - body: that of its task, by which code in the handler's context finds the run; None once
    #   the task has ended, since a body that was never started goes on referring to the run.
    # - finish: to be called with it once, when its task has ended.
    # - finishes_itself: whether `run_in_background` does so.
    # - ended: whether `run_in_background` has seen to its outcome.
    # - cancelled: whether the bus has cancelled it, which is no failure.
    # Set while it is waited for:
    # - first: the first of the unfinished runs of the same event, which counts them all.
    __slots__ = (
        "body",
        "cancelled",
        "ended",
        "event_type",
        "finish",
        "finishes_itself",
        "first",
        "task",
        "unfinished",
    )

    parent = None
    body: Any
    first: "BackgroundRun"
    task: Task[Any]
    unfinished: int

    def __init__(self, event_type: type[Event], finish: "Callable[[BackgroundRun], None]") -> None:
        self.finish: Callable[[BackgroundRun], None] = finish
        self.event_type: type[Event] = event_type
        self.finishes_itself: bool = False
        self.ended: bool = False
        self.cancelled: bool = False

    @property
    def depth(self) -> int:
        """1, or 0 once the handler has finished."""
        return 0 if self.body is None or getcoroutinestate(self.body) == CORO_CLOSED else 1

    def never_started(self, target: CompiledHandler, event: Event) -> None:
        """See to a task that was cancelled before its first step."""
        try:
            if not self.cancelled:
                report_never_started(target, event, (self.event_type,))
        finally:
            self.finish(self)

    def task_done(self, target: CompiledHandler, event: Event, task: Task[Any]) -> None:
        """See to the end of a task that a factory has made: it may be later than the handler's."""
        if task.cancelled() and not self.ended:
            self.never_started(target, event)
        else:
            self.finish(self)

    def handler_done(self, target: CompiledHandler, event: Event, task: Task[Any]) -> None:
        """See to the end of a task whose body was the handler itself."""
        try:
            if not (task.cancelled() and self.cancelled):
                report_outcome(target, event, task)
        finally:
            self.finish(self)


async def run_in_background(target: CompiledHandler, event: Event, run: BackgroundRun) -> None:
    """Run one handler to its end, as the body of its task, like `run_handler` for `publish`.

    `KeyboardInterrupt` and its like go through, to whoever runs the loop: nobody else waits.
    """
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
        run.ended = True
        if run.finishes_itself:
            run.finish(run)


def report_outcome(target: CompiledHandler, event: Event, task: Task[Any]) -> None:
    """Report what a task has ended with whose body was the handler, in the handler's context."""
    try:
        task.result()
    except CancelledError as exc:
        report_cancelled(target, event, exc)
    except Exception as exc:
        report(target, event, _without_last_frame(exc), (type(event),))
    except BaseException as exc:  # as asyncio does with what `run_in_background` lets through
        message = f"exception of handler {target.name}"
        task.get_loop().call_exception_handler({"message": message, "exception": exc})


def report_cancelled(target: CompiledHandler, event: Event, exception: CancelledError) -> None:
    """Report what a task has raised that was asked for its outcome, if that is the handler's.

    It is not if it has no frame of the handler: then that has returned, though its task was
    cancelled during its last step.
    """
    if _without_last_frame(exception).__traceback__ is not None:
        report(target, event, exception, (type(event),))


def _without_last_frame(exception: E) -> E:
    """Take from the traceback the frame that has caught the exception."""
    traceback = exception.__traceback__
    return exception.with_traceback(None if traceback is None else traceback.tb_next)
