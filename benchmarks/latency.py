# SPDX-License-Identifier: MIT
"""How long does the rest of the application wait while a burst is served?

Milliseconds from the moment at which another callback becomes ready until the loop turns to it,
while the handlers of 100,000 events run that `publish_nowait` has accepted in one go. Callbacks
become ready every 10 microseconds, evenly over the whole burst. The burst is counted from the last
`publish_nowait` on; the pyee variant has made its tasks by then, eventbus has yet to make them.
"""

from collections.abc import Callable, Iterator
from typing import Any

from contenders import PLACED, Kinds, Placed, buses
from measure import Effort, Trial, all_called, check, interleave, make_handlers, settle
from report import Table, main

BURST = 100_000
CASES: dict[str, Kinds] = {"1 sync": ("sync",), "1 async": ("async",), "1 waiting": ("waits",)}
COLUMNS = ["median", "99 of 100", "worst", "whole burst"]


def delays(turns: list[float], every: float = 10e-6) -> Iterator[float]:
    """Yield how long callbacks wait that become ready `every` so many seconds, turn by turn."""
    ready = turns[0]
    for turn in turns[1:]:
        while ready < turn:
            yield turn - ready
            ready += every


def make_trial(make_bus: Callable[[], Any], kinds: Kinds, burst: int) -> Trial:
    async def trial() -> tuple[float, ...]:
        bus = make_bus()
        handlers, called = make_handlers(kinds)
        for handler in handlers:
            bus.subscribe(Placed, handler)
        for _ in range(burst):
            bus.publish_nowait(PLACED)
        turns = await all_called(called, burst * len(kinds))
        await settle()
        check("handlers of a burst", called(), burst * len(kinds))
        waits = sorted(delays(turns))
        figures = (waits[len(waits) // 2], waits[len(waits) * 99 // 100], waits[-1])
        return tuple(seconds * 1e3 for seconds in (*figures, turns[-1] - turns[0]))

    return trial


async def measure(effort: Effort) -> list[Table]:
    burst = BURST // 10 if effort.quick else BURST
    trials = {
        case: {name: make_trial(make_bus, kinds, burst) for name, make_bus in buses().items()}
        for case, kinds in CASES.items()
    }
    tables = []
    best = await interleave("latency", trials, effort, min(effort.rounds, 3), len(COLUMNS))
    for case, by_name in best.items():
        table = Table(f"Another callback's wait during a burst of {burst:,}, {case}", "ms", COLUMNS)
        for name, figures in by_name.items():
            for column, figure in zip(COLUMNS, figures, strict=True):
                table.add(name, column, figure)
        tables.append(table)
    return tables


def run(effort: Effort) -> list[Table]:
    return effort.run(measure(effort))


if __name__ == "__main__":
    main(run, __doc__)
