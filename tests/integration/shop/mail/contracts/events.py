# SPDX-License-Identifier: MIT
"""What happens to mails."""

from dataclasses import dataclass

from eventbus import Event


@dataclass(frozen=True, slots=True)
class MailQueued(Event):
    """A mail will be sent, whatever happens to this process."""

    order_id: int
