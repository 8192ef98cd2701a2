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
