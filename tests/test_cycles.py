# SPDX-License-Identifier: MIT
"""C7: circular publishing is refused, and nothing else is mistaken for it."""

import asyncio
import copy
import gc
import inspect
import pickle
import sys
import tracemalloc
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from itertools import pairwise

import pytest
from support import InvoiceIssued, MailSent, OrderPlaced
from target import Event, EventBus, EventCycleError


class CartFilled(Event):
    pass


@dataclass(frozen=True, slots=True)
class Level(Event):
    number: int = 1


STRAIGHT = tuple(type(f"Step{number}", (Event,), {}) for number in range(12))


async def refuse(path):
    """Publish along `path`, each event from a handler of the one before; the last is refused."""
    failures = []
    bus = EventBus(max_depth=len(path) - 1, on_error=failures.append)
    following = iter(path[1:])

    async def go_on(event):
        await bus.publish(next(following)())

    for event_type in dict.fromkeys(path):
        bus.subscribe(event_type, go_on)
    await bus.publish(path[0]())
    assert len(failures) == 1
    return failures[0]


def descend_to(bus, deepest):
    """Have every level up to `deepest` publish the next one; return the levels in two lists."""
    entered, finished = [], []

    async def descend(event):
        entered.append(event.number)
        if event.number < deepest:
            await bus.publish(Level(event.number + 1))
        finished.append(event.number)

    bus.subscribe(Level, descend)
    return entered, finished


async def test_only_the_innermost_handler_fails(errors):
    """C7: the handler that went too deep fails, logged once; all outer levels finish normally."""
    failures = []
    bus = EventBus(max_depth=3, on_error=failures.append)
    entered, finished = descend_to(bus, 1000)
    await bus.publish(Level())
    assert entered == [1, 2, 3]
    assert finished == [2, 1]
    assert [record.exc_info[0] for record in errors] == [EventCycleError]
    assert "descend" in errors[0].getMessage()
    assert [failure.event for failure in failures] == [Level(3)]
    assert failures[0].chain == (Level,) * 3


@pytest.mark.parametrize("max_depth", [1, 2, 8, 9, 10, 100, 1000])
async def test_exactly_max_depth_levels_pass(errors, max_depth):
    """C7: a chain of `max_depth` levels passes, whatever its length, and one more does not."""
    bus = EventBus(max_depth=max_depth)
    entered, finished = descend_to(bus, max_depth)
    await bus.publish(Level())
    assert len(entered) == len(finished) == max_depth
    assert len(errors) == 0
    await bus.publish(Level(0))
    assert len(errors) == 1


async def test_a_hundred_levels_by_default(bus, errors):
    """C7: `max_depth` is 100 unless told otherwise."""
    entered, finished = descend_to(bus, 1000)
    await bus.publish(Level())
    assert (len(entered), len(finished)) == (100, 99)
    assert len(errors) == 1


@pytest.mark.parametrize("max_depth", [0, -1])
def test_max_depth_is_at_least_one(max_depth):
    """C7: a limit that no publish could keep is refused at once."""
    with pytest.raises(ValueError, match="max_depth"):
        EventBus(max_depth=max_depth)


async def test_raised_in_the_innermost_publish(errors):
    """C7: the error is raised by the publish that went too deep, so its handler can catch it."""
    bus = EventBus(max_depth=2)
    caught = []

    async def again(event):
        try:
            await bus.publish(OrderPlaced())
        except EventCycleError as error:
            caught.append(error)

    bus.subscribe(OrderPlaced, again)
    await bus.publish(OrderPlaced())
    assert [error.chain for error in caught] == [(OrderPlaced,) * 3]
    assert len(errors) == 0
    await bus.publish(OrderPlaced())
    assert len(caught) == 2


