# SPDX-License-Identifier: MIT
"""Generated programs, each run on the bus and on the oracle, which must agree.

A program is a set of handlers and some publishers, each of them a script of steps, on a clock that
jumps to the next timer, so that whoever waits wakes up at a moment of their own: durations are
made of the place in the program that waits. What must agree is what the contract promises: who
gets which event and when, in which order the handlers of an event start, in which order a handler
gets the events of one publisher, what ends how and when, the context variables seen on the way,
the failures reported, and `pending`. How handlers interleave in one moment, after their first
wait, is nobody's promise: there, scripts neither subscribe nor join, which others could notice.

EXAMPLES is how many programs are tried (3,000 unless set in the environment).
"""

import asyncio
import collections
import contextvars
import os
import sys
import zlib
from dataclasses import dataclass

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from lab import listening, virtual_loop
from oracle import Oracle
from target import Event, EventBus, EventCycleError

EXAMPLES = int(os.environ.get("EXAMPLES", "3000"))
MAX_DEPTH = 3

seen = contextvars.ContextVar("seen", default="nothing")


class Numbered(Event):
    """An event whose path tells who published it: publisher, number of the step, handler, ..."""

    def __init__(self, path, *, awaited, alone):
        self.path = path
        self.awaited = awaited
        self.alone = alone  # nothing else happens at the moment of its publishing


# Handlers publish only types later than that of the event they handle: no program is endless, and
# nobody below an event publishes its type in the same moment.
TYPES = [type(name, (Numbered,), {}) for name in ("A", "B", "C", "D", "E")]


# Programs


@dataclass(frozen=True)
class Wait:
    ticks: int


@dataclass(frozen=True)
class Set:
    """Set the context variable."""


@dataclass(frozen=True)
class Publish:
    later: int  # how much later a type than that of the event being handled
    timeout: int | None = None


@dataclass(frozen=True)
class PublishNowait:
    later: int


@dataclass(frozen=True)
class Subscribe:
    event_type: int
    handler: int


@dataclass(frozen=True)
class Unsubscribe:
    event_type: int
    handler: int
    handle: int | None = None  # cancel this one of its subscriptions; None ends them all


@dataclass(frozen=True)
class Clear:
    """End every subscription, and subscribe these."""

    subscribed: tuple


@dataclass(frozen=True)
class Join:
    pass


@dataclass(frozen=True)
class Cancel:
    """Cancel a publisher so many times, and wait after each: it may be one's own."""

    publisher: int
    times: int


@dataclass(frozen=True)
class Script:
    kind: str  # sync, async, or sync returning a coroutine
    head: tuple  # steps before the first wait; the only ones of a sync handler
    body: tuple
    end: str  # return, raise, or raise a CancelledError
    if_cancelled: str


@dataclass(frozen=True)
class Program:
    factory: str  # of the tasks of the bus's loop
    handlers: tuple  # Script
    subscribed: tuple  # Subscribe, before anything runs
    publishers: tuple  # of tuples of steps


few = st.integers(0, 3)
handler_numbers = st.integers(0, 5)
subscribes = st.builds(Subscribe, few, handler_numbers)
handles = st.none() | st.integers(0, 2)
changes = subscribes | st.builds(Unsubscribe, few, handler_numbers, handles)
head_steps = st.builds(Set) | st.builds(PublishNowait, few) | changes
publishes = st.builds(Publish, st.integers(0, 1)) | st.builds(Publish, few, st.integers(0, 2))
body_steps = st.one_of(
    st.builds(Wait, few),
    st.builds(Set),
    publishes,
    st.builds(PublishNowait, few),
    changes,
    st.builds(Clear, st.lists(subscribes, max_size=6).map(tuple)),
    st.builds(Join),
    st.builds(Cancel, st.integers(0, 2), st.integers(1, 3)),
)
scripts = st.builds(
    Script,
    st.sampled_from(["async", "async", "sync", "disguised"]),
    st.lists(head_steps, max_size=2).map(tuple),
    st.lists(st.builds(Wait, few) | body_steps, min_size=1, max_size=3).map(tuple),
    st.sampled_from(["return", "return", "raise", "cancelled"]),
    st.sampled_from(["give up", "linger", "swallow", "fail"]),
)
publishers = st.lists(publishes | body_steps, min_size=2, max_size=6).map(tuple)
factories = ["none", "none", "plain", *(["eager"] if sys.version_info >= (3, 12) else [])]
programs = st.builds(
    Program,
    st.sampled_from(factories),
    st.lists(scripts, min_size=2, max_size=6).map(tuple),
    st.lists(subscribes, min_size=5, max_size=12).map(tuple),
    st.lists(publishers, min_size=1, max_size=3).map(tuple),
)


