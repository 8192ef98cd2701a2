# SPDX-License-Identifier: MIT
"""C4: publish, all of it but cancellation."""

import asyncio
import contextvars
import gc
import logging
import weakref
from functools import partial

import pytest
from support import (
    EAGER_FACTORIES,
    Failure,
    InvoiceIssued,
    Level,
    OrderPlaced,
    deep,
    plain_factory,
    use,
)
from target import PACKAGE, Event, EventBus


def wrapping_factory(loop, coro, **options):
    """Run the coroutine in another one, which waits once more when that has finished."""

    async def wrapper():
        try:
            return await coro
        finally:
            await asyncio.sleep(0)

    return asyncio.Task(wrapper(), loop=loop, **options)


FACTORIES = [plain_factory, wrapping_factory, *EAGER_FACTORIES]

with_factories = pytest.mark.parametrize("factory", FACTORIES)
with_and_without_factories = pytest.mark.parametrize("factory", [None, *FACTORIES])


# C4.1


async def test_handlers_run_concurrently(bus):
    """C4.1: handlers that wait for each other all finish."""
    everyone = asyncio.Barrier(3)
    finished = []

    def handler(name):
        async def meet(event):
            async with everyone:
                finished.append(name)

        return meet

    for name in "abc":
        bus.subscribe(OrderPlaced, handler(name))
    async with asyncio.timeout(5):
        assert await bus.publish(OrderPlaced()) is None
    assert sorted(finished) == ["a", "b", "c"]


async def test_publish_waits_for_every_handler(bus):
    """C4.1: publish returns when the last handler has finished, not before."""
    gates = [asyncio.Event() for _ in range(3)]
    for gate in gates:
        bus.subscribe(OrderPlaced, lambda event, gate=gate: gate.wait())
    publisher = asyncio.create_task(bus.publish(OrderPlaced()))
    for gate in gates:
        await asyncio.wait([publisher], timeout=0.01)
        assert not publisher.done()
        gate.set()
    async with asyncio.timeout(5):
        assert await publisher is None


async def test_sync_handlers_have_run(bus):
    """C4.1: with sync handlers only, publish returns None when all have run."""
    first, second = [], []
    bus.subscribe(OrderPlaced, first.append)
    bus.subscribe(OrderPlaced, second.append)
    event = OrderPlaced()
    assert await bus.publish(event) is None
    assert first == second == [event]


async def test_nothing_runs_before_the_await(bus):
    """C4.1: publish is a coroutine function; called without await, it runs no handler."""
    seen = []
    bus.subscribe(OrderPlaced, seen.append)
    publishing = bus.publish(OrderPlaced())
    assert seen == []
    await publishing
    assert len(seen) == 1


async def test_publishes_of_several_tasks_do_not_wait_for_each_other(bus):
    """C4.1: a publish waits for the handlers of its own event only."""
    gate = asyncio.Event()

    async def wait(event):
        if event.left:
            await gate.wait()

    bus.subscribe(Level, wait)
    slow = asyncio.create_task(bus.publish(Level(1)))
    async with asyncio.timeout(5):
        await bus.publish(Level(0))
        assert not slow.done()
        gate.set()
        await slow


# C4.2


def subscribe_mixed(bus):
    """Subscribe sync and async handlers in turn; return the list of who started, in order."""
    started = []

    def sync(name, event):
        started.append(name)

    async def early(name, event):
        started.append(name)

    async def late(name, event):
        started.append(name)
        await asyncio.sleep(0)

    kinds = [late, sync, early, sync, sync, late, early, late, sync]
    for name, kind in enumerate(kinds):
        bus.subscribe(OrderPlaced, partial(kind, name))
    return started


@with_and_without_factories
async def test_start_order(bus, factory):
    """C4.2: sync and async handlers start in subscription order, whoever makes the tasks."""
    use(factory)
    started = subscribe_mixed(bus)
    for _ in range(3):
        await bus.publish(OrderPlaced())
        assert started == list(range(9))
        started.clear()


