# SPDX-License-Identifier: MIT
"""The module of the mails."""

from functools import partial

from eventbus import EventBus
from eventbus.modules import ModuleBase, ModuleMeta

from ..invoices.contracts.events import InvoiceIssued
from .service import MailService


class MailModule(ModuleBase):
    """Mails every invoice."""

    meta = ModuleMeta("mail", depends_on=("invoices",))

    def register_event_handlers(self, bus: EventBus) -> None:
        """Subscribe the one handler."""
        bus.subscribe(InvoiceIssued, partial(self.send, bus))

    async def send(self, bus: EventBus, event: InvoiceIssued) -> None:
        """Mail an invoice."""
        await MailService(bus).send(event.order_id)
