"""Connections belong to an event loop; an engine does not."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from tests.pool.awaiting.scenes import Scene

if TYPE_CHECKING:
    from tests.pool.conftest import Play

STRICT = {"PYTHONWARNINGS": "error"}


def one_after_the_other(server: list[Any], pool: str) -> list[int]:
    scene = Scene(server, pool)
    engine = scene.engine()
    sessions = [asyncio.run(scene.use(engine)) for _ in range(3)]
    assert asyncio.run(scene.alive(*sessions[:-1])) == 0
    engine.sync_engine.dispose()  # no loop is left in which one could await
    assert asyncio.run(scene.alive(*sessions)) == 0
    gc.collect()
    return sessions


def test_several_loops_one_after_the_other(server: list[object], play: Play) -> None:
    assert len(set(play(one_after_the_other, server, "AsyncPidPool", env=STRICT))) == 3


def test_the_pool_of_sqlalchemys_hands_out_connections_of_a_closed_loop(any_server: list[object], play: Play) -> None:
    with pytest.raises(AssertionError, match=r"different loop|Event loop is closed"):
        play(one_after_the_other, any_server, "AsyncAdaptedQueuePool")


def taking_turns(server: list[Any]) -> int:
    scene = Scene(server)
    engine = scene.engine()
    loops = [asyncio.new_event_loop() for _ in range(2)]
    sessions = [loop.run_until_complete(scene.use(engine)) for loop in [*loops, *loops]]
    for loop in loops:
        loop.run_until_complete(engine.dispose())
        loop.run_until_complete(asyncio.sleep(0))
    assert asyncio.run(scene.alive(*sessions)) == 0
    for loop in loops:
        loop.close()
    return len(engine.pool._life.out)  # type: ignore[attr-defined]


def test_loops_that_take_turns(plain_server: list[object], play: Play) -> None:
    assert play(taking_turns, plain_server) == 0


def two_threads(server: list[Any]) -> list[str]:
    scene = Scene(server)
    engine = scene.engine(pool_size=1)
    errors: list[str] = []

    async def use() -> None:
        for _ in range(30):
            async with engine.connect() as connection:
                assert (await connection.execute(text("SELECT 41 + 1"))).scalar() == 42
                await asyncio.sleep(0.002)

    def run() -> None:
        try:
            asyncio.run(use())
        except Exception as error:  # noqa: BLE001 - the answer
            errors.append(repr(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_loops_in_two_threads_share_the_only_place(plain_server: list[object], play: Play) -> None:
    assert play(two_threads, plain_server) == []


def forgotten(server: list[Any], pool: str) -> list[Any]:
    import warnings  # noqa: PLC0415 - for this process alone

    scene = Scene(server, pool)
    engine = scene.engine(pool_size=1)

    async def forget() -> int:
        connection = await engine.connect()
        return await scene.session(connection)

    async def live() -> list[Any]:
        session = await forget()
        gc.collect()
        await asyncio.sleep(0)
        return [await scene.alive(session), await scene.use(engine) != session]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer = asyncio.run(live())
    engine.sync_engine.dispose()
    return [*answer, any("garbage collector" in str(warning.message) for warning in caught)]


@pytest.mark.parametrize("pool", ["AsyncPidPool", "AsyncAdaptedQueuePool", "PidNullPool"])
def test_a_forgotten_connection_is_terminated_with_a_warning(pool: str, plain_server: list[object], play: Play) -> None:
    assert play(forgotten, plain_server, pool) == [0, True, True]