@with_and_without_factories
@pytest.mark.parametrize("levels", [1, 7, 8, 9, 30])
async def test_start_order_deep_in_a_chain(bus, factory, levels):
    """C4.2: the order is the same at every depth of a chain of publishes."""
    use(factory)
    started = subscribe_mixed(bus)
    await deep(bus, levels, lambda: bus.publish(OrderPlaced()))
    assert started == list(range(9))


async def test_sync_handler_only_in_disguise_keeps_its_turn(bus):
    """C4.2: a sync callable that returns an awaitable is called in its turn, and awaited."""
    log = []

    async def rest():
        log.append("rest")

    def disguised(event):
        log.append("disguised")
        return rest()

    async def last(event):
        log.append("last")

    bus.subscribe(OrderPlaced, lambda event: log.append("first"))
    bus.subscribe(OrderPlaced, disguised)
    bus.subscribe(OrderPlaced, last)
    for _ in range(2):
        await bus.publish(OrderPlaced())
        assert [name for name in log if name != "rest"] == ["first", "disguised", "last"]
        assert log.count("rest") == 1
        log.clear()


# C4.3

tenant = contextvars.ContextVar("tenant", default=None)


def set_sync(seen, name, event):
    seen.append(tenant.get())
    tenant.set(name)


async def set_early(seen, name, event):
    seen.append(tenant.get())
    tenant.set(name)


async def set_late(seen, name, event):
    tenant.set(name)
    await asyncio.sleep(0)
    seen.append("publisher" if tenant.get() == name else tenant.get())


@pytest.mark.parametrize(
    "kinds",
    [
        [set_sync],
        [set_early],
        [set_late],
        [set_sync, set_sync],
        [set_early, set_early],
        [set_late, set_sync, set_early, set_late, set_sync],
    ],
)
@with_and_without_factories
async def test_contexts_are_isolated(bus, factory, kinds):
    """C4.3: a handler sees the publisher's values; what it sets nobody else sees."""
    use(factory)
    seen = []
    for number, kind in enumerate(kinds):
        bus.subscribe(OrderPlaced, partial(kind, seen, f"handler {number}"))
    tenant.set("publisher")
    await bus.publish(OrderPlaced())
    assert seen == ["publisher"] * len(kinds)
    assert tenant.get() == "publisher"


@with_and_without_factories
async def test_publish_leaves_the_context_as_it_was(bus, factory):
    """C4.3: nor does the bus leave anything in the publisher's context."""
    use(factory)
    bus.subscribe(OrderPlaced, lambda event: None)
    bus.subscribe(InvoiceIssued, partial(set_early, [], "handler"))
    before = dict(contextvars.copy_context())
    for event in (OrderPlaced(), InvoiceIssued()):
        await bus.publish(event)
        bus.publish_nowait(event)
        assert dict(contextvars.copy_context()) == before
    await bus.join()
    assert dict(contextvars.copy_context()) == before


async def test_context_of_an_awaitable_is_that_of_its_call(bus):
    """C4.3: the second half of a handler in disguise sees what its first half has set."""
    seen = []

    async def rest():
        seen.append(tenant.get())

    def disguised(event):
        tenant.set("handler")
        return rest()

    bus.subscribe(OrderPlaced, disguised)
    bus.subscribe(OrderPlaced, partial(set_late, seen, "other"))
    tenant.set("publisher")
    await bus.publish(OrderPlaced())
    assert sorted(seen) == ["handler", "publisher"]
    assert tenant.get() == "publisher"


@pytest.mark.parametrize("count", [1, 3])
@with_and_without_factories
async def test_every_async_handler_has_its_own_task(bus, factory, count):
    """C4.3: each async handler runs in a task of its own, a single one as well."""
    use(factory)
    tasks = [asyncio.current_task()]

    async def handler(number, event):
        task = asyncio.current_task()
        tasks.append(task)
        await asyncio.sleep(0)
        assert asyncio.current_task() is task

    for number in range(count):
        bus.subscribe(OrderPlaced, partial(handler, number))
    await bus.publish(OrderPlaced())
    assert len(set(tasks)) == len(tasks) == count + 1
    assert asyncio.current_task() is tasks[0]


