# SPDX-License-Identifier: MIT
"""C2.6: threads, and code that runs in the middle of a change, may subscribe and cancel."""

import asyncio
import collections
import gc
import sys
import threading
import weakref
from contextlib import contextmanager

import pytest
from support import InvoiceIssued, OrderPlaced, callbacks, do_nothing
from target import Event

# Threads


def finish(*functions):
    """Run each function in a thread of its own; all must end, and none may raise."""
    raised = []

    def run(function):
        try:
            function()
        except BaseException as exc:
            raised.append(exc)

    threads = [threading.Thread(target=run, args=(each,), daemon=True) for each in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads), "deadlock"
    assert raised == []


@pytest.fixture
def busy_switching():
    """Let the interpreter switch threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_threads_subscribe_publish_and_cancel(bus, errors, busy_switching):
    """C2.6: with many threads at one type, each publish reaches exactly who is subscribed."""
    rounds, always = 100, collections.deque()
    bus.subscribe(OrderPlaced, always.append)

    async def work():
        for _ in range(rounds):
            seen = collections.deque()
            own = OrderPlaced()
            subscription = bus.subscribe(OrderPlaced, seen.append)
            again = bus.subscribe(OrderPlaced, seen.append)
            assert again.handler is subscription.handler
            await bus.publish(own)
            assert seen.count(own) == 1
            assert any(known is subscription.handler for known in bus.handlers(OrderPlaced))
            if len(always) % 2:
                subscription.cancel()
                again.cancel()
            else:
                bus.unsubscribe(OrderPlaced, seen.append)
            after = OrderPlaced()
            await bus.publish(after)
            assert after not in seen
            assert bus.event_types() == (OrderPlaced,)

    finish(*[lambda: asyncio.run(work())] * 6)
    assert len(always) == len(set(always)) == 6 * rounds * 2
    assert callbacks(bus) == [always.append]
    assert len(errors) == 0


def test_threads_at_a_type_that_comes_and_goes(bus, busy_switching):
    """C2.6: a type whose last handler goes while another comes loses neither."""

    def work():
        for _ in range(500):
            subscription = bus.subscribe(OrderPlaced, [].append)
            assert subscription.handler in bus.handlers(OrderPlaced)
            subscription.cancel()
            assert subscription.handler not in bus.handlers(OrderPlaced)

    finish(*[work] * 6)
    assert bus.event_types() == ()


def test_threads_subscribe_one_handler(bus, busy_switching):
    """C2.3, C2.6: of threads that subscribe one handler at once, each gets a subscription of it."""
    for _ in range(50):
        start, got = threading.Barrier(4), collections.deque()

        def work(start=start, got=got):
            start.wait()
            got.append(bus.subscribe(OrderPlaced, do_nothing))

        finish(*[work] * 4)
        assert len(set(got)) == 4
        assert callbacks(bus) == [do_nothing]
        finish(*[subscription.cancel for subscription in list(got)[1:]])
        assert callbacks(bus) == [do_nothing]
        got[0].cancel()
        assert bus.event_types() == ()


# In the middle of a change


class Interrupting(type):
    """A metaclass whose hash runs some code, once, at the nth time it is asked for."""

    countdown = 0
    code = None

    def __hash__(cls):
        if Interrupting.countdown > 0:
            Interrupting.countdown -= 1
            if Interrupting.countdown == 0:
                Interrupting.code()
        return super().__hash__()


class Watched(Event, metaclass=Interrupting):
    pass


@contextmanager
def interrupted(nth, code):
    Interrupting.countdown, Interrupting.code = nth, code
    try:
        yield
    finally:
        Interrupting.countdown, Interrupting.code = 0, None


def by_finalizer(code):
    """Return a function that runs `code` as the finalizer of collected garbage."""

    class Garbage:
        pass

    def collect():
        garbage = Garbage()
        garbage.itself = garbage
        weakref.finalize(garbage, code)
        del garbage
        gc.collect()

    return collect


OPERATIONS = {
    "subscribe": lambda bus, known: bus.subscribe(Watched, do_nothing),
    "cancel": lambda bus, known: known.cancel(),
    "handlers": lambda bus, known: bus.handlers(Watched),
    "publish": lambda bus, known: asyncio.run(bus.publish(Watched())),
}


in_the_middle = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


at_the_nth_hash = pytest.mark.parametrize("nth", range(1, 7))


@at_the_nth_hash
@in_the_middle
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "with another"])
def test_cancel_in_the_middle_of_a_change(bus, operation, nth, alone):
    """C2.6: a finalizer may cancel at any point: no deadlock, and no route is out of date."""
    seen = []
    gone = bus.subscribe(Watched, lambda event: seen.append("gone"))
    kept = bus.subscribe(InvoiceIssued if alone else Watched, lambda event: seen.append("kept"))

    def scenario():
        with interrupted(nth, by_finalizer(gone.cancel)):
            operation(bus, kept)
        gone.cancel()
        seen.clear()
        bus.subscribe(Watched, lambda event: seen.append("new"))
        asyncio.run(bus.publish(Watched()))

    finish(scenario)
    assert "gone" not in seen
    assert seen[-1] == "new"
    assert ("kept" in seen) == (not alone and operation is not OPERATIONS["cancel"])


@at_the_nth_hash
@in_the_middle
def test_cancel_in_the_middle_frees_the_type(bus, operation, nth):
    """C2.6: whatever the point of the cancel, the type that it leaves empty is forgotten."""
    gone = bus.subscribe(Watched, lambda event: None)
    other = bus.subscribe(InvoiceIssued, do_nothing)

    def scenario():
        with interrupted(nth, by_finalizer(gone.cancel)):
            operation(bus, other)
        gone.cancel()

    finish(scenario)
    expected = (Watched,) if operation is OPERATIONS["subscribe"] else ()
    assert set(bus.event_types()) - {InvoiceIssued} == set(expected)


@at_the_nth_hash
@in_the_middle
@pytest.mark.parametrize("event_type", [Watched, InvoiceIssued], ids=["known type", "new type"])
def test_subscribe_in_the_middle_of_a_change(bus, operation, nth, event_type):
    """C2.6: a finalizer that subscribes is not forgotten by the change that it interrupts."""
    seen, started = [], []
    known = bus.subscribe(event_type, print)

    def late(event):
        seen.append("late")

    def code():
        started.append(bus.subscribe(Watched, late))

    def scenario():
        with interrupted(nth, by_finalizer(code)):
            operation(bus, known)
        seen.clear()
        asyncio.run(bus.publish(Watched()))

    finish(scenario)
    assert seen.count("late") == len(started)
    assert (late in callbacks(bus, Watched)) == bool(started)


def cancel_at(countdown, subscription):
    """Return a trace function that cancels a subscription when it has seen so many lines."""
    before = sys.gettrace()

    def trace(frame, event, argument):
        nonlocal countdown
        if before is not None:  # whoever measures which lines are run goes on doing so
            before(frame, event, argument)
            sys.settrace(trace)
        if event == "line":
            countdown -= 1
            if countdown == 0:
                subscription.cancel()
        return trace

    return trace


def test_cancel_between_any_two_lines_of_subscribe(bus):
    """C2.6: the type that a finalizer frees while a handler is being added is not lost with it."""
    before, seen, lines = sys.gettrace(), [], 0
    while bus.event_types() == ():
        lines += 1
        gone = bus.subscribe(OrderPlaced, do_nothing)
        sys.settrace(cancel_at(lines, gone))
        try:
            kept = bus.subscribe(OrderPlaced, seen.append)
        finally:
            sys.settrace(before)
        event = OrderPlaced()
        asyncio.run(bus.publish(event))
        assert seen.pop() is event
        kept.cancel()
    assert lines > 10
    assert callbacks(bus) == [do_nothing]
