# SPDX-License-Identifier: MIT
"""C2: subscribing, what it accepts and refuses, and the registry that it fills."""

import asyncio
import collections
import functools
import gc
import queue
import sys
import threading
import weakref
from contextlib import contextmanager
from typing import Generic, TypeVar
from unittest import mock

import pytest
from support import OrderPlaced
from target import Event, EventBus, Subscription

T = TypeVar("T")


class OrderPaid(Event):
    pass


class Box(Event, Generic[T]):
    pass


class NoEvent:
    pass


def plain(event):
    pass


# C2.1: every kind of callable

ASYNC = {}
SYNC = {}


def kind(table):
    """Add a maker to the table: given `record`, it makes a handler that calls it."""

    def add(make):
        table[make.__name__] = make
        return make

    return add


@kind(SYNC)
def function(record):
    def handler(event):
        record(event)

    return handler


@kind(ASYNC)
def coroutine_function(record):
    async def handler(event):
        await asyncio.sleep(0)
        record(event)

    return handler


@kind(SYNC)
def one_lambda(record):
    return lambda event: record(event)


@kind(SYNC)
def lambda_of_coroutine(record):
    handler = coroutine_function(record)
    return lambda event: handler(event)


@kind(SYNC)
def default_for_the_rest(record):
    def handler(event, again=False, *more, key=None, **others):
        assert (again, more, key, others) == (False, (), None, {})
        record(event)

    return handler


@kind(SYNC)
def positional_only(record):
    def handler(event, /):
        record(event)

    return handler


class Service:
    def __init__(self, record):
        self.record = record

    def handle(self, event):
        self.record(event)

    async def handle_async(self, event):
        await asyncio.sleep(0)
        self.record(event)

    def handle_twice(self, prefix, event, *, suffix):
        assert (prefix, suffix) == ("a", "z")
        self.record(event)


@kind(SYNC)
def bound_method(record):
    return Service(record).handle


@kind(ASYNC)
def bound_coroutine_method(record):
    return Service(record).handle_async


@kind(SYNC)
def partial(record):
    return functools.partial(Service(record).handle_twice, "a", suffix="z")


@kind(SYNC)
def partial_of_partial(record):
    class Own(functools.partial):  # `partial` does not flatten another class into itself
        pass

    return functools.partial(Own(Service(record).handle_twice, "a"), suffix="z")


@kind(ASYNC)
def partial_of_partial_of_async(record):
    class Own(functools.partial):
        pass

    async def handler(prefix, event, *, suffix):
        await asyncio.sleep(0)
        Service(record).handle_twice(prefix, event, suffix=suffix)

    return functools.partial(Own(handler, "a"), suffix="z")


@kind(SYNC)
def sync_call(record):
    class Callable:
        def __call__(self, event):
            record(event)

    return Callable()


@kind(ASYNC)
def async_call(record):
    class Callable:
        async def __call__(self, event):
            await asyncio.sleep(0)
            record(event)

    return Callable()


@kind(ASYNC)
def partial_of_async_call(record):
    class Callable:
        async def __call__(self, prefix, event):
            await asyncio.sleep(0)
            record(event)

    return functools.partial(Callable(), "a")


@kind(SYNC)
def static_method(record):
    class Owner:
        @staticmethod
        def handle(event):
            record(event)

    return Owner.handle


@kind(SYNC)
def static_method_object(record):
    return staticmethod(function(record))


@kind(SYNC)
def class_method(record):
    class Owner:
        @classmethod
        def handle(cls, event):
            assert cls is Owner
            record(event)

    return Owner.handle


@kind(ASYNC)
def async_class_method(record):
    class Owner:
        @classmethod
        async def handle(cls, event):
            await asyncio.sleep(0)
            record(event)

    return Owner.handle


@kind(SYNC)
def a_class(record):
    class Callable:
        def __init__(self, event):
            record(event)

    return Callable


@kind(SYNC)
def class_with_async_instances(record):
    class Callable:
        def __init__(self, event):
            record(event)

        async def __call__(self, event):
            raise AssertionError("the class is the handler, not its instance")

    return Callable