@pytest.mark.parametrize("levels", [1, 20])
async def test_task_is_named_after_the_handler(bus, levels):
    """C4.3: the task's name is the handler's, in its first step already and at every depth."""
    names = []

    async def handler(event):
        names.append(asyncio.current_task().get_name())
        await asyncio.sleep(0)
        names.append(asyncio.current_task().get_name())

    bus.subscribe(OrderPlaced, handler)
    await deep(bus, levels, lambda: bus.publish(OrderPlaced()))
    assert names == [bus.handlers(OrderPlaced)[0].name] * 2


async def test_timeout_in_the_first_step(bus, errors):
    """C4.3: `asyncio.timeout` in a handler's first step cancels that handler alone."""
    log = []

    async def impatient(event):
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            log.append("timed out")

    async def patient(event):
        await asyncio.sleep(0)
        log.append("patient")

    bus.subscribe(OrderPlaced, impatient)
    bus.subscribe(OrderPlaced, patient)
    await bus.publish(OrderPlaced())
    assert sorted(log) == ["patient", "timed out"]
    assert asyncio.current_task().cancelling() == 0
    assert len(errors) == 0


async def test_task_group_in_the_first_step(bus, errors):
    """C4.3: a TaskGroup in a handler's first step cancels that handler alone when it fails."""
    log = []

    async def fail():
        raise Failure

    async def grouping(event):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.Event().wait()
        except* Failure:
            log.append("group failed")

    async def patient(event):
        await asyncio.sleep(0)
        log.append("patient")

    bus.subscribe(OrderPlaced, grouping)
    bus.subscribe(OrderPlaced, patient)
    await bus.publish(OrderPlaced())
    assert sorted(log) == ["group failed", "patient"]
    assert asyncio.current_task().cancelling() == 0
    assert len(errors) == 0


async def test_cancel_scope_in_the_first_step(bus, errors):
    """C4.3: a scope that cancels the current task, and takes it back, is the handler's affair."""
    log = []

    async def scoped(event):
        task = asyncio.current_task()
        task.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            log.append(task.uncancel())

    bus.subscribe(OrderPlaced, scoped)
    await bus.publish(OrderPlaced())
    assert log == [0]
    assert asyncio.current_task().cancelling() == 0
    assert len(errors) == 0


# C4.4


def fail_sync(event):
    raise Failure("no paper")


async def fail_early(event):
    raise Failure("no paper")


async def fail_late(event):
    await asyncio.sleep(0)
    raise Failure("no paper")


def fail_awaited(event):
    return fail_late(event)


every_failure = pytest.mark.parametrize("fail", [fail_sync, fail_early, fail_late, fail_awaited])


@every_failure
@with_and_without_factories
async def test_failure_is_reported_once(errors, fail, factory):
    """C4.4: one ERROR record with its traceback, then one call of `on_error`."""
    use(factory)
    failures = []
    bus = EventBus(on_error=failures.append)
    bus.subscribe(OrderPlaced, fail)
    event = OrderPlaced()
    assert await bus.publish(event) is None

    (failure,) = failures
    assert failure.event is event
    assert failure.handler is bus.handlers(OrderPlaced)[0]
    assert isinstance(failure.exception, Failure)
    assert failure.chain == (OrderPlaced,)

    (record,) = errors
    assert record.levelname == "ERROR"
    assert failure.handler.name in record.getMessage()
    assert "OrderPlaced" in record.getMessage()
    assert record.exc_info[1] is failure.exception
    traceback = failure.exception.__traceback__
    while traceback.tb_next:
        traceback = traceback.tb_next
    assert traceback.tb_frame.f_code.co_name in (fail.__name__, "fail_late")


