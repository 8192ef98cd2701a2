# SPDX-License-Identifier: MIT
"""Event, the base class by which the bus knows an event from any other object."""

import os
import sys
import types
from collections.abc import Iterable
from typing import Union, get_origin


class Event:
    """Base class of every event; carries no state and asks for none.

    An event is a fact of the past (`OrderPlaced`), small and best immutable::

        @dataclass(frozen=True, slots=True)
        class OrderPlaced(Event):
            order_id: int

    Plain, frozen and slotted dataclasses work, and so do classes of other libraries that
    take `Event` as a further base (pydantic: `class OrderPlaced(BaseModel, Event)`).
    """

    # Empty, so that a slotted subclass has no `__dict__` and mixes with other slotted bases.
    __slots__ = ()


def check_event_type(event_type: object) -> None:
    """Raise `TypeError`, naming the remedy, unless `event_type` is a class of events."""
    if isinstance(event_type, type) and issubclass(event_type, Event):
        return
    origin = get_origin(event_type)
    if isinstance(event_type, Event):
        remedy = f"pass the class {type(event_type).__qualname__}, not an instance of it"
    elif origin in (Union, types.UnionType):
        remedy = "name each type: subscribe(A, handler) and subscribe(B, handler), or @bus.on(A, B)"
    elif isinstance(origin, type):
        remedy = f"events are told apart by their exact class: pass {origin.__qualname__}"
    elif isinstance(event_type, type):
        remedy = _derive(event_type)
    elif callable(event_type):
        remedy = "name the class first: subscribe(OrderPlaced, handler), @bus.on(OrderPlaced)"
    else:
        remedy = "pass a class derived from Event"
    raise TypeError(f"expected a subclass of Event, got {event_type!r}; {remedy}")


def check_event(event: object) -> None:
    """Raise `TypeError`, naming the remedy, unless `event` is an instance of an event class."""
    event_type: type[object] = type(event)
    if issubclass(event_type, Event):  # isinstance would believe a mock's `__class__`
        return
    if isinstance(event, type) and issubclass(event, Event):
        name = event.__qualname__
        raise TypeError(
            f"expected an instance of an event, got the class {name}; make one: {name}()"
        )
    raise TypeError(
        f"expected an instance of a subclass of Event, got {event!r}; {_derive(event_type)}"
    )


def _derive(other: type[object]) -> str:
    """Return the remedy for a class that is no event's."""
    for base in other.__mro__:
        if base.__qualname__ == "Event" and base.__module__.endswith("._event"):
            return (
                f"it derives from the Event of another copy of this package, {base.__module__}, "
                f"and this bus is of {Event.__module__}: import both from one of them"
            )
    if other.__module__ == "builtins":
        return "define an event: class OrderPlaced(Event)"
    return f"derive its class: class {other.__name__}(Event)"


def twin_of(event_type: type[Event], others: Iterable[type[Event]]) -> str:
    """Return what to tell of a class among `others` that is this one made twice; "" if none is.

    Two classes of one name and module, or one name and source file, were one in the source.
    """
    name, module, file = event_type.__qualname__, event_type.__module__, _file_of(event_type)
    for other in others:
        if other is event_type or other.__qualname__ != name:
            continue
        if other.__module__ == module:
            cause = "its module or notebook cell has run twice, or the class was rebuilt"
        elif file is not None and _file_of(other) == file:
            cause = "one file was imported under two names"
        else:
            continue
        return (
            f"another class of the same name has handlers: {other.__module__}.{name} "
            f"({_file_of(other)}) is not {module}.{name} ({file}); most likely {cause}: have "
            "publisher and handlers import one and the same class"
        )
    return ""


def _file_of(event_type: type[Event]) -> str | None:
    file = getattr(sys.modules.get(event_type.__module__), "__file__", None)
    return os.path.realpath(file) if isinstance(file, str) else None
