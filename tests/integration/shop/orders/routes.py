# SPDX-License-Identifier: MIT
"""Orders over HTTP."""

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel
from sqlalchemy import select

from ..dependencies import Events, Session
from .models import Order
from .service import CreditExceededError, OrderService

router = APIRouter(prefix="/orders")


class NewOrder(BaseModel):
    """What a customer sends."""

    customer: str
    cents: int


@router.post("", status_code=201)
async def place_orders(orders: list[NewOrder], session: Session, events: Events) -> list[int]:
    """Place all the orders, or none; return their ids."""
    service = OrderService(session, events)
    try:
        return [(await service.place(order.customer, order.cents)).id for order in orders]
    except CreditExceededError as error:
        raise HTTPException(409, str(error)) from error


@router.get("")
async def list_orders(session: Session) -> list[int]:
    """Return the ids of all orders."""
    return list(await session.scalars(select(Order.id)))