@kind(SYNC)
def wrapper(record):
    @functools.wraps(plain)
    def wrapped(*args, **kwargs):
        return record(*args, **kwargs)

    return wrapped


@kind(SYNC)
def sync_wrapper_of_async(record):
    handler = coroutine_function(record)

    @functools.wraps(handler)
    def wrapped(event):
        return handler(event)

    return wrapped


@kind(ASYNC)
def async_wrapper_of_sync(record):
    handler = function(record)

    @functools.wraps(handler)
    async def wrapped(event):
        await asyncio.sleep(0)
        handler(event)

    return wrapped


@kind(SYNC)
def wrapper_that_injects(record):
    def handler(session, event):
        assert session == "session"
        record(event)

    @functools.wraps(handler)
    def wrapped(event):
        handler("session", event)

    return wrapped


@kind(SYNC)
def sync_wrapper_of_a_generator(record):
    def steps(event):
        yield record(event)

    @functools.wraps(steps)
    def wrapped(event):
        list(steps(event))

    return wrapped


@kind(SYNC)
def cached(record):
    return functools.cache(function(record))


@kind(SYNC)
def simple_mock(record):
    return mock.Mock(side_effect=record)


@kind(SYNC)
def magic_mock(record):
    return mock.MagicMock(side_effect=record)


@kind(ASYNC)
def async_mock(record):
    return mock.AsyncMock(side_effect=record)


@kind(SYNC)
def mock_with_spec(record):
    return mock.Mock(spec=plain, side_effect=record)


@kind(SYNC)
def magic_mock_with_spec(record):
    return mock.MagicMock(spec=plain, side_effect=record)


@kind(SYNC)
def autospec(record):
    return mock.create_autospec(plain, side_effect=record)


KINDS = SYNC | ASYNC
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@every_kind
async def test_every_kind_of_callable_is_delivered_to(bus, errors, make):
    """C2.1: functions, methods, partials, objects with `__call__`, mocks: however decorated."""
    seen = []
    handler = make(lambda event: seen.append(event))
    bus.subscribe(OrderPlaced, handler)
    first, second = OrderPlaced(), OrderPlaced()
    await bus.publish(first)
    assert seen == [first]
    bus.publish_nowait(second)
    await bus.join()
    assert seen == [first, second]
    bus.unsubscribe(OrderPlaced, handler)
    await bus.publish(OrderPlaced())
    assert seen == [first, second]
    assert len(errors) == 0


@every_kind
def test_every_kind_of_callable_is_described(bus, make):
    """C2.1: `is_async` is what can be known without a call; name and callback are the handler's."""
    handler = make(lambda event: None)
    subscription = bus.subscribe(OrderPlaced, handler)
    described = subscription.handler
    assert described.is_async == (make.__name__ in ASYNC)
    assert described.callback is handler
    assert isinstance(described.name, str)
    assert described.location is None or described.location.rpartition(":")[2].isdigit()
    assert described.name in repr(described)
    assert ("(async)" in repr(described)) == described.is_async


@pytest.mark.parametrize(
    ("made", "method", "drain"),
    [
        (list, "append", lambda made: made),
        (collections.deque, "append", list),
        (queue.SimpleQueue, "put_nowait", lambda made: [made.get_nowait()]),
        (asyncio.Queue, "put_nowait", lambda made: [made.get_nowait()]),
        (asyncio.Queue, "put", lambda made: [made.get_nowait()]),
    ],
)
async def test_methods_of_containers(bus, errors, made, method, drain):
    """C2.1: builtins and coroutine methods of containers are handlers as they are."""
    container = made()
    bus.subscribe(OrderPlaced, getattr(container, method))
    event = OrderPlaced()
    await bus.publish(event)
    assert drain(container) == [event]
    bus.unsubscribe(OrderPlaced, getattr(container, method))
    assert bus.handlers(OrderPlaced) == ()
    assert len(errors) == 0


