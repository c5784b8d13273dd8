"""Tasks that wait for a connection."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tests.pool.awaiting.scenes import Scene, in_loop
from tests.pool.forking import in_child

if TYPE_CHECKING:
    from tests.pool.conftest import Play


def in_line(server: list[Any], pool: str) -> list[list[int]]:
    """Return the order in which tasks joined the line, and the one in which they were served."""
    scene = Scene(server, pool)

    async def live() -> list[list[int]]:
        engine = scene.engine(pool_size=1)
        served: list[int] = []
        joined = list(range(20))

        async def take(number: int) -> None:
            for _ in range(2):
                async with engine.connect() as connection:
                    served.append(number)
                    await connection.execute(text("SELECT 1"))

        await asyncio.gather(*(take(number) for number in joined))
        await engine.dispose()
        return [joined * 2, served]

    return asyncio.run(live())


def test_first_come_first_served(any_server: list[object], play: Play) -> None:
    expected, served = play(in_line, any_server, "AsyncPidPool")
    assert served == expected


def too_many(server: list[Any], pool: str) -> str:
    scene = Scene(server, pool)

    async def live() -> str:
        engine = scene.engine(pool_size=1, pool_timeout=0.1)
        async with engine.connect():
            answers = await asyncio.gather(scene.use(engine), scene.use(engine), return_exceptions=True)
        await engine.dispose()
        assert all(isinstance(answer, PoolTimeoutError) for answer in answers), answers
        return str(answers[0])

    return asyncio.run(live())


def test_the_timeout_tells_its_numbers(any_server: list[object], play: Play) -> None:
    message = play(too_many, any_server, "AsyncPidPool")
    assert message.startswith(
        "AsyncPidPool limit of size 1 overflow 0 reached, connection timed out, timeout 0.10: "
        "1 of 1 connections are out, 1 other tasks wait, waited 0.1"
    )


def cancelled_everywhere(server: list[Any]) -> list[int]:
    scene = Scene(server)
    rng = random.Random(4)  # noqa: S311 - the same run each time

    async def live() -> list[int]:
        engine = scene.engine(pool_size=2, pool_timeout=20)
        for _ in range(15):
            tasks = [asyncio.create_task(scene.use(engine)) for _ in range(8)]
            for task in rng.sample(tasks, 6):
                await asyncio.sleep(rng.random() * 0.004)  # anywhere between joining the line and giving back
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.1)  # drivers may be busy with what was cancelled
        pool: Any = engine.pool
        out = pool.checkedout()
        async with engine.connect() as one, engine.connect() as two:
            found = {await scene.session(one), await scene.session(two)}
        await engine.dispose()
        return [out, len(found), pool.checkedin(), pool.checkedout()]

    return asyncio.run(live())


def test_cancelling_tasks_loses_no_connection(plain_server: list[object], play: Play) -> None:
    assert play(cancelled_everywhere, plain_server) == [0, 2, 0, 0]


def stopped_while_waiting(server: list[Any]) -> list[Any]:
    """Leave a task in line in a loop that is closed, and one in a child's copy of a loop."""
    scene = Scene(server)
    engine = scene.engine(pool_size=1, pool_timeout=10)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    connection = first.run_until_complete(engine.connect())
    waiting = first.create_task(scene.use(engine))
    first.run_until_complete(asyncio.sleep(0.05))
    pool: Any = engine.pool
    waited = pool.stats().waiting
    own = in_child(lambda: in_loop(scene.use(engine)))  # not in line behind a task that will never be served
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]
    first.close()
    second.run_until_complete(connection.close())  # whoever gives it back does not wake the dead
    session = second.run_until_complete(scene.use(engine))
    second.run_until_complete(engine.dispose())
    second.close()
    return [waited, own != session, pool.checkedout()]


def test_the_line_moves_on_past_tasks_of_a_closed_loop(any_server: list[object], play: Play) -> None:
    assert play(stopped_while_waiting, any_server) == [1, True, 0]
