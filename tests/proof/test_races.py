# SPDX-License-Identifier: MIT
"""One bus in many threads, each with a loop: every event is accounted for."""

import asyncio
import collections
import contextlib
import functools
import random
import sys
import threading

import pytest
from lab import TYPES, Ping
from target import Event, EventBus

THREADS = 8


@pytest.fixture
def busy_switching():
    """Let the interpreter switch threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def in_threads(*functions):
    """Run each function in a thread of its own, all starting together; none may raise or hang."""
    raised, start = [], threading.Barrier(len(functions))

    def run(function):
        try:
            start.wait()
            function()
        except BaseException as exc:
            raised.append(exc)

    threads = [threading.Thread(target=run, args=(each,), daemon=True) for each in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads), "deadlock"
    assert raised == []


# C2.6, C5.6: threads


def test_registry_hammered_while_publishing(busy_switching, quiet):
    """C2.6: eight threads change everything; who is subscribed gets each event once, in order."""
    bus, done = EventBus(), threading.Event()
    got = {event_type: collections.defaultdict(list) for event_type in TYPES}
    handlers = []  # for each type: sync, async and sync again
    transient = collections.Counter()

    def note(event_type, place, event):
        got[event_type][event.number].append(place)

    async def note_async(event_type, place, event):
        note(event_type, place, event)
        await asyncio.sleep(0)

    for event_type in TYPES:
        for place, function in enumerate([note, note_async, note]):
            handlers.append(functools.partial(function, event_type, place))
            bus.subscribe(event_type, handlers[-1])

    @contextlib.contextmanager
    def hook(_event, _handler):
        transient["hook"] += 1
        yield

    def churn(seed):
        choose = random.Random(seed)
        while not done.is_set():
            event_type = choose.choice([*TYPES, Ping])
            kind = choose.randrange(4)
            if kind == 0:
                with bus.subscribe(event_type, lambda event: transient.update(["once"])) as known:
                    assert known.handler in bus.handlers(event_type)
                assert known.handler not in bus.handlers(event_type)
            elif kind == 1:
                with bus.instrument(hook):
                    bus.event_types()
            elif kind == 2:
                callback = [].append
                bus.subscribe(event_type, callback)
                bus.unsubscribe(event_type, callback)
            else:
                with bus.subscribe(TYPES[0], handlers[0]) as again:  # which stays, in its place
                    assert again.handler.callback is handlers[0]

    async def publish(first):
        for number in range(first, first + 300):
            for event_type in TYPES:
                await bus.publish(event_type(number))
                bus.publish_nowait(event_type(-1 - number))
            await bus.publish(Ping())  # handled by nobody but those who come and go
            await bus.join()

    running = [2]

    def publisher(first):
        try:
            asyncio.run(publish(first))
        finally:
            running[0] -= 1
            if not running[0]:
                done.set()

    churners = [functools.partial(churn, seed) for seed in range(THREADS)]
    in_threads(*churners, lambda: publisher(1), lambda: publisher(1001))
    for event_type in TYPES:
        assert len(got[event_type]) == 1200
        assert set(map(tuple, got[event_type].values())) == {(0, 1, 2)}
        assert len(bus.handlers(event_type)) == 3
    assert set(bus.event_types()) == set(TYPES)
    assert bus.handlers(Ping) == ()
    transient.clear()  # all have gone, the hooks as well
    for event_type in TYPES:
        asyncio.run(bus.publish(event_type()))
    assert not transient
    assert quiet == []


class Told(Event):
    """An event that notes who handles it, which nobody does but the thread that published it."""

    def __init__(self):
        self.thread = threading.get_ident()
        self.got = []  # places of `Playground.handlers`, and functions that come and go
        self.is_for_all = False  # whether no handler can have been missing

    def note(self, handler):
        assert self.thread == threading.get_ident()
        self.got.append(handler)


class Playground:
    """One bus, with four handlers that a clear takes away together, and all that can be done."""

    def __init__(self):
        self.bus, self.clearing = EventBus(), threading.Lock()
        self.clears = 0  # odd while the bus is cleared and its handlers are subscribed anew
        self.handles = collections.deque()  # for whoever comes to cancel them
        self.outcomes = collections.Counter()
        self.handlers = [self.sync, self.disguised, self.work, lambda event: event.note(3)]
        self.clear()

    def sync(self, event):
        event.note(0)

    def disguised(self, event):
        async def work():
            event.note(1)
            await asyncio.sleep(0)

        return work()

    async def work(self, event):
        event.note(2)
        await asyncio.sleep(0)

    def clear(self):
        with self.clearing:
            self.clears += 1
            self.bus.clear()
            for handler in self.handlers:
                self.bus.subscribe(Told, handler)
            self.clears += 1

    def undisturbed(self, since):
        """Whether the bus has not been cleared since `clears` was that."""
        return since % 2 == 0 and since == self.clears

    async def publish(self):
        since, event = self.clears, Told()
        await self.bus.publish(event)
        event.is_for_all = self.undisturbed(since)
        return [event]

    async def publish_nowait(self):
        events = [Told() for _ in range(3)]
        for event in events:
            since = self.clears
            self.bus.publish_nowait(event)
            assert event.got == []
            event.is_for_all = self.undisturbed(since)
        return events

    async def subscribe_twice(self):
        def once(event):
            event.note(once)

        since = self.clears
        first, second = [self.bus.subscribe(Told, once) for _ in range(2)]
        for _ in range(2):
            first.cancel()
        (event,) = await self.publish()
        if self.undisturbed(since):
            assert event.got.count(once) == 1
            self.outcomes["subscribed"] += 1
        self.handles.append(second)
        return [event]

    async def cancel_a_handle(self):
        with contextlib.suppress(IndexError):
            self.handles.popleft().cancel()
        return []

    async def wait(self):
        since, event = self.clears, Told()
        futures = [
            self.bus.wait_for(Told, lambda other: other is event),
            self.bus.wait_for(Told),  # of any thread
        ]
        await self.bus.publish(event)
        done, waiting = await asyncio.wait(futures, timeout=20)
        assert not waiting
        if self.undisturbed(since):
            assert not any(future.cancelled() for future in done)
        if not futures[0].cancelled():
            assert futures[0].result() is event
        self.outcomes["waited" if not futures[0].cancelled() else "cancelled"] += 1
        return [event]

    async def clear_and_look(self):
        self.clear()
        return []

    async def play(self, seed):
        choose, events = random.Random(seed), []
        ways = [self.publish, self.publish_nowait, self.subscribe_twice, self.cancel_a_handle]
        for number in range(100):
            way = self.clear_and_look if number % 10 == 5 else choose.choice([*ways, self.wait])
            events += await way()
        await self.bus.join()
        for event in events:
            places = [place for place in event.got if isinstance(place, int)]
            assert places == [0, 1, 2, 3][: len(places)]  # of one route, in order
            assert len(places) == 4 or not event.is_for_all
            assert len(set(event.got)) == len(event.got)
            self.outcomes["for all" if event.is_for_all else "perhaps not for all"] += 1


def test_one_bus_for_everybody(busy_switching, quiet):
    """C2.6, C2.7: eight threads publish, subscribe, cancel, wait, clear; all is accounted for."""
    ground = Playground()
    in_threads(*[lambda seed=seed: asyncio.run(ground.play(seed)) for seed in range(THREADS)])
    while ground.handles:
        ground.handles.popleft().cancel()
    assert [each.callback for each in ground.bus.handlers(Told)] == ground.handlers
    (event,) = asyncio.run(ground.publish())
    assert event.got == [0, 1, 2, 3]
    assert ground.bus.event_types() == (Told,)
    wanted = {"subscribed", "waited", "for all"}
    assert wanted <= ground.outcomes.keys(), ground.outcomes
    assert quiet == []


def test_closing_while_others_publish(busy_switching, quiet):
    """C6.2: whatever was accepted before another thread closed the bus is delivered, once."""
    for _ in range(20):
        bus, accepted, delivered = EventBus(), collections.deque(), collections.deque()
        bus.subscribe(Ping, delivered.append)

        async def publish(bus=bus, accepted=accepted):
            for _ in range(10_000):
                event = Ping()
                try:
                    bus.publish_nowait(event)
                except RuntimeError:
                    break
                accepted.append(event)
                await asyncio.sleep(0)
            await bus.join()
            with pytest.raises(RuntimeError, match="closed"):
                await bus.publish(Ping())

        async def close(bus=bus, accepted=accepted):
            while not accepted:
                await asyncio.sleep(0)
            await bus.aclose()

        in_threads(*[lambda p=publish: asyncio.run(p())] * 3, lambda c=close: asyncio.run(c()))
        assert sorted(map(id, accepted)) == sorted(map(id, delivered))
    assert quiet == []


def test_many_loops_some_closed_early(busy_switching, errors):
    """C5.6: of eight threads' short loops half are closed too early; each loss is logged, once."""
    bus, here = EventBus(), threading.local()
    delivered, accepted, lost_on_purpose = [collections.Counter() for _ in range(3)]

    def count(event):
        delivered[event.number] += 1
        assert event.number == here.number  # it is still on the thread that published it

    async def count_async(event):
        await asyncio.sleep(0)
        count(event)

    bus.subscribe(TYPES[0], count)
    bus.subscribe(TYPES[1], count_async)

    async def finish(number):
        for event_type in TYPES[:2] * 5:
            bus.publish_nowait(event_type(number))
        assert bus.pending == 10
        await bus.publish(TYPES[0](number))
        await bus.join()
        assert bus.pending == 0
        accepted[number] += 11

    async def abandon(number):
        for _ in range(7):
            bus.publish_nowait(TYPES[0](number))
        lost_on_purpose[number] += 7

    def work(number):
        here.number = number
        for step in range(20):
            loop = asyncio.new_event_loop()
            with contextlib.closing(loop):
                if step % 2:
                    loop.run_until_complete(finish(number))
                else:
                    # Closed before the loop has started what was accepted.
                    loop.call_soon(loop.stop)
                    task = loop.create_task(abandon(number))
                    loop.run_forever()
                    assert task.done()

    in_threads(*[functools.partial(work, number) for number in range(THREADS)])
    asyncio.run(finish(here.__dict__.setdefault("number", THREADS)))  # sees what is left to log
    assert delivered == accepted
    assert lost_on_purpose.total() == len(errors) * 7 == THREADS * 10 * 7
    assert all("7 queued (Ping0 x7)" in record.getMessage() for record in errors)
