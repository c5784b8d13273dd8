"""`stats()`: what a pool has done in this process, and how it stands."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import FrozenInstanceError, asdict, fields
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from pidpool import PidNullPool, PidPool
from tests.pool import forking
from tests.pool.watching import PATIENCE, wait_until

if TYPE_CHECKING:
    from pidpool.pool._base import ForkSafePool
    from tests.pool.conftest import Opener, Play
    from tests.servers import Address

OURS = pytest.mark.parametrize("pool_class", [PidPool, PidNullPool])


def non_zero(pool: ForkSafePool) -> dict[str, Any]:
    """Return the fields that are not 0, without what every pool has."""
    found = asdict(pool.stats())
    assert found.pop("pid") == os.getpid()
    return {name: value for name, value in found.items() if value}


@OURS
def test_stats_are_plain_numbers_and_a_snapshot(pool_class: type[ForkSafePool], opener: Opener) -> None:
    pool = pool_class(opener)
    stats = pool.stats()
    assert all(type(getattr(stats, field.name)) in (int, float) for field in fields(stats))
    with pytest.raises(FrozenInstanceError):
        stats.checkouts = 7  # type: ignore[misc]
    pool.connect().close()
    assert stats.checkouts == 0
    assert pool.stats().checkouts == 1
    pool.dispose()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (5, 10)),
        ({"pool_size": 2, "max_overflow": 0}, (2, 0)),
        ({"pool_size": 2, "max_overflow": -1}, (2, -1)),
        ({"pool_size": 0}, (0, -1)),
    ],
)
def test_sizes_are_those_that_the_pool_was_made_with(
    options: dict[str, Any], expected: tuple[int, int], opener: Opener
) -> None:
    stats = PidPool(opener, **options).stats()
    assert (stats.size, stats.max_overflow) == expected


def test_the_state_is_counted(opener: Opener) -> None:
    pool = PidPool(opener, pool_size=1, max_overflow=2)
    sizes = {"size": 1, "max_overflow": 2}
    assert non_zero(pool) == sizes
    connections = [pool.connect() for _ in range(3)]
    assert non_zero(pool) == sizes | {"out": 3, "overflow": 2, "checkouts": 3, "connects": 3}
    connections[0].close()
    assert non_zero(pool) == sizes | {"idle": 1, "out": 2, "overflow": 2, "checkouts": 3, "connects": 3}
    for connection in connections[1:]:
        connection.close()
    pool.connect().close()
    assert non_zero(pool) == sizes | {"idle": 1, "checkouts": 4, "connects": 3}
    pool.dispose()
    assert non_zero(pool) == sizes | {"checkouts": 4, "connects": 3}


def test_a_null_pool_counts_as_well(opener: Opener) -> None:
    pool = PidNullPool(opener)
    connections = [pool.connect() for _ in range(3)]
    unlimited = {"max_overflow": -1}
    assert non_zero(pool) == unlimited | {"out": 3, "checkouts": 3, "connects": 3}
    for connection in connections:
        connection.close()
    assert non_zero(pool) == unlimited | {"checkouts": 3, "connects": 3}
    pool.connect().invalidate()
    opener.trouble = ConnectionError()
    with pytest.raises(ConnectionError):
        pool.connect()
    assert non_zero(pool) == unlimited | {"checkouts": 4, "connects": 4, "invalidations": 1, "connect_errors": 1}


def test_who_waited_is_counted_and_for_how_long(opener: Opener) -> None:
    pool = PidPool(opener, pool_size=1, max_overflow=0, timeout=PATIENCE)
    connection = pool.connect()
    waiters = [threading.Thread(target=lambda: pool.connect().close()) for _ in range(2)]
    for waiter in waiters:
        waiter.start()
    wait_until(lambda: pool.stats().waiting == 2)
    time.sleep(0.05)
    assert pool.stats().waits == 0  # counted when the wait is over
    connection.close()
    for waiter in waiters:
        waiter.join(PATIENCE)
    stats = pool.stats()
    assert (stats.waiting, stats.waits, stats.timeouts, stats.checkouts) == (0, 2, 0, 3)
    assert 0.1 <= stats.wait_seconds < 2 * PATIENCE
    pool.dispose()


def test_who_got_none_in_time_is_counted(opener: Opener) -> None:
    pool = PidPool(opener, pool_size=1, max_overflow=0, timeout=0.05)
    connection = pool.connect()
    for _ in range(2):
        with pytest.raises(PoolTimeoutError):
            pool.connect()
    stats = pool.stats()
    assert (stats.timeouts, stats.waits, stats.checkouts, stats.waiting) == (2, 2, 1, 0)
    assert 0.1 <= stats.wait_seconds < PATIENCE
    connection.close()
    pool.dispose()


def test_an_attempt_to_connect_that_failed_is_an_error_and_no_connect(opener: Opener) -> None:
    pool = PidPool(opener, pool_size=1)
    for trouble in (ConnectionError(), KeyboardInterrupt()):
        opener.trouble = trouble
        with pytest.raises(type(trouble)):
            pool.connect()
    pool.connect().close()
    stats = pool.stats()
    assert (stats.connects, stats.connect_errors, stats.checkouts) == (1, 2, 1)
    pool.dispose()


def test_a_connection_that_is_dropped_as_broken_is_counted_once(opener: Opener) -> None:
    pool = PidPool(opener, pool_size=2)
    connection = pool.connect()
    connection.invalidate()
    connection.close()
    assert (pool.stats().invalidations, pool.stats().connects) == (1, 1)
    connection = pool.connect()
    connection.cursor().execute("SELECT 1")
    opener.end_session(-1)
    connection.close()  # the rollback fails
    assert (pool.stats().invalidations, pool.stats().connects) == (2, 2)
    pool.connect().close()
    assert (pool.stats().invalidations, pool.stats().connects) == (2, 3)
    pool.dispose()
    assert pool.stats().invalidations == 2


def test_a_connection_that_pre_ping_finds_dead_is_counted(postgresql: Address, opener: Opener) -> None:
    engine = create_engine(postgresql.url("psycopg"), poolclass=PidPool, pool_size=1, pool_pre_ping=True)
    pool: Any = engine.pool
    session = forking.use(engine)
    with opener.connect() as observer:
        observer.execute("SELECT pg_terminate_backend(%s, 5000)", [session])
    assert forking.use(engine) != session
    assert (pool.stats().invalidations, pool.stats().connects, pool.stats().checkouts) == (1, 2, 2)
    engine.dispose()


# After a fork


def scenario_of_a_child(name: str, url: str) -> list[dict[str, Any]]:
    engine = forking.engine_of(name, url)
    pool: Any = engine.pool
    forking.fill(engine, 3)
    held = engine.connect()
    before = asdict(pool.stats())

    def in_child() -> list[dict[str, Any]]:
        untouched = asdict(pool.stats())
        held.close()
        forking.use(engine)
        return [untouched, asdict(pool.stats()), forking.in_child(lambda: asdict(pool.stats()))]

    found = forking.in_child(in_child)
    assert all(stats["pid"] != os.getpid() for stats in found)
    after = asdict(pool.stats())
    held.close()
    engine.dispose()
    return [before, *found, after]


@pytest.mark.parametrize(("name", "still_open"), [("PidPool", 3), ("PidNullPool", 1)])
def test_a_child_counts_from_zero_and_knows_what_it_discarded(
    name: str, still_open: int, play: Play, postgresql: Address
) -> None:
    before, untouched, used, grandchild, after = play(scenario_of_a_child, name, postgresql.url("psycopg"))
    counters = ("checkouts", "connects", "waits", "timeouts", "connect_errors", "invalidations", "idle", "out")
    assert (before["checkouts"], before["forks"], before["discards"]) == (4, 0, 0)
    assert [untouched[counter] for counter in counters] == [0] * len(counters)
    assert (untouched["forks"], untouched["discards"]) == (1, still_open)
    assert (untouched["size"], untouched["max_overflow"]) == (before["size"], before["max_overflow"])
    assert (used["checkouts"], used["connects"], used["forks"], used["discards"]) == (1, 1, 1, still_open)
    assert (grandchild["checkouts"], grandchild["forks"]) == (0, 2)
    assert grandchild["discards"] == (1 if name == "PidPool" else 0)
    assert after == before
