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


async def get_transaction(request: Request) -> AsyncIterator[tuple[AsyncSession, Publisher]]:
    """Commit when the route returns; events are published then, and not if it fails."""
    async with request.state.transactions() as transaction:
        yield transaction


# The scope "function" ends a dependency before the response is sent. The default would tell the
# client that all went well, and commit and publish afterwards.
Transaction = Annotated[tuple[AsyncSession, Publisher], Depends(get_transaction, scope="function")]


async def get_session(transaction: Transaction) -> AsyncSession:
    """Return the request's session, which its dependency commits."""
    return transaction[0]


async def get_events(transaction: Transaction) -> Publisher:
    """Return the publisher that belongs to the request's transaction."""
    return transaction[1]


Session = Annotated[AsyncSession, Depends(get_session)]
Events = Annotated[Publisher, Depends(get_events)]
