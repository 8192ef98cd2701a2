# SPDX-License-Identifier: MIT
"""What the proofs share: a loop on a clock of its own, and an ear for the log."""

import asyncio
import contextlib
import logging
import selectors

from target import PACKAGE, Event


class Ping(Event):
    def __init__(self, number=0):
        self.number = number


TYPES = [type(f"Ping{number}", (Ping,), {}) for number in range(4)]


class _Clock(selectors.DefaultSelector):
    """A selector that waits for nothing but timers, and for these by setting the clock."""

    now = 0.0

    def select(self, timeout=None):
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else")
        self.now += max(timeout, 0.0)
        return super().select(0)


def virtual_loop():
    """Make a loop that jumps to its next timer: hours take no time, and every run is the same."""
    clock = _Clock()
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = lambda: clock.now
    return loop


@contextlib.contextmanager
def listening():
    """Collect what the library and asyncio log at WARNING and above, as (logger, message).

    Nobody else gets it, and the records, which hold exceptions and their frames, are let go.
    """
    messages = []

    def note(record):
        if record.levelno >= logging.WARNING:
            messages.append((record.name, record.getMessage()))
        return False

    loggers = [logging.getLogger(PACKAGE), logging.getLogger("asyncio")]
    for logger in loggers:
        logger.addFilter(note)
    try:
        yield messages
    finally:
        for logger in loggers:
            logger.removeFilter(note)