# The interpreter


class World:
    """A program on its way, on the bus or on the oracle; `log` is what must be the same."""

    def __init__(self, program, make_bus):
        self.program = program
        self.bus = make_bus(self)
        self.log = collections.Counter()
        # (event, handler), and (event, handler's coroutine), in the order in which they started.
        self.starts = []
        self.failures = 0
        self.subscriptions = collections.defaultdict(list)
        self.handlers = [self.make_handler(*each) for each in enumerate(program.handlers)]
        self.publishers = []

    def note(self, path, *what):
        self.log[path, *what, f"{asyncio.get_running_loop().time():.6f}", seen.get()] += 1

    def note_failure(self, event, handler, exception, chain):
        self.failures += 1
        what = type(exception).__name__
        if isinstance(exception, RecursionError | EventCycleError):
            what = "circle"
        self.note((*event.path, handler.number), "reported", what, *(t.__name__ for t in chain))

    async def run(self):
        for step in self.program.subscribed:
            self.change(("at first",), step)
        for number, steps in enumerate(self.program.publishers):
            script = self.run_publisher((f"publisher {number}",), steps)
            self.publishers.append(asyncio.create_task(script))
        await asyncio.gather(*self.publishers, return_exceptions=True)
        await self.bus.join()
        self.note((), "over", self.bus.pending, len(asyncio.all_tasks()))
        return self

    async def run_publisher(self, path, steps):
        try:
            await self.run_body(path, steps, 0)
        except BaseException as exc:
            self.note(path, type(exc).__name__)
            raise
        self.note(path, "finished")

    def make_handler(self, number, script):
        def start(event):
            path = (*event.path, number)
            self.starts.append((event, number))
            self.note(path, "started", type(event).__name__)
            for place, step in enumerate(script.head):
                self.run_at_once((*path, place), step, event)
            return path

        def finish(path):
            self.note(path, "ends", script.end)
            if script.end == "raise":
                raise LookupError(path)
            if script.end == "cancelled":
                raise asyncio.CancelledError

        async def work(path, event):
            self.starts.append((event, f"coroutine of {number}"))
            try:
                await self.run_body(path, script.body, TYPES.index(type(event)) + 1, event)
            except asyncio.CancelledError:
                self.note(path, "cancelled")
                if script.if_cancelled == "swallow":
                    return
                if script.if_cancelled == "fail":
                    raise LookupError(path) from None
                if script.if_cancelled == "linger":
                    await self.wait((*path, "linger"), 1)
                raise
            finish(path)

        async def handle_async(event):
            await work(start(event), event)

        def handle_disguised(event):
            return work(start(event), event)

        def handle(event):
            finish(start(event))

        kinds = {"async": handle_async, "disguised": handle_disguised, "sync": handle}
        handler = kinds[script.kind]
        handler.number = number
        return handler

    def run_at_once(self, path, step, event):
        """A step in the head of a handler, in the middle of the start of its event's handlers."""
        if isinstance(step, Set):
            seen.set(path)
        elif isinstance(step, PublishNowait):
            self.publish_nowait(path, step, TYPES.index(type(event)) + 1)
        elif event.alone:
            self.change(path, step, TYPES.index(type(event)))

    async def run_body(self, path, steps, first_type, event=None):
        for place, step in enumerate(steps):
            here = (*path, f"step {place}")
            if isinstance(step, Publish):
                if event is None:
                    await self.wait(here, 0)
                await self.publish(here, step, first_type, alone=event is None)
            elif isinstance(step, PublishNowait):
                self.publish_nowait(here, step, first_type)
            elif isinstance(step, Set):
                seen.set(here)
            else:
                await self.wait(here, step.ticks if isinstance(step, Wait) else 0)
                if isinstance(step, Subscribe | Unsubscribe):
                    self.change(here, step)
                elif isinstance(step, Clear):
                    self.bus.clear()
                    for each in step.subscribed:
                        self.change(here, each)
                elif isinstance(step, Cancel):
                    for time in range(step.times):
                        for publisher in self.publishers[step.publisher : step.publisher + 1]:
                            publisher.cancel()
                        await self.wait((*here, f"on {time}"), 0)
                elif isinstance(step, Join):
                    await self.bus.join()
                    self.note(here, "joined")
                    if event is not None:
                        return
                    await self.wait((*here, "on"), 0)

    async def wait(self, path, ticks):
        await asyncio.sleep(duration(path, ticks))
        self.note(path, "waited", self.bus.pending)

    async def publish(self, path, step, first_type, *, alone):
        if first_type + step.later >= len(TYPES):
            return
        event = TYPES[first_type + step.later](path, awaited=True, alone=alone)
        limit = None if step.timeout is None else duration((*path, "limit"), step.timeout)
        try:
            async with asyncio.timeout(limit):
                await self.bus.publish(event)
        except BaseException as exc:
            self.note(path, "published", isinstance(exc, TimeoutError | asyncio.CancelledError))
            if not isinstance(exc, TimeoutError):
                raise
        else:
            self.note(path, "published")

    def publish_nowait(self, path, step, first_type):
        if first_type + step.later < len(TYPES):
            event_type = TYPES[first_type + step.later]
            self.bus.publish_nowait(event_type(path, awaited=False, alone=False))

    def change(self, path, step, only_type=None):
        key = step.event_type, step.handler % len(self.handlers)
        if only_type not in (None, step.event_type):
            return
        event_type, handler = TYPES[key[0]], self.handlers[key[1]]
        if isinstance(step, Subscribe):
            self.subscriptions[key].append(self.bus.subscribe(event_type, handler))
        elif step.handle is not None and (known := self.subscriptions[key]):
            known[step.handle % len(known)].cancel()
        else:
            try:
                self.bus.unsubscribe(event_type, handler)
            except ValueError:
                self.note(path, "not subscribed")


