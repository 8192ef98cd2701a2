# SPDX-License-Identifier: MIT
"""C10: hooks around every handler run, and around none."""

import asyncio
import contextlib
import gc
import weakref
from contextlib import contextmanager

import pytest
from support import (
    PATIENCE,
    InvoiceIssued,
    OrderPlaced,
    asynchronous,
    do_nothing,
    every_kind,
    every_way,
    fail_now,
    forever,
    hook_logging_to,
    nothing,
    returning_awaitable,
    tenant,
    waiting,
)

# Around the handler


@every_kind
@every_way
async def test_entered_before_and_left_after(bus, failures, kind, publish):
    """C10: the context manager is entered before the handler and left after all of it."""
    log = []
    bus.subscribe(OrderPlaced, kind(lambda: log.append("begin"), lambda: log.append("end")))
    bus.instrument(hook_logging_to(log))
    await publish(bus, OrderPlaced())
    assert log == ["enter hook", "begin", "end", "leave hook"]
    assert failures == []


@every_kind
@every_way
@pytest.mark.parametrize(("before", "after"), [(fail_now, nothing), (nothing, fail_now)])
async def test_left_with_the_exception(bus, failures, errors, kind, publish, before, after):
    """C10: it is left with the handler's exception, which is a failure still, once."""
    log = []
    bus.subscribe(OrderPlaced, kind(before, after))
    bus.instrument(hook_logging_to(log))
    await publish(bus, OrderPlaced())
    assert log == ["enter hook", "LookupError in hook", "leave hook"]
    assert [repr(failure.exception) for failure in failures] == ["LookupError('handler')"]
    assert len(errors) == 1


@every_kind
@every_way
async def test_called_with_event_and_handler(bus, kind, publish):
    """C10: the hook is called for every run, with the event and what `handlers` lists."""
    calls = []

    def hook(event, handler):
        calls.append((event, handler))
        return contextlib.nullcontext()

    bus.instrument(hook)
    bus.subscribe(OrderPlaced, kind(nothing, nothing))
    bus.subscribe(OrderPlaced, kind(nothing, nothing))
    first, second = OrderPlaced(), OrderPlaced()
    await publish(bus, first)
    await publish(bus, second)
    one, two = bus.handlers(OrderPlaced)
    assert len(calls) == 4
    assert set(calls[:2]) == {(first, one), (first, two)}
    assert set(calls[2:]) == {(second, one), (second, two)}


async def test_any_context_manager_will_do(bus):
    """C10: a class that is its own context manager is a hook as well."""
    log = []

    class Span:
        def __init__(self, event, handler):
            self.name = type(event).__name__

        def __enter__(self):
            log.append(f"enter {self.name}")

        def __exit__(self, *exc_info):
            log.append(f"leave {self.name}")

    bus.subscribe(OrderPlaced, lambda event: log.append("handler"))
    bus.instrument(Span)
    await bus.publish(OrderPlaced())
    assert log == ["enter OrderPlaced", "handler", "leave OrderPlaced"]


# In the handler's own task and context


@every_kind
@every_way
async def test_handler_sees_what_the_hook_sets(bus, failures, kind, publish):
    """C10: what it sets in a contextvar the handler sees, and can be reset with its token."""
    seen = []

    def look():
        seen.append(tenant.get())

    @contextmanager
    def hook(event, handler):
        before = tenant.get()
        token = tenant.set(f"for {handler.name[-1]}")
        try:
            yield
        finally:
            tenant.reset(token)
            seen.append(tenant.get())
            assert before == "by the publisher"

    tenant.set("by the publisher")
    bus.instrument(hook)
    bus.subscribe(OrderPlaced, kind(look, look))
    await publish(bus, OrderPlaced())
    assert seen == ["for r", "for r", "by the publisher"]
    assert tenant.get() == "by the publisher"
    assert failures == []


@every_kind
@every_way
async def test_context_of_one_run_is_its_own(bus, kind, publish):
    """C10: what a hook sets for one handler, and leaves set, no other handler sees."""
    found = []

    @contextmanager
    def hook(event, handler):
        found.append(tenant.get())
        tenant.set("by the hook")
        yield

    tenant.set("by the publisher")
    bus.instrument(hook)
    for _ in range(3):
        bus.subscribe(OrderPlaced, kind(nothing, nothing))
    await publish(bus, OrderPlaced())
    assert found == ["by the publisher"] * 3
    assert tenant.get() == "by the publisher"


