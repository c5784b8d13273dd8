"""How PidPool keeps itself healthy: pre-ping by a look at the socket, recycle, idle connections, the line, leaks."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from pidpool import PidPool
from tests.pool.watching import PATIENCE, execute, has_heard, wait_until, watched
from tests.servers import DRIVERS
from tests.servers.address import POSTGRESQL_DRIVERS

if TYPE_CHECKING:
    from tests.pool.conftest import Opener
    from tests.pool.watching import Watched
    from tests.servers import Address

EVERY_DRIVER = pytest.mark.parametrize("driver", DRIVERS)

ALL_OPTIONS = {
    "min_size": 1,
    "max_idle": 20.5,
    "max_waiting": 3,
    "leak_threshold": 40.5,
    "recycle_jitter": 0.25,
    "pre_ping_idle": 6.5,
}


# Pre-ping


def session(pool: Watched, connection: Any) -> int:  # noqa: ANN401 - any driver's
    function = "pg_backend_pid" if pool.engine.dialect.name == "postgresql" else "connection_id"
    ((found,),) = execute(connection, f"SELECT {function}()")
    connection.commit()
    return int(found)


def sent_at_checkout(pool: Watched) -> int:
    connections: list[Any] = []
    sent = pool.sent(lambda: connections.append(pool.check_out()))
    connections.pop().close()
    return sent


@EVERY_DRIVER
def test_pre_ping_asks_the_server_every_time_by_default(driver: str, request: pytest.FixtureRequest) -> None:
    with watched(driver, request, pool_pre_ping=True) as pool:
        assert all(sent_at_checkout(pool) for _ in range(3))


@EVERY_DRIVER
def test_pre_ping_idle_sends_nothing_while_the_socket_is_quiet(driver: str, request: pytest.FixtureRequest) -> None:
    with watched(driver, request, pool_pre_ping=True, pre_ping_idle=60) as pool:
        assert [sent_at_checkout(pool) for _ in range(3)] == [0, 0, 0]


@EVERY_DRIVER
def test_pre_ping_idle_asks_the_server_once_a_connection_was_idle_for_longer(
    driver: str, request: pytest.FixtureRequest
) -> None:
    with watched(driver, request, pool_pre_ping=True, pre_ping_idle=0.01) as pool:
        time.sleep(0.02)
        assert sent_at_checkout(pool) > 0


@EVERY_DRIVER
def test_pre_ping_idle_without_pre_ping_asks_nobody(driver: str, request: pytest.FixtureRequest) -> None:
    with watched(driver, request, pre_ping_idle=0.01) as pool:
        time.sleep(0.02)
        assert sent_at_checkout(pool) == 0


@EVERY_DRIVER
@pytest.mark.parametrize("pre_ping_idle", [0, 60])
def test_pre_ping_replaces_a_session_that_the_server_has_ended(
    driver: str, pre_ping_idle: float, request: pytest.FixtureRequest
) -> None:
    with watched(driver, request, pool_pre_ping=True, pre_ping_idle=pre_ping_idle) as pool:
        connection = pool.check_out()
        ended = session(pool, connection)
        driver_connection = connection.driver_connection
        connection.close()
        if pool.engine.dialect.name == "postgresql":
            pool.observe("SELECT pg_terminate_backend(:pid, 5000)", pid=ended)
        else:
            pool.observe(f"KILL CONNECTION {ended}")
        has_heard(driver_connection)
        connection = pool.check_out()
        assert session(pool, connection) != ended
        connection.close()
        assert pool.engine.pool.status().split(" | ")[1] == "1 idle, 0 out, 0 overflow"


def test_without_pre_ping_the_user_meets_the_ended_session(request: pytest.FixtureRequest) -> None:
    """The control of the test above."""
    with watched("psycopg", request) as pool:
        connection = pool.check_out()
        ended = session(pool, connection)
        connection.close()
        pool.observe("SELECT pg_terminate_backend(:pid, 5000)", pid=ended)
        connection = pool.check_out()
        with pytest.raises(pool.engine.dialect.loaded_dbapi.OperationalError):
            session(pool, connection)
        connection.invalidate()


@pytest.mark.parametrize("driver", POSTGRESQL_DRIVERS)
def test_a_notification_leads_to_a_ping_and_the_connection_stays(driver: str, request: pytest.FixtureRequest) -> None:
    with watched(driver, request, pool_pre_ping=True, pre_ping_idle=60) as pool:
        connection = pool.check_out()
        before = session(pool, connection)
        execute(connection, "LISTEN upkeep")
        connection.commit()
        driver_connection = connection.driver_connection
        connection.close()
        pool.observe("NOTIFY upkeep")
        has_heard(driver_connection)
        assert sent_at_checkout(pool) > 0
        assert sent_at_checkout(pool) == 0  # the ping has read it
        connection = pool.check_out()
        assert session(pool, connection) == before
        connection.close()


# Recycle


def due_age(pool: PidPool, record: Any) -> float:  # noqa: ANN401 - a Record
    """Return how old a connection is when it is recycled (seconds, to a thousandth)."""
    low, high = 0.0, 10_000.0
    while high - low > 0.001:
        middle = (low + high) / 2
        record.starttime = time.time() - middle
        low, high = (low, middle) if pool.is_due(record) else (middle, high)
    return high


def due_ages(opener: Opener, **options: Any) -> list[float]:  # noqa: ANN401 - PidPool's
    pool = PidPool(opener, pool_size=8, recycle=1000, **options)
    connections: list[Any] = [pool.connect() for _ in range(8)]
    ages = [due_age(pool, connection._connection_record) for connection in connections]
    for connection in connections:
        connection.close()
    pool.dispose()
    return ages


@pytest.mark.parametrize("jitter", [0.05, 0.5])
def test_each_connection_is_recycled_early_by_a_share_of_its_own(jitter: float, opener: Opener) -> None:
    ages = due_ages(opener, recycle_jitter=jitter)
    assert len({round(age, 1) for age in ages}) > 1
    assert all(1000 * (1 - jitter) - 1 <= age <= 1001 for age in ages)


def test_the_default_jitter_is_a_twentieth(opener: Opener) -> None:
    assert all(949 <= age <= 1001 for age in due_ages(opener))


def test_without_jitter_all_are_recycled_at_the_same_age(opener: Opener) -> None:
    assert due_ages(opener, recycle_jitter=0) == pytest.approx([1000] * 8, abs=1)


def test_a_connection_draws_a_new_share_when_it_is_replaced(opener: Opener) -> None:
    pool = PidPool(opener, pool_size=1, max_overflow=0, recycle=1000)
    shares = set()
    for number in range(3):
        connection: Any = pool.connect()
        assert len(opener.opened) == number + 1
        record = connection._connection_record
        shares.add(record.luck)
        record.starttime -= 1001
        connection.close()
    assert len(shares) == 3
    assert opener.still_open == 1
    pool.dispose()


# max_idle


def fill(pool: PidPool, count: int) -> None:
    connections = [pool.connect() for _ in range(count)]
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("min_size", [0, 2])
def test_max_idle_closes_one_connection_a_checkin_down_to_min_size(min_size: int, opener: Opener) -> None:
    pool = PidPool(opener, pool_size=5, use_lifo=True, max_idle=0.05, min_size=min_size)
    fill(pool, 5)
    open_after = [opener.still_open]
    for _ in range(6):
        time.sleep(0.06)
        pool.connect().close()
        open_after.append(opener.still_open)
    least = max(min_size, 1)  # the one that has just come back is not idle
    assert open_after == [max(least, 5 - checkins) for checkins in range(7)]
    assert len(opener.opened) == 5
    assert pool.checkedin() == least
    pool.dispose()


def test_what_max_idle_closed_is_opened_again_when_it_is_needed(opener: Opener) -> None:
    pool = PidPool(opener, pool_size=2, max_overflow=0, timeout=0, use_lifo=True, max_idle=0.05)
    fill(pool, 2)
    time.sleep(0.06)
    pool.connect().close()
    assert opener.still_open == 1
    fill(pool, 2)
    assert opener.still_open == 2
    pool.dispose()


@pytest.mark.parametrize("options", [{}, {"max_idle": 60}])
def test_no_connection_is_closed_before_its_time(options: dict[str, Any], opener: Opener) -> None:
    pool = PidPool(opener, pool_size=4, use_lifo=True, **options)
    fill(pool, 4)
    time.sleep(0.06)
    for _ in range(4):
        pool.connect().close()
    assert opener.still_open == 4
    pool.dispose()


# max_waiting


def test_max_waiting_refuses_the_next_in_line_at_once(opener: Opener) -> None:
    pool = PidPool(opener, pool_size=1, max_overflow=0, timeout=PATIENCE, max_waiting=1)
    connection = pool.connect()
    served = threading.Event()

    def wait_in_line() -> None:
        with pool.connect():
            served.set()

    waiter = threading.Thread(target=wait_in_line)
    waiter.start()
    wait_until(lambda: pool.stats().waiting == 1)
    started = time.monotonic()
    with pytest.raises(PoolTimeoutError) as caught:
        pool.connect()
    assert time.monotonic() - started < PATIENCE / 2
    message = str(caught.value)
    assert "limit of size 1 overflow 0 reached, refused because of max_waiting 1, timeout 20.00" in message
    assert "1 of 1 connections are out, 1 other threads wait, waited 0.0" in message
    assert pool.stats().timeouts == 1
    assert not served.is_set()
    connection.close()
    assert served.wait(PATIENCE)
    waiter.join(PATIENCE)
    pool.connect().close()
    assert opener.still_open == 1
    pool.dispose()


@pytest.mark.parametrize("timeout", [PATIENCE, None])
def test_max_waiting_zero_lets_nobody_wait(timeout: float | None, opener: Opener) -> None:
    options: dict[str, Any] = {"timeout": timeout}  # None: QueuePool takes it for "for ever", too
    pool = PidPool(opener, pool_size=1, max_overflow=1, max_waiting=0, **options)
    connections = [pool.connect(), pool.connect()]
    with pytest.raises(PoolTimeoutError, match="refused because of max_waiting 0"):
        pool.connect()
    assert (pool.stats().timeouts, pool.stats().waits) == (1, 0)
    for connection in connections:
        connection.close()
    pool.connect().close()
    pool.dispose()


def test_a_wait_that_took_its_time_was_not_refused(opener: Opener) -> None:
    pool = PidPool(opener, pool_size=1, max_overflow=0, timeout=0.05, max_waiting=5)
    with pool.connect(), pytest.raises(PoolTimeoutError, match="connection timed out"):
        pool.connect()
    pool.dispose()


# leak_threshold


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_a_leak_is_told_once_with_the_stack_of_the_checkout(opener: Opener, caplog: pytest.LogCaptureFixture) -> None:
    def culprit() -> Any:  # noqa: ANN401 - it returns the pool's connection
        return pool.connect()

    pool = PidPool(opener, leak_threshold=0.05)
    connection = culprit()
    time.sleep(0.06)
    assert [pool.stats().leaks for _ in range(3)] == [1, 1, 1]
    pool.connect().close()
    connection.close()
    pool.connect().close()
    (told,) = warnings(caplog)
    assert "(leak_threshold is 0.05 s)" in told
    assert "in culprit\n    return pool.connect()" in told
    assert __file__ in told
    pool.dispose()


def test_the_leaks_of_an_engine_show_who_asked_the_engine(url: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = create_engine(url, poolclass=PidPool, leak_threshold=0.05)
    with engine.connect():
        time.sleep(0.06)
    (told,) = warnings(caplog)
    assert "in test_the_leaks_of_an_engine_show_who_asked_the_engine\n    with engine.connect():" in told
    engine.dispose()


@pytest.mark.parametrize("occasion", ["checkout", "checkin", "timeout", "stats"])
def test_a_leak_is_noticed_at(occasion: str, opener: Opener, caplog: pytest.LogCaptureFixture) -> None:
    pool = PidPool(opener, pool_size=2, max_overflow=0, timeout=0, leak_threshold=0.05)
    leaked, other = pool.connect(), pool.connect()
    if occasion == "checkout":
        other.close()
    time.sleep(0.06)
    if occasion == "checkout":
        other = pool.connect()
    elif occasion == "checkin":
        leaked.close()
    elif occasion == "timeout":
        with pytest.raises(PoolTimeoutError):
            pool.connect()
    else:
        pool.stats()
    assert len(warnings(caplog)) == (1 if occasion == "checkout" else 2)
    leaked.close()
    other.close()
    pool.dispose()


@pytest.mark.parametrize("options", [{}, {"leak_threshold": 60}])
def test_nothing_is_told_of_checkouts_in_time(
    options: dict[str, Any], opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    pool = PidPool(opener, **options)
    connection = pool.connect()
    time.sleep(0.06)
    assert pool.stats().leaks == 0
    connection.close()
    assert warnings(caplog) == []
    pool.dispose()


def test_a_connection_that_was_detached_is_no_leak(opener: Opener, caplog: pytest.LogCaptureFixture) -> None:
    pool = PidPool(opener, leak_threshold=0.05)
    detached = pool.connect()
    detached.detach()
    time.sleep(0.06)
    assert pool.stats().leaks == 0
    pool.connect().close()
    detached.close()
    assert warnings(caplog) == []
    pool.dispose()


def test_a_connection_that_was_invalidated_or_forgotten_is_no_leak(
    opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    pool = PidPool(opener, leak_threshold=0.05)
    pool.connect().invalidate()
    forgotten = pool.connect()
    del forgotten
    time.sleep(0.06)
    assert pool.stats().leaks == 0
    assert warnings(caplog) == []
    pool.dispose()


# The options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_size", -1),
        ("max_idle", -0.5),
        ("max_waiting", -1),
        ("leak_threshold", -1.0),
        ("pre_ping_idle", -1),
        ("recycle_jitter", -0.1),
        ("recycle_jitter", 1),
        ("min_size", 6),  # more than pool_size
        ("min_size", None),
        ("pre_ping_idle", None),
        ("recycle_jitter", None),
        ("max_idle", "60"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(name: str, value: object, opener: Opener, url: str) -> None:
    options: dict[str, Any] = {name: value}
    expected = ValueError if isinstance(value, (int, float)) else TypeError
    with pytest.raises(expected, match=rf"^{name} .*{value!r}$"):
        PidPool(opener, **options)
    with pytest.raises(expected, match=rf"^{name} .*{value!r}$"):
        create_engine(url, poolclass=PidPool, **options)
    assert opener.opened == []


def test_recreate_keeps_the_options(opener: Opener) -> None:
    options: dict[str, Any] = ALL_OPTIONS
    again = PidPool(opener, **options).recreate()
    assert asdict(again._upkeep) == ALL_OPTIONS


def test_create_engine_passes_the_options_through_and_dispose_keeps_them(url: str) -> None:
    options: dict[str, Any] = ALL_OPTIONS
    engine = create_engine(url, poolclass=PidPool, pool_size=2, **options)
    for _ in range(2):
        pool: Any = engine.pool
        assert asdict(pool._upkeep) == ALL_OPTIONS
        assert pool.size() == 2
        engine.connect().close()
        engine.dispose()


@pytest.fixture
def url(postgresql: Address) -> str:
    return postgresql.url("psycopg")
