"""What a pool is made with: it keeps it, shows it, and hands it on."""

from __future__ import annotations

import gc
import os
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool, QueuePool

from pidpool import PidNullPool, PidPool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine
    from sqlalchemy.pool import ConnectionPoolEntry

    from tests.pool.conftest import Opener
    from tests.servers import Address

OURS = pytest.mark.parametrize("pool_class", [PidPool, PidNullPool])
BOTH = pytest.mark.parametrize("pool_class", [PidPool, QueuePool])


@pytest.fixture
def url(postgresql: Address) -> str:
    return postgresql.url("psycopg")


@pytest.fixture
def engines() -> Iterator[list[Engine]]:
    """Engines to dispose of in the end."""
    engines: list[Engine] = []
    yield engines
    for engine in engines:
        engine.dispose()


# Recreate


class Subclass(PidPool):
    """A pool class of somebody's own."""


def settings(pool: Any) -> dict[str, Any]:  # noqa: ANN401 - its private attributes
    return {
        "class": type(pool),
        "creator": pool._creator,
        "pool_size": pool.size(),
        "max_overflow": pool._max_overflow,
        "timeout": pool.timeout(),
        "use_lifo": pool._pool.use_lifo,
        "recycle": pool._recycle,
        "echo": pool.echo,
        "logging_name": pool._orig_logging_name,
        "reset_on_return": pool._reset_on_return,
        "pre_ping": pool._pre_ping,
        "dialect": pool._dialect,
    }


@pytest.mark.parametrize("pool_class", [PidPool, Subclass, QueuePool])
@pytest.mark.parametrize(("pool_size", "max_overflow"), [(3, 7), (2, -1), (0, 5)])
def test_a_recreated_pool_has_every_setting(
    pool_class: type[QueuePool], pool_size: int, max_overflow: int, opener: Opener
) -> None:
    pool = pool_class(
        opener,
        pool_size=pool_size,
        max_overflow=max_overflow,
        timeout=1.5,
        use_lifo=True,
        recycle=77,
        echo=True,
        logging_name="reservoir",
        reset_on_return="commit",
        pre_ping=True,
    )
    again = pool.recreate()
    assert again is not pool
    assert settings(again) == settings(pool)
    assert settings(again)["max_overflow"] == (-1 if pool_size == 0 else max_overflow)
    connections = [again.connect() for _ in range(4)]
    for connection in connections:
        connection.close()
    assert again.checkedin() == min(pool_size or 4, 4)
    again.dispose()


def test_a_recreated_null_pool_has_every_setting(opener: Opener) -> None:
    pool: Any = PidNullPool(opener, recycle=77, echo=True, logging_name="n", reset_on_return=None, pre_ping=True)
    again: Any = pool.recreate()
    names = ("_recycle", "echo", "_orig_logging_name", "_reset_on_return", "_pre_ping", "_creator")
    assert type(again) is PidNullPool
    assert [getattr(again, name) for name in names] == [getattr(pool, name) for name in names]
    again.connect().close()
    assert opener.still_open == 0


def test_an_engine_goes_on_after_dispose(url: str, engines: list[Engine]) -> None:
    engine = create_engine(url, poolclass=PidPool, pool_size=2)
    engines.append(engine)
    with engine.connect() as connection:
        first = connection.scalar(text("SELECT pg_backend_pid()"))
    engine.dispose()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) != first
    assert isinstance(engine.pool, PidPool)


# Status and repr


def test_status_counts_idle_out_and_overflow(opener: Opener) -> None:
    pool = PidPool(opener, pool_size=1, max_overflow=2)
    here = rf"pid {os.getpid()} gen \d+"
    assert re.fullmatch(rf"{here} \| 0 idle, 0 out, 0 overflow \| 0 discarded at fork", pool.status())
    connections = [pool.connect() for _ in range(3)]
    connections[0].close()
    assert re.fullmatch(rf"{here} \| 1 idle, 2 out, 2 overflow \| 0 discarded at fork", pool.status())
    for connection in connections[1:]:
        connection.close()
    assert re.fullmatch(rf"{here} \| 1 idle, 0 out, 0 overflow \| 0 discarded at fork", pool.status())
    pool.dispose()


@OURS
def test_a_pools_repr_is_its_class_and_status(pool_class: type[Pool], opener: Opener) -> None:
    pool = pool_class(opener)
    assert repr(pool) == f"<{pool_class.__name__} {pool.status()}>"


@OURS
def test_a_checkouts_repr_shows_its_state_and_no_password(
    pool_class: type[Pool], opener: Opener, postgresql: Address
) -> None:
    pool = pool_class(opener)
    connection = pool.connect()
    assert repr(connection) == f"<Fairy of a psycopg connection, checked out, of pid {os.getpid()}>"
    other = pool.connect()
    other.detach()
    assert "detached" in repr(other)
    assert postgresql.password not in f"{connection!r} {other!r} {pool!r}"
    connection.close()
    other.close()
    pool.dispose()
    assert "closed" in repr(connection)