@every_failure
async def test_failure_touches_neither_siblings_nor_publisher(bus, errors, fail):
    """C4.4: the handlers before and after the one that fails all finish, and so does publish."""
    log = []

    async def waiting(event):
        log.append("started")
        await asyncio.sleep(0)
        log.append("finished")

    bus.subscribe(OrderPlaced, waiting)
    bus.subscribe(OrderPlaced, lambda event: log.append("sync"))
    bus.subscribe(OrderPlaced, fail)
    bus.subscribe(OrderPlaced, lambda event: log.append("sync"))
    bus.subscribe(OrderPlaced, lambda event: waiting(event))
    await bus.publish(OrderPlaced())
    assert sorted(log) == ["finished", "finished", "started", "started", "sync", "sync"]
    assert asyncio.current_task().cancelling() == 0
    assert len(errors) == 1


async def test_every_failing_handler_is_reported(bus, errors):
    """C4.4: of several handlers that fail, each one is logged."""
    for fail in (fail_sync, fail_early, fail_late, fail_awaited):
        bus.subscribe(OrderPlaced, fail)
    await bus.publish(OrderPlaced())
    messages = " ".join(record.getMessage() for record in errors)
    assert len(errors) == 4
    assert all(handler.name in messages for handler in bus.handlers(OrderPlaced))


@every_failure
@pytest.mark.parametrize("levels", [1, 20])
async def test_chain_runs_from_the_outermost_publish(errors, fail, levels):
    """C4.4: the chain names every level, outermost first, in the log and for `on_error`."""
    failures = []
    bus = EventBus(on_error=failures.append)

    async def issue(event):
        await bus.publish(InvoiceIssued())

    bus.subscribe(OrderPlaced, issue)
    bus.subscribe(InvoiceIssued, fail)
    await deep(bus, levels, lambda: bus.publish(OrderPlaced()))
    (failure,) = failures
    assert failure.chain == (*[Level] * levels, OrderPlaced, InvoiceIssued)
    assert "Level -> OrderPlaced -> InvoiceIssued" in errors[0].getMessage()


async def test_chain_leaves_out_what_has_finished(errors):
    """C4.4: a publish of a task that outlives its handler starts a chain of its own."""
    failures = []
    bus = EventBus(on_error=failures.append)
    returned = asyncio.Event()
    detached = []

    async def issue():
        await returned.wait()
        await bus.publish(InvoiceIssued())

    async def leave_behind(event):
        detached.append(asyncio.create_task(issue()))

    bus.subscribe(OrderPlaced, leave_behind)
    bus.subscribe(InvoiceIssued, fail_early)
    await bus.publish(OrderPlaced())
    returned.set()
    await detached[0]
    assert [failure.chain for failure in failures] == [(InvoiceIssued,)]


@every_failure
async def test_payload_is_not_logged(bus, errors, fail):
    """C4.4: the message has the event's type, not its payload."""

    class Payment(Event):
        def __init__(self):
            self.card = "4111-1111"

        def __repr__(self):
            return self.card

    bus.subscribe(Payment, fail)
    await bus.publish(Payment())
    (record,) = errors
    assert "Payment" in record.getMessage()
    assert "4111" not in record.getMessage()


async def test_failure_is_logged_while_siblings_run(errors):
    """C4.4: a failure is reported at once, not when the slowest sibling has finished."""
    failed = asyncio.Event()
    bus = EventBus(on_error=lambda failure: failed.set())
    log = []

    async def patient(event):
        await failed.wait()
        log.append(len(errors))

    bus.subscribe(OrderPlaced, patient)
    bus.subscribe(OrderPlaced, fail_late)
    async with asyncio.timeout(5):
        await bus.publish(OrderPlaced())
    assert log == [1]


