# SPDX-License-Identifier: MIT
"""The contenders, each behind an adapter that uses it as its documentation recommends.

An adapter is opened with handlers of one event type, and then offers `publish`, which returns
when every handler has finished, and `publish_nowait`, which need not wait. Its `lacks` says what
the contender does not promise of what `eventbus` does; `refuses` says which cases it cannot do.
"""

import asyncio
import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, ClassVar

# The clone that these benchmarks belong to is what they measure.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from eventbus import Event, EventBus

Handler = Callable[..., Any]
Kinds = Sequence[str]

NO_FAILURES = "the failure reaches the publisher, and the handlers after it are not called"
NO_AWAIT = "no way to wait for the async handlers of an event"


class Placed(Event):
    """The event that everything here publishes."""


PLACED = Placed()


class Contender:
    name: ClassVar[str]
    module: ClassVar[str]  # imported before anything is measured; without it, no contender
    lacks: ClassVar[str] = ""

    publish: Callable[[Placed], Any]
    publish_nowait: Callable[[Placed], object]

    @classmethod
    def refuses(cls, method: str, kinds: Kinds) -> str | None:
        """Say why the contender cannot do the case, if so."""
        return None

    async def open(self, handlers: Sequence[Handler]) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


class Ours(Contender):
    name = "eventbus"
    module = "eventbus"

    async def open(self, handlers: Sequence[Handler]) -> None:
        bus = EventBus()
        for handler in handlers:
            bus.subscribe(Placed, handler)
        self.publish, self.publish_nowait, self.aclose = bus.publish, bus.publish_nowait, bus.aclose


class PyeeVariant(Contender):
    name = "pyee variant"
    module = "pyee_variant"
    lacks = "a handler's own cancellation noticed; types of one name kept apart"

    async def open(self, handlers: Sequence[Handler]) -> None:
        bus = importlib.import_module(self.module).EventBus()
        for handler in handlers:
            bus.subscribe(Placed, handler)
        self.publish, self.publish_nowait = bus.publish, bus.publish_nowait


class Pyee(Contender):
    """`emit`, then `wait_for_complete`; failures come as events of the name "error"."""

    name = "pyee emit"
    module = "pyee.asyncio"
    lacks = "waiting for one event only; own context for sync handlers, which emit runs in place"

    async def open(self, handlers: Sequence[Handler]) -> None:
        emitter = importlib.import_module(self.module).AsyncIOEventEmitter()
        logger = logging.getLogger("pyee_variant")
        emitter.on("error", lambda exc: logger.error("a handler has failed", exc_info=exc))
        for handler in handlers:
            emitter.on("placed", handler)

        async def publish(event: Placed) -> None:
            emitter.emit("placed", event)
            await emitter.wait_for_complete()

        self.publish = publish
        self.publish_nowait = lambda event: emitter.emit("placed", event)


class Blinker(Contender):
    """`send_async`, the event as the sender; sync receivers through the documented wrapper."""

    name = "blinker"
    module = "blinker"
    lacks = "isolation of failures, concurrency, order, own context, own task"

    @classmethod
    def refuses(cls, method: str, kinds: Kinds) -> str | None:
        if method == "publish_nowait":
            return "sends only at once, or awaited"
        return NO_FAILURES if any("fails" in kind for kind in kinds) else None

    async def open(self, handlers: Sequence[Handler]) -> None:
        signal = importlib.import_module(self.module).Signal()
        for handler in handlers:
            signal.connect(handler)

        def to_async(receiver: Handler) -> Handler:
            async def inner(*args: Any, **kwargs: Any) -> None:
                receiver(*args, **kwargs)

            return inner

        self._handlers = handlers  # which the signal refers to weakly
        self.publish = lambda event: signal.send_async(event, _sync_wrapper=to_async)


