# SPDX-License-Identifier: MIT
"""Event, the base class by which the bus knows an event from any other object."""


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
    if isinstance(event_type, Event):
        name = type(event_type).__qualname__
        remedy = f"pass the class {name}, not an instance of it"
    elif isinstance(event_type, type):
        remedy = _derive(event_type)
    elif isinstance(origin := getattr(event_type, "__origin__", None), type):
        remedy = f"events are told apart by their exact class: pass {origin.__qualname__}"
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
    if other.__module__ == "builtins":
        return "define an event: class OrderPlaced(Event)"
    return f"derive its class: class {other.__name__}(Event)"
