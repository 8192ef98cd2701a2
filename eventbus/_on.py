# SPDX-License-Identifier: MIT
"""`bus.on`, the decorator form of `subscribe`, and its types."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, overload

from ._checks import check_event_type
from ._event import Event

E = TypeVar("E", bound=Event)
E1 = TypeVar("E1", bound=Event)
E2 = TypeVar("E2", bound=Event)
E3 = TypeVar("E3", bound=Event)
E4 = TypeVar("E4", bound=Event)
E5 = TypeVar("E5", bound=Event)
E6 = TypeVar("E6", bound=Event)
E7 = TypeVar("E7", bound=Event)
E8 = TypeVar("E8", bound=Event)
R = TypeVar("R")


class Decorator(Protocol[E]):
    """A decorator of functions that take such events."""

    def __call__(self, handler: Callable[[E], R], /) -> Callable[[E], R]:
        """Subscribe the function, and return it unchanged."""
        ...


class Decorating(ABC):
    """What has the method `on`."""

    @abstractmethod
    def subscribe(self, event_type: type[E], handler: Callable[[E], object]) -> object:
        """Call `handler` with every event of this type."""

    @overload
    def on(self, a: type[E1], /) -> Decorator[E1]: ...
    @overload
    def on(self, a: type[E1], b: type[E2], /) -> Decorator[E1 | E2]: ...
    @overload
    def on(self, a: type[E1], b: type[E2], c: type[E3], /) -> Decorator[E1 | E2 | E3]: ...
    @overload
    def on(
        self, a: type[E1], b: type[E2], c: type[E3], d: type[E4], /
    ) -> Decorator[E1 | E2 | E3 | E4]: ...
    @overload
    def on(
        self, a: type[E1], b: type[E2], c: type[E3], d: type[E4], e: type[E5], /
    ) -> Decorator[E1 | E2 | E3 | E4 | E5]: ...
    @overload
    def on(
        self, a: type[E1], b: type[E2], c: type[E3], d: type[E4], e: type[E5], f: type[E6], /
    ) -> Decorator[E1 | E2 | E3 | E4 | E5 | E6]: ...
    @overload
    def on(
        self,
        a: type[E1],
        b: type[E2],
        c: type[E3],
        d: type[E4],
        e: type[E5],
        f: type[E6],
        g: type[E7],
        /,
    ) -> Decorator[E1 | E2 | E3 | E4 | E5 | E6 | E7]: ...
    @overload
    def on(
        self,
        a: type[E1],
        b: type[E2],
        c: type[E3],
        d: type[E4],
        e: type[E5],
        f: type[E6],
        g: type[E7],
        h: type[E8],
        /,
    ) -> Decorator[E1 | E2 | E3 | E4 | E5 | E6 | E7 | E8]: ...
    @overload
    def on(self, *event_types: type[E]) -> Decorator[E]: ...

    def on(self, *event_types: type[Any]) -> Decorator[Any]:
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
