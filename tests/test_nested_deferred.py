# SPDX-License-Identifier: MIT
"""C9: a deferred block on a deferred publisher adds to the outer block, or drops its own alone."""

import asyncio
import contextlib
import inspect

import pytest
from support import PATIENCE, Failure, Numbered, Stop, join, turns
from target import Event, EventBus, Publisher


@pytest.fixture
def seen(bus):
    """The numbers of the events delivered so far."""
    numbers = []
    bus.subscribe(Numbered, lambda event: numbers.append(event.number))
    return numbers


class Service:
    """A service as users write it: it has a publisher, and opens a block of its own on it."""

    def __init__(self, events: Publisher) -> None:
        self.events = events

    async def place(self, first: int, error: BaseException | None = None) -> None:
        async with self.events.deferred() as events:
            await events.publish(Numbered(first))
            events.publish_nowait(Numbered(first + 1))
            if error is not None:
                raise error


class Audit:
    """A service inside another: it is handed the publisher of a block, and opens the next."""

    def __init__(self, events: Publisher) -> None:
        self.events = events

    async def place(self, first: int) -> None:
        async with self.events.deferred() as events:
            await events.publish(Numbered(first))
            await Service(events).place(first + 1)
            await events.publish(Numbered(first + 3))


async def test_success_adds_to_the_outer_block_in_order(bus, seen):
    """C9: what the inner block has recorded takes its place among what the outer one has."""
    async with bus.deferred() as outer:
        await outer.publish(Numbered(1))
        async with outer.deferred() as inner:
            await inner.publish(Numbered(2))
            await inner.publish(Numbered(3))
            await turns()
        await outer.publish(Numbered(4))
        async with outer.deferred() as inner:
            await inner.publish(Numbered(5))
        await turns()
        assert seen == []
    assert seen == [1, 2, 3, 4, 5]


async def test_place_is_that_of_the_inner_ones_end(bus, seen):
    """C9: events are added when the inner block succeeds, after those recorded before."""
    async with bus.deferred() as outer:
        async with outer.deferred() as inner:
            await inner.publish(Numbered(2))
            await outer.publish(Numbered(1))
        await outer.publish(Numbered(3))
    assert seen == [1, 2, 3]


async def test_awaited_ones_stay_awaited(bus):
    """C9: after the outermost block `publish` is awaited, `publish_nowait` scheduled in turn."""
    log, gate = [], asyncio.Event()

    async def slow(event):
        log.append(f"start {event.number}")
        if event.number == 2:
            await gate.wait()
        await turns()
        log.append(f"end {event.number}")

    bus.subscribe(Numbered, slow)
    async with bus.deferred() as outer:
        async with outer.deferred() as inner:
            await inner.publish(Numbered(1))
            inner.publish_nowait(Numbered(2))
            await inner.publish(Numbered(3))
        assert bus.pending == 0
    assert bus.pending == 1
    assert [line for line in log if "2" not in line] == ["start 1", "end 1", "start 3", "end 3"]
    assert log.index("end 1") < log.index("start 2")
    gate.set()
    await join(bus)
    assert log[-1] == "end 2"


async def test_the_very_events(bus):
    """C9: the objects that were recorded are delivered, twice if recorded twice."""
    delivered, event = [], Numbered()
    bus.subscribe(Numbered, delivered.append)
    async with bus.deferred() as outer, outer.deferred() as inner:
        await inner.publish(event)
        await inner.publish(event)
        await outer.publish(event)
    assert list(map(id, delivered)) == [id(event)] * 3


@pytest.mark.parametrize("error", [Failure, asyncio.CancelledError, Stop, KeyboardInterrupt])
async def test_failure_drops_its_own_events_alone(bus, seen, errors, error):
    """C9: an inner block that fails is as if it had never been; its exception goes on."""
    async with bus.deferred() as outer:
        await outer.publish(Numbered(1))
        with pytest.raises(error):
            async with outer.deferred() as inner:
                await inner.publish(Numbered(2))
                inner.publish_nowait(Numbered(3))
                raise error
        await outer.publish(Numbered(4))
        async with outer.deferred() as inner:
            await inner.publish(Numbered(5))
    await join(bus)
    assert seen == [1, 4, 5]
    assert len(errors) == 0


async def test_failure_of_the_outer_block_drops_all(bus, seen, errors):
    """C9: what an inner block has added is the outer one's, and shares its fate."""
    with pytest.raises(Failure):
        async with bus.deferred() as outer:
            await outer.publish(Numbered(1))
            async with outer.deferred() as inner:
                await inner.publish(Numbered(2))
            raise Failure
    with pytest.raises(Failure):
        async with bus.deferred() as outer, outer.deferred() as inner:
            await outer.publish(Numbered(3))
            await inner.publish(Numbered(4))
            raise Failure
    await join(bus)
    assert seen == []
    assert len(errors) == 0


