# SPDX-License-Identifier: MIT
"""The proofs take minutes, and tools of their own: only `pytest tests/proof` runs them."""

from pathlib import Path

HERE = Path(__file__).parent


def pytest_ignore_collect(config):
    named = [Path(config.invocation_params.dir, each.partition("::")[0]) for each in config.args]
    return None if any(path.is_relative_to(HERE) for path in named) else True
