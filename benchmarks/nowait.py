# SPDX-License-Identifier: MIT
"""What does one `publish_nowait` cost its caller, and what until its handlers have run?

Microseconds per event, in batches of 1,000 and in a burst of 100,000 events published in one go.
An "async" handler has no `await` in it; an "awaiting" one awaits what is there at once, and a
"waiting" one a single `asyncio.sleep(0)`.
"""

from time import perf_counter

from contenders import PLACED, Contender, Kinds, available
from measure import Effort, Trial, all_called, check, interleave, make_handlers, settle
from report import Table, main

BATCH = 1_000
BURST = 100_000
BATCHES: dict[str, Kinds] = {
    "1 sync": ("sync",),
    "1 async": ("async",),
    "10 async": ("async",) * 10,
    "1 awaiting": ("awaits",),
    "10 awaiting": ("awaits",) * 10,
    "1 waiting": ("waits",),
}
BURSTS: dict[str, Kinds] = {"1 sync": ("sync",), "1 async": ("async",)}


def make_trial(contender: type[Contender], kinds: Kinds, events: int, seconds: float) -> Trial:
    async def trial() -> tuple[float, ...]:
        handlers, called = make_handlers(kinds)
        opened = contender()
        await opened.open(handlers)
        publish_nowait = opened.publish_nowait
        expected = 0
        figures: list[tuple[float, float]] = []
        try:
            end = perf_counter() + seconds
            while not figures or perf_counter() < end:
                expected += events * len(kinds)
                begin = perf_counter()
                for _ in range(events):
                    publish_nowait(PLACED)
                published = perf_counter()
                turns = await all_called(called, expected)
                figures.append((published - begin, turns[-1] - begin))
                await settle()
                check(contender.name, called(), expected)
        finally:
            await opened.aclose()
        return tuple(min(column) * 1e6 / events for column in zip(*figures, strict=True))

    return trial


async def measure(effort: Effort) -> list[Table]:
    contenders = available()
    burst = BURST // 10 if effort.quick else BURST
    tables = []
    for what, events, cases, seconds, rounds in (
        (f"batches of {BATCH:,}", BATCH, BATCHES, effort.budget, effort.rounds),
        (f"a burst of {burst:,}", burst, BURSTS, 0.0, 2 if effort.quick else 1),
    ):
        to_publish = Table(f"One publish_nowait, {what}: to publish it", "µs", list(cases))
        to_complete = Table(f"One publish_nowait, {what}: to completion", "µs", list(cases))
        trials: dict[str, dict[str, Trial]] = {case: {} for case in cases}
        for case, kinds in cases.items():
            for contender in contenders:
                reason = contender.refuses("publish_nowait", kinds)
                if reason is None:
                    trials[case][contender.name] = make_trial(contender, kinds, events, seconds)
                else:
                    to_publish.add(contender.name, case, reason)
                    to_complete.add(contender.name, case, reason)
        best = await interleave(f"publish_nowait, {what}", trials, effort, rounds, width=2)
        for case, by_name in best.items():
            for name, (publish, complete) in by_name.items():
                to_publish.add(name, case, publish)
                to_complete.add(name, case, complete)
        for table in (to_publish, to_complete):
            table.lacks = {contender.name: contender.lacks for contender in contenders}
            tables.append(table)
    return tables


def run(effort: Effort) -> list[Table]:
    return effort.run(measure(effort))


if __name__ == "__main__":
    main(run, __doc__)
