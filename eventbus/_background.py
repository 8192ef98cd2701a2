# SPDX-License-Identifier: MIT
"""How an async handler of `publish_nowait` runs, and what becomes of its outcome.

The body of its task is `run_in_background`, which sees to everything. An `async def` that has
finished at once whenever it ran is the body itself: that is *bare*, and costs less. What has not
simply finished is seen to afterwards, by `report_end`; should it wait, a callback tells of its end.
"""

from asyncio import CancelledError, Task
from inspect import isawaitable
from traceback import walk_tb
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from ._event import Event
from ._failure import report
from ._handler import CompiledHandler
from ._publication import report_never_started

if TYPE_CHECKING:
    from ._backlog import Backlog


class BackgroundRun:
    """The run of one async handler of a `publish_nowait` event that is waited for."""

    # - body: that of its task; None once the task has ended, since a body that was never started
    #   goes on referring to the run.
    # - backlog: whose `finish` is to be called with it once, when its task has ended.
    # - finishes_itself: whether `run_in_background` does so.
    # - ended: whether `run_in_background` has seen to its outcome.
    # - cancelled: whether the bus has cancelled it, which is no failure.
    # Set while it is waited for:
    # - first: the first of the unfinished runs of the same event, which counts them all.
    __slots__ = (
        "backlog",
        "body",
        "cancelled",
        "ended",
        "finishes_itself",
        "first",
        "task",
        "unfinished",
    )

    body: Any
    first: "BackgroundRun"
    task: Task[Any]
    unfinished: int

    def __init__(self, backlog: "Backlog") -> None:
        self.backlog: Backlog = backlog
        self.finishes_itself: bool = False
        self.ended: bool = False
        self.cancelled: bool = False

    def never_started(self, target: CompiledHandler, event: Event) -> None:
        """See to a task that was cancelled before its first step."""
        try:
            if not self.cancelled:
                report_never_started(target, event, (type(event),))
        finally:
            self.backlog.finish(self)

    def task_done(self, target: CompiledHandler, event: Event, task: Task[Any]) -> None:
        """See to the end of a task that a factory has made: it may be later than the handler's."""
        if task.cancelled() and not self.ended:
            self.never_started(target, event)
        else:
            self.backlog.finish(self)


async def run_in_background(target: CompiledHandler, event: Event, run: BackgroundRun) -> None:
    """Run one handler to its end, as the body of its task, like `run_handler` for `publish`.

    `KeyboardInterrupt` and its like go through, to whoever runs the loop: nobody else waits.
    """
    try:
        result = target.call(event)
        if type(result) is CoroutineType or (result is not None and isawaitable(result)):
            await result
    except Exception as exc:
        report(target, event, exc, (type(event),))
    except CancelledError as exc:
        if run.cancelled:
            raise
        report(target, event, exc, (type(event),))
    finally:
        run.ended = True
        if run.finishes_itself:
            run.backlog.finish(run)


async def report_end(
    target: CompiledHandler, event: Event, failure: BaseException, in_doubt: bool
) -> None:
    """Report what a bare task has ended with, as the body of another task in the same context.

    A handler that was cancelled during its last step has returned, and not failed: there is no
    frame of it in the traceback. Nor is there one if somebody else has asked for the outcome first.

    Args:
        in_doubt: Whether it is a failure when that cannot be told.
    """
    try:
        raise failure
    except Exception as exc:
        report(target, event, exc, (type(event),))
    except CancelledError as exc:
        code = target.call.__code__
        if in_doubt or any(frame.f_code is code for frame, _ in walk_tb(exc.__traceback__)):
            report(target, event, exc, (type(event),))
    finally:
        del failure  # whose traceback leads here
