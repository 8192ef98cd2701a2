# SPDX-License-Identifier: MIT
"""Right uses, which the type checkers accept, with the types that they find. Nothing here runs."""

import asyncio
from asyncio import Future
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, assert_type

from eventbus import (
    Event,
    EventBus,
    EventCycleError,
    Handler,
    HandlerFailure,
    Publisher,
    Subscription,
)
from eventbus.flow import Flow, record, wiring
from eventbus.modules import Module, ModuleBase, ModuleMeta, register_modules
from eventbus.testing import capture, strict


class OrderEvent(Event):
    """A base class."""


@dataclass(frozen=True, slots=True)
class OrderPlaced(OrderEvent):
    order_id: int


@dataclass(frozen=True, slots=True)
class InvoiceIssued(Event):
    amount: float


class MailRequested(Event):
    text: str = ""


class A1(Event): ...


class A2(Event): ...


class A3(Event): ...


class A4(Event): ...


class A5(Event): ...


class A6(Event): ...


class A7(Event): ...


class A8(Event): ...


AnyOfFour = A1 | A2 | A3 | A4
AnyOfEight = A1 | A2 | A3 | A4 | A5 | A6 | A7 | A8


def handle_four(event: AnyOfFour) -> int:
    return 4


async def handle_eight(event: AnyOfEight) -> int:
    return 8


def handle(event: OrderPlaced) -> None: ...


async def handle_async(event: OrderPlaced) -> int:
    return event.order_id


def handle_base(event: OrderEvent) -> None: ...


def handle_any(event: Event) -> None: ...


def handle_either(event: OrderPlaced | InvoiceIssued) -> None: ...


async def handle_three(event: OrderPlaced | InvoiceIssued | MailRequested) -> None: ...


def handle_with_option(event: OrderPlaced, retries: int = 3) -> None: ...


def handle_with_database(database: str, event: OrderPlaced, /) -> None: ...


class Invoices:
    def on_order(self, event: OrderPlaced) -> None: ...

    async def on_order_async(self, event: OrderPlaced) -> str:
        return str(event.order_id)

    @staticmethod
    def on_order_static(event: OrderPlaced) -> None: ...

    @classmethod
    async def on_order_class(cls, event: OrderPlaced) -> None: ...


class CallableObject:
    def __call__(self, event: OrderPlaced) -> None: ...


class AsyncCallableObject:
    async def __call__(self, event: OrderPlaced) -> None: ...


bus = EventBus()


def subscribing() -> None:
    """Whatever takes the event can handle it, and a lambda knows the event's attributes."""
    assert_type(bus.subscribe(OrderPlaced, handle), Subscription)
    bus.subscribe(OrderPlaced, handle_async)
    bus.subscribe(OrderPlaced, handle_base)
    bus.subscribe(OrderPlaced, handle_any)
    bus.subscribe(OrderPlaced, handle_either)
    bus.subscribe(OrderPlaced, handle_with_option)
    bus.subscribe(OrderPlaced, Invoices().on_order)
    bus.subscribe(OrderPlaced, Invoices().on_order_async)
    bus.subscribe(OrderPlaced, Invoices.on_order_static)
    bus.subscribe(OrderPlaced, Invoices.on_order_class)
    bus.subscribe(OrderPlaced, CallableObject())
    bus.subscribe(OrderPlaced, AsyncCallableObject())
    bus.subscribe(OrderPlaced, lambda event: print(event.order_id + 1))
    bus.subscribe(OrderPlaced, lambda event: assert_type(event, OrderPlaced))
    bus.subscribe(OrderPlaced, partial(handle_with_database, "orders"))
    bus.subscribe(OrderPlaced, partial(handle_with_option, retries=5))
    bus.subscribe(OrderPlaced, lambda event: asyncio.to_thread(handle, event))
    bus.subscribe(OrderPlaced, print)
    bus.unsubscribe(OrderPlaced, handle)

    queue: asyncio.Queue[OrderPlaced] = asyncio.Queue()
    bus.subscribe(OrderPlaced, queue.put)
    bus.subscribe(OrderPlaced, queue.put_nowait)
    orders: list[OrderPlaced] = []
    events: list[Event] = []
    bus.subscribe(OrderPlaced, orders.append)
    bus.subscribe(OrderPlaced, events.append)

    event_types: list[type[OrderEvent]] = [OrderEvent, OrderPlaced]
    for event_type in event_types:
        bus.subscribe(event_type, handle_base)

    with bus.subscribe(OrderPlaced, handle) as subscription:
        assert_type(subscription, Subscription)
        assert_type(subscription.event_type, type[Event])
        assert_type(subscription.handler, Handler)
        assert_type(subscription.cancel(), None)


