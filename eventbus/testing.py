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

# Failures that the message of a group names.
_NAMED = 5


@overload
def capture(bus: EventBus, event_type: type[E], /) -> AbstractContextManager[list[E]]: ...
@overload
def capture(
    bus: EventBus, first: type[E], second: type[E1], /
) -> AbstractContextManager[list[E | E1]]: ...
@overload
def capture(
    bus: EventBus, first: type[E], second: type[E1], third: type[E2], /
) -> AbstractContextManager[list[E | E1 | E2]]: ...
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

    Background work is seen as far as it is finished: end the block with `await bus.join()`. A
    handler that is cancelled by others, its publisher above all, has not failed; one that ends
    with a `CancelledError` of its own has, and since a group has no place for that, it is the
    cause of a `RuntimeError` there. Failures of other hooks are not seen, nor those of
    `on_error`.

    Raises:
        ExceptionGroup: Handlers have failed. If the block raises an exception as well, that is
            the group's first; but what is not an `Exception`, such as a cancellation or
            `KeyboardInterrupt`, leaves the block as it is.
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
    if failures:
        raise _group(failures)


def _group(
    failures: list[tuple[str, Exception]], of_block: Exception | None = None
) -> ExceptionGroup[Exception]:
    """Return the failures as one exception, and forget them: their frames know the list."""
    message = f"{len(failures)} handler{'s' if len(failures) > 1 else ''} failed: "
    message += ", ".join(name for name, _ in failures[:_NAMED])
    if len(failures) > _NAMED:
        message += f" and {len(failures) - _NAMED} more"
    exceptions = [failure for _, failure in failures]
    if of_block is not None:
        message = f"the block raised {type(of_block).__name__}, and {message}"
        exceptions.insert(0, of_block)
    failures.clear()
    return ExceptionGroup(message, exceptions)