async def test_counting_starts_anew_after_a_refusal(errors):
    """C7: a refused chain leaves nothing behind that a later one would be charged for."""
    bus = EventBus(max_depth=3)
    _, finished = descend_to(bus, 3)
    await bus.publish(Level(0))
    assert len(errors) == 1
    finished.clear()
    await bus.publish(Level(1))
    assert finished == [3, 2, 1]
    assert len(errors) == 1


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        pytest.param(
            (OrderPlaced, InvoiceIssued, OrderPlaced),
            "OrderPlaced -> InvoiceIssued -> OrderPlaced",
            id="one round",
        ),
        pytest.param(
            (OrderPlaced, InvoiceIssued) * 20,
            "OrderPlaced -> InvoiceIssued -> OrderPlaced",
            id="many rounds",
        ),
        pytest.param(
            (CartFilled, *(OrderPlaced, InvoiceIssued) * 20),
            "OrderPlaced -> InvoiceIssued -> OrderPlaced",
            id="lead-in",
        ),
        pytest.param(
            (CartFilled, *(OrderPlaced, InvoiceIssued, MailSent) * 5, OrderPlaced, InvoiceIssued),
            "OrderPlaced -> InvoiceIssued -> MailSent -> OrderPlaced",
            id="refused in mid-circle",
        ),
        pytest.param((OrderPlaced,) * 20, "OrderPlaced -> OrderPlaced", id="itself"),
        pytest.param(
            (CartFilled, OrderPlaced, OrderPlaced),
            "OrderPlaced -> OrderPlaced",
            id="entered itself",
        ),
        pytest.param(
            (*(OrderPlaced, InvoiceIssued) * 20, MailSent),
            "OrderPlaced -> InvoiceIssued -> OrderPlaced",
            id="refused beside the circle",
        ),
        pytest.param(
            STRAIGHT, " -> ".join(f"Step{number}" for number in range(12)), id="no repetition"
        ),
    ],
)
async def test_message_shows_the_repeating_part(path, shown):
    """C7: the message shows the circle from where it was entered, or else the whole chain."""
    error = (await refuse(path)).exception
    assert f"max_depth={len(path) - 1}: {shown}; " in str(error)


async def test_error_keeps_its_fields_and_pickles():
    """C7: the error is a `RuntimeError` with the chain and the limit, and survives pickling."""
    path = (CartFilled, OrderPlaced, InvoiceIssued, OrderPlaced)
    error = (await refuse(path)).exception
    assert type(error) is EventCycleError
    assert issubclass(EventCycleError, RuntimeError)
    assert error.chain == path
    assert error.max_depth == 3
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is EventCycleError
        assert (again.chain, again.max_depth) == (error.chain, error.max_depth)
        assert str(again) == str(error)


async def test_sync_handlers_alone_are_refused_too(errors):
    """C7: an innermost event with sync handlers only is refused before any of them runs."""
    bus = EventBus(max_depth=2)
    seen = []

    async def deeper(event):
        await bus.publish(OrderPlaced())

    async def innermost(event):
        await bus.publish(MailSent())

    bus.subscribe(CartFilled, deeper)
    bus.subscribe(OrderPlaced, innermost)
    bus.subscribe(MailSent, seen.append)
    await bus.publish(CartFilled())
    assert seen == []
    assert [record.exc_info[0] for record in errors] == [EventCycleError]
    await bus.publish(OrderPlaced())
    assert len(seen) == 1


async def test_unhandled_event_is_no_level(errors):
    """C7, C1.3: publishing what nobody handles is a no-op at any depth, the first time too."""
    bus = EventBus(max_depth=1)
    rounds = []

    async def innermost(event):
        await bus.publish(MailSent())
        rounds.append(event)

    bus.subscribe(OrderPlaced, innermost)
    await bus.publish(OrderPlaced())
    await bus.publish(OrderPlaced())
    assert len(rounds) == 2
    assert len(errors) == 0


async def test_circle_with_fan_out(errors):
    """C7: where several handlers go round, each of the innermost ones fails, and no other."""
    failures = []
    bus = EventBus(max_depth=3, on_error=failures.append)
    finished = []

    async def first(event):
        await bus.publish(Level(event.number + 1))
        finished.append(event.number)

    async def second(event):
        await bus.publish(Level(event.number + 1))
        finished.append(event.number)

    bystanders = []
    bus.subscribe(Level, first)
    bus.subscribe(Level, bystanders.append)
    bus.subscribe(Level, second)
    await bus.publish(Level())
    assert [failure.event for failure in failures] == [Level(3)] * 8
    assert len(errors) == 8
    assert sorted(finished) == [1] * 2 + [2] * 4
    assert len(bystanders) == 1 + 2 + 4


async def test_width_is_not_depth(errors):
    """C7: many publishes of one handler, one after the other or at once, are one level."""
    bus = EventBus(max_depth=2)
    seen = []

    async def publish_many(event):
        for _ in range(10):
            await bus.publish(MailSent())
        await asyncio.gather(*[bus.publish(MailSent()) for _ in range(10)])

    async def take(event):
        seen.append(event)
        await asyncio.sleep(0)

    bus.subscribe(OrderPlaced, publish_many)
    bus.subscribe(MailSent, take)
    await bus.publish(OrderPlaced())
    assert len(seen) == 20
    assert len(errors) == 0


