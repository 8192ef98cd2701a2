# SPDX-License-Identifier: MIT
"""C6.2: a `join` or `aclose` that waits for long says for whom, again and again."""

import asyncio
import inspect
import logging
import re
import selectors
from contextlib import suppress
from functools import partial

import pytest
from support import InvoiceIssued, MailSent, OrderPlaced, forever, turns
from target import PACKAGE, EventBus

CLOSE = {"join": lambda bus: bus.join(), "aclose": lambda bus: bus.aclose()}
every_wait = pytest.mark.parametrize("wait", CLOSE.values(), ids=CLOSE)


class Clock(selectors.DefaultSelector):
    """A selector that waits for nothing but timers, and for these by setting the clock."""

    now = 1000.0

    def select(self, timeout=None):
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else")
        self.now += max(timeout, 0.0)
        return super().select(0)


def virtual(test):
    """Run an async test on a loop that jumps to its next timer: hours take no time."""

    def run(**fixtures):
        clock = Clock()
        loop = asyncio.SelectorEventLoop(clock)
        loop.time = lambda: clock.now
        with asyncio.Runner(debug=True, loop_factory=lambda: loop) as runner:
            loop.slow_callback_duration = float("inf")
            runner.run(test(**fixtures))

    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    run.__signature__ = inspect.signature(test)
    run.pytestmark = getattr(test, "pytestmark", [])
    return run


class Told(list):
    """What was logged by the bus so far, as (seconds on the loop's clock, message)."""

    def __init__(self):
        super().__init__()
        self.levels = []

    def note(self, record):
        now = asyncio.get_running_loop().time() - Clock.now
        self.append((round(now, 3), record.getMessage()))
        self.levels.append(record.levelno)
        return False

    def times(self):
        return [now for now, _ in self]


@pytest.fixture
def told():
    """The log, and when it was written; nobody else gets it."""
    told = Told()
    logger = logging.getLogger(PACKAGE)
    logger.addFilter(told.note)
    yield told
    logger.removeFilter(told.note)


async def lasting(seconds, event):
    await asyncio.sleep(seconds)


def subscribe_named(bus, name, seconds, event_type=OrderPlaced):
    """Subscribe a handler of that name, which takes so many seconds."""

    async def handler(event):
        await asyncio.sleep(seconds)

    handler.__qualname__ = name
    bus.subscribe(event_type, handler)


@every_wait
@virtual
async def test_nothing_is_said_within_ten_seconds(bus, told, wait):
    """C6.2: a wait that is over in time is nothing to tell of."""
    bus.subscribe(OrderPlaced, partial(lasting, 9.9))
    bus.publish_nowait(OrderPlaced())
    await wait(bus)
    assert told == []


@every_wait
@virtual
async def test_said_after_ten_seconds(bus, told, wait):
    """C6.2: at WARNING, with the names of the handlers that are waited for, and of no others."""
    subscribe_named(bus, "print_invoice", 11)
    subscribe_named(bus, "send_mail", 11)
    subscribe_named(bus, "note", 9)
    bus.subscribe(OrderPlaced, lambda event: None)
    bus.publish_nowait(OrderPlaced())
    await wait(bus)
    ((when, message),) = told
    assert when == pytest.approx(10)
    assert told.levels == [logging.WARNING]
    assert "print_invoice" in message
    assert "send_mail" in message
    assert "10" in message
    assert "note" not in message
    assert "lambda" not in message


@every_wait
@virtual
async def test_said_again_at_growing_intervals(bus, told, wait):
    """C6.2: in an hour often enough to be seen, and seldom enough to be read."""
    bus.subscribe(OrderPlaced, partial(lasting, 3600))
    bus.publish_nowait(OrderPlaced())
    await wait(bus)
    times = told.times()
    intervals = [later - earlier for earlier, later in zip([0, *times], times, strict=False)]
    assert times[0] == pytest.approx(10)
    assert 4 <= len(times) <= 20
    assert intervals == sorted(set(intervals))
    assert all("lasting" in message for _, message in told)
    assert set(told.levels) == {logging.WARNING}
    seconds = [int(re.search(r"(\d+) seconds", message)[1]) for _, message in told]
    assert seconds == [round(when) for when in times]


