# SPDX-License-Identifier: MIT
"""What routes ask for: the bus, its loop, a session, and a publisher that waits for the commit."""

from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from eventbus import EventBus, Publisher


async def get_bus(request: Request) -> EventBus:
    """Return the bus that the lifespan has made."""
    bus: EventBus = request.state.bus
    return bus


async def get_loop(request: Request) -> AbstractEventLoop:
    """Return the loop that the bus serves, for routes that run in a thread."""
    loop: AbstractEventLoop = request.state.loop
    return loop


Bus = Annotated[EventBus, Depends(get_bus)]
Loop = Annotated[AbstractEventLoop, Depends(get_loop)]


async def get_events(bus: Bus) -> AsyncIterator[Publisher]:
    """Publish the request's events when its transaction is committed, and not if it is not."""
    async with bus.deferred() as events:
        yield events


# The scope "function" ends a dependency before the response is sent. The default would tell the
# client that all went well, and commit and publish afterwards.
Events = Annotated[Publisher, Depends(get_events, scope="function")]


async def get_session(request: Request, _events: Events) -> AsyncIterator[AsyncSession]:
    """Commit when the route returns; ask for `Events`, so that they are still to be published."""
    async with request.state.sessions.begin() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session, scope="function")]
