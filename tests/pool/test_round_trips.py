"""What a checkin sends: nothing where the driver knows that there is nothing to roll back, and ROLLBACK elsewhere.

Most of these tests run a second time with a driver that claims to be idle whatever happened. That control shows that
the test would notice one that is wrong.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pymysql
import pytest
from pymysql.constants import CLIENT
from pymysql.cursors import SSCursor
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from pidpool import PidNullPool, PidPool
from tests.pool.watching import execute, watched
from tests.servers import DRIVERS
from tests.servers.address import MYSQL_DRIVERS, POSTGRESQL_DRIVERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.pool.watching import Watched
    from tests.servers import PrivateServer

LIES = pytest.mark.parametrize("lies", [False, True], ids=["driver", "control"])
LEVELS = pytest.mark.parametrize("level", ["AUTOCOMMIT", "READ COMMITTED"])

TABLE = "round_trips"


@pytest.fixture
def pymysql_autocommit(request: pytest.FixtureRequest) -> Iterator[Watched]:
    arguments = {"client_flag": CLIENT.MULTI_STATEMENTS}
    with watched("pymysql", request, isolation_level="AUTOCOMMIT", connect_args=arguments) as pool:
        yield from with_table(pool)


@pytest.fixture
def pymysql_transactional(request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watched("pymysql", request) as pool:
        yield from with_table(pool)


@pytest.fixture(params=POSTGRESQL_DRIVERS)
def on_postgresql(request: pytest.FixtureRequest) -> Iterator[Watched]:
    """The test runs once with each driver."""
    with watched(request.param, request) as pool:
        yield from with_table(pool)


@pytest.fixture
def on_psycopg(request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watched("psycopg", request) as pool:
        yield from with_table(pool)


@pytest.fixture
def on_psycopg2(request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watched("psycopg2", request) as pool:
        yield from with_table(pool)


def with_table(pool: Watched) -> Iterator[Watched]:
    """Give the test a table with one row."""
    pool.observe(f"DROP TABLE IF EXISTS {TABLE}")
    pool.observe(f"CREATE TABLE {TABLE} (n int PRIMARY KEY)")
    pool.observe(f"INSERT INTO {TABLE} VALUES (1)")
    yield pool
    pool.engine.dispose()  # with its locks
    pool.observe(f"DROP TABLE {TABLE}")


def check_out(pool: Watched, *, lies: bool) -> Any:  # noqa: ANN401 - has what the driver's connection has
    connection = pool.check_out()
    record = connection._connection_record
    assert record.driver.idle is not None
    if lies:
        record.driver = replace(record.driver, idle=lambda _: True)
        record.is_idle = record.driver.idle
    return connection


def rows(pool: Watched) -> list[int]:
    return sorted(row[0] for row in pool.observe(f"SELECT n FROM {TABLE}"))


# PyMySQL


def test_pymysql_in_autocommit_sends_nothing_at_checkin(pymysql_autocommit: Watched) -> None:
    connection = pymysql_autocommit.check_out()
    assert pymysql_autocommit.sent(connection.close) == 0
    connection = pymysql_autocommit.check_out()
    assert execute(connection, f"SELECT n FROM {TABLE}") == [(1,)]
    execute(connection, f"INSERT INTO {TABLE} VALUES (2)")
    assert pymysql_autocommit.sent(connection.close) == 0
    assert rows(pymysql_autocommit) == [1, 2]


def test_pymysql_in_autocommit_sends_nothing_after_a_transaction_of_the_users_own(pymysql_autocommit: Watched) -> None:
    connection = pymysql_autocommit.check_out()
    for statement in ("BEGIN", f"INSERT INTO {TABLE} VALUES (2)", "COMMIT"):
        execute(connection, statement)
    assert pymysql_autocommit.sent(connection.close) == 0
    assert rows(pymysql_autocommit) == [1, 2]


@LIES
def test_pymysql_sends_a_rollback_when_autocommit_is_off(pymysql_transactional: Watched, *, lies: bool) -> None:
    connection = check_out(pymysql_transactional, lies=lies)
    assert (pymysql_transactional.sent(connection.close) == 0) is lies


def fail_to_insert(connection: Any) -> None:  # noqa: ANN401 - any driver's
    with pytest.raises(pymysql.err.IntegrityError):
        execute(connection, f"INSERT INTO {TABLE} VALUES (1)")


def lock_the_row(connection: Any) -> None:  # noqa: ANN401 - any driver's
    assert execute(connection, f"SELECT n FROM {TABLE} FOR UPDATE") == [(1,)]


def is_locked(pool: Watched) -> bool:
    try:
        pool.observe(f"SELECT n FROM {TABLE} WHERE n = 1 FOR UPDATE NOWAIT")
    except OperationalError:
        return True
    return False


@LIES
@pytest.mark.parametrize("action", [lock_the_row, fail_to_insert])
def test_pymysql_lets_go_of_its_locks_at_checkin(
    action: Callable[[Any], None], pymysql_transactional: Watched, *, lies: bool
) -> None:
    connection = check_out(pymysql_transactional, lies=lies)
    action(connection)
    assert is_locked(pymysql_transactional)
    assert (pymysql_transactional.sent(connection.close) == 0) is lies
    assert is_locked(pymysql_transactional) is lies


@LIES
@pytest.mark.parametrize("begin", ["BEGIN", "START TRANSACTION READ WRITE"])
def test_pymysql_in_autocommit_rolls_a_begun_transaction_back(
    begin: str, pymysql_autocommit: Watched, *, lies: bool
) -> None:
    connection = check_out(pymysql_autocommit, lies=lies)
    execute(connection, begin)
    lock_the_row(connection)
    assert (pymysql_autocommit.sent(connection.close) == 0) is lies
    assert is_locked(pymysql_autocommit) is lies


def has_something_unread(connection: Any) -> bool:  # noqa: ANN401 - any checkout
    result = connection.driver_connection._result
    return result is not None and bool(result.unbuffered_active or result.has_next)


@LIES
@pytest.mark.filterwarnings("ignore:Previous unbuffered result was left incomplete")
def test_pymysql_in_autocommit_clears_a_half_read_result_away(pymysql_autocommit: Watched, *, lies: bool) -> None:
    connection = check_out(pymysql_autocommit, lies=lies)
    cursor = connection.cursor(SSCursor)
    cursor.execute("SELECT seq FROM seq_1_to_1000")
    assert cursor.fetchone() == (1,)
    assert (pymysql_autocommit.sent(connection.close) == 0) is lies
    connection = pymysql_autocommit.check_out()
    assert has_something_unread(connection) is lies
    assert execute(connection, "SELECT 7") == [(7,)]
    connection.close()


@LIES
def test_pymysql_in_autocommit_clears_a_second_result_away(pymysql_autocommit: Watched, *, lies: bool) -> None:
    connection = check_out(pymysql_autocommit, lies=lies)
    connection.cursor().execute("SELECT 1; SELECT 2")
    assert (pymysql_autocommit.sent(connection.close) == 0) is lies
    connection = pymysql_autocommit.check_out()
    assert has_something_unread(connection) is lies
    assert execute(connection, "SELECT 7") == [(7,)]
    connection.close()


# mysqlclient


@LEVELS
def test_mysqlclient_always_sends_a_rollback(level: str, request: pytest.FixtureRequest) -> None:
    with watched("mysqlclient", request, isolation_level=level) as pool:
        connection = pool.check_out()
        assert pool.sent(connection.close) > 0
        connection = pool.check_out()
        execute(connection, "SELECT 1")
        assert pool.sent(connection.close) > 0


@pytest.mark.parametrize("driver", MYSQL_DRIVERS)
def test_an_open_transaction_on_mariadb_is_rolled_back_at_checkin(driver: str, request: pytest.FixtureRequest) -> None:
    with watched(driver, request) as pool:
        for _ in with_table(pool):
            connection = pool.check_out()
            execute(connection, f"INSERT INTO {TABLE} VALUES (2)")
            connection.close()
            connection = pool.check_out()
            connection.commit()
            connection.close()
            assert rows(pool) == [1]


# PostgreSQL


def session(connection: Any) -> int:  # noqa: ANN401 - any driver's
    ((found,),) = execute(connection, "SELECT pg_backend_pid()")
    return int(found)


def state(pool: Watched, session: int) -> str:
    """What the server says that a session is at."""
    ((found,),) = pool.observe("SELECT state FROM pg_stat_activity WHERE pid = :pid", pid=session)
    return str(found)


@LEVELS
@pytest.mark.parametrize("driver", POSTGRESQL_DRIVERS)
def test_an_idle_connection_to_postgresql_sends_nothing_at_checkin(
    driver: str, level: str, request: pytest.FixtureRequest
) -> None:
    with watched(driver, request, isolation_level=level) as pool:
        connection = pool.check_out()
        assert pool.sent(connection.close) == 0
        connection = pool.check_out()
        execute(connection, "SELECT 1")
        connection.commit()
        assert pool.sent(connection.close) == 0


def leave_open(_: Watched, connection: Any) -> None:  # noqa: ANN401 - any driver's
    execute(connection, f"INSERT INTO {TABLE} VALUES (2)")


def let_fail(pool: Watched, connection: Any) -> None:  # noqa: ANN401 - any driver's
    execute(connection, f"INSERT INTO {TABLE} VALUES (2)")
    with pytest.raises(pool.engine.dialect.loaded_dbapi.Error, match="division by zero"):
        execute(connection, "SELECT 1/0")


@LIES
@pytest.mark.parametrize(
    ("leave", "expected"),
    [(leave_open, "idle in transaction"), (let_fail, "idle in transaction (aborted)")],
)
def test_a_transaction_on_postgresql_is_rolled_back_at_checkin(
    leave: Callable[[Watched, Any], None], expected: str, on_postgresql: Watched, *, lies: bool
) -> None:
    connection = check_out(on_postgresql, lies=lies)
    number = session(connection)
    leave(on_postgresql, connection)
    assert state(on_postgresql, number) == expected
    assert (on_postgresql.sent(connection.close) == 0) is lies
    assert state(on_postgresql, number) == (expected if lies else "idle")
    connection = on_postgresql.check_out()
    if lies and leave is let_fail:
        connection.invalidate()  # nothing more can be done with it
    else:
        assert session(connection) == number
        connection.commit()
        connection.close()
    assert rows(on_postgresql) == ([1, 2] if lies and leave is leave_open else [1])


@LIES
def test_a_transaction_in_psycopgs_pipeline_is_rolled_back_at_checkin(on_psycopg: Watched, *, lies: bool) -> None:
    connection = check_out(on_psycopg, lies=lies)
    number = session(connection)
    connection.rollback()
    with connection.driver_connection.pipeline():
        connection.cursor().execute(f"INSERT INTO {TABLE} VALUES (2)")  # no answer is read before the checkin
        assert (on_psycopg.sent(connection.close) == 0) is lies
    assert state(on_psycopg, number) == ("idle in transaction" if lies else "idle")
    connection = on_psycopg.check_out()
    connection.commit()
    connection.close()
    assert rows(on_psycopg) == ([1, 2] if lies else [1])


@LIES
def test_psycopg2_agrees_with_the_server_again_after_a_plain_commit(on_psycopg2: Watched, *, lies: bool) -> None:
    connection = check_out(on_psycopg2, lies=lies)
    execute(connection, f"INSERT INTO {TABLE} VALUES (2)")
    execute(connection, "COMMIT")  # behind the driver's back, which goes on believing in a transaction
    connection.close()
    connection = on_psycopg2.check_out()
    execute(connection, f"INSERT INTO {TABLE} VALUES (3)")
    connection.rollback()
    connection.close()
    assert rows(on_psycopg2) == ([1, 2, 3] if lies else [1, 2])


# What a skipped rollback would have found out


@LEVELS
@pytest.mark.parametrize(
    "driver", [driver for driver in DRIVERS if driver != "pg8000"]
)  # whose rollback is silent, too
def test_a_connection_that_the_user_has_closed_is_not_handed_out_again(
    driver: str, level: str, request: pytest.FixtureRequest
) -> None:
    with watched(driver, request, isolation_level=level) as pool:
        connection = pool.check_out()
        connection.driver_connection.close()
        connection.close()
        connection = pool.check_out()
        assert execute(connection, "SELECT 7") == [(7,)]
        connection.close()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_prepared_transaction_that_was_left_is_nothing_to_the_next_user(
    driver: str, private_postgresql: PrivateServer
) -> None:
    address = private_postgresql.address
    assert address is not None
    observer = create_engine(address.url("psycopg"), poolclass=PidNullPool, isolation_level="AUTOCOMMIT")
    with observer.connect() as settings:
        settings.execute(text("ALTER SYSTEM SET max_prepared_transactions = 1"))
    private_postgresql.stop()
    private_postgresql.start()
    engine = create_engine(address.url(driver), poolclass=PidPool, pool_size=1)
    connection: Any = engine.raw_connection()
    connection.tpc_begin(connection.xid(1, "left", "alone"))
    execute(connection, "SELECT 1")
    connection.tpc_prepare()
    connection.close()
    connection = engine.raw_connection()
    assert execute(connection, "SELECT 7") == [(7,)]
    connection.commit()
    connection.close()
    engine.dispose()
