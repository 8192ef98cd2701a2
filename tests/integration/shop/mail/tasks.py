# SPDX-License-Identifier: MIT
"""What a worker does: `celery --app shop.mail.tasks worker`."""

from os import environ
from pathlib import Path

from celery import Celery

app = Celery("shop", broker=environ.get("SHOP_BROKER", "memory://"))
# A task is taken from the queue when it has been done, and not before.
app.conf.update(
    task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True
)


@app.task
def send(order_id: int) -> None:
    """Send the mail of an order: a file, in this shop."""
    Path(environ["SHOP_OUTBOX"], f"order-{order_id}.txt").write_text("Your invoice is attached.\n")