@every_way
async def test_entered_and_left_in_the_task_of_an_async_handler(bus, publish):
    """C10: hook, handler and exit share the handler's own task."""
    tasks = []

    def note():
        tasks.append(asyncio.current_task())

    @contextmanager
    def hook(event, handler):
        note()
        yield
        note()

    bus.instrument(hook)
    bus.subscribe(OrderPlaced, asynchronous(note, note))
    await publish(bus, OrderPlaced())
    assert len(tasks) == 4
    assert len(set(tasks)) == 1
    assert tasks[0] is not asyncio.current_task()
    assert tasks[0].get_name() == bus.handlers(OrderPlaced)[0].name


@pytest.mark.parametrize("kind", [asynchronous, returning_awaitable])
async def test_left_when_the_publisher_is_cancelled(bus, failures, kind):
    """C10: a cancelled publisher cancels the run, and the context manager sees it."""
    log, started = [], asyncio.Event()

    bus.subscribe(OrderPlaced, waiting(kind, started))
    bus.instrument(hook_logging_to(log))
    publishing = asyncio.ensure_future(bus.publish(OrderPlaced()))
    await asyncio.wait_for(started.wait(), PATIENCE)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert log == ["enter hook", "CancelledError in hook", "leave hook"]
    assert failures == []


@pytest.mark.parametrize("kind", [asynchronous, returning_awaitable])
async def test_left_when_the_bus_is_closed(bus, kind):
    """C10: a context manager that was entered is left, however early `aclose` cancels."""
    log = []

    bus.subscribe(InvoiceIssued, forever)
    bus.publish_nowait(InvoiceIssued())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    bus.instrument(hook_logging_to(log))
    bus.subscribe(OrderPlaced, kind(nothing, nothing))
    # Its handler starts after the time is over, but before `aclose` hears of it.
    asyncio.get_running_loop().call_soon(bus.publish_nowait, OrderPlaced())
    await bus.aclose(timeout=0)
    gc.collect()  # complains about a coroutine that was never awaited
    assert log.count("enter hook") == log.count("leave hook")


# Nobody handles the event


@every_way
async def test_called_with_none_for_what_nobody_handles(bus, failures, publish):
    """C10: once for every such event, with None as handler, and left again."""
    log, calls = [], []

    @contextmanager
    def hook(event, handler):
        calls.append((event, handler))
        log.append("enter")
        yield
        log.append("leave")

    with bus.instrument(hook):
        first, second = OrderPlaced(), OrderPlaced()
        await publish(bus, first)
        await publish(bus, second)
    assert calls == [(first, None), (second, None)]
    assert log == ["enter", "leave"] * 2
    await publish(bus, OrderPlaced())
    assert len(calls) == 2
    assert failures == []


@every_way
async def test_called_with_none_though_the_type_was_published_before(bus, publish):
    """C10: a hook is called for a type that was found to have no handlers before it came."""
    calls = []
    await publish(bus, OrderPlaced())
    bus.subscribe(OrderPlaced, print).cancel()
    await publish(bus, OrderPlaced())

    @bus.instrument
    @contextmanager
    def hook(event, handler):
        calls.append(handler)
        yield

    await publish(bus, OrderPlaced())
    assert calls == [None]
    with bus.subscribe(OrderPlaced, lambda event: None):
        await publish(bus, OrderPlaced())
    await publish(bus, OrderPlaced())
    assert [handler and handler.is_async for handler in calls] == [None, False, None]


@every_way
async def test_every_hook_is_called_with_none(bus, publish):
    """C10: of several hooks each is called once for an event that nobody handles."""
    log = []
    bus.instrument(hook_logging_to(log, "a"))
    bus.instrument(hook_logging_to(log, "b"))
    await publish(bus, OrderPlaced())
    assert sorted(log) == ["enter a", "enter b", "leave a", "leave b"]
    assert log.index("enter a") < log.index("enter b")


@every_way
async def test_what_is_set_for_nobody_stays_inside(bus, publish):
    """C10: for an unhandled event too the hook runs in a context of its own."""

    @bus.instrument
    @contextmanager
    def hook(event, handler):
        tenant.set("by the hook")
        yield

    await publish(bus, OrderPlaced())
    assert tenant.get() is None


@pytest.mark.usefixtures("classes_die")
@every_way
async def test_unhandled_type_is_not_kept_alive(bus, publish):
    """C1.4: nor is it by a bus with a hook."""

    class Passing(OrderPlaced):
        pass

    log = []
    bus.subscribe(OrderPlaced, print)  # so that it is warned about
    bus.instrument(hook_logging_to(log))
    for _ in range(2):
        await publish(bus, Passing())
    died = weakref.ref(Passing)
    del Passing
    gc.collect()
    assert died() is None
    assert log.count("leave hook") == 2


