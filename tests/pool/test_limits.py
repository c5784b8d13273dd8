"""How many connections there are, who waits for one, and what is said when the time is up."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from pidpool import PidNullPool, PidPool

if TYPE_CHECKING:
    from tests.pool.conftest import Opener

BOTH = pytest.mark.parametrize("pool_class", [PidPool, QueuePool])


@BOTH
def test_one_more_than_the_limit_waits_and_then_fails(pool_class: type[QueuePool], opener: Opener) -> None:
    pool = pool_class(opener, pool_size=1, max_overflow=1, timeout=0.2)
    connections = [pool.connect(), pool.connect()]
    started = time.monotonic()
    with pytest.raises(PoolTimeoutError) as caught:
        pool.connect()
    assert time.monotonic() - started >= 0.2
    assert caught.value.code == "3o7r"
    message = f"{pool_class.__name__} limit of size 1 overflow 1 reached, connection timed out, timeout 0.20"
    assert str(caught.value).startswith(message)
    assert len(opener.opened) == 2
    connections.pop().close()
    pool.connect().close()
    connections.pop().close()


def test_the_timeouts_message_says_how_many_are_open_and_waiting(opener: Opener) -> None:
    pool = PidPool(opener, pool_size=1, max_overflow=0, timeout=0.1)
    connection = pool.connect()
    with pytest.raises(PoolTimeoutError, match=r"1 of 1 connections are out, 0 other threads wait, waited 0\.1"):
        pool.connect()
    connection.close()


@BOTH
def test_a_waiting_thread_gets_the_connection_that_comes_back(pool_class: type[QueuePool], opener: Opener) -> None:
    pool = pool_class(opener, pool_size=1, max_overflow=0, timeout=20)
    connection = pool.connect()
    threading.Timer(0.2, connection.close).start()
    with pool.connect():
        assert len(opener.opened) == 1


@BOTH
def test_a_waiting_thread_gets_the_slot_of_a_connection_that_was_detached(
    pool_class: type[QueuePool], opener: Opener
) -> None:
    pool = pool_class(opener, pool_size=1, max_overflow=0, timeout=20)
    connection = pool.connect()
    threading.Timer(0.2, connection.detach).start()
    with pool.connect():
        assert len(opener.opened) == 2
    connection.close()


def test_a_waiting_thread_gets_the_slot_of_a_creator_that_failed(opener: Opener) -> None:
    entered, leave = threading.Event(), threading.Event()

    def creator() -> object:
        if not entered.is_set():
            entered.set()
            assert leave.wait(20)
            raise ConnectionError
        return opener()

    def attempt() -> None:
        with pytest.raises(ConnectionError):
            pool.connect()

    pool = PidPool(creator, pool_size=1, max_overflow=0, timeout=20)
    failing = threading.Thread(target=attempt)
    failing.start()
    assert entered.wait(20)
    threading.Timer(0.2, leave.set).start()
    pool.connect().close()
    failing.join(20)
    assert not failing.is_alive()


@BOTH
@pytest.mark.parametrize("trouble", [ValueError, KeyboardInterrupt, IndexError, MemoryError])
def test_a_creator_that_fails_gives_its_slot_back(
    pool_class: type[QueuePool], trouble: type[BaseException], opener: Opener
) -> None:
    pool = pool_class(opener, pool_size=1, max_overflow=0, timeout=0)
    for _ in range(3):
        opener.trouble = trouble()
        with pytest.raises(trouble):
            pool.connect()
    assert pool.checkedout() == 0
    pool.connect().close()


@BOTH
def test_sixteen_threads_never_have_more_than_the_limit(pool_class: type[QueuePool], opener: Opener) -> None:
    pool = pool_class(opener, pool_size=2, max_overflow=2, timeout=60)
    sessions: list[int] = []
    too_many: list[int] = []

    def work() -> None:
        for _ in range(25):
            with pool.connect() as connection:
                if len(sessions) > 4:
                    too_many.append(len(sessions))
                sessions.append(1)
                assert connection.cursor().execute("SELECT 7").fetchone() == (7,)
                sessions.pop()

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert too_many == []
    assert (pool.checkedout(), pool.checkedin()) == (0, 2)
    assert opener.still_open == 2
    pool.dispose()
    assert opener.still_open == 0


def test_pid_null_pool_keeps_nothing_and_has_no_limit(opener: Opener) -> None:
    pool = PidNullPool(opener)
    connections = [pool.connect() for _ in range(8)]
    assert opener.still_open == 8
    for connection in connections:
        connection.close()
    assert opener.still_open == 0