@every_failure
@pytest.mark.parametrize("error", [ValueError("on_error is broken"), asyncio.CancelledError()])
async def test_on_error_that_raises_is_logged(errors, fail, error):
    """C4.4: what `on_error` raises is logged too, and changes nothing else."""

    def on_error(failure):
        raise error

    bus = EventBus(on_error=on_error)
    seen = []
    bus.subscribe(OrderPlaced, fail)
    bus.subscribe(OrderPlaced, seen.append)
    await bus.publish(OrderPlaced())
    assert len(seen) == 1
    assert [record.levelname for record in errors] == ["ERROR", "ERROR"]
    assert isinstance(errors[0].exc_info[1], Failure)
    assert errors[1].exc_info[1] is error


async def test_failure_is_logged_before_on_error(errors):
    """C4.4: `on_error` finds the failure in the log."""
    found = []
    bus = EventBus(on_error=lambda failure: found.append(len(errors)))
    for fail in (fail_sync, fail_late):
        bus.subscribe(OrderPlaced, fail)
    await bus.publish(OrderPlaced())
    assert found == [1, 2]


@every_failure
@pytest.mark.parametrize("alone", [True, False])
async def test_on_error_runs_in_the_context_of_the_handler(fail, alone):
    """C4.4: `on_error` sees what the failing handler has set, and the handler's task."""
    seen = []

    def on_error(failure):
        seen.append((tenant.get(), asyncio.current_task().get_name()))
        tenant.set("on_error")

    bus = EventBus(on_error=on_error)

    def set_and_fail(event):
        tenant.set("handler")
        return fail(event)

    async def set_and_fail_async(event):
        tenant.set("handler")
        await fail(event)

    is_async = fail in (fail_early, fail_late)
    bus.subscribe(OrderPlaced, set_and_fail_async if is_async else set_and_fail)
    if not alone:
        bus.subscribe(OrderPlaced, partial(set_late, [], "other"))
    tenant.set("publisher")
    await bus.publish(OrderPlaced())
    ((value, task),) = seen
    assert value == "handler"
    assert task == bus.handlers(OrderPlaced)[0].name or fail is fail_sync
    assert tenant.get() == "publisher"


async def test_failure_after_a_nested_publish_is_its_own_handler_s(bus, errors):
    """C4.4: a handler whose nested publish has a failing handler does not fail itself."""
    log = []

    async def issue(event):
        await bus.publish(InvoiceIssued())
        log.append("issued")

    bus.subscribe(OrderPlaced, issue)
    bus.subscribe(InvoiceIssued, fail_late)
    await bus.publish(OrderPlaced())
    assert log == ["issued"]
    assert [record.exc_info[0] for record in errors] == [Failure]


# C4.6


@with_and_without_factories
@pytest.mark.parametrize("is_async", [False, True])
async def test_handler_subscribed_meanwhile_waits_for_the_next_publish(bus, factory, is_async):
    """C4.6: a handler that is subscribed by a handler gets the next event, not this one."""
    use(factory)
    seen = []

    async def subscribe_async(event):
        bus.subscribe(OrderPlaced, seen.append)

    bus.subscribe(
        OrderPlaced,
        subscribe_async if is_async else lambda event: bus.subscribe(OrderPlaced, seen.append),
    )
    await bus.publish(OrderPlaced())
    assert seen == []
    second = OrderPlaced()
    await bus.publish(second)
    assert seen == [second]


@with_and_without_factories
@pytest.mark.parametrize("is_async", [False, True])
async def test_handler_cancelled_meanwhile_still_gets_this_event(bus, factory, is_async):
    """C4.6: a subscription that an earlier handler cancels ends with the next publish."""
    use(factory)
    seen = []
    subscriptions = []

    def cancel(event):
        for subscription in subscriptions:
            subscription.cancel()

    async def cancel_async(event):
        cancel(event)

    async def see(event):
        seen.append(event)

    bus.subscribe(OrderPlaced, cancel_async if is_async else cancel)
    subscriptions += [bus.subscribe(OrderPlaced, seen.append), bus.subscribe(OrderPlaced, see)]
    event = OrderPlaced()
    await bus.publish(event)
    assert seen == [event, event]
    await bus.publish(OrderPlaced())
    assert seen == [event, event]


