# SPDX-License-Identifier: MIT
"""EventBus: the public face, and the way of an event through its handlers.

An event's way: event -> route (by exact type) -> handlers -> outcome.

- `publish` runs sync handlers in place and async ones in tasks of their own, and waits for them.
- `publish_nowait` leaves the event and its route to the backlog of the running loop.
- Who handles what is the registry's; a publish under way keeps the route it started with.
"""

import asyncio
from asyncio import AbstractEventLoop, CancelledError, Future, Task, get_running_loop
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import Context, copy_context
from inspect import isawaitable
from typing import Any, Self, TypeVar, overload

from ._backlog import Backlog, add_backlog
from ._deferred import DeferredPublisher, Publisher
from ._event import Event, check_event_type
from ._failure import HandlerFailure, report
from ._handler import CompiledHandler, Handler, Hook, describe
from ._publication import (
    EAGER,
    EAGER_LEVELS,
    EagerTask,
    Publication,
    call_in_place,
    cancel_and_wait,
    chain_to,
    check_depth,
    get_current,
    level_of,
    reset_current,
    run_handler,
    set_current,
    start,
    wait_for_tasks,
)
from ._registry import Instrumentation, Registry, Subscription
from ._wait import EventWaiter

E = TypeVar("E", bound=Event)
E1 = TypeVar("E1", bound=Event)
E2 = TypeVar("E2", bound=Event)
R = TypeVar("R")

# Memory ends before; and a small integer is compared faster than `sys.maxsize`.
_UNLIMITED = 2**30 - 1