async def test_publish_in_an_awaited_task_counts(errors):
    """C7: a chain goes through the tasks that its handlers make and wait for."""
    bus = EventBus(max_depth=3)
    entered = []

    async def descend(event):
        entered.append(event.number)
        async with asyncio.TaskGroup() as group:
            group.create_task(bus.publish(Level(event.number + 1)))

    bus.subscribe(Level, descend)
    await bus.publish(Level())
    assert entered == [1, 2, 3]
    assert len(errors) == 1


async def test_chain_across_two_buses(errors):
    """C7: a circle is found although it runs over two buses, and its chain names both sides."""
    failures = []
    orders = EventBus(max_depth=5, on_error=failures.append)
    invoices = EventBus(max_depth=5, on_error=failures.append)

    async def issue(event):
        await invoices.publish(InvoiceIssued())

    async def order(event):
        await orders.publish(OrderPlaced())

    orders.subscribe(OrderPlaced, issue)
    invoices.subscribe(InvoiceIssued, order)
    await orders.publish(OrderPlaced())
    assert len(failures) == len(errors) == 1
    assert failures[0].exception.chain == (OrderPlaced, InvoiceIssued) * 3
    assert failures[0].chain == failures[0].exception.chain[:-1]


def plain_factory(loop, coroutine, **options):
    return asyncio.Task(coroutine, loop=loop, **options)


