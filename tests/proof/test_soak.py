# SPDX-License-Identifier: MIT
"""A million handler runs, with failures, timeouts and cancellations: nothing is lost or left over.

Everything is drawn from one seed, which is printed; SOAK_SEED sets it, SOAK_RUNS the number of
runs. On the clock that jumps, a seed is a run that can be repeated.
"""

import asyncio
import collections
import gc
import itertools
import os
import random
import resource
import sys
import time
import tracemalloc
import weakref

import pytest
from lab import listening, virtual_loop
from target import PACKAGE, Event, EventBus

SEED = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(10**6))
RUNS = int(os.environ.get("SOAK_RUNS") or 1_000_000)
PUBLISHERS = 40
STEPS = 25  # of each publisher; then all are awaited, and everything is checked


class Ordered(Event):
    """Handled by sync handlers, and async ones of every temper, which publish on."""

    def __init__(self, number, *, background):
        self.number = number
        self.background = background  # nobody but the bus's time limit cancels its handlers


class Noted(Ordered):
    """Handled by sync handlers alone."""


class Shipped(Ordered):
    """Handled by one handler of each kind; published by handlers of `Ordered`."""


class Storm:
    def __init__(self, seed):
        self.random = random.Random(seed).random
        self.bus = EventBus(on_error=self.note_failure, handler_timeout=0.05)
        self.counts = collections.Counter()
        self.numbers = itertools.count()
        self.alive = weakref.WeakSet()
        self.unreported = set()  # runs whose failure must be reported
        self.reported = set()  # those whose failure has been
        self.publishers = []
        kinds = {
            Ordered: [self.handle, self.work, self.handle, self.work, self.work],
            Noted: [self.handle] * 3,
            Shipped: [self.handle, self.work],
        }
        self.made = {}
        for event_type, makers in kinds.items():
            for number, kind in enumerate(makers):
                callback = kind(event_type, number)
                self.made[callback] = number
                self.bus.subscribe(event_type, callback)

    # Handlers

    def handle(self, _event_type, number):
        def handler(event):
            self.counts["started"] += 1
            self.fail_perhaps(event, number)
            self.counts["finished"] += 1

        return handler

    def work(self, event_type, number):
        async def handler(event):
            self.counts["started"] += 1
            try:
                self.fail_perhaps(event, number)
                await self.take_time(event_type)
            except asyncio.CancelledError:
                if (event.number, number) in self.unreported:  # its own
                    raise
                if event.background:
                    self.unreported.add((event.number, number))
                    self.counts["failed"] += 1
                else:
                    self.counts["cancelled"] += 1
                if self.random() < 0.5:
                    raise
            else:
                self.counts["finished"] += 1

        return handler

    def fail_perhaps(self, event, number):
        chance = self.random()
        if chance < 0.05:
            self.unreported.add((event.number, number))
            self.counts["failed"] += 1
            raise asyncio.CancelledError if chance < 0.01 else LookupError(event.number)

    async def take_time(self, event_type):
        chance = self.random()
        if chance < 0.2:
            await asyncio.sleep(0)
        elif chance < 0.4:
            await asyncio.sleep(self.random() / 50)
        elif chance < 0.42:
            await asyncio.get_running_loop().create_future()  # until it is cancelled
        elif chance < 0.6 and event_type is Ordered:
            await self.publish(Shipped)
        elif chance < 0.7 and event_type is Ordered:
            self.bus.publish_nowait(self.make(Shipped, background=True))

    def note_failure(self, failure):
        run = failure.event.number, self.made[failure.handler.callback]
        assert run not in self.reported
        self.reported.add(run)
        if isinstance(failure.exception, TimeoutError) and run not in self.unreported:
            self.counts["cancelled"] -= 1  # by the time limit, not by its publisher
            self.counts["failed"] += 1
        else:
            self.unreported.remove(run)

    # Publishers

    def make(self, event_type, *, background):
        self.counts["events"] += 1
        event = event_type(next(self.numbers), background=background)
        self.alive.add(event)
        return event

    async def publish(self, event_type):
        await self.bus.publish(self.make(event_type, background=False))

    async def run_publisher(self):
        for _ in range(STEPS):
            chance = self.random()
            event_type = Ordered if self.random() < 0.8 else Noted
            if chance < 0.4:
                await self.publish(event_type)
            elif chance < 0.6:
                try:
                    async with asyncio.timeout(self.random() / 100):
                        await self.publish(event_type)
                except TimeoutError:
                    self.counts["timeouts"] += 1
            elif chance < 0.98:
                self.bus.publish_nowait(self.make(event_type, background=True))
            elif self.publishers:  # not yet, on eager tasks
                self.publishers[int(self.random() * PUBLISHERS)].cancel()
            if self.random() < 0.1:
                await asyncio.sleep(self.random() / 100)

    async def run_for_a_while(self):
        """Run all publishers to their end; check that everything adds up and nothing is left."""
        self.publishers[:] = [asyncio.create_task(self.run_publisher()) for _ in range(PUBLISHERS)]
        for result in await asyncio.gather(*self.publishers, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError), repr(result)
            self.counts["publishers cancelled"] += result is not None
        self.publishers.clear()
        await self.bus.join()
        counts = self.counts
        assert counts["started"] == counts["finished"] + counts["failed"] + counts["cancelled"]
        assert self.unreported == set()
        counts["reported"] += len(self.reported)
        assert counts["reported"] == counts["failed"]
        self.reported.clear()
        assert self.bus.pending == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def run(self, runs):
        while self.counts["started"] < runs:
            await self.run_for_a_while()
        await asyncio.sleep(0.1)  # until then the loop refers to timers that were cancelled
        gc.collect()
        assert len(self.alive) == 0
        # Tables that were large once stay large, and are not what is to be measured.
        self.alive, self.reported, self.unreported = weakref.WeakSet(), set(), set()


