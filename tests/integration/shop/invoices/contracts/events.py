# SPDX-License-Identifier: MIT
"""What happens to invoices."""

from dataclasses import dataclass

from eventbus import Event


@dataclass(frozen=True, slots=True)
class InvoiceIssued(Event):
    """An order has got its invoice."""

    invoice_id: int
    order_id: int


@dataclass(frozen=True, slots=True)
class InvoicePaid(Event):
    """The bank has got the money."""

    invoice_id: int
