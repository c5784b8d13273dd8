"""aiosqlite: its connections are threads, of which a child has none."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.pool.awaiting.scenes import in_loop
from tests.pool.forking import in_child, pool_class

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from tests.pool.conftest import Play


async def rows(engine: AsyncEngine) -> list[int]:
    async with engine.connect() as connection:
        return list((await connection.execute(text("SELECT number FROM things ORDER BY number"))).scalars())


def engine_at(path: str, pool: str = "AsyncPidPool") -> AsyncEngine:
    return create_async_engine(f"sqlite+aiosqlite:///{path}", poolclass=pool_class(pool))


async def create(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE things (number INTEGER)"))
        await connection.execute(text("INSERT INTO things VALUES (1)"))


def parent_and_child(path: str, pool: str) -> list[list[int]]:
    engine = engine_at(path, pool)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(create(engine))

    async def live() -> list[int]:
        found = await asyncio.wait_for(rows(engine), 5)
        await asyncio.wait_for(engine.dispose(), 5)
        gc.collect()
        return found

    found = [in_child(lambda: in_loop(live())), loop.run_until_complete(rows(engine))]
    loop.run_until_complete(engine.dispose())
    loop.close()
    return found


def test_a_child_awaits_no_thread_of_its_parents(tmp_path: Path, play: Play) -> None:
    assert play(parent_and_child, str(tmp_path / "file"), "AsyncPidPool") == [[1], [1]]


def test_with_the_pool_of_sqlalchemys_it_does(tmp_path: Path, play: Play) -> None:
    with pytest.raises(AssertionError, match=r"no answer|TimeoutError"):
        play(parent_and_child, str(tmp_path / "file"), "AsyncAdaptedQueuePool")


def one_loop_after_the_other(path: str) -> int:
    engine = engine_at(path)
    asyncio.run(create(engine))
    for _ in range(3):
        assert asyncio.run(rows(engine)) == [1]
    engine.sync_engine.dispose()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(10)
    return threading.active_count()


def test_a_loop_that_ends_takes_its_threads_along(tmp_path: Path, play: Play) -> None:
    assert play(one_loop_after_the_other, str(tmp_path / "file"), env={"PYTHONWARNINGS": "error"}) == 1
