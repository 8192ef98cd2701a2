# SPDX-License-Identifier: MIT
"""Wrong uses: each line bears the complaint that both type checkers have of it. Nothing runs.

A complaint that is not made is an error itself: mypy's `warn_unused_ignores`, pyright's
`reportUnnecessaryTypeIgnoreComment`. For each of them, `right.py` has what would be right.
"""

# What follows from a complaint is not of interest, nor that the results are unused.
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# pyright: reportUnknownMemberType=false, reportUnusedVariable=false
# pyright: reportUntypedFunctionDecorator=false

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass

from eventbus import Event, EventBus, Handler, HandlerFailure, Publisher
from eventbus.flow import record, wiring
from eventbus.modules import ModuleMeta, register_modules
from eventbus.testing import capture, strict


@dataclass(frozen=True, slots=True)
class OrderEvent(Event):
    """A base class."""


@dataclass(frozen=True, slots=True)
class OrderPlaced(OrderEvent):
    order_id: int


@dataclass(frozen=True, slots=True)
class InvoiceIssued(Event):
    amount: float


class Fourth(Event): ...


@dataclass
class NoEvent:
    order_id: int


def handle(event: OrderPlaced) -> None: ...


async def handle_async(event: OrderPlaced) -> None: ...


def handle_two(event: OrderPlaced, other: int) -> None: ...


def handle_none() -> None: ...


def handle_keyword(*, event: OrderPlaced) -> None: ...


def handle_either(event: OrderPlaced | InvoiceIssued) -> None: ...


class Invoices:
    def on_order(self, event: OrderPlaced) -> None: ...

    def on_invoice(self, event: InvoiceIssued) -> None: ...


bus = EventBus()
invoices: asyncio.Queue[InvoiceIssued] = asyncio.Queue()


def subscribing() -> None:
    bus.subscribe(InvoiceIssued, handle)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.subscribe(InvoiceIssued, handle_async)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.subscribe(InvoiceIssued, Invoices().on_order)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.subscribe(OrderPlaced, invoices.put)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.subscribe(OrderEvent, handle)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.subscribe(OrderPlaced, Invoices.on_order)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.subscribe(OrderPlaced, handle_two)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.subscribe(OrderPlaced, handle_none)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.subscribe(OrderPlaced, handle_keyword)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.subscribe(OrderPlaced, handle(OrderPlaced(1)))  # type: ignore[arg-type, func-returns-value]  # pyright: ignore[reportArgumentType]
    bus.subscribe(OrderPlaced, lambda event: event.amount)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    bus.subscribe(OrderPlaced, lambda: None)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
    bus.subscribe(OrderPlaced, lambda event, other: None)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
    bus.subscribe(OrderPlaced(1), handle)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.subscribe(NoEvent, lambda event: None)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    bus.subscribe("OrderPlaced", handle)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.subscribe(handle)  # type: ignore[arg-type, call-arg, type-var]  # pyright: ignore[reportCallIssue]
    bus.subscribe(OrderPlaced)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    bus.unsubscribe(InvoiceIssued, handle)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.unsubscribe(OrderPlaced(1), handle)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def decorating() -> None:
    bus.on(InvoiceIssued)(handle)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.on(InvoiceIssued)(handle_async)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.on(OrderEvent)(handle)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.on(OrderPlaced, InvoiceIssued)(handle)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.on(OrderPlaced, InvoiceIssued, OrderEvent)(handle_either)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.on(OrderPlaced, InvoiceIssued, OrderEvent, Fourth)(handle_either)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.on(OrderPlaced)(handle_two)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.on(OrderPlaced)(handle_none)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.on(OrderPlaced)(lambda event: event.amount)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    bus.on(OrderPlaced(1))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.on(NoEvent)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.on(handle)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]

    @bus.on(InvoiceIssued)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    def wrong_event(event: OrderPlaced) -> None: ...

    @bus.on(OrderPlaced)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async def two_parameters(event: OrderPlaced, other: int) -> None: ...

    @bus.on(OrderPlaced, InvoiceIssued)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async def one_of_two(event: InvoiceIssued) -> None: ...

    @bus.on  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    def no_type(event: OrderPlaced) -> None: ...


async def publishing() -> None:
    await bus.publish(OrderPlaced)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await bus.publish(NoEvent(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await bus.publish("OrderPlaced")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await bus.publish(OrderPlaced(1), OrderPlaced(2))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    bus.publish_nowait(OrderPlaced)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.publish_nowait(NoEvent(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await bus.publish_nowait(OrderPlaced(1))  # type: ignore[func-returns-value, misc]  # pyright: ignore[reportGeneralTypeIssues]
    bus.publish(OrderPlaced(1))  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]


async def waiting() -> None:
    future: asyncio.Future[InvoiceIssued] = bus.wait_for(OrderPlaced)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    event: InvoiceIssued = await bus.wait_for(OrderPlaced)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    bus.wait_for(OrderPlaced, where=lambda event: event.amount)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    bus.wait_for(OrderPlaced, where=lambda: True)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
    bus.wait_for(OrderPlaced, where=Invoices().on_invoice)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.wait_for(OrderPlaced(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    print((await bus.wait_for(OrderPlaced)).amount)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    print((await bus.wait_for(OrderPlaced, where=lambda event: True)).amount)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


async def deferring() -> None:
    async with bus.deferred() as events:
        events.subscribe(OrderPlaced, handle)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        await events.publish(OrderPlaced)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with bus.deferred():  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    publisher: Publisher = Invoices()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    publishers: list[EventBus] = [events]  # type: ignore[list-item]  # pyright: ignore[reportAssignmentType]


def describing(failure: HandlerFailure) -> None:
    (handler,) = bus.handlers(OrderPlaced)
    handler.name = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    handler.location.upper()  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    print(failure.event.order_id)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    failure.event = OrderPlaced(1)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    bus.handlers(OrderPlaced(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.pending = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def report(failure: HandlerFailure) -> None: ...


def making() -> None:
    EventBus(print)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    EventBus(on_error=handle)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    EventBus(on_error=lambda: None)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
    EventBus(handler_timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    EventBus(max_depth=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    EventBus(max_pending="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    EventBus(timeout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@asynccontextmanager
async def async_span(event: Event, handler: Handler | None) -> AsyncGenerator[None]:
    yield


async def async_hook(event: Event, handler: Handler | None) -> AbstractContextManager[None]:
    return nullcontext()


# A hook is called with None, too, and always with both.
HandlerHook = Callable[[Event, Handler], AbstractContextManager[None]]
EventHook = Callable[[Event], AbstractContextManager[None]]


def instrumenting(of_handler: HandlerHook, of_event: EventHook) -> None:
    bus.instrument(async_span)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.instrument(handle)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.instrument(of_handler)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.instrument(of_event)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bus.instrument(async_hook)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class NamelessModule:
    def register_event_handlers(self, bus: EventBus) -> None: ...


def helping() -> None:
    with capture(bus, OrderPlaced) as events:
        print(events[0].amount)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    with capture(bus, NoEvent):  # type: ignore[type-var]  # pyright: ignore[reportCallIssue, reportArgumentType]
        pass
    with capture(bus, OrderPlaced(1)):  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
        pass
    with strict(OrderPlaced):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        pass
    with record(bus, 10):  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        pass
    wiring(OrderPlaced)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ModuleMeta("orders", depends_on=("stock", 1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    register_modules(bus, [NamelessModule()])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    register_modules([NamelessModule()])  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
