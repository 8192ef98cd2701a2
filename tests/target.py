# SPDX-License-Identifier: MIT
"""The package under test, whatever its name: `from target import EventBus`.

EVENTBUS_PACKAGE names it where it was copied into another project: `host._vendor.eventbus`.
"""

import importlib
import os

PACKAGE = os.environ.get("EVENTBUS_PACKAGE", "eventbus")
package = importlib.import_module(PACKAGE)


def __getattr__(name: str) -> object:
    return getattr(package, name)