def plain_factory():
    loop = virtual_loop()
    loop.set_task_factory(lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs))
    return loop


def eager_factory():
    if sys.version_info < (3, 12):
        pytest.skip("eager tasks came with Python 3.12")
    loop = virtual_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


def uvloop():
    return pytest.importorskip("uvloop").new_event_loop()


LOOPS = [
    pytest.param(virtual_loop, RUNS * 9 // 10, id="no_factory"),
    pytest.param(plain_factory, RUNS // 20, id="plain_factory"),
    pytest.param(eager_factory, RUNS // 40, id="eager_factory"),
    pytest.param(uvloop, RUNS // 40, id="uvloop"),
]


@pytest.mark.parametrize(("make_loop", "runs"), LOOPS)
def test_everything_adds_up(capsys, make_loop, runs):
    """C4-C6: started = finished + failed + cancelled, each failure once; no task or event left."""
    storm, began = Storm(SEED), time.perf_counter()
    with listening() as messages, asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(storm.run(runs))
    assert {logger for logger, _ in messages} == {PACKAGE}
    assert len(messages) == storm.counts["failed"]
    with capsys.disabled():
        figures = ", ".join(f"{count:,} {what}" for what, count in storm.counts.items())
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        seconds = time.perf_counter() - began
        print(f"\nseed {SEED}: {figures}; {seconds:.0f} s, at most {megabytes} MB")


def test_memory_has_not_grown(capsys):
    """C4.8: it does not grow with the runs: not by a byte for each, let alone by an object."""
    part = max(RUNS // 50, 10_000)

    async def measure(storm, messages):
        sizes = []  # after each of five equal parts
        for chunk in range(1, 6):
            await storm.run(chunk * part)
            messages.clear()
            sizes.append(tracemalloc.get_traced_memory()[0])
        return sizes

    tracemalloc.start()
    try:
        with listening() as messages, asyncio.Runner(loop_factory=virtual_loop) as runner:
            sizes = runner.run(measure(Storm(SEED), messages))
    finally:
        tracemalloc.stop()
    with capsys.disabled():
        print(f"\ntraced, in kB: {', '.join(f'{size / 1000:.1f}' for size in sizes)}")
    assert sizes[-1] - sizes[0] < 4 * part
