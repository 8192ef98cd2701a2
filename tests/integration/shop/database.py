# SPDX-License-Identifier: MIT
"""The one database of all modules."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

# What is raised when the database does not answer; asyncpg raises what the socket does.
UNREACHABLE = (InterfaceError, OperationalError, OSError)


class Base(DeclarativeBase):
    """Base class of every table."""


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    """Offer sessions; close all connections in the end.

    A session that was closed refuses what comes later: it would never be committed.
    """
    engine = create_async_engine(url)
    try:
        yield async_sessionmaker(engine, expire_on_commit=False, close_resets_only=False)
    finally:
        await engine.dispose()


async def create_tables(url: str) -> None:
    """Make the tables of all modules that are imported; stands for migrations."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        if connection.dialect.name == "sqlite":  # its readers and its writer, side by side
            await connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()
