# SPDX-License-Identifier: MIT
"""What really happens on a bus: which event was published in which run of which handler.

Every handler run learns, by a context variable, which call of `publish` it belongs to, and every
such call, by the same variable, which run it was made in. So parents are exact, however events run
side by side, and through whatever tasks. Only a bus that is being recorded knows of any of this.
"""

import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from types import TracebackType

from . import Event, EventBus, Handler
from ._outcome import cancel_requests, was_cancelled

# Characters of an exception's message that are kept.
_MESSAGE = 200

_METHODS = ("publish", "publish_nowait")

# Records of one bus may begin and end in several threads. Reentrant, as every lock here: a signal
# handler may begin, end or read a record at any point of the thread that holds it.
_wrapping = threading.RLock()


class Published:
    """One event that was published: its type and its runs, but not the event itself."""

    __slots__ = ("background", "event_type", "handlers", "parent", "runs")

    event_type: type[Event]
    parent: "Run | None"  # the run that published it
    background: bool
    runs: "list[Run]"
    handlers: list[int]  # ids of those of the runs, if it is of `_unmarked_call`

    def __init__(self, event_type: type[Event], parent: "Run | None", background: bool) -> None:
        self.event_type = event_type
        self.parent = parent
        self.background = background
        self.runs = []
        self.handlers = []


class Run:
    """One run of one handler; the context manager that it runs in."""

    __slots__ = (
        "_before",
        "began",
        "cancelled",
        "ended",
        "failure",
        "name",
        "place",
        "published",
        "within",
    )

    name: str
    place: str | None
    published: Published
    within: Published | None  # the newest event of `_unmarked_call` in this run
    failure: str | None
    cancelled: bool
    began: float
    ended: float | None
    _before: int

    def __init__(self, handler: Handler, published: Published) -> None:
        self.name = handler.name
        self.place = handler.location
        self.published = published
        self.within = None
        self.failure = None
        self.cancelled = False
        self.ended = None
        self._before = cancel_requests()
        self.began = time.perf_counter()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ended = time.perf_counter()
        if exc is not None:
            if was_cancelled(exc, self._before):
                self.cancelled = True
            else:
                self.failure = _describe(exc)
        self.ended = ended


def _describe(exception: BaseException) -> str:
    """Return the type and the first line of the message."""
    try:
        message = str(exception)
    except Exception:  # noqa: BLE001
        message = "(its message cannot be read)"
    line = message.strip().partition("\n")[0][:_MESSAGE]
    line = "".join(char if char.isprintable() else " " for char in line)
    return f"{type(exception).__name__}: {line}" if line else type(exception).__name__


class Recorder:
    """Keeps the newest events of one bus, from its making until it is closed."""

    # - _here: where the current code is: in a run, or about to start the handlers of an event.
    # - _events: oldest first. An event is added with its first run, or at once if nobody handles
    #   it. One that is dropped loses its parent, lest its links hold a chain that never ends.
    # - _dropped: how many were; `_lock` guards both.
    # - _closed, _publish, _publish_nowait, _covered: see `publish`.

    def __init__(self, bus: EventBus, limit: int) -> None:
        self._here: ContextVar[Run | Published | None] = ContextVar("here", default=None)
        self._events: deque[Published] = deque()
        self._dropped = 0
        self._limit = limit
        self._lock = threading.RLock()
        self.within: Published | None = None  # as in `Run`, for what is published outside of any
        self._bus = bus
        self._closed = False
        self._hook = bus.instrument(self.observe)
        with _wrapping:
            self._publish, self._publish_nowait = bus.publish, bus.publish_nowait
            self._covered = {name: vars(bus)[name] for name in _METHODS if name in vars(bus)}
            for name in _METHODS:
                setattr(bus, name, getattr(self, name))

    def close(self) -> None:
        """Record nothing that is published from now on; leave the bus as it was."""
        with _wrapping:
            self._closed = True
            while True:
                top = getattr(self._bus.publish, "__self__", None)
                if not isinstance(top, Recorder) or not top._closed:
                    break
                for name in _METHODS:
                    delattr(self._bus, name)
                for name, method in top._covered.items():
                    setattr(self._bus, name, method)
        self._hook.cancel()

    def snapshot(self) -> tuple[list[Published], int]:
        """Return the events kept, oldest first, and how many were dropped."""
        with self._lock:
            return list(self._events), self._dropped

    # The bus has these two in place of its own methods. Recorders of one bus lie upon each other;
    # one that is closed below an open one passes everything on, until it is the uppermost.

    async def publish(self, event: Event) -> None:
        """Publish an event that its handlers are to know as awaited."""
        with self._marking(event, background=False):
            await self._publish(event)

    def publish_nowait(self, event: Event) -> None:
        """Publish an event that its handlers are to know as background work."""
        with self._marking(event, background=True):
            self._publish_nowait(event)

    @contextmanager
    def _marking(self, event: Event, *, background: bool) -> Generator[None, None, None]:
        """Let handlers know, by the copies of this context, which event they belong to."""
        here = self._here.get()
        parent = here.parent if isinstance(here, Published) else here
        token = self._here.set(Published(type(event), parent, background))
        try:
            yield
        finally:
            # A coroutine that is garbage-collected is closed in a context that is not its own.
            with suppress(ValueError):
                self._here.reset(token)

    def observe(self, event: Event, handler: Handler | None) -> AbstractContextManager[None]:
        """Note a run that is about to start; the hook of the bus."""
        here = self._here.get()
        if isinstance(here, Published) and here.event_type is type(event):
            published = here
        else:  # tasks that share a context may leave the mark of another event
            parent = here.parent if isinstance(here, Published) else here
            published = self._unmarked_call(type(event), parent, handler)
        is_new = not published.runs
        run = None
        if handler is not None:
            run = Run(handler, published)
            published.runs.append(run)
            self._here.set(run)  # in the handler's own context, which ends with it
        if is_new:
            with self._lock:
                if len(self._events) >= self._limit:
                    self._events.popleft().parent = None
                    self._dropped += 1
                self._events.append(published)
        return run or nullcontext()

    def _unmarked_call(
        self, event_type: type[Event], parent: Run | None, handler: Handler | None
    ) -> Published:
        """Return the event of a run whose publisher has the bus's own method, from before.

        The runs of one call start one after the other: a handler that comes again begins another.
        """
        holder = parent or self
        call = holder.within
        if call is None or call.event_type is not event_type or id(handler) in call.handlers:
            call = holder.within = Published(event_type, parent, background=False)
        call.handlers.append(id(handler))
        return call
