"""asyncio drivers, for scenarios that were not written for them.

SQLAlchemy's own interface is the same for both: inside a greenlet of an event loop, an ordinary `Engine` with an
asyncio dialect awaits where others block. So a scenario runs there as it stands; only where an event loop begins
must it be said.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.util import greenlet_spawn

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, Engine

T = TypeVar("T")

ASYNCIO_DRIVERS = ("asyncpg", "psycopg_async", "aiomysql", "asyncmy", "aiosqlite")


def is_asyncio(url: str | URL) -> bool:
    """Return whether the URL means an asyncio driver."""
    return make_url(url).get_driver_name() in ASYNCIO_DRIVERS


def engine(url: str | URL, **options: Any) -> Engine:  # noqa: ANN401 - create_engine's own options
    """Return an engine; that of an asyncio driver works inside `in_loop` only."""
    if not is_asyncio(url):
        return create_engine(url, **options)
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - needs greenlet, as the driver does

    return create_async_engine(url, **options).sync_engine


def in_loop(action: Callable[[], T]) -> T:
    """Call `action` in a greenlet of a new event loop, where engines of asyncio drivers work."""
    # Python tells a child that no loop is running in it; but not the child of a C-level fork, since 3.12.
    asyncio._set_running_loop(None)
    return asyncio.run(greenlet_spawn(action))


def where_it_works(url: str | URL, action: Callable[[], T]) -> T:
    """Call `action` where engines for this URL work."""
    return in_loop(action) if is_asyncio(url) else action()
