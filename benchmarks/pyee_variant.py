# SPDX-License-Identifier: MIT
"""The contender that `eventbus` replaces, call for call: an `EventBus` on pyee's asyncio emitter.

A sync handler gets a coroutine shim when it is subscribed, since `asyncio.gather` refuses what
it returns.
"""

import asyncio
import logging
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from pyee.asyncio import AsyncIOEventEmitter

logger = logging.getLogger("pyee_variant")


class Event:
    """Base class of an application's events; nothing here asks for it."""


def key_of(event_type: type) -> str:
    return f"{event_type.__module__}.{event_type.__qualname__}"


class EventBus:
    def __init__(self) -> None:
        self._emitter = AsyncIOEventEmitter()
        self._emitter.on("error", self._log)
        self._shims: dict[Callable[[Any], object], Callable[[Any], object]] = {}

    def subscribe(self, event_type: type, handler: Callable[[Any], object]) -> None:
        listener = handler
        if not iscoroutinefunction(handler):

            async def listener(event: Any) -> None:
                handler(event)

            self._shims[handler] = listener
        self._emitter.on(key_of(event_type), listener)

    def unsubscribe(self, event_type: type, handler: Callable[[Any], object]) -> None:
        listener = self._shims.pop(handler, handler)
        self._emitter.remove_listener(key_of(event_type), listener)

    async def publish(self, event: object) -> None:
        listeners = self._emitter.listeners(key_of(type(event)))
        if not listeners:
            return
        results = await asyncio.gather(
            *(listener(event) for listener in listeners), return_exceptions=True
        )
        for result in results:
            if isinstance(result, Exception):
                self._log(result)

    def publish_nowait(self, event: object) -> None:
        self._emitter.emit(key_of(type(event)), event)

    def _log(self, exception: Exception) -> None:
        logger.error("a handler has failed", exc_info=exception)