class Django(Contender):
    """`Signal.asend_robust`, which runs sync receivers in a thread, all in one go.

    Its receivers take keywords: one around each handler, a call more of the many that it makes.
    """

    name = "Django signal"
    module = "django.dispatch"
    lacks = "order and concurrency of sync and async handlers; own context"

    @classmethod
    def refuses(cls, method: str, kinds: Kinds) -> str | None:
        return "sends only at once, or awaited" if method == "publish_nowait" else None

    async def open(self, handlers: Sequence[Handler]) -> None:
        signal = importlib.import_module(self.module).Signal()

        def receiver_of(handler: Handler) -> Handler:
            def receive(sender: object, event: Placed, **_keywords: object) -> None:
                handler(event)

            async def receive_async(sender: object, event: Placed, **_keywords: object) -> None:
                await handler(event)

            return receive_async if iscoroutinefunction(handler) else receive

        self._receivers = [receiver_of(handler) for handler in handlers]
        for receiver in self._receivers:
            signal.connect(receiver)  # which the signal refers to weakly
        self.publish = lambda event: signal.asend_robust(sender=Placed, event=event)


class Psygnal(Contender):
    """`emit`; async callbacks go through the asyncio backend's queue, one after the other."""

    name = "psygnal"
    module = "psygnal"
    lacks = "isolation of failures, concurrency, own context, own task (compiled to C)"

    @classmethod
    def refuses(cls, method: str, kinds: Kinds) -> str | None:
        if any("fails" in kind for kind in kinds):
            return NO_FAILURES
        if method == "publish" and any(kind != "sync" for kind in kinds):
            return NO_AWAIT
        return None

    async def open(self, handlers: Sequence[Handler]) -> None:
        psygnal = importlib.import_module(self.module)
        backend = psygnal.set_async_backend("asyncio")
        await backend.running.wait()
        self._backend = backend

        class Order:
            placed = psygnal.Signal(object)

        placed = Order().placed
        for handler in handlers:
            placed.connect(handler)

        async def publish(event: Placed) -> None:
            placed.emit(event)

        self.publish, self.publish_nowait = publish, placed.emit

    async def aclose(self) -> None:
        self._backend.close()
        await asyncio.sleep(0)


class Bubus(Contender):
    """`await bus.dispatch(Event())`; handlers in turn, as is its default, and faster.

    An event can be dispatched only once, so that making it, a pydantic model, is included.
    """

    name = "bubus"
    module = "bubus"
    lacks = (
        "concurrency of handlers (by default) and of events; the publisher's context, own context"
    )

    @classmethod
    def refuses(cls, method: str, kinds: Kinds) -> str | None:
        if method == "publish_nowait":
            return "refuses more than 50 events that wait"
        return "left out: a publish takes about a second" if len(kinds) > 100 else None

    async def open(self, handlers: Sequence[Handler]) -> None:
        bubus = importlib.import_module(self.module)
        bus = bubus.EventBus()

        class BubusPlaced(bubus.BaseEvent):
            pass

        for index, handler in enumerate(handlers):
            handler.__name__ = handler.__qualname__ = f"handler_{index}"  # it warns of namesakes
            bus.on(BubusPlaced, handler)
        self.publish = lambda event: bus.dispatch(BubusPlaced())
        self.aclose = lambda: bus.stop(timeout=0, clear=True)


class Abxbus(Contender):
    """`await bus.emit(Event()).now()`; handlers in turn, as is its default.

    An event can be emitted only once, so that making it, a pydantic model, is included.
    """

    name = "abxbus"
    module = "abxbus"
    lacks = "concurrency of handlers (by default) and of events; own context; own task"

    @classmethod
    def refuses(cls, method: str, kinds: Kinds) -> str | None:
        if method == "publish_nowait":
            return "refuses more than 100 events that wait"
        return "left out: a publish takes a quarter of a second" if len(kinds) > 100 else None

    async def open(self, handlers: Sequence[Handler]) -> None:
        abxbus = importlib.import_module(self.module)
        bus = abxbus.EventBus()

        class AbxbusPlaced(abxbus.BaseEvent):
            pass

        for index, handler in enumerate(handlers):
            handler.__name__ = handler.__qualname__ = f"handler_{index}"  # it warns of namesakes
            bus.on(AbxbusPlaced, handler)
        self.publish = lambda event: bus.emit(AbxbusPlaced()).now()
        self.aclose = bus.destroy


