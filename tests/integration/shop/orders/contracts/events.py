# SPDX-License-Identifier: MIT
"""What happens to orders."""

from dataclasses import dataclass

from eventbus import Event


@dataclass(frozen=True, slots=True)
class OrderPlaced(Event):
    """A customer has placed an order."""

    order_id: int
