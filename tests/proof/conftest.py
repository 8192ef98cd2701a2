# SPDX-License-Identifier: MIT
"""What the library and asyncio log while a proof runs."""

import gc

import pytest
from lab import listening

# What asyncio says of a task, whatever its class, that has raised what ends the program.
NEVER_RETRIEVED = "Task exception was never retrieved"


@pytest.fixture
def log():
    """What the library and asyncio have logged so far; asyncio has nothing to complain about."""
    gc.collect()  # an earlier test's garbage is not to be heard here
    with listening() as messages:
        yield messages
        gc.collect()
    complaints = [message for logger, message in messages if logger == "asyncio"]
    assert [each for each in complaints if NEVER_RETRIEVED not in each] == []


@pytest.fixture
def quiet(log):
    """The same, and every exception was retrieved."""
    yield log
    gc.collect()
    assert [message for logger, message in log if logger == "asyncio"] == []
