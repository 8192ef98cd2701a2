# SPDX-License-Identifier: MIT
"""C2.1, C2.3-C2.5: subscribing once, listing, and leaving again."""

import collections
import functools
import gc
import weakref

import pytest
from kinds import Service
from support import InvoiceIssued, OrderPlaced, callbacks, do_nothing
from target import Event, Subscription

# Subscribing


async def test_on_subscribes_and_returns_the_function(bus):
    """C2.1: `@bus.on(...)` subscribes to each type, and the name stays the function's."""
    seen = []

    @bus.on(OrderPlaced, InvoiceIssued)
    async def handler(event):
        seen.append(type(event))

    await bus.publish(OrderPlaced())
    await bus.publish(InvoiceIssued())
    await handler(OrderPlaced())
    assert seen == [OrderPlaced, InvoiceIssued, OrderPlaced]
    assert [known.callback for known in bus.handlers(InvoiceIssued)] == [handler]


async def test_base_event_is_a_type_like_others(bus):
    """C2.1: `Event` itself can be subscribed to; it is no wildcard."""
    seen = []
    bus.subscribe(Event, seen.append)
    event = Event()
    await bus.publish(event)
    await bus.publish(OrderPlaced())
    assert seen == [event]


# C2.3: the same handler


@pytest.mark.parametrize("owner", [[], Service(None)], ids=["builtin", "python"])
def test_bound_method_is_found_again(bus, owner):
    """C2.3: object and function identify a bound method, which is new at every access."""
    name = "append" if owner == [] else "handle"
    assert getattr(owner, name) is not getattr(owner, name)
    first = bus.subscribe(OrderPlaced, getattr(owner, name))
    second = bus.subscribe(OrderPlaced, getattr(owner, name))
    assert second is not first
    assert second.handler is first.handler
    assert len(bus.handlers(OrderPlaced)) == 1
    bus.unsubscribe(OrderPlaced, getattr(owner, name))
    assert bus.handlers(OrderPlaced) == ()


async def test_bound_methods_of_equal_objects_are_two(bus):
    """C2.3: objects that are equal, and unhashable, are two all the same."""
    first, second = [], []
    assert first.append == first.append
    bus.subscribe(OrderPlaced, first.append)
    bus.subscribe(OrderPlaced, second.append)
    with pytest.raises(ValueError, match="is not subscribed"):
        bus.unsubscribe(OrderPlaced, [].append)
    await bus.publish(OrderPlaced())
    assert (len(first), len(second)) == (1, 1)


def test_two_methods_of_one_object_are_two(bus):
    """C2.3: the function counts as well as the object."""
    service, items = Service(None), collections.deque()
    for handler in (service.handle, service.handle_async, items.append, items.appendleft):
        bus.subscribe(OrderPlaced, handler)
    assert len(bus.handlers(OrderPlaced)) == 4


def test_class_method_of_two_classes_is_two(bus):
    """C2.3: a class method belongs to the class it was taken from."""

    class Base:
        @classmethod
        def handle(cls, event):
            pass

    class Derived(Base):
        pass

    for handler in (Base.handle, Derived.handle, Base.handle):
        bus.subscribe(OrderPlaced, handler)
    assert [callback.__self__ for callback in callbacks(bus)] == [Base, Derived]


async def test_identity_decides_not_equality(bus):
    """C2.3: handlers that are equal, or not hashable, are told apart by identity."""

    class Equal:
        __hash__ = None

        def __init__(self):
            self.seen = []

        def __eq__(self, other):
            return True

        def __call__(self, event):
            self.seen.append(event)

        def handle(self, event):
            self.seen.append(event)

    first, second, third = Equal(), Equal(), Equal()
    for handler in (first, second, first, first.handle, second.handle, first.handle):
        bus.subscribe(OrderPlaced, handler)
    with pytest.raises(ValueError, match="is not subscribed"):
        bus.unsubscribe(OrderPlaced, third)
    with pytest.raises(ValueError, match="is not subscribed"):
        bus.unsubscribe(OrderPlaced, third.handle)
    await bus.publish(OrderPlaced())
    assert (len(first.seen), len(second.seen)) == (2, 2)


def test_equal_partials_are_two(bus):
    """C2.3: each `functools.partial` is a handler of its own."""
    first, second = functools.partial(do_nothing), functools.partial(do_nothing)
    bus.subscribe(OrderPlaced, first)
    bus.subscribe(OrderPlaced, second)
    bus.unsubscribe(OrderPlaced, first)
    assert callbacks(bus) == [second]


async def test_one_handler_of_two_types(bus):
    """C2.3: once per type; leaving one type leaves the other."""
    seen = []
    first = bus.subscribe(OrderPlaced, seen.append)
    second = bus.subscribe(InvoiceIssued, seen.append)
    assert first is not second
    await bus.publish(OrderPlaced())
    await bus.publish(InvoiceIssued())
    assert list(map(type, seen)) == [OrderPlaced, InvoiceIssued]
    first.cancel()
    assert bus.event_types() == (InvoiceIssued,)


def audit(event):
    pass


@pytest.mark.parametrize("end", [Subscription.cancel, Subscription.__exit__])
def test_block_ends_its_own_subscription_alone(bus, end):
    """C2.3: the handler keeps its first place until its last subscription, whichever, has ended."""
    before = bus.subscribe(OrderPlaced, audit)
    bus.subscribe(OrderPlaced, do_nothing)
    with bus.subscribe(OrderPlaced, audit):
        assert callbacks(bus) == [audit, do_nothing]
    assert callbacks(bus) == [audit, do_nothing]
    with bus.subscribe(OrderPlaced, audit):
        end(before)
        assert callbacks(bus) == [audit, do_nothing]
    assert callbacks(bus) == [do_nothing]


