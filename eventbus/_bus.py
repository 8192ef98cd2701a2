# SPDX-License-Identifier: MIT
"""EventBus: the public face of registry, delivery and backlog.

An event's way: event -> route (by exact type) -> handlers -> outcome. `publish` has `deliver` start
the handlers of the route, and waits for those that run; `publish_nowait` leaves both to a backlog.
(`_backlogs` alone changes here: each loop's thread adds its own key, atomically.)
"""

import asyncio
import math
from asyncio import AbstractEventLoop, Future, get_running_loop
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from typing import Self, TypeVar

from ._backlog import Backlog, backlog_of
from ._checks import check_event_type, check_limits, running_loop
from ._deferred import DeferredPublisher, Publisher
from ._delivery import (
    EAGER,
    LEVELS_PER_TRIP,
    check_depth,
    deliver,
    end_publisher,
    failed,
    get_current,
    set_current,
)
from ._event import Event
from ._failure import HandlerFailure
from ._handler import Handler, Route, describe, must_await
from ._misses import twin_of
from ._on import Decorating
from ._registry import Registry
from ._subscription import Instrumentation, Subscription
from ._wait import EventWaiter, waiters_among
from ._wrapping import Hook

E = TypeVar("E", bound=Event)


class EventBus(Decorating):
    """Delivers events to the handlers subscribed to their exact type, all of them concurrently.

    A bus belongs to no loop: it may be made anywhere and serve several, in several threads, each
    with its own pending work. `async with` closes it at the end; `RuntimeError` if it is closed.

    Args:
        on_error: Called with a `HandlerFailure` after a handler's failure was logged, in the
            context of the handler. A plain function; what it raises is logged.
        handler_timeout: Seconds that an async handler may run; then it is cancelled and has
            failed with a `TimeoutError`. None sets no limit, here and below.
        max_depth: Levels that a chain of awaited publishes may have, at least 1.
        max_pending: Unfinished events of one loop that `publish_nowait` accepts, at least 1.

    Raises:
        TypeError: `on_error` cannot be called with one argument, or is async.
        ValueError: A limit is out of its range.
    """

    def __init__(
        self,
        *,
        on_error: Callable[[HandlerFailure], object] | None = None,
        handler_timeout: float | None = None,
        max_depth: int | None = 100,
        max_pending: int | None = None,
    ) -> None:
        if on_error is not None and describe(on_error).is_async:
            raise TypeError(
                f"on_error must be a plain function, got the async {on_error!r}; "
                "let it start a task, or publish_nowait an event"
            )
        check_limits(handler_timeout, max_depth, max_pending)
        self._max_depth = math.inf if max_depth is None else max_depth
        self._max_pending = max_pending
        self._registry = Registry(on_error, handler_timeout)
        # The registry's own, one attribute nearer to the hot path.
        self._get_route = self._registry.routes.get
        self._unhandled = self._registry.unhandled
        # By loop; those of closed loops go when the next loop comes.
        self._backlogs: dict[AbstractEventLoop, Backlog] = {}

    def __repr__(self) -> str:
        state = "closed" if self._registry.closed else f"{self.pending} pending"
        return f"<EventBus with handlers for {len(self.event_types())} event types, {state}>"

    # Who handles what

    def subscribe(self, event_type: type[E], handler: Callable[[E], object]) -> Subscription:
        """Call `handler` with every event of exactly this type, from the next publish on.

        Any thread may call it. A handler that is subscribed already is still called once, in its
        first place, until its last `Subscription` is cancelled; identity decides, for a bound
        method that of its object and function.

        Args:
            event_type: The exact type; events of its subclasses are not delivered.
            handler: Any callable that takes the event. An awaitable that it returns is awaited.

        Raises:
            TypeError: `event_type` is no subclass of `Event`, or `handler` cannot handle an event.
        """
        check_event_type(event_type)
        return self._registry.add(event_type, handler)

    def unsubscribe(self, event_type: type[E], handler: Callable[[E], object]) -> None:
        """End every subscription of `handler` to this type, from the next publish on; any thread.

        Raises:
            TypeError, ValueError: `event_type` is no subclass of `Event`; nothing is subscribed.
        """
        check_event_type(event_type)
        if not self._registry.remove(event_type, handler):
            twin = "" if self.handlers(event_type) else twin_of(event_type, self.event_types())
            remedy = "pass the very object that was subscribed, or cancel its Subscription"
            raise ValueError(
                f"{handler!r} is not subscribed to {event_type.__qualname__}; {twin or remedy}"
            )

    def clear(self) -> None:
        """End every subscription at once, from the next publish on; any thread may call it.

        What `publish_nowait` has accepted still runs. Futures of `wait_for` are cancelled, each on
        its loop. Hooks stay.
        """
        for waiter in waiters_among(self._registry.clear()):
            waiter.cancel()

    def handlers(self, event_type: type[Event]) -> tuple[Handler, ...]:
        """Return the handlers of exactly this type, in delivery order; `TypeError` if none is."""
        check_event_type(event_type)
        return self._registry.handlers(event_type)

    def event_types(self) -> tuple[type[Event], ...]:
        """Return the types that have handlers, in the order in which they got their first one."""
        return self._registry.event_types()

    def instrument(self, hook: Hook) -> Instrumentation:
        """Run every handler inside the context manager that `hook(event, handler)` returns.

        It is entered before the handler and left after it, with its exception, in the handler's
        own task and context: sync handlers have a task each, too, while there is a hook. For an
        event that nobody handles it is entered once, with None as handler. The first of several is
        outermost. A hook that raises is a failure of that run. The handle returned removes it, by
        `.cancel()` or at the end of a `with` block.

        Raises:
            TypeError: `hook` cannot be called with two positional arguments, or is async.
        """
        if describe(hook, arguments=2).is_async:
            raise TypeError(
                f"expected a function that returns a context manager, got the async {hook!r}"
            )
        return self._registry.add_hook(hook)

    # Publishing

    async def publish(self, event: Event) -> None:
        """Run all handlers of the event concurrently, and return once every one has finished.

        Handlers start in subscription order, each in its own copy of the current context, async
        ones each in their own task. A handler that fails is logged and reported to `on_error`;
        neither the publisher nor another handler sees its exception.

        If the publisher is cancelled, however often, the handlers still running are cancelled once
        and awaited, and `CancelledError` is raised, whatever they do. `KeyboardInterrupt` and
        `SystemExit` of a handler are raised when the others were cancelled and awaited likewise.

        Raises:
            TypeError: `event` is not an instance of a subclass of `Event`.
            RuntimeError: The bus is closed.
            EventCycleError: The chain of awaited publishes is deeper than `max_depth`.
        """
        event_type = type(event)
        route = self._get_route(event_type)
        if route is None:
            if id(event_type) in self._unhandled:
                return
            route = self._registry.find_route(event)
        parent = get_current()
        if parent is not None:
            if event_type in self._registry.routes:
                check_depth(parent, event_type, self._max_depth)
            if (parent.depth + 1) % LEVELS_PER_TRIP == 0:
                await asyncio.sleep(0)
        if route.in_place:
            # Most events have sync handlers alone: calling `deliver` would take a sixth of it all.
            for target in route.handlers:
                if target.is_async:  # as has been learned since the route was built
                    first = target
                    break
                context = copy_context()
                try:
                    result = context.run(target.call, event)
                    if result is None or not must_await(result):
                        continue
                except BaseException as exc:  # noqa: BLE001 - whatever a handler raises
                    context.run(failed, target, event, exc, parent, end_publisher)
                    continue
                first = target.learn(result, context)
                break
            else:
                return
            route.in_place = False
            following = route.handlers.index(target) + 1
            route = Route((first, *route.handlers[following:]))
        try:
            loop = get_running_loop()
        except RuntimeError:
            loop = running_loop("publish, to async handlers,")
        eager, context = EAGER and loop.get_task_factory() is None, copy_context()
        publication = deliver(event, route, loop, eager, context, parent, None)
        if publication is not None:
            await publication.wait()

    def publish_nowait(self, event: Event) -> None:
        """Schedule the handlers of the event on the running loop, and return.

        No handler code runs before it returns. Events start in the order in which they were
        published on their loop, with the handlers and in copies of the context of this call;
        otherwise each is handled as by `publish`. The caller's cancellation does not touch it.

        Raises:
            TypeError: `event` is not an instance of a subclass of `Event`.
            RuntimeError: No asyncio loop is running in this thread, or the bus is closed.
            asyncio.QueueFull: `max_pending` events of this loop are unfinished.
        """
        try:
            loop = get_running_loop()
        except RuntimeError:
            loop = running_loop("publish_nowait")
        route = self._get_route(type(event))
        if route is None:
            if id(type(event)) in self._unhandled:
                return
            route = self._registry.find_route(event)
            if not route.handlers:
                return
        backlog = self._backlogs.get(loop)
        if backlog is None:
            backlog = backlog_of(loop, self._backlogs)
        if self._max_pending is not None and backlog.pending >= self._max_pending:
            raise asyncio.QueueFull(
                f"max_pending={self._max_pending} events are unfinished, so this "
                f"{type(event).__qualname__} is not accepted; await bus.join(), or publish it"
            )
        context = copy_context()
        if get_current() is not None:
            context.run(set_current, None)  # a chain of its own
        if not backlog.scheduled:
            backlog.schedule()  # which may fail: nothing is accepted then
        backlog.queue.append((event, route, context))

    def wait_for(
        self, event_type: type[E], where: Callable[[E], object] | None = None
    ) -> Future[E]:
        """Return a future of the next event of this type for which `where(event)` is true.

        It listens from this call on, not from the await, and until the future is done; cancel
        the future to stop listening. The event may be published on any loop. An exception in
        `where` becomes the future's. `clear`, and `aclose` on its loop, cancel it.

        Raises:
            TypeError: `event_type` is no subclass of `Event`, or `where` no sync test of an event.
            RuntimeError: No asyncio loop is running in this thread, or the bus is closed.
        """
        check_event_type(event_type)
        waiter = EventWaiter(where)
        self._registry.check_open()
        if twin_of(event_type, self.event_types()):
            self._registry.misses.warn(event_type, self.event_types())
        return waiter.wait(self._registry.add(event_type, waiter))

    def deferred(self) -> AbstractAsyncContextManager[Publisher]:
        """Return a context manager whose publisher records events, and publishes them at its end.

        When the block has succeeded, they are published in order, `publish` ones awaited one after
        the other. On an exception, cancellation included, they are dropped; on one while they are
        published, the rest is, and logged. Publish after commit:
        `async with bus.deferred() as events, session.begin():`.
        """
        return DeferredPublisher(self)

    # Lifecycle

    @property
    def pending(self) -> int:
        """How many `publish_nowait` events of the running loop are unfinished; 0 without one."""
        try:
            backlog = self._backlogs.get(get_running_loop())
        except RuntimeError:
            return 0
        return 0 if backlog is None else backlog.pending

    async def join(self) -> None:
        """Wait until the running loop has no `publish_nowait` work left.

        What handlers publish meanwhile is included. Inside a handler of such work it waits neither
        for the handler's event nor for events whose handlers wait here, too. Cancelling it cancels
        no work. After ten seconds, and then ever more rarely, a warning says for whom it waits.
        """
        backlog = self._backlogs.get(get_running_loop())
        if backlog is not None:
            await backlog.join()

    async def aclose(self, timeout: float | None = None) -> None:
        """Finish the running loop's `publish_nowait` work, and refuse all publishing from then on.

        Futures of `wait_for` that are pending on this loop are cancelled then. Closing twice is
        fine. Other loops finish what they have accepted. Cancelled while it waits for work, it
        cancels nothing and leaves the bus open; cancelled later, it ends in time, and then raises.

        Args:
            timeout: Seconds to wait, None for as long as it takes. Then events still queued are
                dropped, and handlers still running cancelled, both logged by name, and awaited
                for `timeout` seconds more; those that go on for all that are logged and left.
        """
        loop = get_running_loop()
        backlog = self._backlogs.get(loop)
        timeout = math.inf if timeout is None else timeout
        in_time = backlog is None or await backlog.join(timeout)
        self._registry.close()
        handlers = [each for kind in self.event_types() for each in self.handlers(kind)]
        for waiter in waiters_among(handlers):
            waiter.cancel(loop)
        if backlog is not None and not in_time:
            await backlog.cancel(timeout)

    async def __aenter__(self) -> Self:
        self._registry.check_open()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.aclose()