async def test_next_publish_may_be_a_nested_one(bus):
    """C4.6: a publish that a handler makes itself is a next one, and sees the changes."""
    seen = []

    def note(name):
        return lambda event: seen.append((name, event.left))

    async def change(event):
        if event.left:
            bus.subscribe(Level, note("new"))
            subscription.cancel()
            await bus.publish(Level(event.left - 1))

    bus.subscribe(Level, change)
    subscription = bus.subscribe(Level, note("old"))
    await bus.publish(Level(1))
    assert sorted(seen) == [("new", 0), ("old", 1)]


# C4.7


@pytest.mark.parametrize("thing", [None, 7, "OrderPlaced", object(), int, [OrderPlaced()]])
async def test_what_is_no_event_is_refused(bus, thing):
    """C4.7: publishing what is not an instance of an event class is a TypeError."""
    for _ in range(2):
        with pytest.raises(TypeError, match="Event"):
            await bus.publish(thing)
        with pytest.raises(TypeError, match="Event"):
            bus.publish_nowait(thing)
    assert bus.pending == 0


@pytest.mark.parametrize("subscribed", [False, True])
async def test_class_instead_of_an_instance_is_refused(bus, subscribed):
    """C4.7: for an event class the message says what is wanted: an instance."""
    seen = []
    if subscribed:
        bus.subscribe(OrderPlaced, seen.append)
    with pytest.raises(TypeError, match=r"instance.*OrderPlaced"):
        await bus.publish(OrderPlaced)
    with pytest.raises(TypeError, match=r"instance.*OrderPlaced"):
        bus.publish_nowait(OrderPlaced)
    assert bus.pending == 0
    assert seen == []


# C4.8


class Thing:
    pass


class Watch:
    """Weak references to what has to die with a publish."""

    def __init__(self):
        self.references = []

    def __call__(self, thing):
        self.references.append(weakref.ref(thing))
        return thing

    def alive(self):
        return [thing for thing in (ref() for ref in self.references) if thing is not None]


@pytest.fixture
def watch(monkeypatch):
    """A `Watch`, with nothing to free things but reference counts, and no log to hold them."""
    monkeypatch.setattr(logging.getLogger(PACKAGE), "disabled", True)
    gc.disable()
    yield Watch()
    gc.enable()


def do_sync(watch, event):
    thing = watch(Thing())  # noqa: F841


async def do_early(watch, event):
    thing = watch(Thing())  # noqa: F841


async def do_late(watch, event):
    thing = watch(Thing())  # noqa: F841
    await asyncio.sleep(0)


def do_awaited(watch, event):
    return do_late(watch, event)


def raise_sync(watch, event):
    thing = watch(Thing())  # noqa: F841
    raise watch(Failure(event))


async def raise_early(watch, event):
    thing = watch(Thing())  # noqa: F841
    raise watch(Failure(event))


async def raise_late(watch, event):
    thing = watch(Thing())  # noqa: F841
    await asyncio.sleep(0)
    raise watch(Failure(event))


def raise_awaited(watch, event):
    return raise_late(watch, event)


async def be_cancelled(watch, event):
    thing = watch(Thing())  # noqa: F841
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


HANDLERS = [
    do_sync,
    do_early,
    do_late,
    do_awaited,
    raise_sync,
    raise_early,
    raise_late,
    raise_awaited,
    be_cancelled,
]


async def publish_watched(bus, watch):
    await bus.publish(watch(OrderPlaced()))


async def publish_nowait_watched(bus, watch):
    bus.publish_nowait(watch(OrderPlaced()))
    await bus.join()


@pytest.mark.parametrize("publish", [publish_watched, publish_nowait_watched])
@pytest.mark.parametrize("handlers", [*[[handler] for handler in HANDLERS], HANDLERS])
@with_and_without_factories
async def test_nothing_is_kept_alive(watch, factory, handlers, publish):
    """C4.8: event, handler's locals and exception die with the publish, without the collector."""
    use(factory)
    failures = []
    bus = EventBus(on_error=lambda failure: failures.append(type(failure.exception)))
    for handler in handlers:
        bus.subscribe(OrderPlaced, partial(handler, watch))
    await publish(bus, watch)
    assert len(watch.references) > len(handlers)
    assert watch.alive() == []
    failing = [handler for handler in handlers if "raise" in handler.__name__]
    assert failures.count(Failure) == len(failing)