def test_unsubscribe_ends_every_subscription(bus):
    """C2.3: whoever has made them; those handles are spent when the handler comes again."""
    spent = [bus.subscribe(OrderPlaced, audit) for _ in range(3)]
    bus.unsubscribe(OrderPlaced, audit)
    assert bus.event_types() == ()
    renewed = bus.subscribe(OrderPlaced, audit)
    for subscription in spent:
        subscription.cancel()
    assert callbacks(bus) == [audit]
    renewed.cancel()
    assert bus.event_types() == ()


# C2.4: listing


def test_event_types_in_order_of_their_first_handler(bus):
    """C2.4: `event_types` lists a type that has lost all its handlers no more."""
    first = bus.subscribe(OrderPlaced, do_nothing)
    bus.subscribe(InvoiceIssued, do_nothing)
    bus.subscribe(OrderPlaced, print)
    assert bus.event_types() == (OrderPlaced, InvoiceIssued)
    first.cancel()
    assert bus.event_types() == (OrderPlaced, InvoiceIssued)
    bus.unsubscribe(OrderPlaced, print)
    assert bus.event_types() == (InvoiceIssued,)
    bus.subscribe(OrderPlaced, do_nothing)
    assert bus.event_types() == (InvoiceIssued, OrderPlaced)


def test_handlers_are_a_snapshot(bus):
    """C2.4: `handlers` is a tuple of the moment, empty for a type that nobody handles."""
    assert bus.handlers(OrderPlaced) == ()
    bus.subscribe(OrderPlaced, do_nothing)
    before = bus.handlers(OrderPlaced)
    bus.subscribe(OrderPlaced, print)
    assert [handler.callback for handler in before] == [do_nothing]
    assert callbacks(bus) == [do_nothing, print]
    assert type(before) is type(bus.event_types()) is tuple


# C2.5: leaving


def test_unsubscribe_of_a_stranger_is_refused(bus):
    """C2.5: `ValueError` for what is not subscribed, was cancelled, or is of another type."""
    bus.subscribe(InvoiceIssued, do_nothing)
    with pytest.raises(
        ValueError, match=r"do_nothing .*is not subscribed to OrderPlaced; pass the very"
    ):
        bus.unsubscribe(OrderPlaced, do_nothing)
    bus.subscribe(OrderPlaced, do_nothing)
    bus.unsubscribe(OrderPlaced, do_nothing)
    with pytest.raises(ValueError, match="is not subscribed"):
        bus.unsubscribe(OrderPlaced, do_nothing)
    assert callbacks(bus, InvoiceIssued) == [do_nothing]


@pytest.mark.usefixtures("classes_die")
@pytest.mark.parametrize("leave", [Subscription.cancel, None], ids=["cancel", "unsubscribe"])
async def test_last_one_gone_frees_the_type(bus, leave):
    """C2.5: with its last handler, the bus forgets the type, though it was published."""

    class Passing(Event):
        pass

    subscription = bus.subscribe(Passing, do_nothing)
    await bus.publish(Passing())
    bus.publish_nowait(Passing())
    await bus.join()
    if leave is None:
        bus.unsubscribe(Passing, do_nothing)
    else:
        leave(subscription)
    await bus.publish(Passing())
    died = weakref.ref(Passing)
    del Passing, subscription
    gc.collect()
    assert died() is None
    assert bus.event_types() == ()


async def test_subscription_ends_with_its_block(bus):
    """C2.5: `with bus.subscribe(...)` unsubscribes at the end, after an exception too."""
    seen = []
    with bus.subscribe(OrderPlaced, seen.append) as subscription:
        assert isinstance(subscription, Subscription)
        await bus.publish(OrderPlaced())
    await bus.publish(OrderPlaced())
    assert len(seen) == 1
    with pytest.raises(LookupError), bus.subscribe(OrderPlaced, do_nothing):
        raise LookupError
    assert bus.event_types() == ()


def test_subscription_says_what_it_is(bus):
    """C2.5: `event_type`, `handler` and a readable repr."""
    subscription = bus.subscribe(OrderPlaced, do_nothing)
    assert subscription.event_type is OrderPlaced
    assert subscription.handler is bus.handlers(OrderPlaced)[0]
    assert repr(subscription) == "<Subscription of support.do_nothing to OrderPlaced>"


def test_cancel_twice_is_fine(bus):
    """C2.5: cancelling is idempotent, and so is leaving a block after it, or after unsubscribe."""
    with bus.subscribe(OrderPlaced, do_nothing) as subscription:
        subscription.cancel()
        subscription.cancel()
    with bus.subscribe(OrderPlaced, do_nothing):
        bus.unsubscribe(OrderPlaced, do_nothing)
    assert bus.event_types() == ()


@pytest.mark.parametrize("keep", [True, False])
def test_stale_cancel_removes_nothing(bus, keep):
    """C2.6: a cancelled `Subscription` does not end a later one of the same handler."""
    if keep:
        bus.subscribe(OrderPlaced, print)
    with bus.subscribe(OrderPlaced, do_nothing) as stale:
        stale.cancel()
        renewed = bus.subscribe(OrderPlaced, do_nothing)
        assert renewed is not stale
        stale.cancel()
    assert callbacks(bus)[keep:] == [do_nothing]
    renewed.cancel()
    assert do_nothing not in callbacks(bus)
