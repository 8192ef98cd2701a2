# SPDX-License-Identifier: MIT
"""How a handler run has ended, as an instrument hook can tell: failed, or cancelled by others."""

import asyncio
from asyncio import CancelledError

Requests = tuple[asyncio.Task[object] | None, int]


def cancel_requests() -> Requests:
    """Return the running task, if any, and how often it was asked to cancel itself so far."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop: sync handlers do without
        task = None
    return task, task.cancelling() if task is not None else 0


def was_cancelled(exception: BaseException, before: Requests) -> bool:
    """Return whether `exception` ends a run because its task was cancelled since `before`.

    A `CancelledError` that nobody has asked for is the handler's own. Who asked cannot be told.
    """
    task, requests = cancel_requests()
    # A sync handler begins in its publisher's task; what it returns is awaited in its own.
    return isinstance(exception, CancelledError) and requests > (
        before[1] if task is before[0] else 0
    )
