# SPDX-License-Identifier: MIT
"""What `subscribe` and `instrument` return: handles, by which either is taken back."""

from collections.abc import Callable
from threading import RLock
from typing import Any, Protocol, Self

from ._event import Event
from ._handler import CompiledHandler, Handler
from ._wrapping import Hook


class _Handle:
    """What can be cancelled, by a call or at the end of a `with` block."""

    __slots__ = ()

    def cancel(self) -> None:
        """Take back what this stands for; do nothing if that was done before."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.cancel()


class Entry(CompiledHandler):
    """A handler of one type while it is subscribed; what is learned of it stays here."""

    __slots__ = ("subscriptions",)

    subscriptions: int  # how many have not been cancelled


class _Registry(Protocol):
    """What handles need of the registry that they belong to."""

    @property
    def lock(self) -> RLock: ...
    def remove(
        self, event_type: type[Event], callback: Callable[[Any], object], entry: Entry
    ) -> bool: ...
    def remove_hook(self, instrumentation: "Instrumentation") -> None: ...


class Subscription(_Handle):
    """One call of `subscribe`; `with bus.subscribe(...):` takes it back at the end.

    The handler is called until its last subscription to the type is cancelled.

    Attributes:
        event_type: The exact type whose events the handler receives.
        handler: The description of the handler; `handler.callback` is what was subscribed.
    """

    __slots__ = ("_entry", "_registry", "event_type", "handler")

    def __init__(self, registry: _Registry, event_type: type[Event], entry: Entry) -> None:
        self._registry = registry
        self._entry: Entry | None = entry
        self.event_type: type[Event] = event_type
        self.handler: Handler = entry.handler

    def cancel(self) -> None:
        """Take the subscription back, from the next publish on; do nothing if it was before.

        Any thread may call it. A publish under way still reaches the handler.
        """
        with self._registry.lock:
            entry, self._entry = self._entry, None
            if entry is not None:
                entry.subscriptions -= 1
                if entry.subscriptions == 0:
                    self._registry.remove(self.event_type, self.handler.callback, entry)

    def __repr__(self) -> str:
        return f"<Subscription of {self.handler.name} to {self.event_type.__qualname__}>"


class Instrumentation(_Handle):
    """One hook installed on a bus; `with bus.instrument(...):` removes it at the end."""

    __slots__ = ("_registry", "hook", "if_unhandled")

    def __init__(self, registry: _Registry, hook: Hook, if_unhandled: CompiledHandler) -> None:
        self._registry = registry
        self.hook: Hook = hook
        # The hook as a handler, for events that have no other.
        self.if_unhandled: CompiledHandler = if_unhandled

    def cancel(self) -> None:
        """Remove the hook, from the next publish on; do nothing if that was done before."""
        self._registry.remove_hook(self)

    def __repr__(self) -> str:
        return f"<Instrumentation by {self.hook!r}>"
