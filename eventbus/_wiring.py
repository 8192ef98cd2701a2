# SPDX-License-Identifier: MIT
"""Who handles what and, where that is known, who makes it: as text, or as a flowchart."""

from collections.abc import Sequence
from typing import NamedTuple

from . import Event, EventBus, Handler
from ._drawing import Flowchart, distinct_names, place


class Maker(NamedTuple):
    """A place in the source that makes events of one type."""

    event_type: type[Event]
    file: str
    line: int
    function: str  # its qualified name; "" for a line outside of functions
    name: str  # module-qualified, as a handler's name is; that of the module outside of functions
    location: str | None  # where the function begins, as a handler's location; None outside


class Wired(NamedTuple):
    """An event type, and who is on either side of it."""

    event_type: type[Event]
    name: str
    mark: str  # what it lacks; "" if nothing
    handlers: Sequence[Handler]
    makers: Sequence[Maker]


def draw(bus: EventBus, format: str, makers: Sequence[Maker] | None = None) -> str:
    """Draw the types that are handled, then those only made; without makers, mark nothing."""
    handled = {event_type: bus.handlers(event_type) for event_type in bus.event_types()}
    made: dict[type[Event], list[Maker]] = {}
    for maker in makers or ():
        made.setdefault(maker.event_type, []).append(maker)
    names = distinct_names([*handled, *made])
    wired: list[Wired] = []
    for event_type in {**handled, **made}:
        mark = ""
        if event_type not in handled:
            mark = "nobody handles it"
        elif makers is not None and event_type not in made:
            mark = "no place found that makes it"
        found = handled.get(event_type, ()), made.get(event_type, ())
        wired.append(Wired(event_type, names[event_type], mark, *found))
    return _text(wired) if format == "text" else str(_chart(wired))


def _text(wired: Sequence[Wired]) -> str:
    width = max((len(handler.name) for one in wired for handler in one.handlers), default=0)
    lines: list[str] = []
    for one in wired:
        lines.append(f"{one.name}  {one.mark}")
        below = [
            f"{handler.name:{width}}  {_kind(handler):5}  {place(handler.location)}"
            for handler in one.handlers
        ]
        below += [
            f"made in {place(f'{maker.file}:{maker.line}')} {maker.function}"
            for maker in one.makers
        ]
        forks = ["├─"] * (len(below) - 1) + ["└─"]
        lines += map(" ".join, zip(forks, below, strict=True))
    return "\n".join(map(str.rstrip, lines)) or "nobody handles anything"


def _chart(wired: Sequence[Wired]) -> Flowchart:
    chart = Flowchart()
    for one in wired:
        style = ("unmade" if one.handlers else "unhandled") if one.mark else ""
        chart.event(one.event_type, *filter(None, (one.name, one.mark)), style=style)
        for handler in one.handlers:
            key = (handler.name, handler.location)
            chart.handler(key, handler.name, _kind(handler), place(handler.location))
            chart.arrow(one.event_type, key)
    for one in wired:
        for maker in one.makers:  # which may be a handler that is drawn already
            key = (maker.name, maker.location)
            chart.handler(key, maker.name, place(maker.location or maker.file))
            chart.arrow(key, one.event_type)
    return chart


def _kind(handler: Handler) -> str:
    return "async" if handler.is_async else "sync"
