# SPDX-License-Identifier: MIT
"""Who handles what: subscriptions by exact type, and the routes that publishing reads.

- Adding and removing a subscription is O(1), under a lock; any thread may do it.
- A route is built at the first publish after a change, O(handlers of that type), and read without
  a lock, by `routes.get(type(event))`. Compiling the handlers is part of building it.
- A type that nobody handles is found by `id(type(event)) in unhandled`, without a lock either.
"""

import logging
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Any, Self

from ._event import Event, check_event
from ._failure import HandlerFailure
from ._handler import (
    CompiledHandler,
    Handler,
    Hook,
    Route,
    describe,
    identity,
    limited,
    observed,
)

_logger = logging.getLogger(__name__.rpartition(".")[0])

# The route of every type that nobody handles.
_NOBODY = Route(Event, ())


class _Handle(ABC):
    """What can be cancelled, by a call or at the end of a `with` block."""

    __slots__ = ()

    @abstractmethod
    def cancel(self) -> None:
        """Take back what returned this handle."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()


class Subscription(_Handle):
    """One handler subscribed to one event type; `with bus.subscribe(...):` ends it at the end.

    Attributes:
        event_type: The exact type whose events the handler receives.
        handler: The description of the handler; `handler.callback` is what was subscribed.
    """

    __slots__ = ("_registry", "event_type", "handler")

    def __init__(self, registry: "Registry", event_type: type[Event], handler: Handler) -> None:
        self._registry = registry
        self.event_type: type[Event] = event_type
        self.handler: Handler = handler

    def cancel(self) -> None:
        """Unsubscribe the handler, from the next publish on; do nothing if that was done before.

        Any thread may call it. A publish under way still reaches the handler.
        """
        self._registry.remove(self)

    def __repr__(self) -> str:
        return f"<Subscription of {self.handler.name} to {self.event_type.__qualname__}>"


class Instrumentation(_Handle):
    """One hook installed on a bus; `with bus.instrument(...):` removes it at the end."""

    __slots__ = ("_registry", "hook", "if_unhandled")

    def __init__(self, registry: "Registry", hook: Hook, if_unhandled: CompiledHandler) -> None:
        self._registry = registry
        self.hook: Hook = hook
        # The hook as a handler, for events that have no other.
        self.if_unhandled: CompiledHandler = if_unhandled

    def cancel(self) -> None:
        """Remove the hook, from the next publish on; do nothing if that was done before."""
        self._registry.remove_hook(self)

    def __repr__(self) -> str:
        return f"<Instrumentation by {self.hook!r}>"


class Registry:
    """The subscriptions and hooks of one bus."""

    # - _subscriptions: by exact type, then by identity of the handler, in subscription order. No
    #   type without a subscription is kept.
    # - routes: types that have subscriptions, each route as new as the last change of its type.
    #   Empty once closed.
    # - unhandled: ids of living types that nobody handles, each with a weak reference that
    #   removes it with its type. Empty while hooks are installed, and once closed.
    # - _lock: taken for every change of these. Reentrant, since a finalizer that cancels a
    #   subscription, or a signal handler, may run at any point of the thread that holds it;
    #   hence `_changes`, by which building a route notices that it was overtaken.

    def __init__(
        self,
        on_error: Callable[[HandlerFailure], object] | None,
        handler_timeout: float | None,
    ) -> None:
        self._on_error = on_error
        self._handler_timeout = handler_timeout
        self._lock = threading.RLock()
        self._changes = 0
        self._subscriptions: dict[type[Event], dict[Hashable, Subscription]] = {}
        self._hooks: tuple[Instrumentation, ...] = ()
        self._warned: weakref.WeakSet[type[Event]] = weakref.WeakSet()
        self.routes: dict[type[Event], Route] = {}
        self.unhandled: dict[int, weakref.ref[type[Event]]] = {}
        self.closed: bool = False

    def add(self, event_type: type[Event], callback: Callable[[Any], object]) -> Subscription:
        """Subscribe a callback; return the subscription that it has already, if it has one."""
        key = identity(callback)
        subscription = Subscription(self, event_type, describe(callback))
        with self._lock:
            while True:
                subscriptions = self._subscriptions.setdefault(event_type, {})
                known = subscriptions.setdefault(key, subscription)
                if known is not subscription:
                    return known
                if self._subscriptions.get(event_type) is subscriptions:
                    break  # or else a finalizer has emptied and dropped it: again
            self.unhandled.clear()
            self._changed(event_type)
        return subscription

    def find(
        self, event_type: type[Event], callback: Callable[[Any], object]
    ) -> Subscription | None:
        """Return the subscription of a callback, or None."""
        return self._subscriptions.get(event_type, {}).get(identity(callback))

    def remove(self, subscription: Subscription) -> bool:
        """Remove a subscription; return whether it was there."""
        event_type, key = subscription.event_type, identity(subscription.handler.callback)
        with self._lock:
            subscriptions = self._subscriptions.get(event_type, {})
            if subscriptions.get(key) is not subscription:
                return False  # removed before; the key may be another subscription's by now
            del subscriptions[key]
            if not subscriptions:
                emptied = self._subscriptions.pop(event_type, {})
                if emptied:  # not quite: a finalizer has subscribed meanwhile
                    self._subscriptions[event_type] = emptied
            self._changed(event_type)
        return True

    def handlers(self, event_type: type[Event]) -> tuple[Handler, ...]:
        """Return the handlers of a type, in subscription order."""
        with self._lock:
            subscriptions = list(self._subscriptions.get(event_type, {}).values())
        return tuple(subscription.handler for subscription in subscriptions)

    def event_types(self) -> tuple[type[Event], ...]:
        """Return the types that have subscriptions, in the order of their first one."""
        with self._lock:
            event_types = list(self._subscriptions)
        return tuple(event_types)

    def add_hook(self, hook: Hook) -> Instrumentation:
        """Install a hook inside those installed before."""
        call = observed(lambda _event: None, None, [hook])
        if_unhandled = CompiledHandler(describe(hook, arguments=2), call, self._on_error)
        instrumentation = Instrumentation(self, hook, if_unhandled)
        with self._lock:
            self._hooks = (*self._hooks, instrumentation)
            self._changed()
        return instrumentation

    def remove_hook(self, instrumentation: Instrumentation) -> None:
        """Remove a hook, if it is there."""
        with self._lock:
            self._hooks = tuple(known for known in self._hooks if known is not instrumentation)
            self._changed()

    def close(self) -> None:
        """Have `find_route` refuse every event from now on."""
        with self._lock:
            self.closed = True
            self._changed()

    def check_open(self) -> None:
        """Raise `RuntimeError` if the bus is closed."""
        if self.closed:
            raise RuntimeError("this bus is closed; publish before aclose(), or make a new bus")

    def find_route(self, event: Event) -> Route:
        """Check an event that `routes` and `unhandled` do not know, and return its route.

        Raises:
            TypeError: It is not an instance of a subclass of `Event`.
            RuntimeError: The bus is closed.
        """
        check_event(event)
        event_type = type(event)
        with self._lock:
            self.check_open()
            while True:
                changes = self._changes
                subscriptions = self._subscriptions.get(event_type)
                if subscriptions is None:
                    break
                # The list is made in one go, whatever a finalizer does to the dict meanwhile.
                compiled = [self._compile(known.handler) for known in list(subscriptions.values())]
                route = self.routes[event_type] = Route(event_type, tuple(compiled))
                if changes == self._changes:
                    return route
                self.routes.pop(event_type, None)
            hooks = self._hooks
            if not hooks:
                self._remember_unhandled(event_type)
            base = next(filter(self._subscriptions.__contains__, event_type.__mro__[1:]), None)
            if event_type in self._warned:
                base = None
            elif base is not None:
                self._warned.add(event_type)
        if base is not None:
            _logger.warning(
                "nobody handles %s, but its base %s has handlers: events are delivered by exact "
                "type, so subscribe to %s",
                event_type.__qualname__,
                base.__qualname__,
                event_type.__qualname__,
            )
        return Route(event_type, tuple(known.if_unhandled for known in hooks)) if hooks else _NOBODY

    def _changed(self, event_type: type[Event] | None = None) -> None:
        """Have the routes, or the route of that type, built anew."""
        self._changes += 1
        if event_type is not None:
            self.routes.pop(event_type, None)
        else:
            self.routes.clear()
            self.unhandled.clear()

    def _compile(self, handler: Handler) -> CompiledHandler:
        call = handler.callback
        if self._handler_timeout is not None:
            call = limited(call, self._handler_timeout)
        if self._hooks:
            call = observed(call, handler, [known.hook for known in self._hooks])
        return CompiledHandler(handler, call, self._on_error)

    def _remember_unhandled(self, event_type: type[Event]) -> None:
        key, unhandled = id(event_type), self.unhandled
        unhandled[key] = weakref.ref(event_type, lambda _: unhandled.pop(key, None))
        if event_type in self._subscriptions:  # since a moment ago, by a signal handler
            unhandled.pop(key, None)
