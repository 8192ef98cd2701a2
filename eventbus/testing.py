# SPDX-License-Identifier: MIT
"""For tests: `capture` the events that are published, and be `strict` about handlers that fail.

Neither needs a test framework, and a bus that neither was used on does not know of them.
"""

from asyncio import CancelledError
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar, overload

from . import Event, EventBus, Handler
from ._outcome import cancel_requests, was_cancelled

E = TypeVar("E", bound=Event)
E1 = TypeVar("E1", bound=Event)
E2 = TypeVar("E2", bound=Event)
E3 = TypeVar("E3", bound=Event)
E4 = TypeVar("E4", bound=Event)
E5 = TypeVar("E5", bound=Event)
E6 = TypeVar("E6", bound=Event)
E7 = TypeVar("E7", bound=Event)
E8 = TypeVar("E8", bound=Event)

# Failures that the message of a group names.
_NAMED = 5


@overload
def capture(bus: EventBus, a: type[E1], /) -> AbstractContextManager[list[E1]]: ...
@overload
def capture(
    bus: EventBus, a: type[E1], b: type[E2], /
) -> AbstractContextManager[list[E1 | E2]]: ...
@overload
def capture(
    bus: EventBus, a: type[E1], b: type[E2], c: type[E3], /
) -> AbstractContextManager[list[E1 | E2 | E3]]: ...
@overload
def capture(
    bus: EventBus, a: type[E1], b: type[E2], c: type[E3], d: type[E4], /
) -> AbstractContextManager[list[E1 | E2 | E3 | E4]]: ...
@overload
def capture(
    bus: EventBus, a: type[E1], b: type[E2], c: type[E3], d: type[E4], e: type[E5], /
) -> AbstractContextManager[list[E1 | E2 | E3 | E4 | E5]]: ...
@overload
def capture(
    bus: EventBus, a: type[E1], b: type[E2], c: type[E3], d: type[E4], e: type[E5], f: type[E6], /
) -> AbstractContextManager[list[E1 | E2 | E3 | E4 | E5 | E6]]: ...
@overload
def capture(
    bus: EventBus,
    a: type[E1],
    b: type[E2],
    c: type[E3],
    d: type[E4],
    e: type[E5],
    f: type[E6],
    g: type[E7],
    /,
) -> AbstractContextManager[list[E1 | E2 | E3 | E4 | E5 | E6 | E7]]: ...
@overload
def capture(
    bus: EventBus,
    a: type[E1],
    b: type[E2],
    c: type[E3],
    d: type[E4],
    e: type[E5],
    f: type[E6],
    g: type[E7],
    h: type[E8],
    /,
) -> AbstractContextManager[list[E1 | E2 | E3 | E4 | E5 | E6 | E7 | E8]]: ...
@overload
def capture(bus: EventBus, /, *event_types: type[E]) -> AbstractContextManager[list[E]]: ...


def capture(bus: EventBus, /, *event_types: type[Any]) -> AbstractContextManager[list[Any]]:
    """Collect the events of these types that are published while the block runs.

    The list is filled in delivery order, and stays when the block is over. It is filled by one
    more handler of each type, which comes after those that are subscribed already::

        with capture(bus, OrderPlaced) as events:
            await place_order()
        assert events == [OrderPlaced(7)]

    Raises:
        TypeError: There is no event type; or, at the start of the block, one is not a subclass
            of `Event`.
    """
    if not event_types:
        raise TypeError("capture() needs at least one event type, as in capture(bus, OrderPlaced)")
    return _capture(bus, event_types)


@contextmanager
def _capture(bus: EventBus, event_types: tuple[type[Any], ...]) -> Generator[list[Any], None, None]:
    events: list[Any] = []
    with ExitStack() as subscriptions:
        for event_type in event_types:
            subscriptions.enter_context(bus.subscribe(event_type, events.append))
        yield events


@contextmanager
def strict(bus: EventBus) -> Generator[None, None, None]:
    """Raise the failures of all handlers that ran in the block, as one group, at its end.

    Every handler fails, is logged and reported as ever, and the publisher goes on; but a test
    cannot pass over it. The message of the group names handlers and events.

    A block that ends with `publish_nowait` work of its loop unfinished fails, too, since nobody
    can say how that ends: end the block with `await bus.join()`. A handler that is cancelled by
    others, its publisher above all, has not failed; one that ends with a `CancelledError` of its
    own has, and since a group has no place for that, it is the cause of a `RuntimeError` there.
    Failures of other hooks are not seen, nor those of `on_error`.

    Raises:
        ExceptionGroup: Handlers have failed, or work is unfinished. If the block raises an
            exception as well, that is the group's first; but what is not an `Exception`, such as
            a cancellation or `KeyboardInterrupt`, leaves the block as it is.
    """
    failures: list[tuple[str, Exception]] = []

    @contextmanager
    def watch(event: Event, handler: Handler | None) -> Generator[None, None, None]:
        before = cancel_requests()
        try:
            yield
        except (Exception, CancelledError) as exc:
            if handler is not None and not was_cancelled(exc, before):
                if isinstance(exc, Exception):
                    failure: Exception = exc
                else:
                    failure = RuntimeError(f"{handler.name} raised a CancelledError")
                    failure.__cause__ = exc
                failures.append((f"{handler.name} on {type(event).__qualname__}", failure))
            raise

    with bus.instrument(watch):
        try:
            yield
        except Exception as exc:
            if not failures:
                raise
            raise _group(failures, exc) from None
        except BaseException:
            failures.clear()  # their frames know the list
            raise
    if failures or bus.pending:
        raise _group(failures, pending=bus.pending)


def _group(
    failures: list[tuple[str, Exception]], of_block: Exception | None = None, pending: int = 0
) -> ExceptionGroup[Exception]:
    """Return the failures as one exception, and forget them: their frames know the list."""
    exceptions = [failure for _, failure in failures]
    messages: list[str] = []
    if of_block is not None:
        messages.append(f"the block raised {type(of_block).__name__}")
        exceptions.insert(0, of_block)
    if failures:
        names = ", ".join(name for name, _ in failures[:_NAMED])
        more = f" and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
        plural = "s" if len(failures) > 1 else ""
        messages.append(f"{len(failures)} handler{plural} failed: {names}{more}")
    if pending:
        messages.append(f"{pending} publish_nowait events are unfinished at the end of the block")
        exceptions.append(RuntimeError(f"{messages[-1]}; await bus.join() in it"))
    failures.clear()
    return ExceptionGroup(", and ".join(messages), exceptions)
