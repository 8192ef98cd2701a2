# SPDX-License-Identifier: MIT
"""What goes wrong: a handler that fails, and a chain of publishes that would never end."""

import logging
import sys
from asyncio import CancelledError
from dataclasses import dataclass
from functools import cache

from ._event import Event
from ._handler import CompiledHandler, Handler

Chain = tuple[type[Event], ...]


@dataclass(frozen=True, slots=True, eq=False)
class HandlerFailure:
    """One failed run of one handler, as `on_error` receives it.

    The bus keeps none of it; who keeps one keeps the event, the exception, and all of its frames.

    Attributes:
        event: The event that was being handled.
        handler: The handler that failed.
        exception: What it raised; a `CancelledError` if anyone but its publisher or the bus has
            cancelled it, a `TimeoutError` if it overran `handler_timeout`.
        chain: Event types, from the outermost awaited publish to this event's.
    """

    event: Event
    handler: Handler
    exception: BaseException
    chain: Chain


class EventCycleError(RuntimeError):
    """A chain of awaited publishes is deeper than the bus allows: most likely it is a circle.

    Attributes:
        chain: Event types, from the outermost publish to the refused one.
        max_depth: How many levels the bus allows.
    """

    def __init__(self, chain: Chain, max_depth: int) -> None:
        super().__init__(chain, max_depth)
        self.chain = chain
        self.max_depth = max_depth

    def __str__(self) -> str:
        return (
            f"a chain of awaited publishes is deeper than max_depth={self.max_depth}: "
            f"{_format(_repeating_part(self.chain))}; break the circle, publish one of "
            "them with publish_nowait, or raise max_depth"
        )


def _format(chain: Chain) -> str:
    return " -> ".join([event_type.__name__ for event_type in chain])


def _repeating_part(chain: Chain) -> Chain:
    """Return the last circle in `chain`, from where it was entered; all, if there is none."""
    for end in range(len(chain) - 1, 0, -1):
        for start in range(end - 1, -1, -1):
            if chain[start] is chain[end]:
                circle = chain[start:end]
                entry = circle.index(min(circle, key=chain.index))
                return (*circle[entry:], *circle[: entry + 1])
    return chain


@cache
def logger() -> logging.Logger:
    """Return the package's logger; one that exists when logging is configured would be disabled."""
    return logging.getLogger(__name__.rpartition(".")[0])


def report(target: CompiledHandler, event: Event, exception: BaseException, chain: Chain) -> None:
    """Log the failure of one handler run, once, and hand it to `on_error`, of which the same holds.

    The payload stays out of the message: it may be private, or large.
    """
    is_logged = logger().isEnabledFor(logging.ERROR)
    if is_logged:
        names = (target.handler.name, type(event).__qualname__, _format(chain))
        _log(exception, "handler %s failed on %s (published as %s)", names)
    if target.on_error is None:
        return
    try:
        target.on_error(HandlerFailure(event, target.handler, exception, chain))
    except (Exception, CancelledError) as error:  # noqa: BLE001
        if is_logged:
            _log(error, "on_error raised on the failure of handler %s", (target.handler.name,))


def _log(exception: BaseException, message: str, args: tuple[str, ...]) -> None:
    """Log at ERROR, as of the place where the exception was raised; on stderr if that fails."""
    log, last = logger(), exception.__traceback__
    info = (type(exception), exception, last)
    file, line, function = "(unknown file)", 0, None
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is not None:
        file, function = last.tb_frame.f_code.co_filename, last.tb_frame.f_code.co_name
        line = last.tb_lineno
    try:
        record = log.makeRecord(log.name, logging.ERROR, file, line, message, args, info, function)
        log.handle(record)
    except Exception as error:  # noqa: BLE001
        sys.excepthook(type(error), error, error.__traceback__)