# Logging


@pytest.mark.parametrize(("echo", "expected"), [(None, set()), (True, {"INFO"}), ("debug", {"DEBUG", "INFO"})])
def test_echo_says_how_much_is_logged(
    echo: bool | str | None,  # noqa: FBT001 - SQLAlchemy's option
    expected: set[str],
    opener: Opener,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = PidPool(opener, echo=echo, logging_name="reservoir")
    pool.connect().invalidate()
    pool.dispose()
    assert {record.levelname for record in caplog.records} == expected
    assert all(record.name.endswith("PidPool.reservoir") for record in caplog.records)


def test_echo_pool_of_create_engine_reaches_the_pool(
    url: str, engines: list[Engine], caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(url, poolclass=PidPool, echo_pool="debug", pool_logging_name="reservoir")
    engines.append(engine)
    engine.connect().close()
    messages = [record.getMessage() for record in caplog.records]
    assert any("checked out from pool" in message for message in messages)
    assert any("being returned to pool" in message for message in messages)


# Listeners elsewhere


@BOTH
def test_listeners_of_a_class_hear_of_every_pool(pool_class: type[QueuePool], opener: Opener) -> None:
    heard: list[str] = []

    def listen(*_: object) -> None:
        heard.append("checkin")

    pool = pool_class(opener)
    for target in (Pool, pool_class):
        event.listen(target, "checkin", listen)
    try:
        pool.connect().close()
        later = pool_class(opener)
        later.connect().close()
    finally:
        for target in (Pool, pool_class):
            event.remove(target, "checkin", listen)
    pool.connect().close()
    assert heard == ["checkin"] * 4
    pool.dispose()
    later.dispose()


@BOTH
@pytest.mark.parametrize("name", ["checkout", "checkin", "reset"])
def test_a_listener_that_comes_late_is_heard_and_one_that_leaves_is_not(
    pool_class: type[QueuePool], name: str, opener: Opener
) -> None:
    heard: list[str] = []

    def listen(*_: object) -> None:
        heard.append(name)

    pool = pool_class(opener)
    pool.connect().close()
    event.listen(pool, name, listen)
    pool.connect().close()
    event.remove(pool, name, listen)
    pool.connect().close()
    assert heard == [name]
    pool.dispose()


def test_listeners_of_an_engine_hear_of_its_pool(url: str, engines: list[Engine]) -> None:
    heard: list[str] = []
    engine = create_engine(url, poolclass=PidPool)
    engines.append(engine)
    event.listen(engine, "checkout", lambda *_: heard.append("checkout"))
    engine.connect().close()
    assert heard == ["checkout"]


# Engines, sessions, and plain creators


@BOTH
def test_an_isolation_level_lasts_for_one_checkout(
    pool_class: type[QueuePool], url: str, engines: list[Engine]
) -> None:
    engine = create_engine(url, poolclass=pool_class, pool_size=1)
    engines.append(engine)
    with engine.connect() as connection:
        session = connection.scalar(text("SELECT pg_backend_pid()"))
        connection.rollback()
        strict = connection.execution_options(isolation_level="SERIALIZABLE")
        assert strict.scalar(text("SHOW transaction_isolation")) == "serializable"
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) == session
        assert connection.scalar(text("SHOW transaction_isolation")) == "read committed"


@OURS
def test_engine_session_and_raw_connection_work(
    pool_class: type[Pool], database_url: str, engines: list[Engine]
) -> None:
    engine = create_engine(database_url, poolclass=pool_class)
    engines.append(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE t (n int)"))
        connection.execute(text("INSERT INTO t VALUES (1), (2)"))
        with connection.begin_nested():
            connection.execute(text("DELETE FROM t WHERE n = 1"))
        assert connection.scalar(text("SELECT sum(n) FROM t")) == 2
    with Session(engine) as session:
        assert session.execute(text("SELECT 7")).scalar_one() == 7
        session.commit()
    raw: Any = engine.raw_connection()
    cursor = raw.cursor()
    cursor.execute("SELECT 7")
    assert cursor.fetchone()[0] == 7
    cursor.close()
    raw.close()


@BOTH
def test_a_creator_may_take_the_connection_record(pool_class: type[QueuePool], opener: Opener) -> None:
    records: list[object] = []

    def creator(rec: ConnectionPoolEntry) -> Any:  # noqa: ANN401 - as Opener
        records.append(rec)
        return opener()

    pool = pool_class(creator)
    connection: Any = pool.connect()
    assert records == [connection._connection_record]
    connection.close()
    pool.dispose()


@BOTH
def test_pre_ping_replaces_every_connection_that_the_server_has_closed(
    pool_class: type[QueuePool], url: str, engines: list[Engine]
) -> None:
    engine = create_engine(url, poolclass=pool_class, pool_size=3, pool_pre_ping=True)
    engines.append(engine)
    connections = [engine.connect() for _ in range(3)]
    old = [connection.scalar(text("SELECT pg_backend_pid()")) for connection in connections]
    for connection in connections:
        connection.close()
    time.sleep(0.03)
    with create_engine(url, poolclass=PidNullPool).connect() as connection:
        for session in old:
            connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": session})
    connections = [engine.connect() for _ in range(3)]
    new = [connection.scalar(text("SELECT pg_backend_pid()")) for connection in connections]
    for connection in connections:
        connection.close()
    assert len(set(new)) == 3
    assert not set(new) & set(old)


@BOTH
def test_a_lost_session_invalidates_the_pool(pool_class: type[QueuePool], url: str, engines: list[Engine]) -> None:
    engine = create_engine(url, poolclass=pool_class, pool_size=2)
    engines.append(engine)
    idle, held = engine.connect(), engine.connect()
    other = idle.scalar(text("SELECT pg_backend_pid()"))
    idle.close()
    session = held.scalar(text("SELECT pg_backend_pid()"))
    time.sleep(0.03)
    with create_engine(url, poolclass=PidNullPool).connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": session})
    with pytest.raises(DBAPIError) as caught:
        held.scalar(text("SELECT 1"))
    assert caught.value.connection_invalidated
    held.rollback()
    assert held.scalar(text("SELECT pg_backend_pid()")) != session
    held.close()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) != other


class CountingDialect(PGDialect_psycopg):
    """A dialect whose rollback does more than the driver's."""

    rollbacks = 0
    supports_statement_cache = True

    def do_rollback(self, dbapi_connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy's signature
        type(self).rollbacks += 1
        dbapi_connection.rollback()


registry.register("postgresql.counting", __name__, "CountingDialect")


@BOTH
def test_reset_goes_through_the_dialects_own_rollback(
    pool_class: type[QueuePool], url: str, engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(url.replace("+psycopg", "+counting"), poolclass=pool_class)
    engines.append(engine)
    engine.raw_connection().close()
    monkeypatch.setattr(CountingDialect, "rollbacks", 0)
    engine.raw_connection().close()
    assert CountingDialect.rollbacks == 1


@BOTH
def test_reset_goes_through_a_rollback_that_replaced_the_dialects(
    pool_class: type[QueuePool], url: str, engines: list[Engine]
) -> None:
    rollbacks: list[object] = []
    engine = create_engine(url, poolclass=pool_class)
    engines.append(engine)
    engine.raw_connection().close()  # the dialect rolls back, too, when it asks the server about itself
    dialect: Any = engine.dialect
    plain = dialect.do_rollback

    def do_rollback(connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy's signature
        rollbacks.append(connection)
        plain(connection)

    dialect.do_rollback = do_rollback
    engine.raw_connection().close()
    assert len(rollbacks) == 1


@BOTH
@pytest.mark.parametrize("skip", [True, False])
def test_no_rollback_is_sent_in_autocommit_if_that_is_asked_for(
    pool_class: type[QueuePool],
    skip: bool,  # noqa: FBT001 - SQLAlchemy's option
    mariadb: Address,
    engines: list[Engine],
) -> None:
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": skip}
    try:
        engine = create_engine(mariadb.url("pymysql"), poolclass=pool_class, pool_size=1, **options)
    except TypeError:
        pytest.skip("this SQLAlchemy has no skip_autocommit_rollback")
    engines.append(engine)
    counts = []
    for _ in range(3):
        raw: Any = engine.raw_connection()
        cursor = raw.cursor()
        cursor.execute("SHOW SESSION STATUS LIKE 'Com_rollback'")
        counts.append(int(cursor.fetchone()[1]))
        cursor.close()
        raw.close()
    assert counts[2] - counts[1] == (0 if skip or pool_class is PidPool else 1)


# Garbage


def test_a_forgotten_connection_comes_back_and_is_still_owned(opener: Opener) -> None:
    pool = PidPool(opener, pool_size=1, max_overflow=0, timeout=0)
    for _ in range(3):
        cycle: list[Any] = [pool.connect()]
        cycle.append(cycle)
        del cycle
        gc.collect()
        assert (pool.checkedin(), pool.checkedout()) == (1, 0)
    assert len(opener.opened) == 1
    connection: Any = pool.connect()
    assert connection._connection_record.ownership.state == "owned"
    with pytest.raises(Exception, match="limit of size 1"):
        pool.connect()
    connection.close()
    pool.dispose()


def test_a_forgotten_connection_that_the_driver_has_closed_is_no_unknown_driver(opener: Opener) -> None:
    pool = PidPool(opener, pool_size=1, max_overflow=0, timeout=0)
    connection: Any = pool.connect()
    connection.dbapi_connection.close()
    del connection
    gc.collect()
    pool.connect().close()
    pool.dispose()


def test_nothing_is_left_of_a_pool_that_is_dropped(opener: Opener) -> None:
    pool = PidPool(opener)
    pool.connect().close()
    del pool
    for _ in range(2):  # finalizers in a cycle postpone its end by one collection
        gc.collect()
    assert not [found for found in gc.get_objects() if isinstance(found, PidPool)]