def decorating() -> None:
    """The decorator takes a function of its event types, and gives back one of the same type."""

    @bus.on(OrderPlaced)
    def plain(event: OrderPlaced) -> int:
        return event.order_id

    @bus.on(OrderPlaced)
    async def asynchronous(event: OrderPlaced) -> str:
        return str(event.order_id)

    @bus.on(OrderPlaced)
    def of_base(event: OrderEvent) -> None: ...

    @bus.on(OrderPlaced, InvoiceIssued)
    def of_two(event: OrderPlaced | InvoiceIssued) -> None: ...

    @bus.on(OrderPlaced, InvoiceIssued, MailRequested)
    async def of_three(event: OrderPlaced | InvoiceIssued | MailRequested) -> None: ...

    @bus.on(OrderPlaced, InvoiceIssued)
    def of_all(event: Event) -> None: ...

    assert_type(plain(OrderPlaced(1)), int)
    assert_type(of_two(InvoiceIssued(1.0)), None)
    bus.on(OrderPlaced, InvoiceIssued)(handle_either)
    bus.on(OrderPlaced, InvoiceIssued, MailRequested)(handle_three)
    assert_type(bus.on(A1, A2, A3, A4)(handle_four)(A2()), int)
    bus.on(A1, A2, A3, A4, A5, A6, A7, A8)(handle_eight)
    bus.on(A1, A2, A3, A4, A5, A6, A7, A8, OrderPlaced)(handle_any)
    several: list[type[OrderEvent]] = [OrderEvent, OrderPlaced]
    bus.on(*several)(handle_base)
    bus.on(OrderPlaced)(lambda event: event.order_id)
    bus.on(OrderPlaced)(Invoices().on_order)
    _ = (asynchronous, of_base, of_three, of_all)


async def clearing_and_nesting() -> None:
    """Every subscription can be ended at once, and deferred blocks nest."""
    assert_type(bus.clear(), None)
    async with bus.deferred() as outer:
        assert_type(outer, Publisher)
        async with outer.deferred() as inner:
            assert_type(inner, Publisher)


async def publishing() -> None:
    """Any event can be published; nothing comes back."""
    assert_type(await bus.publish(OrderPlaced(1)), None)
    assert_type(bus.publish_nowait(InvoiceIssued(1.0)), None)
    asyncio.get_running_loop().call_soon_threadsafe(bus.publish_nowait, OrderPlaced(1))
    async with asyncio.timeout(1), asyncio.TaskGroup() as group:
        group.create_task(bus.publish(OrderPlaced(1)))


async def waiting() -> None:
    """The future is one of the event, with a filter and without."""
    future = bus.wait_for(OrderPlaced)
    assert_type(future, Future[OrderPlaced])
    assert_type(await future, OrderPlaced)
    assert_type(
        bus.wait_for(OrderPlaced, where=lambda event: event.order_id == 1), Future[OrderPlaced]
    )
    placed = await bus.wait_for(OrderPlaced, lambda event: event.order_id > 1)
    assert_type(placed.order_id, int)


async def place_order(events: Publisher) -> None:
    """What a service sees of a bus."""
    await events.publish(OrderPlaced(1))
    events.publish_nowait(InvoiceIssued(1.0))


async def deferring() -> None:
    """A bus and its deferred publisher are both publishers."""
    assert_type(bus.deferred(), AbstractAsyncContextManager[Publisher])
    async with bus.deferred() as events:
        assert_type(events, Publisher)
        await place_order(events)
    await place_order(bus)
    publisher: Publisher = bus
    publishers: list[Publisher] = [bus, publisher]
    _ = publishers


