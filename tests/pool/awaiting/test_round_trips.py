"""What a checkin sends with the asyncio drivers of MySQL: nothing only where nothing can be open.

The control is a driver that claims to be idle whatever happened.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.util import greenlet_spawn

from tests.conftest import address_for
from tests.pool.awaiting.scenes import Scene

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.pool.conftest import Play


@pytest.fixture(params=["aiomysql", "asyncmy"])
def mysql(request: pytest.FixtureRequest) -> list[object]:
    return [address_for(request.param, request).url(request.param), False]


def check_out(engine: Engine, *, lies: bool = False) -> Any:  # noqa: ANN401 - SQLAlchemy's
    raw: Any = engine.raw_connection()
    record = raw._connection_record
    assert record.driver.idle is not None
    if lies:
        record.is_idle = lambda _: True
    return raw


def execute(raw: Any, *statements: str) -> None:  # noqa: ANN401 - as above
    cursor = raw.cursor()
    for statement in statements:
        cursor.execute(statement)
    cursor.close()


def bytes_of_checkins(server: list[Any]) -> list[int]:
    """Return how many a checkin sends in autocommit: after nothing, a query, an explicit BEGIN, another query."""
    scene = Scene(server)
    engine = scene.engine(pool_size=1, isolation_level="AUTOCOMMIT").sync_engine

    def said() -> int:
        return sum(traffic.client_bytes for traffic in scene._proxy.snapshot().values())

    def live() -> list[int]:
        with engine.connect():
            pass  # the dialect has asked what it wanted to know, and set autocommit
        sent = []
        for statements in ([], ["SELECT 1"], ["BEGIN", "SELECT 1"], ["SELECT 1"]):
            raw = check_out(engine)
            execute(raw, *statements)
            before = said()
            raw.close()
            sent.append(said() - before)
        engine.dispose()
        return sent

    return asyncio.run(greenlet_spawn(live))


def rows_of_an_abandoned_transaction(server: list[Any], *, lies: bool) -> list[int]:
    """Insert a row, give the connection back as it is, and let its next user commit."""
    scene = Scene(server)
    engine = scene.engine(pool_size=1).sync_engine

    def live() -> None:
        raw = check_out(engine, lies=lies)
        execute(raw, f"INSERT INTO {scene.table} VALUES (1)")
        raw.close()
        raw = check_out(engine)
        raw.commit()
        raw.close()
        engine.dispose()

    async def main() -> list[int]:
        await scene.observe(f"CREATE TABLE {scene.table} (number INT)")
        await greenlet_spawn(live)
        return [row[0] for row in await scene.observe(f"SELECT number FROM {scene.table}")]

    return asyncio.run(main())


def test_a_checkin_in_autocommit_sends_nothing_unless_a_transaction_was_begun(mysql: list[object], play: Play) -> None:
    nothing, after_a_query, after_begin, after_another = play(bytes_of_checkins, mysql)
    assert (nothing, after_a_query, after_another) == (0, 0, 0)
    assert after_begin > 0


@pytest.mark.parametrize("lies", [False, True], ids=["driver", "control"])
def test_an_abandoned_transaction_is_rolled_back_at_checkin(mysql: list[object], play: Play, *, lies: bool) -> None:
    assert play(rows_of_an_abandoned_transaction, mysql, lies=lies) == ([1] if lies else [])
