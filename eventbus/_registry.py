# SPDX-License-Identifier: MIT
"""Who handles what: subscriptions by exact type, and the routes that publishing reads.

Adding and removing a subscription is O(1). A route is built at the first publish after a change,
O(handlers of that type). Every attribute of `Registry`, `Entry` and `Subscription` that changes is
changed under the registry's lock alone. Publishing reads `routes` and `unhandled` without it, and
sees a dict before or after a change, never between.
"""

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any

from ._checks import check_event
from ._event import Event
from ._failure import HandlerFailure
from ._handler import CompiledHandler, Handler, Route, describe, identity
from ._misses import Misses
from ._subscription import Entry, Instrumentation, Subscription
from ._wrapping import Hook, limited, observed


class Registry:
    """The subscriptions and hooks of one bus."""

    # - _entries: by exact type, then by identity of the handler; no type without a handler.
    # - routes: by type, each as new as the last change of the type. Empty once closed.
    # - unhandled: ids of living types that nobody handles, each with a weak reference that
    #   removes it with its type. Empty while hooks are installed, and once closed.
    # - lock: reentrant, since a finalizer that cancels a subscription, or a signal handler, may run
    #   at any point of the thread that holds it; `_changes` tells whether one has.

    def __init__(
        self, on_error: Callable[[HandlerFailure], object] | None, handler_timeout: float | None
    ) -> None:
        self._on_error = on_error
        self._handler_timeout = handler_timeout
        self._changes = 0
        self._entries: dict[type[Event], dict[Hashable, Entry]] = {}
        self._hooks: tuple[Instrumentation, ...] = ()
        self.lock = threading.RLock()
        self.routes: dict[type[Event], Route] = {}
        self.unhandled: dict[int, weakref.ref[type[Event]]] = {}
        self.misses = Misses()
        self.closed: bool = False

    def add(self, event_type: type[Event], callback: Callable[[Any], object]) -> Subscription:
        """Subscribe a callback; if it is subscribed already, it keeps its place."""
        handler = describe(callback)
        timeout = self._handler_timeout
        call = callback if timeout is None else limited(callback, timeout)
        entry = Entry(handler, call, self._on_error, handler.is_async)
        key = identity(callback)
        with self.lock:
            while True:
                entry.subscriptions = 0
                entries = self._entries.setdefault(event_type, {})
                known = entries.setdefault(key, entry)
                known.subscriptions += 1
                # Unless a finalizer has taken either away in between: then again.
                if self._entries.get(event_type) is entries and entries.get(key) is known:
                    break
            if known is entry:
                self.unhandled.clear()
                self._changed(event_type)
        return Subscription(self, event_type, known)

    def remove(
        self, event_type: type[Event], callback: Callable[[Any], object], entry: Entry | None = None
    ) -> bool:
        """Remove a callback, if its entry is `entry` or none is given; return whether it was."""
        key = identity(callback)
        with self.lock:
            entries = self._entries.get(event_type, {})
            if key not in entries or entry not in (None, entries[key]):
                return False  # removed before; the key may be another entry's by now
            del entries[key]
            if not entries:
                emptied = self._entries.pop(event_type, {})
                if emptied:  # not quite: a finalizer has subscribed meanwhile
                    self._entries[event_type] = emptied
            self._changed(event_type)
            return True

    def clear(self) -> list[Handler]:
        """Remove every entry; return the handlers."""
        with self.lock:
            removed, self._entries = self._entries, {}
            self._changed()
        return [entry.handler for entries in removed.values() for entry in entries.values()]

    def handlers(self, event_type: type[Event]) -> tuple[Handler, ...]:
        """Return the handlers of a type, in subscription order."""
        with self.lock:
            entries = list(self._entries.get(event_type, {}).values())
        return tuple(entry.handler for entry in entries)

    def event_types(self) -> tuple[type[Event], ...]:
        """Return the types that have handlers, in the order of their first one."""
        with self.lock:
            return tuple(self._entries)

    def add_hook(self, hook: Hook) -> Instrumentation:
        """Install a hook inside those installed before."""
        call = observed(lambda _event: None, None, [hook])
        if_unhandled = CompiledHandler(describe(hook, arguments=2), call, self._on_error, True)
        instrumentation = Instrumentation(self, hook, if_unhandled)
        with self.lock:
            self._hooks = (*self._hooks, instrumentation)
            self._changed()
        return instrumentation

    def remove_hook(self, instrumentation: Instrumentation) -> None:
        """Remove a hook, if it is there."""
        with self.lock:
            self._hooks = tuple(known for known in self._hooks if known is not instrumentation)
            self._changed()

    def close(self) -> None:
        """Have `find_route` refuse every event from now on."""
        with self.lock:
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
        with self.lock:
            self.check_open()
            while (entries := self._entries.get(event_type)) is not None:
                changes = self._changes
                # The list is made in one go, whatever a finalizer does to the dict meanwhile.
                route = Route(tuple(map(self._hooked, list(entries.values()))))
                self.routes[event_type] = route
                if changes == self._changes:
                    return route
                self.routes.pop(event_type, None)
            hooks = self._hooks
            if not hooks:
                key, unhandled = id(event_type), self.unhandled
                unhandled[key] = weakref.ref(event_type, lambda _: unhandled.pop(key, None))
                if event_type in self._entries:  # since a moment ago, by a signal handler
                    unhandled.pop(key, None)
        self.misses.warn(event_type, self._entries)
        return Route(tuple(known.if_unhandled for known in hooks))

    def _hooked(self, entry: Entry) -> CompiledHandler:
        if not self._hooks:
            return entry
        call = observed(entry.call, entry.handler, [known.hook for known in self._hooks])
        return CompiledHandler(entry.handler, call, self._on_error, True)

    def _changed(self, event_type: type[Event] | None = None) -> None:
        """Have the routes, or the route of that type, built anew."""
        self._changes += 1
        if event_type is not None:
            self.routes.pop(event_type, None)
        else:
            self.routes.clear()
            self.unhandled.clear()
