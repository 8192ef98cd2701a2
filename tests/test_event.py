# SPDX-License-Identifier: MIT
"""C1: the key is the exact type."""

import gc
import weakref
from dataclasses import dataclass

import pytest
from target import Event


class OrderEvent(Event):
    pass


class OrderPlaced(OrderEvent):
    pass


async def test_exact_type_only(bus):
    """C1.1: a handler of the base never sees the derived event, nor the other way round."""
    seen = []
    bus.subscribe(OrderEvent, lambda event: seen.append(("base", event)))
    bus.subscribe(OrderPlaced, lambda event: seen.append(("derived", event)))
    base, derived = OrderEvent(), OrderPlaced()
    await bus.publish(derived)
    await bus.publish(base)
    assert seen == [("derived", derived), ("base", base)]


async def test_same_qualified_name_is_another_key(bus):
    """C1.1: two classes with one qualified name are two keys."""

    def make():
        class Same(Event):
            pass

        return Same

    first, second = make(), make()
    assert first.__qualname__ == second.__qualname__
    seen = []
    bus.subscribe(first, seen.append)
    await bus.publish(second())
    assert seen == []


@pytest.mark.parametrize(
    "options", [{}, {"frozen": True}, {"slots": True}, {"frozen": True, "slots": True}]
)
async def test_dataclasses_are_events(bus, options):
    """C1.2: plain, frozen and slotted dataclasses work as events."""

    @dataclass(**options)
    class Paid(Event):
        amount: int

    seen = []
    bus.subscribe(Paid, seen.append)
    await bus.publish(Paid(3))
    assert seen == [Paid(3)]
    assert hasattr(seen[0], "__dict__") == (not options.get("slots", False))


def test_event_is_plain_and_empty():
    """C1.2: `Event` has no metaclass and empty slots, so it mixes with the bases of others."""
    assert type(Event) is type
    assert Event.__slots__ == ()

    class Slotted:
        __slots__ = ("x",)

    class Both(Slotted, Event):
        __slots__ = ()

    assert Both().__class__ is Both


async def test_nobody_handles_is_a_no_op(bus, errors):
    """C1.3: publishing what nobody handles does nothing, and says nothing."""
    for _ in range(2):
        await bus.publish(OrderPlaced())
        bus.publish_nowait(OrderPlaced())
    assert bus.pending == 0
    assert len(errors) == 0


async def test_subscribed_base_is_warned_about_once(bus, errors):
    """C1.3: if a base has subscribers, a warning is logged, once per type and bus."""
    bus.subscribe(OrderEvent, lambda event: None)
    await bus.publish(OrderPlaced())
    await bus.publish(OrderPlaced())
    bus.publish_nowait(OrderPlaced())
    assert [record.levelname for record in errors] == ["WARNING"]
    assert "OrderPlaced" in errors[0].getMessage()
    assert "OrderEvent" in errors[0].getMessage()


async def test_base_subscribed_later_is_warned_about(bus, errors):
    """C1.3: the warning comes too when the base gets its first subscriber after a publish."""
    await bus.publish(OrderPlaced())
    subscription = bus.subscribe(OrderEvent, lambda event: None)
    await bus.publish(OrderPlaced())
    subscription.cancel()
    bus.subscribe(OrderEvent, lambda event: None)
    await bus.publish(OrderPlaced())
    assert len(errors) == 1


@pytest.mark.usefixtures("classes_die")
async def test_type_that_was_only_published_is_not_kept(bus):
    """C1.4: a type that nobody subscribes to dies with its last reference outside the bus."""

    class Passing(Event):
        pass

    await bus.publish(Passing())
    bus.publish_nowait(Passing())
    died = weakref.ref(Passing)
    del Passing
    gc.collect()
    assert died() is None


async def test_a_new_type_in_the_place_of_a_dead_one_is_delivered(bus):
    """C1.4: what the bus remembers of a dead type is not mistaken for a new one."""
    for _ in range(50):

        class Passing(Event):
            pass

        await bus.publish(Passing())
        seen = []
        with bus.subscribe(Passing, seen.append):
            await bus.publish(Passing())
        assert len(seen) == 1
        del Passing
        gc.collect()
