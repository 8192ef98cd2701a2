# SPDX-License-Identifier: MIT
"""What a worker does: `celery --app shop.mail.tasks worker`."""

from os import environ
from pathlib import Path

from ..jobs import app


@app.task
def send(order_id: int) -> None:
    """Send the mail of an order: a file, in this shop."""
    Path(environ["SHOP_MAILS"], f"order-{order_id}.txt").write_text("Your invoice is attached.\n")