@every_wait
@virtual
async def test_names_are_those_of_the_moment(bus, told, wait):
    """C6.2: who has finished meanwhile is not named again, who has started is."""
    subscribe_named(bus, "early", 15)
    subscribe_named(bus, "late", 35)

    async def publish_later(event):
        await asyncio.sleep(12)
        bus.publish_nowait(InvoiceIssued())

    bus.subscribe(MailSent, publish_later)
    subscribe_named(bus, "following", 30, InvoiceIssued)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(MailSent())
    await wait(bus)
    first, second = [message for _, message in told]
    assert "early" in first
    assert "late" in first
    assert "publish_later" in first
    assert "following" not in first
    assert "late" in second
    assert "following" in second
    assert "early" not in second
    assert "publish_later" not in second


@every_wait
@virtual
async def test_work_that_comes_and_goes_is_no_news(bus, told, wait):
    """C6.2: it is the wait that lasts; a stream of short events does not put it off."""
    left = 200

    async def again(event):
        nonlocal left
        await asyncio.sleep(0.1)
        left -= 1
        if left:
            bus.publish_nowait(OrderPlaced())

    bus.subscribe(OrderPlaced, again)
    bus.publish_nowait(OrderPlaced())
    await wait(bus)
    (when,) = told.times()
    assert when == pytest.approx(10, abs=0.2)
    assert "again" in told[0][1]


@virtual
async def test_each_wait_begins_anew(bus, told):
    """C6.2: a second `join` has waited for ten seconds when it has, whatever the first one did."""
    bus.subscribe(OrderPlaced, partial(lasting, 9))
    for _ in range(5):
        bus.publish_nowait(OrderPlaced())
        await bus.join()
    assert told == []


@virtual
async def test_awaited_publishes_are_not_waited_for(bus, told):
    """C6.1, C6.2: an awaited publish is its caller's, however long it takes."""
    bus.subscribe(OrderPlaced, partial(lasting, 100))
    publisher = asyncio.create_task(bus.publish(OrderPlaced()))
    await turns()
    await bus.join()
    await publisher
    assert told == []


@virtual
async def test_join_in_a_handler_says_it_too(bus, told):
    """C6.1, C6.2: a handler that joins is told for whom it waits."""
    subscribe_named(bus, "send_mail", 15, InvoiceIssued)

    async def joining(event):
        await bus.join()

    bus.subscribe(OrderPlaced, joining)
    bus.publish_nowait(OrderPlaced())
    bus.publish_nowait(InvoiceIssued())
    await asyncio.sleep(20)
    ((when, message),) = told
    assert when == pytest.approx(10)
    assert "send_mail" in message
    assert bus.pending == 0


@pytest.mark.parametrize(("timeout", "times"), [(5, [5]), (10.5, [10, 10.5]), (40, [10, 30, 40])])
@virtual
async def test_close_with_a_timeout(bus, told, timeout, times):
    """C6.2: it says so until its time is up, and then what it does about it."""
    bus.subscribe(OrderPlaced, forever)
    bus.publish_nowait(OrderPlaced())
    await bus.aclose(timeout)
    assert told.times() == pytest.approx(times)
    assert told.levels == [logging.WARNING] * (len(times) - 1) + [logging.ERROR]
    assert all("forever" in message for _, message in told)


@virtual
async def test_timeout_of_ten_seconds_is_kept(bus, told):
    """C6.2: where both are due at once, the close goes on in time."""
    bus.subscribe(OrderPlaced, forever)
    bus.publish_nowait(OrderPlaced())
    await bus.aclose(10)
    assert asyncio.get_running_loop().time() - Clock.now == pytest.approx(10)
    assert bus.pending == 0
    assert told.levels[-1] == logging.ERROR


@virtual
async def test_block_that_waits_at_its_end(told):
    """C6.2: `async with` closes as `aclose` does, and says so likewise."""
    async with EventBus() as bus:
        bus.subscribe(OrderPlaced, partial(lasting, 25))
        bus.publish_nowait(OrderPlaced())
    assert told.times() == pytest.approx([10])


@virtual
async def test_waiting_for_ever_is_cancelled_in_silence(bus, told):
    """C6.2: nothing is said any more when the one who waits has gone."""
    bus.subscribe(OrderPlaced, forever)
    bus.publish_nowait(OrderPlaced())
    with suppress(TimeoutError):
        async with asyncio.timeout(15):
            await bus.join()
    await asyncio.sleep(1000)
    assert told.times() == pytest.approx([10])
    await bus.aclose(timeout=0)