@pytest.mark.parametrize("publish", [publish_watched, publish_nowait_watched])
@pytest.mark.parametrize("is_async", [False, True])
@with_and_without_factories
async def test_context_is_not_kept_alive(watch, bus, factory, is_async, publish):
    """C4.8: nor does the context of a handler, which may hold the event, outlive the publish."""
    use(factory)

    def remember(event):
        tenant.set(event)

    async def remember_async(event):
        tenant.set(event)
        await asyncio.sleep(0)

    bus.subscribe(OrderPlaced, remember_async if is_async else remember)
    await publish(bus, watch)
    assert watch.alive() == []


@pytest.mark.parametrize("stubborn", [False, True])
@with_and_without_factories
async def test_cancelled_publish_keeps_nothing_alive(watch, bus, factory, stubborn):
    """C4.8: the same when the publisher is cancelled, and its handlers with it."""
    use(factory)
    started = asyncio.Event()

    async def wait(event):
        thing = watch(Thing())  # noqa: F841
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not stubborn:
                raise

    bus.subscribe(OrderPlaced, wait)
    bus.subscribe(OrderPlaced, partial(do_late, watch))

    async def publish():
        publisher = asyncio.create_task(bus.publish(watch(OrderPlaced())))
        await started.wait()
        publisher.cancel()
        await asyncio.wait([publisher])
        assert publisher.cancelled()

    await publish()
    assert len(watch.references) == 3
    assert watch.alive() == []


@with_and_without_factories
async def test_timed_out_publish_keeps_nothing_alive(watch, bus, factory):
    """C4.8: the same when `asyncio.timeout` ends the publish."""
    use(factory)

    async def wait(event):
        thing = watch(Thing())  # noqa: F841
        await asyncio.Event().wait()

    bus.subscribe(OrderPlaced, wait)
    bus.subscribe(OrderPlaced, lambda event: wait(event))

    async def publish():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await bus.publish(watch(OrderPlaced()))

    await publish()
    assert len(watch.references) == 3
    assert watch.alive() == []


@with_and_without_factories
async def test_nested_publish_keeps_nothing_alive(watch, bus, factory):
    """C4.8: the event of every level of a chain dies with its own publish."""
    use(factory)
    log = []

    async def descend(event):
        watch(event)
        if event.left:
            await bus.publish(Level(event.left - 1))
            log.append(len(watch.alive()))

    bus.subscribe(Level, descend)
    await bus.publish(Level(20))
    assert log == list(range(20, 0, -1))
    assert watch.alive() == []


@with_and_without_factories
async def test_task_left_behind_keeps_no_event_alive(watch, bus, factory):
    """C4.8: a task that a handler leaves behind, publishing itself, does not hold the event."""
    use(factory)
    publishing, go_on = asyncio.Event(), asyncio.Event()
    left_behind = []

    async def issue():
        await bus.publish(watch(InvoiceIssued()))
        await asyncio.Event().wait()

    async def leave_behind(event):
        left_behind.append(asyncio.create_task(issue()))
        await asyncio.sleep(0)

    async def wait(event):
        publishing.set()
        await go_on.wait()

    bus.subscribe(OrderPlaced, leave_behind)
    bus.subscribe(InvoiceIssued, wait)
    await publish_watched(bus, watch)
    await publishing.wait()
    assert [type(thing) for thing in watch.alive()] == [InvoiceIssued]
    go_on.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not left_behind[0].done()
    assert watch.alive() == []
    left_behind[0].cancel()


# C4.9


