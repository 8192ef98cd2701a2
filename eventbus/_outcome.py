# SPDX-License-Identifier: MIT
"""How a handler run has ended, as an instrument hook can tell: failed, or cancelled by others."""

import asyncio
from asyncio import CancelledError


def cancel_requests() -> int:
    """Return how often the running task was asked to cancel itself so far."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def was_cancelled(exception: BaseException, before: int) -> bool:
    """Return whether `exception` ends a run because its task was cancelled since `before`.

    A `CancelledError` that nobody has asked for is the handler's own. Who asked cannot be told.
    """
    return isinstance(exception, CancelledError) and cancel_requests() > before