@pytest.fixture
def little_stack():
    """Leave as little room on the stack as serves code that does not pile up."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 150)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.parametrize("kind", ["async", "async beside sync", "returning an awaitable"])
@pytest.mark.parametrize(
    "factory",
    [
        pytest.param(None, id="no task factory"),
        pytest.param(plain_factory, id="task factory"),
        pytest.param(
            getattr(asyncio, "eager_task_factory", None),
            id="eager task factory",
            marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="new in 3.12"),
        ),
    ],
)
async def test_no_limit_carries_ten_thousand_levels(little_stack, errors, factory, kind):
    """C7: with `max_depth=None` a chain of 10,000 neither overflows the stack nor fails."""
    loop = asyncio.get_running_loop()
    loop.set_debug(False)  # which extracts a traceback for each of 10,000 tasks
    loop.set_task_factory(factory)
    bus = EventBus(max_depth=None)
    seen = []
    if kind == "async beside sync":
        bus.subscribe(Level, seen.append)
    entered, finished = descend_to(bus, 10_000)
    if kind == "returning an awaitable":
        descend = bus.handlers(Level)[0].callback
        bus.unsubscribe(Level, descend)
        bus.subscribe(Level, lambda event: descend(event))
    await bus.publish(Level())
    assert entered == list(range(1, 10_001))
    assert finished == entered[::-1]
    assert len(seen) == (10_000 if kind == "async beside sync" else 0)
    assert len(errors) == 0


@pytest.mark.parametrize("factory", [None, plain_factory], ids=["no task factory", "task factory"])
async def test_no_limit_carries_levels_that_are_new_to_the_bus(little_stack, errors, factory):
    """C7, C3: nor does a chain of event types whose handlers are only just found to be async."""
    loop = asyncio.get_running_loop()
    loop.set_debug(False)
    loop.set_task_factory(factory)
    bus = EventBus(max_depth=None)
    path = [type(f"Level{number}", (Event,), {}) for number in range(1000)]
    entered = []
    for event_type, following in pairwise(path):

        def go_on(event, following=following):
            entered.append(type(event))
            return bus.publish(following())

        bus.subscribe(event_type, go_on)
    bus.subscribe(path[-1], lambda event: entered.append(type(event)))
    await bus.publish(path[0]())
    assert entered == path
    assert len(errors) == 0


async def test_ten_thousand_levels_are_cancelled_together(little_stack, errors):
    """C7, C4.5: cancelling the publisher of a chain of 10,000 does not overflow the stack."""
    asyncio.get_running_loop().set_debug(False)
    bus = EventBus(max_depth=None)
    deepest = asyncio.Event()
    cancelled = []

    async def descend(event):
        try:
            if event.number < 10_000:
                await bus.publish(Level(event.number + 1))
            else:
                deepest.set()
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(event.number)
            raise

    bus.subscribe(Level, descend)
    publisher = asyncio.create_task(bus.publish(Level()))
    await deepest.wait()
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert cancelled == list(range(10_000, 0, -1))
    assert len(errors) == 0


class Memory:
    """What is allocated in the course of a circle, measured at two of its rounds."""

    FIRST, LAST = 500, 2000

    def __init__(self):
        asyncio.get_running_loop().set_debug(False)  # whose records would count
        self.measured = []

    def __enter__(self):
        tracemalloc.start()
        return self

    def __exit__(self, *exc_info):
        tracemalloc.stop()

    def measure(self, number):
        """Measure in the first and in the last round; fail in the last one."""
        if number in (self.FIRST, self.LAST):
            gc.collect()
            self.measured.append(tracemalloc.get_traced_memory()[0])
        if number == self.LAST:
            raise LookupError

    def growth(self):
        """Return the growth in bytes per round."""
        first, last = self.measured
        return (last - first) / (self.LAST - self.FIRST)


@pytest.mark.parametrize("kind", ["sync", "async", "waiting"])
async def test_circle_of_publish_nowait_is_not_refused(errors, kind):
    """C7: a circle of `publish_nowait` goes on for as long as it likes, and grows nothing."""
    failures = []
    bus = EventBus(max_depth=2, on_error=failures.append)
    memory = Memory()

    def again(event):
        assert bus.pending <= 2
        memory.measure(event.number)
        bus.publish_nowait(Level(event.number + 1))

    async def again_async(event):
        if kind == "waiting":
            await asyncio.sleep(0)
        again(event)

    bus.subscribe(Level, again if kind == "sync" else again_async)
    with memory:
        bus.publish_nowait(Level())
        async with asyncio.timeout(30):
            await bus.join()
    assert [failure.event for failure in failures] == [Level(Memory.LAST)]
    assert failures[0].chain == (Level,)
    assert len(errors) == 1
    assert memory.growth() < 10


async def test_publish_nowait_inside_a_chain_starts_another():
    """C7: nobody awaits a `publish_nowait` event, so its chain starts with itself."""
    failures, failed = [], asyncio.Event()
    bus = EventBus(max_depth=2, on_error=lambda failure: (failures.append(failure), failed.set()))

    async def place(event):
        await bus.publish(InvoiceIssued())

    async def issue(event):
        bus.publish_nowait(CartFilled())
        await failed.wait()

    async def fill(event):
        await bus.publish(MailSent())

    def fail(event):
        raise LookupError

    bus.subscribe(OrderPlaced, place)
    bus.subscribe(InvoiceIssued, issue)
    bus.subscribe(CartFilled, fill)
    bus.subscribe(MailSent, fail)
    await bus.publish(OrderPlaced())
    await bus.join()
    assert [type(failure.exception) for failure in failures] == [LookupError]
    assert failures[0].chain == (CartFilled, MailSent)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside an async handler"])
async def test_task_of_a_background_handler_is_not_in_the_outer_chain(beside):
    """C7: nor is what a handler of a `publish_nowait` event starts charged to that chain."""
    failures, failed = [], asyncio.Event()
    bus = EventBus(on_error=lambda failure: (failures.append(failure), failed.set()))
    tasks = []

    async def place(event):
        bus.publish_nowait(InvoiceIssued())
        await failed.wait()

    def issue(event):
        tasks.append(asyncio.create_task(bus.publish(MailSent())))

    def fail(event):
        raise LookupError

    async def nothing(event):
        pass

    bus.subscribe(OrderPlaced, place)
    bus.subscribe(InvoiceIssued, issue)
    if beside:
        bus.subscribe(InvoiceIssued, nothing)
    bus.subscribe(MailSent, fail)
    await bus.publish(OrderPlaced())
    await asyncio.gather(*tasks)
    assert [type(failure.exception) for failure in failures] == [LookupError]
    assert OrderPlaced not in failures[0].chain


async def test_publish_nowait_event_is_the_first_level():
    """C7: awaited publishes below a `publish_nowait` event are counted with it."""
    failures = []
    bus = EventBus(max_depth=3, on_error=failures.append)
    entered, finished = descend_to(bus, 1000)
    bus.publish_nowait(Level())
    await bus.join()
    assert (entered, finished) == ([1, 2, 3], [2, 1])
    assert failures[0].exception.chain == (Level,) * 4


class Detached(set):
    """Tasks that nobody waits for; `over` is set by the first of them that fails."""

    def __init__(self):
        self.over = asyncio.Event()
        self.refused = []

    def start(self, coroutine):
        task = asyncio.create_task(coroutine)
        self.add(task)
        task.add_done_callback(self.finish)

    def finish(self, task):
        self.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.refused.append(task.exception())
            self.over.set()


@pytest.mark.parametrize("kind", ["sync", "async", "lingering"])
async def test_circle_of_detached_tasks(errors, kind):
    """C7: a circle through tasks that nobody waits for is not refused, and grows nothing.

    Nor is it where a handler is still under way when the task that it has made publishes.
    """
    failures = []
    tasks = Detached()
    bus = EventBus(
        max_depth=5, on_error=lambda failure: (failures.append(failure), tasks.over.set())
    )
    memory = Memory()
    started = [asyncio.Event() for _ in range(Memory.LAST + 1)]

    def again(event):
        started[event.number].set()  # the handler of the round before may go now
        memory.measure(event.number)
        tasks.start(bus.publish(Level(event.number + 1)))

    async def again_async(event):
        again(event)
        if kind == "lingering":
            await started[event.number + 1].wait()

    bus.subscribe(Level, again if kind == "sync" else again_async)
    with memory:
        tasks.start(bus.publish(Level()))
        await tasks.over.wait()
    assert tasks.refused == []
    await asyncio.gather(*tasks)
    assert [failure.event for failure in failures] == [Level(Memory.LAST)]
    assert type(failures[0].exception) is LookupError
    assert len(errors) == 1
    assert len(failures[0].chain) == (2 if kind == "lingering" else 1)
    assert memory.growth() < 10


async def test_finished_outer_levels_do_not_count(errors):
    """C7: of a chain that outlives its outer levels, those still under way are counted exactly."""
    bus = EventBus(max_depth=2)
    first_is_over = asyncio.Event()
    second_has_started = asyncio.Event()
    tasks, mails = [], []

    async def place(event):
        tasks.append(asyncio.create_task(bus.publish(InvoiceIssued())))
        await second_has_started.wait()

    async def issue(event):
        second_has_started.set()
        await first_is_over.wait()
        await bus.publish(CartFilled())

    async def fill(event):
        mails.append("published")
        await bus.publish(MailSent())

    bus.subscribe(OrderPlaced, place)
    bus.subscribe(InvoiceIssued, issue)
    bus.subscribe(CartFilled, fill)
    bus.subscribe(MailSent, mails.append)
    await bus.publish(OrderPlaced())
    first_is_over.set()
    await asyncio.gather(*tasks)
    assert mails == ["published"]
    assert [record.exc_info[1].chain for record in errors] == [
        (InvoiceIssued, CartFilled, MailSent)
    ]


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after waiting"])
@pytest.mark.parametrize("way", ["publish", "publish_nowait"])
async def test_task_left_behind_starts_a_chain_of_its_own(way, waits):
    """C7: a task that outlives the publish of its handler is no longer part of that chain."""
    failures = []
    bus = EventBus(max_depth=1, on_error=failures.append)
    gate = asyncio.Event()
    tasks = []

    async def later():
        await gate.wait()
        await bus.publish(MailSent())

    async def leave(event):
        if waits:
            await asyncio.sleep(0)
        tasks.append(asyncio.create_task(later()))

    def fail(event):
        raise LookupError

    bus.subscribe(OrderPlaced, leave)
    bus.subscribe(MailSent, fail)
    if way == "publish":
        await bus.publish(OrderPlaced())
    else:
        bus.publish_nowait(OrderPlaced())
        await bus.join()
    gate.set()
    await asyncio.gather(*tasks)
    assert [type(failure.exception) for failure in failures] == [LookupError]
    assert failures[0].chain == (MailSent,)


async def test_the_publishers_context_is_left_alone():
    """C7, C4.3: keeping track of the chain leaves nothing in a publisher's own context."""
    bus = EventBus(max_depth=2)
    mine = ContextVar("mine")
    mine.set("kept")
    unchanged = []

    async def again(event):
        before = dict(copy_context().items())
        with suppress(EventCycleError):
            await bus.publish(OrderPlaced())
        unchanged.append(dict(copy_context().items()) == before)

    bus.subscribe(OrderPlaced, again)
    before = dict(copy_context().items())
    await bus.publish(OrderPlaced())
    bus.publish_nowait(OrderPlaced())
    await bus.join()
    assert dict(copy_context().items()) == before
    assert mine.get() == "kept"
    assert unchanged == [True] * 4
