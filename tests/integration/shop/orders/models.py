# SPDX-License-Identifier: MIT
"""The table of orders."""

from sqlalchemy.orm import Mapped, mapped_column

from ..database import Base


class Order(Base):
    """What a customer wants."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    cents: Mapped[int]
