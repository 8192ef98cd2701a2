# SPDX-License-Identifier: MIT
"""Modules of an application, their handlers subscribed in the order of their dependencies::

    class InvoicesModule(ModuleBase):
        meta = ModuleMeta("invoices", depends_on=("orders",))

        def register_event_handlers(self, bus: EventBus) -> None:
            bus.subscribe(OrderPlaced, issue_invoice)

    register_modules(bus, [InvoicesModule(), OrdersModule()])

All of them are subscribed, or none is.
"""

import logging
import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from inspect import iscoroutinefunction
from threading import get_ident
from typing import Protocol, TypeVar

from . import Event, EventBus, Subscription

E = TypeVar("E", bound=Event)

_PACKAGE = __name__.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class ModuleMeta:
    """What others need to know of a module.

    Attributes:
        name: What other modules call it in their `depends_on`.
        depends_on: Names of the modules whose events it handles.
    """

    name: str
    depends_on: tuple[str, ...] = ()


class _Meta(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def depends_on(self) -> Collection[str]: ...


class Module(Protocol):
    """The shape of a module: an object, a class or a Python module with these two attributes."""

    @property
    def meta(self) -> _Meta:
        """Its name, and the names of the modules that it depends on."""
        ...

    def register_event_handlers(self, bus: EventBus, /) -> None:
        """Subscribe the handlers of the module."""


class ModuleBase:
    """A module without handlers; derive from it, and set `meta`.

    Attributes:
        meta: Its name, and the names of the modules that it depends on.
    """

    meta: ModuleMeta

    def register_event_handlers(self, bus: EventBus) -> None:
        """Subscribe the handlers of the module to `bus`; there are none yet."""


def register_modules(bus: EventBus, modules: Iterable[Module]) -> tuple[Module, ...]:
    """Have every module subscribe its handlers, each after the modules that it depends on.

    An order that satisfies the dependencies already is kept. What a module raises passes through
    with a note that names the module, after all that was subscribed meanwhile is taken back.

    A module that subscribes to an event of a module that it does not depend on, straight or
    through others, is logged as a warning. An event belongs to the module that is defined in
    the same file, or else in the closest package around it; to each of them, if they are several.

    Returns:
        The modules, in the order in which they were registered.

    Raises:
        LookupError: A module depends on one that is not there.
        ValueError: Two modules have one name, or modules depend on each other in a circle.
        TypeError: A `depends_on` is a string, or a `register_event_handlers` is async.
    """
    ordered = _in_order(list(modules))
    homes = _homes(ordered)
    reachable: dict[str, set[str]] = {}  # by module: itself, and all that it depends on
    subscriptions: list[Subscription] = []
    for module in ordered:
        name = module.meta.name
        reachable[name] = {name}.union(*(reachable[other] for other in module.meta.depends_on))
        known = len(subscriptions)
        try:
            with _Noting(bus, subscriptions):
                module.register_event_handlers(bus)
        except BaseException as error:
            for subscription in subscriptions:
                subscription.cancel()
            with suppress(Exception):  # it may be frozen
                error.add_note(f"raised while module {name!r} registered its event handlers")
            raise
        for event_type in dict.fromkeys(each.event_type for each in subscriptions[known:]):
            owners = _owners(homes, event_type)
            if owners and reachable[name].isdisjoint(owners):
                logging.getLogger(_PACKAGE).warning(
                    "module %r subscribes to %s.%s without depending on its module; "
                    "add %s to the depends_on of %r",
                    name,
                    event_type.__module__,
                    event_type.__qualname__,
                    " or ".join(map(repr, owners)),
                    name,
                )
    return tuple(ordered)


def _in_order(modules: list[Module]) -> list[Module]:
    """Check names and dependencies; return the modules, dependencies first."""
    positions: dict[str, int] = {}
    for position, module in enumerate(modules):
        name = module.meta.name
        if positions.setdefault(name, position) != position:
            raise ValueError(f"two modules are called {name!r}; give each a name of its own")
    graph: TopologicalSorter[str] = TopologicalSorter()
    for module in modules:
        name, depends_on = module.meta.name, module.meta.depends_on
        if isinstance(depends_on, str):
            raise TypeError(
                f"depends_on of module {name!r} is a string; pass a tuple: ({depends_on!r},)"
            )
        if iscoroutinefunction(module.register_event_handlers):
            raise TypeError(
                f"register_event_handlers of module {name!r} is async, and nobody would await it; "
                "make it a plain function"
            )
        for other in depends_on:
            if other not in positions:
                raise LookupError(
                    f"module {name!r} depends on {other!r}, which is not among "
                    f"{', '.join(map(repr, positions))}; register it too, or correct depends_on"
                )
        graph.add(name, *depends_on)
    try:
        graph.prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise ValueError(
            f"modules depend on each other in a circle: {circle}; take one out of a depends_on, or "
            "move what both need into a module of its own"
        ) from None
    # Not `static_order`, which would put whatever depends on nothing first, in order or not.
    ordered: list[Module] = []
    ready: list[int] = []
    while graph.is_active():
        for name in graph.get_ready():
            heappush(ready, positions[name])
        module = modules[heappop(ready)]
        ordered.append(module)
        graph.done(module.meta.name)
    return ordered


class _Noting:
    """Notes what this thread subscribes in a `with` block; the bus has a wrapper for it then."""

    def __init__(self, bus: EventBus, subscriptions: list[Subscription]) -> None:
        self._bus = bus
        self._subscriptions = subscriptions
        self._thread = get_ident()
        self._subscribe = bus.subscribe
        self._covered = vars(bus).get("subscribe")

    def __enter__(self) -> None:
        vars(self._bus)["subscribe"] = self._note

    def __exit__(self, *_exception: object) -> None:
        del vars(self._bus)["subscribe"]
        if self._covered is not None:
            vars(self._bus)["subscribe"] = self._covered

    def _note(self, event_type: type[E], handler: Callable[[E], object]) -> Subscription:
        subscription = self._subscribe(event_type, handler)
        if get_ident() == self._thread:
            self._subscriptions.append(subscription)
        return subscription


def _homes(modules: list[Module]) -> dict[str, list[str]]:
    """Return which modules are defined in each file and package, by dotted name."""
    homes: dict[str, list[str]] = {}
    for module in modules:
        # A Python module that serves as one has no `__module__`, and is its own home.
        home = str(getattr(module, "__module__", None) or getattr(module, "__name__", ""))
        is_package = hasattr(sys.modules.get(home), "__path__")
        package = home if is_package else home.rpartition(".")[0]
        for place in {home, package} - {""}:  # a file at the top is in no package
            homes.setdefault(place, []).append(module.meta.name)
    return homes


def _owners(homes: dict[str, list[str]], event_type: type[Event]) -> list[str]:
    """Return the modules that are defined closest to an event type."""
    place = event_type.__module__
    while place and place not in homes:
        place = place.rpartition(".")[0]
    return homes.get(place, [])
