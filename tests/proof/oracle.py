# SPDX-License-Identifier: MIT
"""The oracle: what the contract says, in the plainest code that says it.

No speed, no threads, no options but two: every handler, sync ones too, is a coroutine shim in a
task of its own, and tasks bring the copies of the context (C4.3).
"""

import asyncio
import inspect
from contextvars import ContextVar
from types import SimpleNamespace

_chain = ContextVar("chain", default=())
_origin = ContextVar("origin")  # the publish_nowait event that all of this is part of, if any


class Oracle:
    def __init__(self, *, on_error, max_depth):
        self.on_error = on_error
        self.max_depth = max_depth
        # What is subscribed: (event type, handler), in the order of delivery (C2.4), each with its
        # subscriptions that are not cancelled.
        self.subscribed = {}
        self.background = {}  # the unfinished tasks of publish_nowait, each with its event
        self.joining = {}  # the futures of those who join, each with the event they are part of

    def subscribe(self, event_type, handler):
        key, token = (event_type, handler), object()
        tokens = self.subscribed.setdefault(key, set())  # it keeps its first place (C2.3)
        tokens.add(token)

        def cancel():
            tokens.discard(token)
            if not tokens and self.subscribed.get(key) is tokens:  # the last one, and in force
                del self.subscribed[key]

        return SimpleNamespace(cancel=cancel)

    def unsubscribe(self, event_type, handler):
        if self.subscribed.pop((event_type, handler), None) is None:  # all of them (C2.3)
            raise ValueError("not subscribed")  # C2.5

    def clear(self):
        self.subscribed.clear()  # C2.7

    async def publish(self, event):
        tasks = {asyncio.create_task(shim) for shim in self._shims(event, _chain.get())}
        interruption = None
        while tasks:  # however often this is cancelled, the handlers are once (C4.5)
            try:
                _, tasks = await asyncio.wait(tasks)
            except asyncio.CancelledError as exc:
                if interruption is None:
                    interruption = exc
                    for task in tasks:
                        task.cancel()
                tasks = {task for task in tasks if not task.done()}
        if interruption is not None:
            raise interruption

    def publish_nowait(self, event):
        for shim in self._shims(event, (), event):  # its chain starts here
            task = asyncio.create_task(shim)  # they start in this order (C5.1)
            self.background[task] = event
            task.add_done_callback(self._finished)

    @property
    def pending(self):
        return len(set(self.background.values()))

    async def join(self):
        future = asyncio.get_running_loop().create_future()
        self.joining[future] = _origin.get(None)
        self._release()
        try:
            await future
        finally:
            self.joining.pop(future, None)

    def _finished(self, task):
        del self.background[task]
        self._release()

    def _release(self):
        """Let those go on who need not wait: all at once, not one because another has (C6.1)."""
        events = set(self.background.values())
        standing_aside = events.intersection(self.joining.values())
        for future, own in list(self.joining.items()):
            # Inside a handler of an event that is still running, or outside of all.
            if not (events - standing_aside if own in events else events):
                del self.joining[future]
                if not future.done():
                    future.set_result(None)

    def _shims(self, event, chain, origin=None):
        handlers = [handler for known, handler in self.subscribed if known is type(event)]  # C1.1
        if handlers and len(chain) == self.max_depth:
            raise RecursionError("a circle")  # C7
        chain = (*chain, type(event))
        return [self._shim(handler, event, chain, origin) for handler in handlers]

    async def _shim(self, handler, event, chain, origin):
        _chain.set(chain)
        if origin is not None:
            _origin.set(origin)
        try:
            result = handler(event)
            if inspect.isawaitable(result):  # C3; it starts in its handler's place (C4.2)
                await result
        except asyncio.CancelledError as exc:
            if asyncio.current_task().cancelling():  # the publisher's cancellation
                raise
            self.on_error(event, handler, exc, chain)
        except Exception as exc:
            self.on_error(event, handler, exc, chain)
