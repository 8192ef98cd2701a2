# SPDX-License-Identifier: MIT
"""C2.3: whoever subscribes a handler has a subscription of its own, and ends nobody else's."""

import functools
import itertools
import threading

import pytest
from kinds import Service
from support import InvoiceIssued, OrderPlaced, callbacks, do_nothing
from target import Subscription

service = Service(print)
HANDLERS = {
    "function": lambda: do_nothing,
    "bound method": lambda: service.handle,
    "builtin method": lambda: HANDLERS.get,
}
every_handler = pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)


def first(event):
    pass


def last(event):
    pass


@every_handler
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_stays_in_its_place_until_the_last_is_cancelled(bus, handler, order):
    """C2.3: whichever is cancelled last, the handler is delivered to once, in its first place."""
    bus.subscribe(OrderPlaced, first)
    subscriptions = [bus.subscribe(OrderPlaced, handler())]
    bus.subscribe(OrderPlaced, last)
    subscriptions += [bus.subscribe(OrderPlaced, handler()) for _ in range(2)]
    assert len(set(map(id, subscriptions))) == 3
    for number in order:
        assert callbacks(bus) == [first, handler(), last]
        subscriptions[number].cancel()
    assert callbacks(bus) == [first, last]
    bus.subscribe(OrderPlaced, handler())
    assert callbacks(bus) == [first, last, handler()]


@every_handler
def test_cancelling_one_twice_counts_once(bus, handler):
    """C2.3: a subscription takes back no more than itself."""
    kept, gone = bus.subscribe(OrderPlaced, handler()), bus.subscribe(OrderPlaced, handler())
    for _ in range(3):
        gone.cancel()
    assert callbacks(bus) == [handler()]
    kept.cancel()
    assert bus.event_types() == ()


@every_handler
@pytest.mark.parametrize("error", [None, LookupError])
async def test_block_ends_nobody_elses_subscription(bus, handler, error):
    """C2.3: of what was subscribed before a `with` block, or in it by others, it ends nothing."""
    before = bus.subscribe(OrderPlaced, handler())
    try:
        with bus.subscribe(OrderPlaced, handler()):
            if error is not None:
                raise error
    except LookupError:
        pass
    assert callbacks(bus) == [handler()]
    with bus.subscribe(OrderPlaced, handler()):
        before.cancel()
        assert callbacks(bus) == [handler()]
        meanwhile = bus.subscribe(OrderPlaced, handler())
    assert callbacks(bus) == [handler()]
    meanwhile.cancel()
    assert bus.event_types() == ()


async def test_nested_blocks(bus):
    """C2.3: blocks with one handler may nest and overlap; it is called while one is open."""
    seen = []
    outer, inner = bus.subscribe(OrderPlaced, seen.append), bus.subscribe(OrderPlaced, seen.append)
    for block, expected in ((outer, 1), (inner, 2)):
        with block:
            await bus.publish(OrderPlaced())
        assert len(seen) == expected
    await bus.publish(OrderPlaced())
    assert len(seen) == 2


@every_handler
def test_unsubscribe_ends_them_all(bus, handler):
    """C2.3, C2.5: `unsubscribe` asks not who has subscribed, nor how often."""
    for _ in range(3):
        bus.subscribe(OrderPlaced, handler())
    bus.subscribe(InvoiceIssued, handler())
    bus.unsubscribe(OrderPlaced, handler())
    assert bus.event_types() == (InvoiceIssued,)
    with pytest.raises(ValueError, match="is not subscribed"):
        bus.unsubscribe(OrderPlaced, handler())


def end_by_unsubscribe(bus, subscriptions):
    bus.unsubscribe(OrderPlaced, do_nothing)


def end_by_clear(bus, subscriptions):
    bus.clear()


def end_by_cancel(bus, subscriptions):
    for subscription in subscriptions:
        subscription.cancel()


@pytest.mark.parametrize("end", [end_by_unsubscribe, end_by_clear, end_by_cancel])
@pytest.mark.parametrize("way", [Subscription.cancel, Subscription.__exit__])
@pytest.mark.parametrize("keep", [True, False], ids=["type kept", "type freed"])
def test_spent_handles_end_no_later_subscription(bus, end, way, keep):
    """C2.3, C2.7: one that was ended, by whatever, does nothing to a subscription made since."""
    spent = [bus.subscribe(OrderPlaced, do_nothing) for _ in range(3)]
    if keep:
        bus.subscribe(OrderPlaced, last)
    end(bus, spent)
    assert do_nothing not in callbacks(bus)
    if keep and end is end_by_clear:
        bus.subscribe(OrderPlaced, last)
    renewed = bus.subscribe(OrderPlaced, do_nothing)
    for subscription in spent:
        way(subscription)
    assert callbacks(bus) == [last] * keep + [do_nothing]
    renewed.cancel()
    assert callbacks(bus) == [last] * keep


def test_subscriptions_of_one_handler_describe_it_alike(bus):
    """C2.3: they are told apart, and name the same event type and handler."""
    one, two = (
        bus.subscribe(OrderPlaced, service.handle),
        bus.subscribe(OrderPlaced, service.handle),
    )
    assert one is not two
    assert one.event_type is two.event_type is OrderPlaced
    assert one.handler is two.handler is bus.handlers(OrderPlaced)[0]


async def test_subscribed_again_in_the_course_of_a_publish(bus):
    """C2.3, C4.6: a handler that subscribes itself again is neither called again nor moved."""
    seen = []

    def again(event):
        seen.append("again")
        bus.subscribe(OrderPlaced, again)

    bus.subscribe(OrderPlaced, again)
    bus.subscribe(OrderPlaced, lambda event: seen.append("last"))
    for _ in range(3):
        await bus.publish(OrderPlaced())
    assert seen == ["again", "last"] * 3


async def test_second_subscription_disturbs_no_publish(bus):
    """C2.3: subscribing again what is subscribed changes nothing for who publishes meanwhile."""
    seen = []
    bus.subscribe(OrderPlaced, seen.append)
    bus.publish_nowait(OrderPlaced())
    with bus.subscribe(OrderPlaced, seen.append):
        bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(OrderPlaced())
    await bus.join()
    assert len(seen) == 3


def test_threads_each_with_a_block(bus):
    """C2.3, C2.6: blocks of many threads with one handler; the one outside of them stays."""
    bus.subscribe(OrderPlaced, do_nothing)
    missing = []

    def work():
        for _ in range(300):
            with bus.subscribe(OrderPlaced, do_nothing):
                pass
            if callbacks(bus) != [do_nothing]:
                missing.append(threading.get_ident())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert missing == []
    bus.unsubscribe(OrderPlaced, do_nothing)
    assert bus.event_types() == ()


def test_equal_partials_do_not_count_for_each_other(bus):
    """C2.3: identity decides whose subscription it is."""
    one, two = functools.partial(do_nothing), functools.partial(do_nothing)
    bus.subscribe(OrderPlaced, one)
    bus.subscribe(OrderPlaced, two).cancel()
    assert callbacks(bus) == [one]
