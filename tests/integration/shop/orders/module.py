# SPDX-License-Identifier: MIT
"""The module of the orders."""

from eventbus.modules import ModuleBase, ModuleMeta


class OrdersModule(ModuleBase):
    """Publishes events, and handles none."""

    meta = ModuleMeta("orders")
