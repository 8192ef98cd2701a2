# SPDX-License-Identifier: MIT
"""What does one awaited publish cost?

Microseconds until every handler has finished, by number and kind of the handlers, which do
nothing but count their calls. "Never waits" is an `async def` without an await that suspends,
"waits once" one with a single `asyncio.sleep(0)`. A failure is logged, to nowhere; with logging
off, only what the bus itself does about it is measured.
"""

import logging

from contenders import PLACED, Contender, Kinds, available
from measure import Effort, Trial, check, interleave, make_handlers, time_calls
from report import Table, main

LOGGING_OFF = "10 async, 1 fails, logging off"
GROUPS: dict[str, dict[str, Kinds]] = {
    "sync handlers": {
        "no handler": (),
        **{f"{n:,} sync": ("sync",) * n for n in (1, 10, 100, 1000)},
    },
    "async handlers that never wait": {f"{n:,} async": ("async",) * n for n in (1, 10, 100, 1000)},
    "async handlers that wait once": {f"{n:,} waiting": ("waits",) * n for n in (1, 10, 100, 1000)},
    "mixed and failing handlers": {
        "5 sync + 5 async": ("sync", "async") * 5,
        "10 sync, 1 fails": ("sync",) * 5 + ("fails",) + ("sync",) * 4,
        "10 async, 1 fails": ("async",) * 5 + ("async fails",) + ("async",) * 4,
        LOGGING_OFF: ("async",) * 5 + ("async fails",) + ("async",) * 4,
    },
}


def make_trial(contender: type[Contender], case: str, kinds: Kinds, effort: Effort) -> Trial:
    async def trial() -> tuple[float, ...]:
        logging.disable(logging.CRITICAL if case == LOGGING_OFF else logging.NOTSET)
        handlers, called = make_handlers(kinds)
        opened = contender()
        await opened.open(handlers)
        try:
            seconds, made = await time_calls(opened.publish, PLACED, effort)
        finally:
            await opened.aclose()
        check(contender.name, called(), made * len(kinds))
        return (seconds * 1e6,)

    return trial


async def measure(effort: Effort) -> list[Table]:
    contenders = available()
    tables: list[Table] = []
    table_of: dict[str, Table] = {}
    trials: dict[str, dict[str, Trial]] = {}
    for title, cases in GROUPS.items():
        table = Table(f"One publish, {title}", "µs", list(cases))
        table.lacks = {contender.name: contender.lacks for contender in contenders}
        tables.append(table)
        for case, kinds in cases.items():
            table_of[case] = table
            trials[case] = {}
            for contender in contenders:
                reason = contender.refuses("publish", kinds)
                if reason is None:
                    trials[case][contender.name] = make_trial(contender, case, kinds, effort)
                else:
                    table.add(contender.name, case, reason)
    for case, best in (await interleave("one publish", trials, effort, effort.rounds)).items():
        for name, (cell,) in best.items():
            table_of[case].add(name, case, cell)
    return tables


def run(effort: Effort) -> list[Table]:
    return effort.run(measure(effort))


if __name__ == "__main__":
    main(run, __doc__)
