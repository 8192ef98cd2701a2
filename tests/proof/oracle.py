# SPDX-License-Identifier: MIT
"""The oracle: what the contract says, in the plainest code that says it.

No speed, no threads, no options but two: every handler, sync ones too, is a coroutine shim in a
task; `asyncio.gather` runs the shims, and tasks bring the copies of the context (C4.3).
"""

import asyncio
import inspect
from contextvars import ContextVar

_chain = ContextVar("chain", default=())


class Oracle:
    def __init__(self, *, on_error, max_depth):
        self.on_error = on_error
        self.max_depth = max_depth
        self.subscribed = []  # (event type, handler), in the order of delivery (C2.4)
        self.background = {}  # the unfinished tasks of publish_nowait, each with its event
        self.joining = set()  # those of them that are waiting in join

    def subscribe(self, event_type, handler):
        if (event_type, handler) not in self.subscribed:  # C2.3
            self.subscribed.append((event_type, handler))

    def unsubscribe(self, event_type, handler):
        self.subscribed.remove((event_type, handler))  # ValueError if it is not there (C2.5)

    async def publish(self, event):
        shims = self._shims(event, _chain.get())
        await asyncio.gather(*shims, return_exceptions=True)  # cancels them with us (C4.5)

    def publish_nowait(self, event):
        for shim in self._shims(event, ()):  # its chain starts here
            task = asyncio.create_task(shim)  # they start in this order (C5.1)
            self.background[task] = event
            task.add_done_callback(self.background.pop)

    @property
    def pending(self):
        return len(set(self.background.values()))

    async def join(self):
        own = {asyncio.current_task()} & self.background.keys()
        self.joining |= own
        while others := self.background.keys() - (self.joining if own else ()):
            await asyncio.wait(others)
        self.joining -= own

    def _shims(self, event, chain):
        handlers = [handler for known, handler in self.subscribed if known is type(event)]  # C1.1
        if handlers and len(chain) == self.max_depth:
            raise RecursionError("a circle")  # C7
        return [self._shim(handler, event, (*chain, type(event))) for handler in handlers]

    async def _shim(self, handler, event, chain):
        _chain.set(chain)
        try:
            result = handler(event)
            if inspect.isawaitable(result):  # C3
                await result
        except asyncio.CancelledError as exc:
            if asyncio.current_task().cancelling():  # the publisher's cancellation
                raise
            self.on_error(event, handler, exc, chain)
        except Exception as exc:
            self.on_error(event, handler, exc, chain)
