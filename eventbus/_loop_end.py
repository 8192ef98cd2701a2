# SPDX-License-Identifier: MIT
"""What the end of a loop cuts short, told at that end, once, and not handler by handler besides."""

import asyncio
import sys
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial

from ._failure import logger

# Seconds after which a loop that seemed to end, and has not, is looked at again.
_PAUSE = 1.0


class LoopEnd:
    """Watches for the end of one loop, on behalf of one backlog."""

    # - _unfinished: describes what the backlog has not finished; "" if that is nothing.
    # - _cut_short: the names of handlers that the end has cancelled, with what reports them as
    #   failed after all, should the loop go on.
    # - _is_near: whether all tasks of the loop are being cancelled; None if to be looked at again.

    def __init__(self, loop: AbstractEventLoop, unfinished: Callable[[], str]) -> None:
        self._loop = loop
        self._unfinished = unfinished
        self._cut_short: list[tuple[str, Callable[[], object]]] = []
        self._is_near: bool | None = None
        self._watch = self._tell_when_closed()
        # The loop takes note of an async generator at its first step. It is to close it at its
        # end, but not to make a task for it if the garbage collector comes first.
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=None)
        try:
            with suppress(StopIteration):
                self._watch.__anext__().__await__().__next__()
        finally:
            sys.set_asyncgen_hooks(*hooks)

    async def _tell_when_closed(self) -> AsyncGenerator[None, None]:
        """Tell what is cut short, when the loop closes its async generators, or none is left."""
        try:
            yield
        finally:
            unfinished = self._unfinished()
            if self._cut_short or unfinished:
                logger().error(
                    "the loop ends with publish_nowait work unfinished: %d handlers cancelled "
                    "(%s), %s; await bus.aclose() before the loop ends",
                    len(self._cut_short),
                    ", ".join(sorted(name for name, _ in self._cut_short)) or "none",
                    unfinished or "nothing else",
                )
            self._cut_short.clear()  # which has the events

    def tell(self) -> None:
        """Tell it now: the loop has been closed without its async generators."""
        with suppress(StopIteration):
            self._watch.aclose().__await__().__next__()

    def has_cancelled(self, name: str, report: Callable[[], object]) -> bool:
        """Return whether the end has cancelled the handler of this name, which is then told at it.

        At its end a loop's tasks are cancelled all at once. (Looked at once a turn: there may be
        many.) If it goes on for all that, it was no end, and `report` is called a little later.
        """
        if self._is_near is None:
            self._is_near = self._all_are_cancelled()
            self._loop.call_soon(self._look_again)
        if self._is_near:
            if not self._cut_short:
                self._loop.call_later(_PAUSE, self._go_on)
            self._cut_short.append((name, partial(copy_context().run, report)))
        return self._is_near

    def _look_again(self) -> None:
        self._is_near = None

    def _all_are_cancelled(self) -> bool:
        return all(task.cancelling() for task in asyncio.all_tasks(self._loop))

    def _go_on(self) -> None:
        if asyncio.all_tasks(self._loop) and self._all_are_cancelled():  # their clean-up takes long
            self._loop.call_later(_PAUSE, self._go_on)
            return
        cut_short, self._cut_short = self._cut_short, []
        for _, report in cut_short:
            report()