def describing() -> None:
    """What a bus says of its handlers."""
    (handler,) = bus.handlers(OrderPlaced)
    assert_type(handler, Handler)
    assert_type(handler.name, str)
    assert_type(handler.location, str | None)
    assert_type(handler.is_async, bool)
    assert_type(handler.callback, Callable[[Any], object])
    assert_type(bus.event_types(), tuple[type[Event], ...])


def failing(failure: HandlerFailure) -> None:
    """What `on_error` receives."""
    assert_type(failure.event, Event)
    assert_type(failure.handler, Handler)
    assert_type(failure.exception, BaseException)
    assert_type(failure.chain, tuple[type[Event], ...])
    if isinstance(failure.exception, EventCycleError):
        assert_type(failure.exception.chain, tuple[type[Event], ...])
        assert_type(failure.exception.max_depth, int)


def making() -> None:
    """Every option, and none."""
    failures: list[HandlerFailure] = []
    EventBus(on_error=failing, handler_timeout=1.5, max_depth=5, max_pending=10)
    EventBus(on_error=failures.append, handler_timeout=1, max_depth=None)
    EventBus(on_error=lambda failure: print(failure.chain), max_pending=None)


@contextmanager
def span(event: Event, handler: Handler | None) -> Generator[None]:
    yield


@contextmanager
def span_with_value(event: Event, handler: Handler | None) -> Generator[int]:
    yield 1


class Span:
    def __init__(self, event: Event, handler: Handler | None) -> None: ...

    def __enter__(self) -> "Span":
        return self

    def __exit__(self, *exception: object) -> bool | None: ...


def instrumenting() -> None:
    """A hook is whatever returns a context manager: a function, or the class of one."""
    bus.instrument(span_with_value).cancel()
    with bus.instrument(span), bus.instrument(Span):
        pass


async def living() -> None:
    """A bus is its own context manager."""
    async with EventBus() as own:
        assert_type(own, EventBus)
        assert_type(own.pending, int)
        assert_type(await own.join(), None)
    await own.aclose()
    await own.aclose(timeout=1.5)
    assert_type(await own.aclose(None), None)


async def testing() -> None:
    """Captured events have the types that were asked for."""
    with strict(bus), capture(bus, OrderPlaced) as orders:
        await place_order(bus)
    assert_type(orders, list[OrderPlaced])
    with capture(bus, OrderPlaced, InvoiceIssued) as two:
        assert_type(two, list[OrderPlaced | InvoiceIssued])
    with capture(bus, A1, A2, A3, A4) as four:
        assert_type(four, list[A1 | A2 | A3 | A4])
    with capture(bus, A1, A2, A3, A4, A5, A6, A7, A8) as eight:
        assert_type(eight, list[A1 | A2 | A3 | A4 | A5 | A6 | A7 | A8])
    with capture(bus, OrderPlaced, InvoiceIssued, MailRequested) as three:
        assert_type(three, list[OrderPlaced | InvoiceIssued | MailRequested])


async def recording() -> None:
    """What happens, and who handles what."""
    with record(bus) as flow:
        await place_order(bus)
    assert_type(flow, Flow)
    assert_type(flow.tree() + flow.mermaid() + wiring(bus) + wiring(bus, format="mermaid"), str)
    assert_type(flow.cycles, list[tuple[type[Event], ...]])
    assert_type(flow.unhandled, list[type[Event]])


class OrdersModule(ModuleBase):
    meta = ModuleMeta("orders")

    def register_event_handlers(self, bus: EventBus) -> None:
        bus.subscribe(OrderPlaced, handle)


class ForeignModule:
    """Has the shape of a module, and nothing else of this package."""

    def __init__(self) -> None:
        self.meta = ModuleMeta("foreign", depends_on=("orders",))

    def register_event_handlers(self, bus: EventBus) -> None: ...


def registering() -> None:
    """Whatever has the shape of a module is one."""
    modules: list[Module] = [OrdersModule(), ForeignModule()]
    assert_type(register_modules(bus, modules), tuple[Module, ...])
    register_modules(bus, [OrdersModule()])