def duration(path, ticks):
    """Seconds: a whole number, and a fraction that no other path has."""
    return ticks + (1 + zlib.crc32(repr(path).encode())) / 2**33


# The two sides


def run_on_oracle(program):
    def make(world):
        return Oracle(on_error=world.note_failure, max_depth=MAX_DEPTH)

    with asyncio.Runner(loop_factory=virtual_loop) as runner:
        return runner.run(World(program, make).run())


def run_on_bus(program):
    def make(world):
        def on_error(failure):
            callback = failure.handler.callback
            world.note_failure(failure.event, callback, failure.exception, failure.chain)

        return EventBus(on_error=on_error, max_depth=MAX_DEPTH)

    with asyncio.Runner(loop_factory=virtual_loop) as runner:
        loop = runner.get_loop()
        if program.factory == "eager":
            loop.set_task_factory(asyncio.eager_task_factory)
        elif program.factory == "plain":
            loop.set_task_factory(
                lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs)
            )
        return runner.run(World(program, make).run())


def per_event(world):
    """The handlers of each event, in the order in which they started."""
    starts = {}
    for event, handler in world.starts:
        starts.setdefault(event.path, []).append(handler)
    return starts


def per_handler(world):
    """The events of each publisher, by handler and way, in the order in which they started."""
    starts = {}
    for event, handler in world.starts:
        starts.setdefault((handler, event.awaited, event.path[:-1]), []).append(event.path)
    return starts


tried = collections.Counter()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(programs)
def check_agreement(program):
    expected = run_on_oracle(program)
    with listening() as messages:
        world = run_on_bus(program)
    tried["programs"] += 1
    tried["handler runs"] += len(world.starts)
    tried["failures"] += world.failures
    tried["cancellations"] += sum(n for what, n in world.log.items() if "cancelled" in what[1:2])
    ends = [entry[-2] for entry in expected.log if entry[1] == "waited"]
    assume(len(set(ends)) == len(ends))  # of two waits that end together, either may go on first
    # Of two joins that end together, one may go on and publish before the other looks, and waits.
    joined = collections.Counter(each[-2] for each in expected.log.elements() if "joined" in each)
    starts = {entry[-2] for entry in expected.log if "started" in entry}
    assume(not any(time in starts for time, joins in joined.items() if joins > 1))
    assert world.log - expected.log == expected.log - world.log == collections.Counter()
    assert per_event(world) == per_event(expected)
    assert per_handler(world) == per_handler(expected)
    reports = [said for _, said in messages if not said.startswith("still waiting")]  # C6.2
    assert len(reports) == world.failures, messages


def test_bus_agrees_with_the_oracle(capsys):
    """C1-C7: deliveries, orders, contexts, failures, outcomes and their times are the oracle's."""
    tried.clear()
    check_agreement()
    with capsys.disabled():
        print("\ngenerated:", ", ".join(f"{n:,} {what}" for what, n in tried.items()))
