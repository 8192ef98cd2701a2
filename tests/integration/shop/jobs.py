# SPDX-License-Identifier: MIT
"""Celery, for the jobs of all modules."""

from os import environ

from celery import Celery

app = Celery("shop", broker=environ.get("SHOP_BROKER", "memory://"))
# A task is taken from the queue when it has been done, and not before.
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"socket_connect_timeout": 1},  # seconds
)
