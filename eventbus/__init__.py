# SPDX-License-Identifier: MIT
"""An in-process event bus for asyncio: modules react to each other's events, by exact type::

    bus = EventBus()
    bus.subscribe(OrderPlaced, send_mail)
    await bus.publish(OrderPlaced(order_id=7))

Handlers are sync or async; their failures stay their own.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - a copied folder has no installer to refuse it
    raise ImportError(f"{__name__} needs Python >= 3.11, and this is {sys.version.split()[0]}")

from ._bus import EventBus
from ._deferred import Publisher
from ._event import Event
from ._failure import EventCycleError, HandlerFailure
from ._handler import Handler
from ._subscription import Subscription

__all__ = [
    "Event",
    "EventBus",
    "EventCycleError",
    "Handler",
    "HandlerFailure",
    "Publisher",
    "Subscription",
]

__version__ = "0.1.0"
