"""AsyncPidPool in AsyncAdaptedQueuePool's place."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from pidpool import AsyncPidPool, PidPool

ASYNCIO, PLAIN = "postgresql+asyncpg://nowhere/", "postgresql+psycopg://nowhere/"


def test_it_is_a_queue_pool_for_asyncio() -> None:
    pool = create_async_engine(ASYNCIO, poolclass=AsyncPidPool, pool_size=3, max_overflow=4, max_idle=5).pool
    assert isinstance(pool, AsyncAdaptedQueuePool)
    again: Any = pool.recreate()
    assert type(again) is AsyncPidPool
    assert (again.size(), again._max_overflow, again._upkeep.max_idle) == (3, 4, 5)


def test_an_engine_of_the_other_kind_is_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match="Pool class PidPool cannot be used with asyncio engine"):
        create_async_engine(ASYNCIO, poolclass=PidPool)
    with pytest.raises(ArgumentError, match="Pool class AsyncPidPool cannot be used with non-asyncio engine"):
        create_engine(PLAIN, poolclass=AsyncPidPool)