@every_way
async def test_subscribed_base_is_warned_about_once(bus, errors, publish):
    """C1.3: also with a hook, which makes every publish look again."""

    class Urgent(OrderPlaced):
        pass

    bus.subscribe(OrderPlaced, do_nothing)
    with bus.instrument(hook_logging_to([])):
        await publish(bus, Urgent())
        await publish(bus, Urgent())
    await publish(bus, Urgent())
    assert [record.levelname for record in errors] == ["WARNING"]


# Several hooks


@every_kind
@every_way
async def test_hooks_nest(bus, kind, publish):
    """C10: the first hook is outermost."""
    log = []
    bus.instrument(hook_logging_to(log, "a"))
    bus.instrument(hook_logging_to(log, "b"))
    bus.subscribe(OrderPlaced, kind(lambda: log.append("begin"), fail_now))
    await publish(bus, OrderPlaced())
    assert log == [
        "enter a",
        "enter b",
        "begin",
        "LookupError in b",
        "leave b",
        "LookupError in a",
        "leave a",
    ]


@every_way
async def test_hook_installed_twice_is_entered_twice(bus, publish):
    """C10: each `instrument` is one of its own, and ends on its own."""
    log = []
    hook = hook_logging_to(log)
    bus.subscribe(OrderPlaced, lambda event: None)
    first, second = bus.instrument(hook), bus.instrument(hook)
    await publish(bus, OrderPlaced())
    assert log.count("enter hook") == 2
    first.cancel()
    first.cancel()
    await publish(bus, OrderPlaced())
    assert log.count("enter hook") == 3
    second.cancel()
    await publish(bus, OrderPlaced())
    assert log.count("enter hook") == log.count("leave hook") == 3


async def test_cancelled_hook_leaves_the_others_in_order(bus):
    """C10: a hook that goes takes no other with it; one that comes again is innermost."""
    log = []
    bus.subscribe(OrderPlaced, lambda event: None)
    first, *_ = [bus.instrument(hook_logging_to(log, name)) for name in "abc"]
    first.cancel()
    bus.instrument(hook_logging_to(log, "a"))
    await bus.publish(OrderPlaced())
    assert log[:3] == ["enter b", "enter c", "enter a"]


async def test_hook_ends_with_its_block(bus):
    """C10: `with bus.instrument(hook):` removes it at the end, after an exception too."""
    log = []
    bus.subscribe(OrderPlaced, lambda event: None)
    with bus.instrument(hook_logging_to(log)) as handle:
        await bus.publish(OrderPlaced())
    await bus.publish(OrderPlaced())
    assert log == ["enter hook", "leave hook"]
    handle.cancel()
    with pytest.raises(LookupError), bus.instrument(hook_logging_to(log)):
        fail_now()
    await bus.publish(OrderPlaced())
    assert log == ["enter hook", "leave hook"]


# When a hook applies


@every_kind
async def test_hooks_are_those_of_the_call(bus, kind):
    """C10: for `publish_nowait` the hooks are those of the moment of the call."""
    log = []
    bus.subscribe(OrderPlaced, kind(nothing, nothing))
    with bus.instrument(hook_logging_to(log, "before")):
        bus.publish_nowait(OrderPlaced())
        assert log == []
    with bus.instrument(hook_logging_to(log, "after")):
        await bus.join()
    assert log == ["enter before", "leave before"]


async def test_hooks_of_the_call_for_what_nobody_handles(bus):
    """C10: the same for an event that nobody handles; it is pending until then."""
    log = []
    bus.publish_nowait(OrderPlaced())
    with bus.instrument(hook_logging_to(log, "before")):
        bus.publish_nowait(OrderPlaced())
        assert log == []
        assert bus.pending == 1
    with bus.instrument(hook_logging_to(log, "after")):
        await bus.join()
    assert log == ["enter before", "leave before"]
    assert bus.pending == 0


async def test_hook_applies_from_the_next_publish_on(bus):
    """C10: a hook that a handler installs or removes does not touch the publish under way."""
    log, handles = [], []

    def handler(event):
        if handles:
            handles.pop().cancel()
        else:
            handles.append(bus.instrument(hook_logging_to(log)))

    bus.subscribe(OrderPlaced, handler)
    bus.subscribe(OrderPlaced, lambda event: log.append("second"))
    await bus.publish(OrderPlaced())
    assert log == ["second"]
    await bus.publish(OrderPlaced())
    assert log[1:] == ["enter hook", "leave hook", "enter hook", "second", "leave hook"]
    log.clear()
    handles.append(bus.instrument(hook_logging_to([])))
    await bus.publish(OrderPlaced())
    assert log == ["second"]