@pytest.mark.parametrize("swallow", [False, True])
async def test_cancellation_drops_the_block_that_it_hits(bus, seen, swallow):
    """C9: cancelled in the inner block, its events are dropped; the outer one's fate is its own."""
    inside = asyncio.Event()

    async def work():
        async with bus.deferred() as outer:
            await outer.publish(Numbered(1))
            try:
                async with outer.deferred() as inner:
                    await inner.publish(Numbered(2))
                    inside.set()
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not swallow:
                    raise
                asyncio.current_task().uncancel()
            await outer.publish(Numbered(3))

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() != swallow
    assert seen == ([1, 3] if swallow else [])


async def test_timeout_as_a_savepoint(bus, seen):
    """C9: a savepoint that takes too long is dropped, and the transaction goes on."""
    async with bus.deferred() as outer:
        await outer.publish(Numbered(1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001), outer.deferred() as inner:
                await inner.publish(Numbered(2))
                await asyncio.Event().wait()
    assert seen == [1]


async def test_nested_in_nested(bus, seen):
    """C9: however deep, order is kept, and each block drops what it has, those inside included."""
    async with bus.deferred() as one:
        await one.publish(Numbered(1))
        async with one.deferred() as two:
            await two.publish(Numbered(2))
            async with two.deferred() as three:
                await three.publish(Numbered(3))
            with pytest.raises(Failure):
                async with two.deferred() as three:
                    async with three.deferred() as four:
                        await four.publish(Numbered(-1))
                    raise Failure
            await two.publish(Numbered(4))
        with pytest.raises(Failure):
            async with one.deferred() as two:
                async with two.deferred() as three:
                    await three.publish(Numbered(-2))
                await two.publish(Numbered(-3))
                raise Failure
        await one.publish(Numbered(5))
        await turns()
        assert seen == []
    assert seen == [1, 2, 3, 4, 5]


async def test_a_hundred_blocks_in_each_other(bus, seen):
    """C9: depth costs no more than the blocks themselves."""

    async def descend(events, left):
        async with events.deferred() as inner:
            await inner.publish(Numbered(left))
            if left:
                await descend(inner, left - 1)

    await descend(bus, 100)
    assert seen == list(range(100, -1, -1))


async def test_blocks_of_several_tasks(bus, seen):
    """C9: savepoints of concurrent tasks on one publisher add what each has, as it ends."""

    async def work(outer, number, gate, fails):
        async with outer.deferred() as inner:
            await inner.publish(Numbered(number))
            await gate.wait()
            await inner.publish(Numbered(number + 1))
            if fails:
                raise Failure

    gates = [asyncio.Event() for _ in range(3)]
    async with bus.deferred() as outer:
        tasks = [
            asyncio.create_task(work(outer, 10 * place, gate, place == 1))
            for place, gate in enumerate(gates)
        ]
        await turns()
        for gate in reversed(gates):
            gate.set()
            await turns()
        assert seen == []
    assert [type(task.exception()) for task in tasks] == [type(None), Failure, type(None)]
    assert seen == [20, 21, 0, 1]


@pytest.mark.parametrize("publisher", ["bus", "deferred", "nested"])
async def test_service_works_on_every_publisher(bus, seen, publisher):
    """C9: a service that opens its own block needs not know which publisher it was handed."""
    if publisher == "bus":
        await Service(bus).place(1)
        await Audit(bus).place(3)
    elif publisher == "deferred":
        async with bus.deferred() as events:
            await Service(events).place(1)
            await Audit(events).place(3)
            assert seen == []
    else:
        async with bus.deferred() as outer, outer.deferred() as events:
            await Service(events).place(1)
            await Audit(events).place(3)
            assert seen == []
    await join(bus)
    assert sorted(seen) == [1, 2, 3, 4, 5, 6]
    assert [number for number in seen if number not in (2, 5)] == [1, 3, 4, 6]


@pytest.mark.parametrize("deferred", [False, True])
async def test_service_that_fails_takes_nobody_with_it(bus, seen, deferred):
    """C9: its events are dropped wherever it published; what came before is not."""

    async def use(events):
        await Service(events).place(1)
        with pytest.raises(Failure):
            await Service(events).place(3, Failure())
        await Service(events).place(5)

    if deferred:
        async with bus.deferred() as events:
            await use(events)
    else:
        await use(bus)
    await join(bus)
    assert sorted(seen) == [1, 2, 5, 6]


async def test_all_publishers_have_the_methods_of_the_protocol(bus):
    """C9: `deferred` takes nothing and gives a context manager, in the protocol and of each."""
    async with bus.deferred() as outer, outer.deferred() as inner:
        for publisher in (bus, outer, inner):
            promised, kept = Publisher.deferred, type(publisher).deferred
            assert list(inspect.signature(kept).parameters) == ["self"]
            assert list(inspect.signature(promised).parameters) == ["self"]
            block = publisher.deferred()
            assert hasattr(block, "__aenter__")
            assert hasattr(block, "__aexit__")


# Refused


async def test_what_is_no_event_is_refused_at_once(bus, seen):
    """C4.7, C9: in the inner block, where the mistake is, and not at the end of the outer."""
    async with bus.deferred() as outer, outer.deferred() as inner:
        with pytest.raises(TypeError):
            await inner.publish("order")
        with pytest.raises(TypeError, match="instance"):
            inner.publish_nowait(Numbered)
        await inner.publish(Numbered(1))
    assert seen == [1]


async def test_used_after_its_block(bus, seen):
    """C9: an inner publisher is as dead after its block as an outer one."""
    async with bus.deferred() as outer:
        async with outer.deferred() as inner:
            pass
        with pytest.raises(RuntimeError, match="block"):
            await inner.publish(Numbered(1))
        with pytest.raises(RuntimeError, match="block"):
            inner.publish_nowait(Numbered(2))
        await outer.publish(Numbered(3))
    assert seen == [3]


async def end_the_outer(bus, fails):
    """Return the publisher of an inner block whose outer one has ended first."""
    outer_block = bus.deferred()
    outer = await outer_block.__aenter__()
    inner_block = outer.deferred()
    inner = await inner_block.__aenter__()
    error = Failure() if fails else None
    await outer_block.__aexit__(type(error) if fails else None, error, None)
    return inner_block, inner


every_end_of_the_outer = pytest.mark.parametrize("fails", [False, True])


@every_end_of_the_outer
@pytest.mark.parametrize("way", ["publish", "publish_nowait"])
async def test_inner_used_after_the_outer_has_ended(bus, seen, fails, way):
    """C9: what is published where nothing can come of it any more raises, at the latest at its end.

    It is the inner block that raises, and not silence that swallows the event.
    """
    inner_block, inner = await end_the_outer(bus, fails)
    with pytest.raises(RuntimeError, match="block"):
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_exit(inner_block)
            result = getattr(inner, way)(Numbered(2))
            if way == "publish":
                await result
    await join(bus)
    assert seen == []


@every_end_of_the_outer
async def test_inner_used_after_the_outer_has_ended_raises_at_once(bus, fails):
    """C9: there and then, as a publisher does whose own block is over."""
    _, inner = await end_the_outer(bus, fails)
    with pytest.raises(RuntimeError, match="block"):
        await inner.publish(Numbered(1))
    with pytest.raises(RuntimeError, match="block"):
        inner.publish_nowait(Numbered(2))


async def test_opened_after_the_outer_has_ended(bus, seen):
    """C9: nor does a block open on a publisher that is over."""
    async with bus.deferred() as outer:
        pass
    with pytest.raises(RuntimeError, match="block"):
        async with outer.deferred() as inner:
            await inner.publish(Numbered(1))
    assert seen == []


# At the end


async def test_refused_after_the_outermost_block(errors):
    """C9, C6.2: what a closed bus refuses is told of by name, nested or not."""
    bus = EventBus()
    with pytest.raises(RuntimeError, match="closed"):
        async with bus.deferred() as outer:
            async with outer.deferred() as inner:
                await inner.publish(Numbered(1))
            await bus.aclose()
    (record,) = errors
    assert "Numbered" in record.getMessage()


async def test_published_on_the_inner_block_by_a_handler_of_the_bus(bus):
    """C9: handlers run on the bus, and may open blocks of their own, after the outermost one."""
    log = []

    class Placed(Event):
        pass

    async def place(event):
        log.append("placed")
        async with bus.deferred() as outer:
            await Service(outer).place(1)
            log.append("still nothing")

    bus.subscribe(Placed, place)
    bus.subscribe(Numbered, lambda event: log.append(event.number))
    async with asyncio.timeout(PATIENCE):
        async with bus.deferred() as outer, outer.deferred() as inner:
            await inner.publish(Placed())
            await inner.publish(Numbered(3))
        await bus.join()
    assert [entry for entry in log if entry != 2] == ["placed", "still nothing", 1, 3]
    assert 2 in log
