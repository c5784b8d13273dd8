"""Connections that are checked out at fork: in the child they fail loudly and unwind quietly."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from pidpool import InheritedConnectionError
from tests.conftest import address_for
from tests.pool.forking import engine_of, in_child, raised, session_id, use

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tests.pool.conftest import Play
    from tests.pool.forking import Leave
    from tests.servers import Address

POOLS = pytest.mark.parametrize("pool_name", ["PidPool", "PidNullPool"])


class Held:
    """One connection of each kind, checked out."""

    def __init__(self, engine: Engine) -> None:
        self.begun = engine.connect()
        self.begun.execute(text("SELECT 1"))
        self.fresh = engine.connect()
        self.session = Session(engine)
        self.session.execute(text("SELECT 1"))
        self.raw: Any = engine.raw_connection()
        self.detached: Any = engine.raw_connection()
        self.detached.detach()
        self.cursor = self.raw.cursor()

    def uses(self) -> dict[str, Callable[[], object]]:
        """Return whatever would reach the server; all of it must be refused."""
        return {
            "execute": lambda: self.begun.execute(text("SELECT 1")),
            "commit": self.begun.commit,
            "begin": self.fresh.begin,
            "begin nested": self.begun.begin_nested,
            "driver SQL": lambda: self.begun.exec_driver_sql("SELECT 1"),
            "session execute": lambda: self.session.execute(text("SELECT 1")),
            "session commit": self.session.commit,
            "raw cursor": self.raw.cursor,
            "raw commit": self.raw.commit,
            "raw attribute": lambda: self.raw.autocommit,
            "raw dbapi_connection": lambda: self.raw.dbapi_connection,
            "raw driver_connection": lambda: self.raw.driver_connection,
            "raw of a connection": lambda: self.begun.connection.cursor().execute("SELECT 1"),
            "detached cursor": self.detached.cursor,
            "detached commit": self.detached.commit,
        }

    def unwindings(self) -> dict[str, Callable[[], object]]:
        """Return whatever gives a connection back; all of it must be quiet, however often."""
        return {
            "rollback": self.begun.rollback,
            "close": self.begun.close,
            "invalidate": self.fresh.invalidate,
            "close the invalidated": self.fresh.close,
            "session rollback": self.session.rollback,
            "session close": self.session.close,
            "raw rollback": self.raw.rollback,
            "raw soft invalidate": lambda: self.raw.invalidate(soft=True),
            "raw invalidate": self.raw.invalidate,
            "raw detach": self.raw.detach,
            "raw close": self.raw.close,
            "raw close again": self.raw.close,
            "detached rollback": self.detached.rollback,
            "detached close": self.detached.close,
        }


# Loud


def findings(pool_name: str, url: str) -> list[dict[str, Any]]:
    """Try every use in a child, after either kind of fork; return what was raised, and the two PIDs."""
    engine = engine_of(pool_name, url)
    held = Held(engine)
    sessions = [session_id(held.begun), session_id(held.session)]

    def act() -> dict[str, Any]:
        answer: dict[str, Any] = {}
        for name, action in held.uses().items():
            try:
                action()
            except Exception as error:  # noqa: BLE001 - the test judges it
                answer[name] = [
                    isinstance(error, InheritedConnectionError),
                    isinstance(error, SQLAlchemyError),
                    str(error),
                    getattr(error, "owner", 0) == os.getppid() and getattr(error, "user", 0) == os.getpid(),
                ]
            else:
                answer[name] = "nothing was raised"
        return {"pids": [os.getppid(), os.getpid()], "answer": answer}

    found = [in_child(act), in_child(act, hookless=True)]
    assert [session_id(held.begun), session_id(held.session)] == sessions
    held.begun.commit()
    held.session.commit()
    held.raw.commit()
    return found


@POOLS
def test_using_an_inherited_connection_is_refused_with_both_pids_and_a_remedy(
    pool_name: str, database_url: str, play: Play
) -> None:
    for found in play(findings, pool_name, database_url):
        owner, user = found["pids"]
        for name, answer in found["answer"].items():
            assert isinstance(answer, list), f"{name}: {answer}"
            is_ours, is_wrapped, message, right_pids = answer
            assert is_ours, f"{name}: {message}"
            assert not is_wrapped, name
            assert right_pids, name
            assert f"checked out in pid {owner} and used in pid {user}" in message, name
            assert "Check out a new connection after fork" in message, name


@pytest.mark.parametrize("driver", ["psycopg", "pymysql"])
def test_queue_pool_refuses_nothing(driver: str, request: pytest.FixtureRequest, play: Play) -> None:
    found = play(queue_pools_answer, address_for(driver, request).url(driver))
    assert found == ""


def queue_pools_answer(url: str) -> str:
    connection = engine_of("QueuePool", url).connect()
    answer: str = in_child(lambda: raised(lambda: connection.execute(text("SELECT 1"))))
    return answer


# Quiet


def complaints(pool_name: str, url: str) -> list[dict[str, str]]:
    """Give back, in children, whatever is held; return what was raised. The child's own pool must work, too."""
    engine = engine_of(pool_name, url)
    held = Held(engine)
    sessions = [session_id(held.begun), session_id(held.session)]

    def act(*, used_before: bool) -> dict[str, str]:
        if used_before:
            for action in held.uses().values():
                assert raised(action) == "InheritedConnectionError"
        found = {name: raised(action) for name, action in held.unwindings().items()}
        with engine.connect() as connection, Session(engine) as session:
            assert not {session_id(connection), session_id(session)} & set(sessions)
        found["dispose"] = raised(engine.dispose)
        return {name: error for name, error in found.items() if error}

    ways = itertools.product([False, True], repeat=2)
    found = [in_child(partial(act, used_before=used), hookless=hookless) for used, hookless in ways]
    assert [session_id(held.begun), session_id(held.session)] == sessions
    return found