@pytest.mark.parametrize("levels", [1, 20])
async def test_task_factory_makes_the_tasks_of_handlers(bus, levels):
    """C4.9: the handlers run in the tasks that the loop's factory makes, at every depth."""

    class OwnTask(asyncio.Task):
        pass

    use(lambda loop, coro, **options: OwnTask(coro, loop=loop, **options))
    tasks = []

    async def early(event):
        tasks.append(asyncio.current_task())

    async def late(event):
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)

    for handler in (early, late, lambda event: late(event)):
        bus.subscribe(OrderPlaced, handler)
    await deep(bus, levels, lambda: bus.publish(OrderPlaced()))
    assert [type(task) for task in tasks] == [OwnTask] * 3
    names = sorted(handler.name for handler in bus.handlers(OrderPlaced))
    assert sorted(task.get_name() for task in tasks) == names


async def test_task_factory_is_asked_at_every_publish(bus):
    """C4.9: a factory that is set or removed later counts from the next publish on."""
    made = []

    def counting(loop, coro, **options):
        made.append(coro)
        return plain_factory(loop, coro, **options)

    async def handler(event):
        pass

    bus.subscribe(OrderPlaced, handler)
    for factory, count in ((None, 0), (counting, 1), (None, 1), (counting, 2)):
        use(factory)
        await bus.publish(OrderPlaced())
        assert len(made) == count


async def test_task_that_outlives_the_handler_is_waited_for(bus):
    """C4.9: publish waits for the whole task that a factory makes of a handler."""
    log = []

    def factory(loop, coro, **options):
        async def wrapper():
            await coro
            for _ in range(3):
                await asyncio.sleep(0)
            log.append("wrapper")

        return asyncio.Task(wrapper(), loop=loop, **options)

    async def early(event):
        log.append("handler")

    async def late(event):
        await asyncio.sleep(0)
        log.append("handler")

    bus.subscribe(OrderPlaced, early)
    bus.subscribe(OrderPlaced, late)
    use(factory)
    await bus.publish(OrderPlaced())
    assert sorted(log) == ["handler"] * 2 + ["wrapper"] * 2


@with_factories
async def test_cancellation_with_a_task_factory(bus, errors, factory):
    """C4.9: a cancelled publisher cancels the tasks that a factory made, and waits for them."""
    use(factory)
    started, release = asyncio.Event(), asyncio.Event()
    log = []

    async def clean_up(event):
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            log.append("cancelled")
            await release.wait()
            log.append("cleaned up")

    async def wait(event):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            release.set()

    bus.subscribe(OrderPlaced, clean_up)
    bus.subscribe(OrderPlaced, wait)
    publisher = asyncio.create_task(bus.publish(OrderPlaced()))
    async with asyncio.timeout(5):
        await started.wait()
        publisher.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publisher
    assert log == ["cancelled", "cancelled", "cleaned up"]
    assert len(errors) == 0


@pytest.mark.parametrize("factory", [None, plain_factory])
def test_uvloop(errors, factory):
    """C4.9: order, failures, tasks and cancellation are the same on uvloop."""
    uvloop = pytest.importorskip("uvloop")
    failures = []
    bus = EventBus(on_error=failures.append)
    tasks = []

    async def own_task(event):
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)

    async def main():
        use(factory)
        started = subscribe_mixed(bus)
        bus.subscribe(OrderPlaced, own_task)
        bus.subscribe(OrderPlaced, fail_sync)
        bus.subscribe(OrderPlaced, fail_late)
        await bus.publish(OrderPlaced())
        assert started == list(range(9))
        assert asyncio.current_task() not in tasks
        bus.subscribe(InvoiceIssued, lambda event: asyncio.Event().wait())
        async with asyncio.timeout(0.01):
            await bus.publish(InvoiceIssued())

    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop, debug=True)
    with runner, pytest.raises(TimeoutError):
        runner.run(main())
    assert [task.get_name() for task in tasks] == [bus.handlers(OrderPlaced)[9].name]
    assert [type(failure.exception) for failure in failures] == [Failure, Failure]
    assert len(errors) == 2