async def test_on_subscribes_and_returns_the_function(bus):
    """C2.1: `@bus.on(...)` subscribes to each type, and the name stays the function's."""
    seen = []

    @bus.on(OrderPlaced, OrderPaid)
    async def handler(event):
        seen.append(type(event))

    await bus.publish(OrderPlaced())
    await bus.publish(OrderPaid())
    await handler(OrderPlaced())
    assert seen == [OrderPlaced, OrderPaid, OrderPlaced]
    assert [known.callback for known in bus.handlers(OrderPaid)] == [handler]


async def test_base_event_is_a_type_like_others(bus):
    """C2.1: `Event` itself can be subscribed to; it is no wildcard."""
    seen = []
    bus.subscribe(Event, seen.append)
    event = Event()
    await bus.publish(event)
    await bus.publish(OrderPlaced())
    assert seen == [event]


# C2.2: refused at once


def generator(event):
    yield


async def async_generator(event):
    yield


class GeneratorCall:
    def __call__(self, event):
        yield


class AsyncGeneratorCall:
    async def __call__(self, event):
        yield


class Methods:
    def nothing(self):
        pass

    def two(self, first, second):
        pass

    def steps(self, event):
        yield


BAD_TYPES = {
    "other class": (NoEvent, r"NoEvent.*; derive its class: class NoEvent\("),
    "builtin": (int, r"int.*; define an event: class"),
    "instance": (OrderPlaced(), "OrderPlaced.*; pass the class OrderPlaced, not an instance"),
    "generic alias": (Box[int], r"Box\[int\]; .* exact class: pass Box$"),
    "builtin alias": (list[int], r"list\[int\]; .* exact class: pass list$"),
    "union": (OrderPlaced | OrderPaid, r"OrderPlaced \| .*; pass a class derived from Event"),
    "tuple": ((OrderPlaced, OrderPaid), "OrderPaid.*; pass a class derived from Event"),
    "name": ("OrderPlaced", "'OrderPlaced'; pass a class derived from Event"),
    "None": (None, "None; pass a class derived from Event"),
    "function": (plain, r"function plain.*; name the class first: .*@bus.on\(OrderPlaced\)"),
}

BAD_HANDLERS = {
    "None": (None, "None; pass the function itself"),
    "name": ("plain", "'plain'; pass the function itself"),
    "event": (OrderPlaced(), "OrderPlaced.*; pass the function itself"),
    "no argument": (lambda: None, r"<lambda>\(\) .* 1 positional argument .*; give it 1 parameter"),
    "two arguments": (lambda a, b: None, r"\(a, b\) .*'b'.*functools.partial"),
    "keyword only": (lambda *, event: None, r"\(\*, event\) .*functools.partial"),
    "required keyword": (lambda event, *, key: None, "'key'.*functools.partial"),
    "method without": (Methods().nothing, r"Methods.nothing\(\) .*; give it 1 parameter"),
    "method with two": (Methods().two, r"Methods.two\(first, second\) .*functools.partial"),
    "unbound method": (Methods.two, r"Methods.two\(self, first, second\) .*functools.partial"),
    "full partial": (functools.partial(plain, 1), r"plain\(\) .*; give it 1 parameter"),
    "class without": (NoEvent, r"NoEvent\(\) .*; give it 1 parameter"),
    "builtin": ([].clear, r"list.clear\(\) .*; give it 1 parameter"),
    "generator": (generator, r"\.generator is a generator function.*; remove the yield"),
    "async generator": (async_generator, r"async_generator is a .*; remove the yield"),
    "generator method": (Methods().steps, r"Methods.steps is a .*; remove the yield"),
    "partial generator": (functools.partial(generator), r"\.generator is a .*; remove the yield"),
    "generator call": (GeneratorCall(), "GeneratorCall is a .*; remove the yield"),
    "async generator call": (AsyncGeneratorCall(), "GeneratorCall is a .*; remove the yield"),
}