class Litestar(Contender):
    """`SimpleEventEmitter.emit`, outside of an application, its listeners given when it is made."""

    name = "Litestar emitter"
    module = "litestar.events"
    lacks = "order; the publisher's context; waiting"

    @classmethod
    def refuses(cls, method: str, kinds: Kinds) -> str | None:
        if method == "publish":
            return NO_AWAIT
        return "a thread for every sync handler" if "sync" in kinds else None

    async def open(self, handlers: Sequence[Handler]) -> None:
        events = importlib.import_module(self.module)
        listeners = [events.listener("placed")(handler) for handler in handlers]
        self._emitter = emitter = events.SimpleEventEmitter(listeners)
        await emitter.__aenter__()
        self.publish_nowait = lambda event: emitter.emit("placed", event)

    async def aclose(self) -> None:
        await self._emitter.__aexit__(None, None, None)


class Gather(Contender):
    """A floor: what one writes by hand where publisher and handlers know each other."""

    name = "hand-written gather"
    module = "asyncio"
    lacks = "isolation of sync failures, logging; own context for sync handlers; subscribing"

    @classmethod
    def refuses(cls, method: str, kinds: Kinds) -> str | None:
        if method == "publish_nowait":
            return "only awaited"
        return NO_FAILURES if "fails" in kinds else None

    async def open(self, handlers: Sequence[Handler]) -> None:
        async def publish(event: Placed) -> None:
            results = [handler(event) for handler in handlers]
            if started := [result for result in results if result is not None]:
                await asyncio.gather(*started, return_exceptions=True)

        self.publish = publish


class Bare(Contender):
    """The floor: each handler called, and awaited if it is async, one after the other."""

    name = "bare calls"
    module = "asyncio"
    lacks = "everything: isolation, concurrency, own context, own task, subscribing"

    @classmethod
    def refuses(cls, method: str, kinds: Kinds) -> str | None:
        if method == "publish_nowait":
            return "only awaited"
        return NO_FAILURES if any("fails" in kind for kind in kinds) else None

    async def open(self, handlers: Sequence[Handler]) -> None:
        async def publish(event: Placed) -> None:
            for handler in handlers:
                result = handler(event)
                if result is not None:
                    await result

        self.publish = publish


CONTENDERS: tuple[type[Contender], ...] = (
    Ours,
    PyeeVariant,
    Pyee,
    Blinker,
    Django,
    Psygnal,
    Bubus,
    Abxbus,
    Litestar,
    Gather,
    Bare,
)
PACKAGES = (
    "pyee",
    "blinker",
    "django",
    "psygnal",
    "bubus",
    "abxbus",
    "litestar",
    "uvloop",
    "matplotlib",
)
LOGGERS = ("eventbus", "pyee_variant", "django.dispatch", "bubus", "abxbus")


def available() -> list[type[Contender]]:
    """Return the contenders that can be imported here, all their logging alike; name the others."""
    found = []
    for contender in CONTENDERS:
        try:
            importlib.import_module(contender.module)
        except Exception as exc:  # whatever keeps another project from being imported
            if contender in (Ours, PyeeVariant):
                raise
            print(f"{contender.name} is skipped: {exc!r}", file=sys.stderr)
        else:
            found.append(contender)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
    return found


def buses() -> dict[str, Callable[[], Any]]:
    """Return the two buses of one interface, for what only they can be asked."""
    available()
    variant = importlib.import_module(PyeeVariant.module)
    return {
        Ours.name: lambda: EventBus(max_depth=None),
        PyeeVariant.name: variant.EventBus,
    }
