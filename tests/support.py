# SPDX-License-Identifier: MIT
"""What several test files share: events, ways of publishing, task factories, chains."""

import asyncio

import pytest
from target import Event

PATIENCE = 10  # seconds, before what hangs has failed


class OrderPlaced(Event):
    pass


class InvoiceIssued(Event):
    pass


class MailSent(Event):
    pass


class Failure(Exception):
    pass


# Ways of publishing


async def awaited(bus, event):
    async with asyncio.timeout(PATIENCE):
        await bus.publish(event)


async def join(bus):
    async with asyncio.timeout(PATIENCE):
        await bus.join()


async def in_background(bus, event):
    bus.publish_nowait(event)
    await join(bus)


WAYS = {"publish": awaited, "publish_nowait": in_background}
every_way = pytest.mark.parametrize("publish", WAYS.values(), ids=WAYS)


# Task factories


def plain_factory(loop, coro, **options):
    return asyncio.Task(coro, loop=loop, **options)


def use(factory):
    asyncio.get_running_loop().set_task_factory(factory)


# From Python 3.12 on.
EAGER_FACTORIES = [asyncio.eager_task_factory] if hasattr(asyncio, "eager_task_factory") else []


# Chains


class Level(Event):
    def __init__(self, left):
        self.left = left


async def deep(bus, levels, publish):
    """Call `publish` that many levels down in a chain of awaited publishes."""

    async def descend(event):
        if event.left:
            await bus.publish(Level(event.left - 1))
        else:
            await publish()

    bus.subscribe(Level, descend)
    await bus.publish(Level(levels - 1))
