# SPDX-License-Identifier: MIT
"""Events that nobody handles, though the handlers that seem to be meant are in sight: a warning."""

import os
import sys
import threading
import weakref
from collections.abc import Collection, Iterable

from ._event import Event
from ._failure import logger


class Misses:
    """Warns, once per type and bus."""

    # - _warned: the types that have been warned of; `_lock` guards it.

    def __init__(self) -> None:
        self._warned: weakref.WeakSet[type[Event]] = weakref.WeakSet()
        self._lock = threading.RLock()

    def warn(self, event_type: type[Event], handled: Collection[type[Event]]) -> None:
        """Warn if a type has no handlers, but a twin or a base of it has."""
        name = event_type.__qualname__
        if event_type in handled:
            return
        # Other threads subscribe meanwhile. A list of a dict is made in one go; a tuple is not,
        # where threads run free.
        if twin := twin_of(event_type, list(handled)):
            warning = f"nobody handles this {name}, but {twin}"
        elif base := next((base for base in event_type.__mro__[1:] if base in handled), None):
            warning = (
                f"nobody handles {name}, but its base {base.__qualname__} has handlers: events are "
                f"delivered by exact type, so subscribe to {name}"
            )
        else:
            return
        with self._lock:
            if event_type in self._warned:
                return
            self._warned.add(event_type)
        logger().warning(warning)


def twin_of(event_type: type[Event], others: Iterable[type[Event]]) -> str:
    """Return what to tell of a class among `others` that is this one made twice; "" if none is.

    Two classes of one name and module, or one name and source file, were one in the source.
    """
    name, module, file = event_type.__qualname__, event_type.__module__, _file_of(event_type)
    for other in others:
        if other is event_type or other.__qualname__ != name:
            continue
        if other.__module__ == module:
            cause = "its module or notebook cell has run twice, or the class was rebuilt"
        elif file is not None and _file_of(other) == file:
            cause = "one file was imported under two names"
        else:
            continue
        return (
            f"another class of the same name has handlers: {other.__module__}.{name} (of "
            f"{_file_of(other) or 'no file'}) is not {module}.{name} (of {file or 'no file'}); "
            f"most likely {cause}: have publisher and handlers import one and the same class"
        )
    return ""


def _file_of(event_type: type[Event]) -> str | None:
    file = getattr(sys.modules.get(event_type.__module__), "__file__", None)
    return os.path.realpath(file) if isinstance(file, str) else None