class EventBus:
    """Delivers events to the handlers subscribed to their exact type, all of them concurrently.

    A bus belongs to no loop: it may be made anywhere and serve several loops, in several
    threads, each with its own pending work. `async with EventBus() as bus:` closes it at the
    end, as `aclose()` does.

    Args:
        on_error: Called with a `HandlerFailure` after a handler's failure was logged, in the
            context of the handler. A plain function; what it raises is logged.
        handler_timeout: Seconds that an async handler may run; then it is cancelled and has
            failed with a `TimeoutError`. None sets no limit.
        max_depth: Levels that a chain of awaited publishes may have, at least 1. None sets no
            limit.
        max_pending: Events of one loop that `publish_nowait` accepts before they are finished,
            at least 1. None sets no limit.

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
        if handler_timeout is not None and not handler_timeout > 0:
            raise ValueError(f"handler_timeout must be above 0 seconds, got {handler_timeout!r}")
        for name, limit in (("max_depth", max_depth), ("max_pending", max_pending)):
            if limit is not None and not limit >= 1:
                raise ValueError(f"{name} must be at least 1, or None for no limit, got {limit!r}")
        self._max_depth = _UNLIMITED if max_depth is None else max_depth
        self._max_pending = max_pending
        self._registry = Registry(on_error, handler_timeout)
        # The registry's own, one attribute nearer to the hot path.
        self._routes = self._registry.routes
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

        Any thread may call it. A handler that is subscribed to the type already keeps its place
        and its `Subscription`, which is returned; identity decides, for a bound method that of
        its object and function.

        Args:
            event_type: The exact type; events of its subclasses are not delivered.
            handler: Any callable that takes the event as its one positional argument. What it
                returns is awaited if it is awaitable, and ignored otherwise.

        Raises:
            TypeError: `event_type` is not a subclass of `Event`; or `handler` is not callable,
                cannot take one positional argument, or is a generator function.
        """
        check_event_type(event_type)
        return self._registry.add(event_type, handler)

    def unsubscribe(self, event_type: type[E], handler: Callable[[E], object]) -> None:
        """Stop calling `handler` with events of this type, from the next publish on; in any thread.

        Raises:
            TypeError: `event_type` is not a subclass of `Event`.
            ValueError: The handler is not subscribed to the type.
        """
        check_event_type(event_type)
        subscription = self._registry.find(event_type, handler)
        if subscription is None or not self._registry.remove(subscription):
            raise ValueError(
                f"{handler!r} is not subscribed to {event_type.__qualname__}; "
                "pass the very object that was subscribed, or cancel its Subscription"
            )

    @overload
    def on(self, event_type: type[E], /) -> Callable[[Callable[[E], R]], Callable[[E], R]]: ...
    @overload
    def on(
        self, first: type[E], second: type[E1], /
    ) -> Callable[[Callable[[E | E1], R]], Callable[[E | E1], R]]: ...
    @overload
    def on(
        self, first: type[E], second: type[E1], third: type[E2], /
    ) -> Callable[[Callable[[E | E1 | E2], R]], Callable[[E | E1 | E2], R]]: ...
    @overload
    def on(self, *event_types: type[E]) -> Callable[[Callable[[E], R]], Callable[[E], R]]: ...

    def on(self, *event_types: type[Any]) -> Callable[[Callable[[Any], R]], Callable[[Any], R]]:
        """Subscribe the decorated function to these types, and return it unchanged.

        Raises:
            TypeError: There is no event type, or what `subscribe` refuses.
        """
        if not event_types:
            raise TypeError("on() needs at least one event type, as in @bus.on(OrderPlaced)")
        for event_type in event_types:
            check_event_type(event_type)

        def decorate(handler: Callable[[Any], R]) -> Callable[[Any], R]:
            for event_type in event_types:
                self.subscribe(event_type, handler)
            return handler

        return decorate

    def handlers(self, event_type: type[Event]) -> tuple[Handler, ...]:
        """Return the handlers subscribed to exactly this type, in delivery order.

        Raises:
            TypeError: `event_type` is not a subclass of `Event`.
        """
        check_event_type(event_type)
        return self._registry.handlers(event_type)

    def event_types(self) -> tuple[type[Event], ...]:
        """Return the types that have handlers, in the order in which they got their first one."""
        return self._registry.event_types()

    def instrument(self, hook: Hook) -> Instrumentation:
        """Run every handler inside the context manager that `hook(event, handler)` returns.

        It is entered before the handler and left after it, with its exception, in the handler's
        own task and context; for an event that nobody handles, once, with None as handler. Of
        several hooks the first one is outermost. A hook that raises is a failure of that run.

        Returns:
            A handle: `.cancel()` removes the hook, and so does the end of a `with` block.

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

        If the publisher is cancelled, the handlers still running are cancelled and awaited, and
        `CancelledError` is raised, whatever they do. `KeyboardInterrupt` and `SystemExit` of a
        handler are raised after the other handlers were cancelled and awaited in the same way.

        Raises:
            TypeError: `event` is not an instance of a subclass of `Event`.
            RuntimeError: The bus is closed.
            EventCycleError: The chain of awaited publishes is deeper than `max_depth`.
        """
        route = self._get_route(type(event))
        if route is None:
            if id(type(event)) in self._unhandled:
                return
            route = self._registry.find_route(event)
            if not route.handlers:
                return
        parent: Any = get_current()
        if parent is not None:
            parent = level_of(parent)
            if type(event) in self._routes:
                check_depth(parent, type(event), self._max_depth)

        # Sync handlers that have returned an awaitable, with their contexts: rare.
        unawaited: list[tuple[CompiledHandler, Context]] | None
        targets: tuple[CompiledHandler, ...]
        target = route.only
        if target is not None:
            # What most events have. This is `call_in_place`, written out here and below: a call
            # costs as much as a short handler, and the loop makes it a sixth slower.
            context = copy_context()
            try:
                result = context.run(target.call, event)
                if result is None or not isawaitable(result):
                    return
            except (Exception, CancelledError) as exc:
                context.run(report, target, event, exc, (*chain_to(parent), type(event)))
                return
            route.learn(target)  # it is async after all
            unawaited = [(target.continuation(result), context)]
            targets = ()
        elif route.has_async:
            targets = route.handlers
            unawaited = None
        else:
            for target in route.handlers:
                context = copy_context()
                try:
                    result = context.run(target.call, event)
                    if result is not None and isawaitable(result):
                        break
                except (Exception, CancelledError) as exc:
                    chain = (*chain_to(parent), type(event))
                    context.run(report, target, event, exc, chain)
            else:
                return
            # This handler is async after all; the others have their turn before it goes on.
            route.learn(target)
            unawaited = [(target.continuation(result), context)]
            others = route.handlers[route.handlers.index(target) + 1 :]
            for target in others:
                context = copy_context()
                rest = call_in_place(target, event, parent, context)
                if rest is not None:
                    route.learn(target)
                    unawaited.append((rest, context))
            targets = ()

        depth = 1
        if parent is not None:
            depth = parent.depth + 1
            if unawaited is None and depth % EAGER_LEVELS == 0:
                await asyncio.sleep(0)
        loop = get_running_loop()
        factory = loop.get_task_factory()
        eager = EAGER and factory is None
        publication = Publication()
        publication.event_type = type(event)
        publication.parent = parent
        publication.depth = depth
        publication.waiter = publication.stop = None
        publication.running = 0
        running: dict[Task[None], CompiledHandler] | None = None  # made when a handler waits
        try:
            token = set_current(publication)
            try:
                if eager:
                    for target in targets:
                        if target.is_async:
                            task = EagerTask(
                                run_handler(target, event, publication),
                                loop=loop,
                                name=target.name,
                                eager_start=True,
                            )
                            if not task.done():
                                if running is None:
                                    running = {task: target}
                                else:
                                    running[task] = target
                            elif publication.stop is not None:
                                break
                        else:
                            context = copy_context()
                            rest = call_in_place(target, event, parent, context)
                            if rest is not None:
                                route.learn(target)
                                unawaited = [*(unawaited or ()), (rest, context)]
                else:
                    # Sync handlers as well: between tasks that start later, they have their turn.
                    running = {}
                    for target in targets:
                        body = run_handler(target, event, publication)
                        task = start(loop, factory, body, target.name)
                        running[task] = target
                if unawaited is not None:
                    for target, context in unawaited:
                        context.run(set_current, publication)
                        body = run_handler(target, event, publication)
                        # Instead of the trip above, in which a cancellation would lose it.
                        soon = depth % EAGER_LEVELS == 0
                        task = start(loop, factory, body, target.name, context, soon=soon)
                        if not task.done():
                            running = {**(running or {}), task: target}
            finally:
                reset_current(token)
            if running and factory is not None:
                await wait_for_tasks(loop, running, event, publication)
            elif running and publication.stop is None:
                publication.running = len(running)  # they count themselves down
                publication.waiter = Future(loop=loop)  # as `loop.create_future()` does, but faster
                await publication.waiter
            if publication.stop is not None:
                raise publication.stop
        except GeneratorExit:  # the loop is gone: nothing can be awaited any more
            raise
        except BaseException as exc:
            publication.stop = exc
            await cancel_and_wait(running or ())
            if publication.stop is not exc:  # a handler has met its cancellation with an exit
                raise publication.stop from None
            raise
        finally:
            # Contexts that outlive the publish still refer to the publication.
            publication.depth = 0
            publication.parent = publication.stop = None

    def publish_nowait(self, event: Event) -> None:
        """Schedule the handlers of the event on the running loop, and return.

        No handler code runs before it returns. Events start in the order in which they were
        published on their loop, with the handlers and in copies of the context of this call;
        otherwise each is handled as by `publish`. The caller's cancellation does not touch it.

        Raises:
            TypeError: `event` is not an instance of a subclass of `Event`.
            RuntimeError: No loop is running in this thread, or the bus is closed.
            asyncio.QueueFull: `max_pending` events of this loop are unfinished.
        """
        try:
            loop = get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "publish_nowait needs a running event loop in this thread; from another thread, "
                "call loop.call_soon_threadsafe(bus.publish_nowait, event)"
            ) from None
        route = self._get_route(type(event))
        if route is None:
            if id(type(event)) in self._unhandled:
                return
            route = self._registry.find_route(event)
            if not route.handlers:
                return
        backlog = self._backlogs.get(loop)
        if backlog is None:
            backlog = add_backlog(self._backlogs, loop)
        if self._max_pending is not None and backlog.pending >= self._max_pending:
            raise asyncio.QueueFull(
                f"max_pending={self._max_pending} events are unfinished, so this "
                f"{type(event).__qualname__} is not accepted; await bus.join(), or publish it"
            )
        context = copy_context()
        if not backlog.scheduled:
            backlog.schedule()  # which may fail: nothing is accepted then
        backlog.queue.append((event, route, context))

    def wait_for(
        self, event_type: type[E], where: Callable[[E], object] | None = None
    ) -> Future[E]:
        """Return a future of the next event of this type for which `where(event)` is true.

        It listens from this call on, not from the await, and until the future is done; cancel
        the future to stop listening. The event may be published on any loop. An exception in
        `where` becomes the future's. Closing the bus does not end the wait.

        Raises:
            TypeError: `event_type` is not a subclass of `Event`, or `where` cannot be called
                with one argument, or is async.
            RuntimeError: No loop is running in this thread, or the bus is closed.
        """
        waiter = EventWaiter(where)
        self._registry.check_open()
        return waiter.wait(self.subscribe(event_type, waiter))

    def deferred(self) -> AbstractAsyncContextManager[Publisher]:
        """Return a context manager whose publisher records events, and publishes them at its end.

        When the block ends without an exception, they are published in order: those of
        `publish` awaited one after the other, those of `publish_nowait` scheduled in their
        place. On an exception, cancellation included, they are dropped. A cancellation while
        they are being published drops the rest, and logs which. Publish after commit::

            async with bus.deferred() as events, session.begin():
                ...
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

        What handlers publish meanwhile is included. Called from inside a handler of such work,
        it waits neither for that handler nor for others that wait here as well. Cancelling it
        cancels no work.
        """
        backlog = self._backlogs.get(get_running_loop())
        if backlog is not None:
            await backlog.join()

    async def aclose(self, timeout: float | None = None) -> None:
        """Finish the running loop's `publish_nowait` work, and refuse all publishing from then on.

        Closing twice is fine. Work of other loops that was accepted before goes on. Cancelled
        while it waits for work, it cancels nothing and leaves the bus open.

        Args:
            timeout: Seconds to wait; then the handlers still running and the events still
                queued are logged by name, the handlers are cancelled and awaited, and the
                events dropped. None waits as long as it takes.
        """
        backlog = self._backlogs.get(get_running_loop())
        if backlog is None:
            self._registry.close()
            return
        try:
            async with asyncio.timeout(timeout):
                await backlog.join()
        except TimeoutError:
            self._registry.close()
            await backlog.cancel()
        else:
            self._registry.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.aclose()