@pytest.mark.parametrize(("wrong", "message"), BAD_TYPES.values(), ids=BAD_TYPES)
def test_what_is_no_event_type_is_refused(bus, wrong, message):
    """C2.2: a `TypeError` with the remedy, from every method that takes an event type."""
    for call in (
        lambda: bus.subscribe(wrong, plain),
        lambda: bus.unsubscribe(wrong, plain),
        lambda: bus.on(wrong),
        lambda: bus.on(OrderPlaced, wrong),
        lambda: bus.handlers(wrong),
    ):
        with pytest.raises(TypeError, match=f"^expected a subclass of Event, got .*{message}"):
            call()
    assert bus.event_types() == ()


@pytest.mark.parametrize(("wrong", "message"), BAD_HANDLERS.values(), ids=BAD_HANDLERS)
def test_what_cannot_handle_is_refused(bus, wrong, message):
    """C2.2: a `TypeError` with the remedy, and nothing is subscribed."""
    for call in (
        lambda: bus.subscribe(OrderPlaced, wrong),
        lambda: bus.on(OrderPlaced, OrderPaid)(wrong),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    assert bus.event_types() == ()
    assert bus.handlers(OrderPlaced) == ()


async def test_decorating_object_counts_for_what_it_takes_itself(bus):
    """C2.1: an object that wraps a function and passes it a further argument is a handler."""
    seen = []

    class WithDatabase:
        def __init__(self, function):
            functools.update_wrapper(self, function)

        def __call__(self, event):
            self.__wrapped__(event, "database")

    bus.subscribe(OrderPlaced, WithDatabase(lambda *arguments: seen.append(arguments)))
    bus.subscribe(OrderPlaced, WithDatabase(lambda event, database: seen.append(database)))
    event = OrderPlaced()
    await bus.publish(event)
    assert seen == [(event, "database"), "database"]


def test_refused_handler_changes_nothing_for_the_others(bus):
    """C2.2: what was subscribed before a refusal still is, alone."""
    bus.subscribe(OrderPlaced, plain)
    with pytest.raises(TypeError):
        bus.subscribe(OrderPlaced, generator)
    assert [handler.callback for handler in bus.handlers(OrderPlaced)] == [plain]


def test_on_without_parentheses_is_refused(bus):
    """C2.2: `@bus.on` does not swallow the function; the message shows how to write it."""
    with pytest.raises(TypeError, match=r"@bus\.on\(OrderPlaced\)"):

        @bus.on
        def handler(event):
            pass

    assert bus.event_types() == ()


def test_on_with_nothing_is_refused(bus):
    """C2.2: `@bus.on()` would subscribe to nothing."""
    with pytest.raises(TypeError, match=r"@bus\.on\(OrderPlaced\)"):
        bus.on()


# C2.3: delivered once


def callbacks(bus, event_type=OrderPlaced):
    return [handler.callback for handler in bus.handlers(event_type)]


@every_kind
async def test_subscribed_twice_is_delivered_once(bus, make):
    """C2.3: a second subscription of the same handler is the first one."""
    seen = []
    handler = make(lambda event: seen.append(event))
    first = bus.subscribe(OrderPlaced, handler)
    assert bus.subscribe(OrderPlaced, handler) is first
    await bus.publish(OrderPlaced())
    assert len(seen) == 1
    first.cancel()
    assert bus.handlers(OrderPlaced) == ()


@pytest.mark.parametrize("owner", [[], Service(None)], ids=["builtin", "python"])
def test_bound_method_is_found_again(bus, owner):
    """C2.3: object and function identify a bound method, which is new at every access."""
    name = "append" if owner == [] else "handle"
    assert getattr(owner, name) is not getattr(owner, name)
    first = bus.subscribe(OrderPlaced, getattr(owner, name))
    assert bus.subscribe(OrderPlaced, getattr(owner, name)) is first
    assert len(bus.handlers(OrderPlaced)) == 1
    bus.unsubscribe(OrderPlaced, getattr(owner, name))
    assert bus.handlers(OrderPlaced) == ()


async def test_bound_methods_of_equal_objects_are_two(bus):
    """C2.3: objects that are equal, and unhashable, are two all the same."""
    first, second = [], []
    assert first.append == first.append
    bus.subscribe(OrderPlaced, first.append)
    bus.subscribe(OrderPlaced, second.append)
    with pytest.raises(ValueError, match="is not subscribed"):
        bus.unsubscribe(OrderPlaced, [].append)
    await bus.publish(OrderPlaced())
    assert (len(first), len(second)) == (1, 1)


def test_two_methods_of_one_object_are_two(bus):
    """C2.3: the function counts as well as the object."""
    service, items = Service(None), collections.deque()
    for handler in (service.handle, service.handle_async, items.append, items.appendleft):
        bus.subscribe(OrderPlaced, handler)
    assert len(bus.handlers(OrderPlaced)) == 4


def test_class_method_of_two_classes_is_two(bus):
    """C2.3: a class method belongs to the class it was taken from."""

    class Base:
        @classmethod
        def handle(cls, event):
            pass

    class Derived(Base):
        pass

    for handler in (Base.handle, Derived.handle, Base.handle):
        bus.subscribe(OrderPlaced, handler)
    assert [callback.__self__ for callback in callbacks(bus)] == [Base, Derived]


async def test_identity_decides_not_equality(bus):
    """C2.3: handlers that are equal, or not hashable, are told apart by identity."""

    class Equal:
        __hash__ = None

        def __init__(self):
            self.seen = []

        def __eq__(self, other):
            return True

        def __call__(self, event):
            self.seen.append(event)

        def handle(self, event):
            self.seen.append(event)

    first, second, third = Equal(), Equal(), Equal()
    for handler in (first, second, first, first.handle, second.handle, first.handle):
        bus.subscribe(OrderPlaced, handler)
    with pytest.raises(ValueError, match="is not subscribed"):
        bus.unsubscribe(OrderPlaced, third)
    with pytest.raises(ValueError, match="is not subscribed"):
        bus.unsubscribe(OrderPlaced, third.handle)
    await bus.publish(OrderPlaced())
    assert (len(first.seen), len(second.seen)) == (2, 2)


def test_equal_partials_are_two(bus):
    """C2.3: each `functools.partial` is a handler of its own."""
    first, second = functools.partial(plain), functools.partial(plain)
    bus.subscribe(OrderPlaced, first)
    bus.subscribe(OrderPlaced, second)
    bus.unsubscribe(OrderPlaced, first)
    assert callbacks(bus) == [second]


async def test_one_handler_of_two_types(bus):
    """C2.3: once per type; leaving one type leaves the other."""
    seen = []
    first = bus.subscribe(OrderPlaced, seen.append)
    second = bus.subscribe(OrderPaid, seen.append)
    assert first is not second
    await bus.publish(OrderPlaced())
    await bus.publish(OrderPaid())
    assert list(map(type, seen)) == [OrderPlaced, OrderPaid]
    first.cancel()
    assert bus.event_types() == (OrderPaid,)


# C2.4: subscription order


def named(seen, name):
    return lambda event: seen.append(name)


async def test_delivery_order_is_subscription_order(bus):
    """C2.4: in the order subscribed; who cancels and comes back goes to the end."""
    seen = []
    one, two, three = (named(seen, name) for name in (1, 2, 3))
    subscription = bus.subscribe(OrderPlaced, one)
    bus.subscribe(OrderPlaced, two)
    bus.subscribe(OrderPlaced, three)
    await bus.publish(OrderPlaced())
    subscription.cancel()
    await bus.publish(OrderPlaced())
    bus.subscribe(OrderPlaced, one)
    await bus.publish(OrderPlaced())
    assert seen == [1, 2, 3, 2, 3, 2, 3, 1]
    assert callbacks(bus) == [two, three, one]


async def test_second_subscription_keeps_the_place(bus):
    """C2.4: subscribing again moves nothing."""
    seen = []
    one, two = named(seen, 1), named(seen, 2)
    for handler in (one, two, one):
        bus.subscribe(OrderPlaced, handler)
    await bus.publish(OrderPlaced())
    assert seen == [1, 2]


def test_event_types_in_order_of_their_first_handler(bus):
    """C2.4: `event_types` lists a type that has lost all its handlers no more."""
    first = bus.subscribe(OrderPlaced, plain)
    bus.subscribe(OrderPaid, plain)
    bus.subscribe(OrderPlaced, print)
    assert bus.event_types() == (OrderPlaced, OrderPaid)
    first.cancel()
    assert bus.event_types() == (OrderPlaced, OrderPaid)
    bus.unsubscribe(OrderPlaced, print)
    assert bus.event_types() == (OrderPaid,)
    bus.subscribe(OrderPlaced, plain)
    assert bus.event_types() == (OrderPaid, OrderPlaced)


# C2.5: unsubscribing


def test_unsubscribe_of_a_stranger_is_refused(bus):
    """C2.5: `ValueError` for what is not subscribed, was cancelled, or is of another type."""
    bus.subscribe(OrderPaid, plain)
    with pytest.raises(
        ValueError, match=r"plain .*is not subscribed to OrderPlaced; pass the very"
    ):
        bus.unsubscribe(OrderPlaced, plain)
    bus.subscribe(OrderPlaced, plain)
    bus.unsubscribe(OrderPlaced, plain)
    with pytest.raises(ValueError, match="is not subscribed"):
        bus.unsubscribe(OrderPlaced, plain)
    assert callbacks(bus, OrderPaid) == [plain]


@pytest.mark.parametrize("leave", [Subscription.cancel, None], ids=["cancel", "unsubscribe"])
async def test_last_one_gone_frees_the_type(bus, leave):
    """C2.5: with its last handler, the bus forgets the type, though it was published."""

    class Passing(Event):
        pass

    subscription = bus.subscribe(Passing, plain)
    await bus.publish(Passing())
    bus.publish_nowait(Passing())
    await bus.join()
    if leave is None:
        bus.unsubscribe(Passing, plain)
    else:
        leave(subscription)
    await bus.publish(Passing())
    died = weakref.ref(Passing)
    del Passing, subscription
    gc.collect()
    assert died() is None
    assert bus.event_types() == ()


@every_kind
async def test_handler_gone_is_let_go(bus, make):
    """C2.5: nothing of the bus holds a handler that has left, once it was called."""

    def record(event):
        pass

    handler = make(record)
    died = weakref.ref(record)
    bus.subscribe(OrderPlaced, handler)
    bus.subscribe(OrderPlaced, plain)
    await bus.publish(OrderPlaced())
    bus.unsubscribe(OrderPlaced, handler)
    del handler, record
    gc.collect()
    assert died() is None


# Subscription


async def test_subscription_ends_with_its_block(bus):
    """C2.5: `with bus.subscribe(...)` unsubscribes at the end, after an exception too."""
    seen = []
    with bus.subscribe(OrderPlaced, seen.append) as subscription:
        assert isinstance(subscription, Subscription)
        await bus.publish(OrderPlaced())
    await bus.publish(OrderPlaced())
    assert len(seen) == 1
    with pytest.raises(LookupError), bus.subscribe(OrderPlaced, plain):
        raise LookupError
    assert bus.event_types() == ()


def test_subscription_says_what_it_is(bus):
    """C2.5: `event_type`, `handler` and a readable repr."""
    subscription = bus.subscribe(OrderPlaced, plain)
    assert subscription.event_type is OrderPlaced
    assert subscription.handler is bus.handlers(OrderPlaced)[0]
    assert repr(subscription) == f"<Subscription of {__name__}.plain to OrderPlaced>"


def test_cancel_twice_is_fine(bus):
    """C2.5: cancelling is idempotent, and so is leaving a block after it, or after unsubscribe."""
    with bus.subscribe(OrderPlaced, plain) as subscription:
        subscription.cancel()
        subscription.cancel()
    with bus.subscribe(OrderPlaced, plain):
        bus.unsubscribe(OrderPlaced, plain)
    assert bus.event_types() == ()


@pytest.mark.parametrize("keep", [True, False])
def test_stale_cancel_removes_nothing(bus, keep):
    """C2.6: a cancelled `Subscription` does not end a later one of the same handler."""
    if keep:
        bus.subscribe(OrderPlaced, print)
    with bus.subscribe(OrderPlaced, plain) as stale:
        stale.cancel()
        renewed = bus.subscribe(OrderPlaced, plain)
        assert renewed is not stale
        stale.cancel()
    assert callbacks(bus)[keep:] == [plain]
    renewed.cancel()
    assert plain not in callbacks(bus)


# C2.6: threads, and code that runs in the middle of a change


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
            assert bus.subscribe(OrderPlaced, seen.append) is subscription
            await bus.publish(own)
            assert seen.count(own) == 1
            assert any(known is subscription.handler for known in bus.handlers(OrderPlaced))
            if len(always) % 2:
                subscription.cancel()
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


def test_threads_win_one_subscription(bus, busy_switching):
    """C2.6: of threads that subscribe one handler at once, all get the same subscription."""
    for _ in range(50):
        start, got = threading.Barrier(4), collections.deque()

        def work(start=start, got=got):
            start.wait()
            got.append(bus.subscribe(OrderPlaced, plain))

        finish(*[work] * 4)
        assert len(set(got)) == 1
        assert callbacks(bus) == [plain]
        got[0].cancel()
        assert bus.event_types() == ()


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
    "subscribe": lambda bus, known: bus.subscribe(Watched, plain),
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
    kept = bus.subscribe(OrderPaid if alone else Watched, lambda event: seen.append("kept"))

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
    other = bus.subscribe(OrderPaid, plain)

    def scenario():
        with interrupted(nth, by_finalizer(gone.cancel)):
            operation(bus, other)
        gone.cancel()

    finish(scenario)
    expected = (Watched,) if operation is OPERATIONS["subscribe"] else ()
    assert set(bus.event_types()) - {OrderPaid} == set(expected)


@at_the_nth_hash
@in_the_middle
@pytest.mark.parametrize("event_type", [Watched, OrderPaid], ids=["known type", "new type"])
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


def test_cancel_between_two_steps_of_subscribe(bus):
    """C2.6: nor is the handler whose type a finalizer frees just when it is being added."""
    seen = []
    gone = bus.subscribe(OrderPlaced, plain)

    class Overtaken(dict):
        def setdefault(self, key, default):
            found = super().setdefault(key, default)
            gone.cancel()  # as garbage collection can, at this point, on a bad day
            return found

    registry = bus._registry  # no other way leads to this point
    registry._subscriptions = Overtaken(registry._subscriptions)
    bus.subscribe(OrderPlaced, seen.append)
    asyncio.run(bus.publish(OrderPlaced()))
    assert len(seen) == 1
    assert callbacks(bus, OrderPlaced) == [seen.append]


# Handler


def test_handler_of_a_function(bus):
    """C2.1: name, place, kind and repr of a function."""
    handler = bus.subscribe(OrderPlaced, plain).handler
    assert handler.name == f"{__name__}.plain"
    assert handler.location == f"{__file__}:{plain.__code__.co_firstlineno}"
    assert handler.is_async is False
    assert handler.callback is plain
    assert repr(handler) == f"<Handler {handler.name} (sync) at {handler.location}>"


NAMES = {
    "method": (
        Service(None).handle_async,
        f"{__name__}.Service.handle_async",
        Service.handle_async,
    ),
    "partial": (functools.partial(plain), f"{__name__}.plain", plain),
    "partial of a method": (
        functools.partial(Service(None).handle_twice, "a", suffix="z"),
        f"{__name__}.Service.handle_twice",
        Service.handle_twice,
    ),
    "object": (
        async_call(None),
        f"{__name__}.async_call.<locals>.Callable",
        type(async_call(None)).__call__,
    ),
    "wrapped": (wrapper(None), f"{__name__}.plain", plain),
    "lambda": (one_lambda(None), f"{__name__}.one_lambda.<locals>.<lambda>", ...),
    "class": (a_class(None), f"{__name__}.a_class.<locals>.Callable", ...),
    "mock": (mock.Mock(), "unittest.mock.Mock", ...),
    "builtin method": ([].append, "list.append", None),
    "builtin function": (print, "builtins.print", None),
    "coroutine method": (
        functools.partial(asyncio.Queue.put, None),
        "asyncio.queues.Queue.put",
        asyncio.Queue.put,
    ),
}


@pytest.mark.parametrize(("callback", "name", "place"), NAMES.values(), ids=NAMES)
def test_handler_has_name_and_place(bus, callback, name, place):
    """C2.1: the module-qualified name, and the `file:line` of what was written in Python."""
    handler = bus.subscribe(OrderPlaced, callback).handler
    assert handler.name == name
    if place is None:
        assert handler.location is None
    elif place is not ...:  # somewhere, or not: no promise
        code = place.__code__
        assert handler.location == f"{code.co_filename}:{code.co_firstlineno}"


def test_handler_that_wraps_itself_has_no_place(bus):
    """C2.1: no place is found where `__wrapped__` goes round in a circle; nothing else is wrong."""

    def circular(event):
        pass

    circular.__wrapped__ = circular
    assert bus.subscribe(OrderPlaced, circular).handler.location is None


@pytest.mark.parametrize("attribute", ["name", "location", "is_async", "callback", "other"])
def test_handler_is_read_only(bus, attribute):
    """C2.1: a `Handler` describes, and changes nothing."""
    handler = bus.subscribe(OrderPlaced, plain).handler
    before = repr(handler)
    with pytest.raises((AttributeError, TypeError)):  # dataclasses raise the one or the other
        setattr(handler, attribute, plain)
    assert repr(handler) == before


def test_handlers_are_a_snapshot(bus):
    """C2.4: `handlers` is a tuple of the moment, empty for a type that nobody handles."""
    assert bus.handlers(OrderPlaced) == ()
    bus.subscribe(OrderPlaced, plain)
    before = bus.handlers(OrderPlaced)
    bus.subscribe(OrderPlaced, print)
    assert [handler.callback for handler in before] == [plain]
    assert callbacks(bus) == [plain, print]
    assert type(before) is type(bus.event_types()) is tuple


# The options of the bus


@pytest.mark.parametrize(
    "options",
    [
        {"handler_timeout": 0},
        {"handler_timeout": -1},
        {"handler_timeout": float("nan")},
        {"max_depth": 0},
        {"max_depth": -1},
        {"max_pending": 0},
        {"max_pending": -1},
    ],
    ids=str,
)
def test_limit_out_of_range_is_refused(options):
    """C2.2: `ValueError` at once, with the name of the option and the value."""
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"^{name} must be .* {value}$"):
        EventBus(**options)


@pytest.mark.parametrize(
    ("on_error", "message"),
    [
        (coroutine_function(None), "must be a plain function.*publish_nowait"),
        (async_call(None), "must be a plain function.*publish_nowait"),
        (lambda: None, "1 positional argument.*; give it 1 parameter"),
        (lambda failure, more: None, "'more'.*functools.partial"),
        (generator, "remove the yield"),
        ("log", "pass the function itself"),
    ],
)
def test_on_error_that_cannot_be_called_is_refused(on_error, message):
    """C2.2: an `on_error` that is async, of another arity, or no function, is a `TypeError`."""
    with pytest.raises(TypeError, match=message):
        EventBus(on_error=on_error)


def test_options_at_their_limits_and_by_name():
    """C2.2: the smallest limits are fine; options are given by name."""
    EventBus(on_error=print, handler_timeout=1e-9, max_depth=1, max_pending=1)
    EventBus(on_error=None, handler_timeout=None, max_depth=None, max_pending=None)
    with pytest.raises(TypeError):
        EventBus(print)