@POOLS
def test_giving_back_an_inherited_connection_is_quiet(pool_name: str, database_url: str, play: Play) -> None:
    assert play(complaints, pool_name, database_url) == [{}] * 4


def rows_after_children_left_the_block(pool_name: str, url: str) -> list[int]:
    """Children unwind `with engine.begin()`; then the parent commits. Return how many rows are stored each time."""
    engine = engine_of(pool_name, url)
    found = []
    leaves: list[Leave] = ["sys.exit", "exception"]
    for leave in leaves:
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE IF EXISTS ledger"))
            connection.execute(text("CREATE TABLE ledger (n int)"))
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO ledger VALUES (1)"))
            in_child(lambda: None, leave=leave)
        with engine.connect() as connection:
            found.append(int(connection.execute(text("SELECT count(*) FROM ledger")).scalar_one()))
    return found


@POOLS
def test_the_owners_transaction_outlives_children_that_unwind_it(pool_name: str, database_url: str, play: Play) -> None:
    assert play(rows_after_children_left_the_block, pool_name, database_url) == [1, 1]


def test_with_queue_pool_the_owners_rows_are_lost(postgresql: Address, play: Play) -> None:
    assert play(rows_after_children_left_the_block, "QueuePool", postgresql.url("psycopg")) == [0, 0]


def state_in_child(url: str) -> dict[str, Any]:
    """Return how pool, record and checkout describe themselves in a child."""
    engine = engine_of("PidPool", url)
    raw: Any = engine.raw_connection()
    ownership = raw._connection_record.ownership
    before = ownership.state

    def act() -> dict[str, Any]:
        return {"valid": raw.is_valid, "raw": repr(raw), "ownership": ownership.state, "status": engine.pool.status()}

    return {"before": before, "pid": os.getpid(), "forked": in_child(act), "hookless": in_child(act, hookless=True)}


def test_a_discarded_connection_says_so(database_url: str, play: Play) -> None:
    found = play(state_in_child, database_url)
    assert found["before"] == "owned"
    for how in ("forked", "hookless"):
        answer = found[how]
        assert not answer["valid"]
        assert answer["raw"].endswith(f" connection, discarded, of pid {found['pid']}>")
        assert re.fullmatch(r"pid \d+ gen 1 \| 0 idle, 0 out, 0 overflow \| 1 discarded at fork", answer["status"])
    assert found["forked"]["ownership"] == "discarded"
    assert found["hookless"]["ownership"] == "inherited"  # nobody has noticed yet when that is asked


# Across processes


HELD: list[Any] = []


def misuse() -> object:
    """Run by a worker."""
    return HELD[0].execute(text("SELECT 1"))


def errors_that_came_home(url: str) -> list[Any]:
    """Let workers of `multiprocessing` and `concurrent.futures` misuse what they inherited."""
    engine = engine_of("PidPool", url)
    HELD.append(engine.connect())
    found: list[Any] = []
    context = multiprocessing.get_context("fork")
    with context.Pool(1) as workers:
        try:
            workers.apply(misuse)
        except InheritedConnectionError as error:
            found.append([error.owner == os.getpid(), error.user != os.getpid(), str(error)])
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        try:
            executor.submit(misuse).result()
        except InheritedConnectionError as error:
            found.append([error.owner == os.getpid(), error.user != os.getpid(), str(error)])
    use(engine)
    return found


def test_the_error_travels_home_from_a_worker(postgresql: Address, play: Play) -> None:
    found = play(errors_that_came_home, postgresql.url("psycopg"))
    assert len(found) == 2
    for owner, user, message in found:
        assert owner
        assert user
        assert "Check out a new connection after fork" in message


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(InheritedConnectionError(owner=4100, user=4107)))  # noqa: S301 - our own
    assert type(error) is InheritedConnectionError
    assert (error.owner, error.user) == (4100, 4107)
    assert str(error) == str(InheritedConnectionError(4100, 4107))
