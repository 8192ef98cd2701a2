# SPDX-License-Identifier: MIT
"""See who handles what (`wiring`), and what really happens (`record`): as text, or as Mermaid."""

from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from . import Event, EventBus
from ._drawing import Flowchart, Row, columns, distinct_names, walk
from ._recorder import Published, Recorder, Run
from ._wiring import draw

T = TypeVar("T")


def wiring(bus: EventBus, format: str = "text") -> str:
    """Return who handles what: event types, and the handlers of each in delivery order.

    Each handler has its kind and its place, `file:line`, relative to the current folder where
    that is shorter.

    Args:
        bus: The bus to describe.
        format: `"text"` for a tree; `"mermaid"` for a flowchart.

    Raises:
        ValueError: The format is another one.
    """
    if format not in ("text", "mermaid"):
        raise ValueError(f"expected format 'text' or 'mermaid', got {format!r}")
    return draw(bus, format)


class Flow:
    """What has happened on a bus since the start of its `record` block.

    It can be read at any time, from any thread, while events still run. It keeps names, types
    and times, but neither events nor exceptions; of more events than its limit, the newest.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __repr__(self) -> str:
        events, dropped = self._recorder.snapshot()
        return f"<Flow of {len(events) + dropped} events>"

    @property
    def unhandled(self) -> list[type[Event]]:
        """The types of events that nobody handled, in the order of their first one."""
        events, _ = self._recorder.snapshot()
        return list(dict.fromkeys(event.event_type for event in events if not event.runs))

    @property
    def cycles(self) -> list[tuple[type[Event], ...]]:
        """The circles in which types of events lead to each other, as (A, B, A).

        `publish` and `publish_nowait` count alike, and an event that leads to one of its own
        type is a circle, (A, A). Of all circles these are the shortest through each step, every
        one listed once.
        """
        events, _ = self._recorder.snapshot()
        order: dict[type[Event], int] = {}
        steps: dict[type[Event], dict[type[Event], None]] = {}
        for event in events:
            parent = event.parent
            if parent is not None:
                source = parent.published.event_type
                steps.setdefault(source, {})[event.event_type] = None
            order.setdefault(event.event_type, len(order))
        circles: dict[tuple[type[Event], ...], None] = {}
        for source, targets in steps.items():
            for target in targets:
                path = _shortest_path(steps, target, source)
                if path:
                    start = path.index(min(path, key=order.__getitem__))
                    circles[*path[start:], *path[:start], path[start]] = None
        return list(circles)

    def tree(self) -> str:
        """Draw every published event with its handlers, and below each what it published in turn.

        An event takes from the start of its first handler to the end of its last one. Marked are
        handlers that failed, were cancelled or are still running, events of `publish_nowait` as
        background, and those that nobody handled. No line is longer than 100 columns.
        """
        events, dropped = self._recorder.snapshot()
        kept = {*events}
        names = distinct_names([event.event_type for event in events])
        roots: list[Published | Run] = []
        published_in: dict[Run, list[Published]] = {}
        for event in events:
            parent = event.parent  # once: a thread that drops the event takes it away
            if parent is None or parent.published not in kept:
                roots.append(event)
            else:
                published_in.setdefault(parent, []).append(event)

        def below(node: Published | Run) -> Sequence[Published | Run]:
            return published_in.get(node, []) if isinstance(node, Run) else tuple(node.runs)

        rows: list[Row] = []
        for branch, node in walk(roots, below):
            if isinstance(node, Run):
                rows.append((branch, node.name, _milliseconds([node]), _remark(node)))
            else:
                remarks = ["background"] if node.background else []
                remarks += [] if node.runs else ["nobody handles it"]
                taken = _milliseconds(node.runs)
                rows.append((branch, names[node.event_type], taken, ", ".join(remarks)))
        first = [f"({dropped:,} older events were dropped)"] if dropped else []
        return "\n".join([*first, columns(rows)]) if rows else "nothing was published"

    def mermaid(self) -> str:
        """Draw which events led to which handlers, and those to which events, as a flowchart.

        Dotted arrows are those of `publish_nowait`. Handlers that failed and events that nobody
        handled stand out. A handler is its name and place: one function or method, one node.
        """
        events, _ = self._recorder.snapshot()
        names = distinct_names([event.event_type for event in events])
        failed = {_key(run) for event in events for run in tuple(event.runs) if run.failure}
        handled = {event.event_type for event in events if event.runs}
        chart = Flowchart()
        for event in events:
            style = "" if event.event_type in handled else "unhandled"
            chart.event(event.event_type, names[event.event_type], style=style)
            for run in tuple(event.runs):
                chart.handler(_key(run), run.name, failed=_key(run) in failed)
                chart.arrow(event.event_type, _key(run))
            parent = event.parent
            if parent is not None:
                chart.handler(_key(parent), parent.name, failed=_key(parent) in failed)
                chart.arrow(_key(parent), event.event_type, background=event.background)
        return str(chart)


def _milliseconds(runs: Sequence[Run]) -> str:
    """Return the time from the first start to the last end; "" if there is no run."""
    runs = tuple(runs)
    if not runs:
        return ""
    ends = [run.ended for run in runs if run.ended is not None]
    if len(ends) < len(runs):
        return "running"
    return f"{(max(ends) - runs[0].began) * 1000:,.1f} ms"


def _key(run: Run) -> tuple[str, str | None]:
    return run.name, run.place


def _remark(run: Run) -> str:
    if run.cancelled:
        return "cancelled"
    return f"failed: {run.failure}" if run.failure else ""


def _shortest_path(steps: Mapping[T, Iterable[T]], start: T, end: T) -> list[T]:
    """Return the nodes from `start` to `end`, both included; an empty list if there is no way."""
    came_from: dict[T, T] = {start: start}
    pending = deque([start])
    while pending and end not in came_from:
        node = pending.popleft()
        for target in steps.get(node, ()):
            if target not in came_from:
                came_from[target] = node
                pending.append(target)
    if end not in came_from:
        return []
    path = [end]
    while path[-1] is not start:
        path.append(came_from[path[-1]])
    return path[::-1]


@contextmanager
def record(bus: EventBus, *, limit: int = 100_000) -> Generator[Flow, None, None]:
    """Record what happens on the bus while the block runs::

        with record(bus) as flow:
            await place_order()
        print(flow.tree())

    Events that were published in the block are still followed to their end. Records may nest,
    overlap and end in any order. Meanwhile the bus has wrappers for `publish` and
    `publish_nowait`; events that are published by a reference to the original, taken before,
    are seen, but those of `publish_nowait` not marked as background.

    Args:
        bus: The bus to observe.
        limit: How many events to keep; of more, the oldest are dropped.

    Raises:
        ValueError: `limit` is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit!r}")
    recorder = Recorder(bus, limit)
    try:
        yield Flow(recorder)
    finally:
        recorder.close()
