"""In one process the pools do what SQLAlchemy's do: same events, same arguments, same log, same outcome.

Each story is played to SQLAlchemy's pool and to ours, and the two accounts are compared line by line.
"""

from __future__ import annotations

import gc
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError
from sqlalchemy.pool import NullPool, QueuePool
from sqlalchemy.pool.base import ConnectionPoolEntry, PoolProxiedConnection

from pidpool import PidNullPool, PidPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.pool import Pool

    from tests.pool.conftest import Opener

EVENTS = (
    "first_connect",
    "connect",
    "checkout",
    "checkin",
    "reset",
    "invalidate",
    "soft_invalidate",
    "detach",
    "close",
    "close_detached",
)

QUEUE_OPTIONS = {"pool_size", "max_overflow", "timeout", "use_lifo"}


class Account:
    """What happened, line by line, with numbers in the place of addresses."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._known: list[object] = []  # which also keeps their ids from being reused

    def note(self, *things: object) -> None:
        self.lines.append(" ".join(self._name(thing) for thing in things))

    def listen(self, target: Any) -> None:  # noqa: ANN401 - whatever takes pool events
        for name in EVENTS:
            event.listen(target, name, self._listener(name))

    def _listener(self, name: str) -> Callable[..., None]:
        def listener(*args: object) -> None:
            self.note(name, *args)

        return listener

    def _name(self, thing: object) -> str:
        if isinstance(thing, psycopg.Connection):
            return f"connection {self._number(thing)}"
        if isinstance(thing, ConnectionPoolEntry):
            holds = self._name(thing.dbapi_connection)
            return f"(record {self._number(thing)} {holds} {'in use' if thing.in_use else 'not in use'})"
        if isinstance(thing, PoolProxiedConnection):
            return "fairy"
        if isinstance(thing, BaseException):
            return f"{type(thing).__name__}: {thing}"
        return str(thing)

    def _number(self, thing: object) -> int:
        for number, known in enumerate(self._known):
            if known is thing:
                return number
        self._known.append(thing)
        return len(self._known) - 1


@dataclass
class Scene:
    """Where a story plays."""

    pool: Pool
    opener: Opener
    account: Account

    def note(self, *things: object) -> None:
        self.account.note(*things)

    def connect(self) -> Any:  # noqa: ANN401 - with whatever the driver has
        return self.pool.connect()

    def attempt(self, action: Callable[[], object]) -> None:
        """Call something that may raise, and note what it raised."""
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt is among them
            self.note("raised", error)
        else:
            self.note("raised nothing")

    def on(self, name: str, listener: Callable[..., None]) -> None:
        event.listen(self.pool, name, listener)

    def counts(self) -> None:
        if isinstance(self.pool, QueuePool):
            pool = self.pool
            self.note("counts", pool.size(), pool.checkedin(), pool.checkedout(), pool.overflow(), pool.timeout())


STORIES: list[Any] = []


def story(**options: Any) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:  # noqa: ANN401 - Pool's own
    """Add a story; `options` are those of its pool."""

    def add(act: Callable[[Scene], None]) -> Callable[[Scene], None]:
        name = act.__name__.replace("_", " ")
        STORIES.append(pytest.param(act, options, id=name))
        return act

    return add


# Out and in


@story()
def checked_out_used_and_checked_in_twice(scene: Scene) -> None:
    for _ in range(2):
        connection = scene.connect()
        scene.counts()
        scene.note(connection.cursor().execute("SELECT 7").fetchone())
        scene.note(
            connection.dbapi_connection, connection.driver_connection, connection.is_valid, connection.is_detached
        )
        connection.close()
        scene.note(connection.is_valid)
        scene.counts()


@story()
def closed_twice(scene: Scene) -> None:
    connection = scene.connect()
    connection.close()
    connection.close()
    scene.counts()


@story()
def used_after_it_was_closed(scene: Scene) -> None:
    connection = scene.connect()
    connection.close()
    for name in ("cursor", "rollback", "commit", "autocommit"):
        with pytest.raises((AttributeError, AssertionError)):
            getattr(connection, name)()
    scene.note(connection.dbapi_connection, connection.driver_connection)


@story()
def a_with_block(scene: Scene) -> None:
    with scene.connect() as connection:
        connection.cursor().execute("SELECT 1")
    scene.counts()


@story(pool_size=1, max_overflow=1)
def more_than_is_kept(scene: Scene) -> None:
    first, second = scene.connect(), scene.connect()
    scene.counts()
    second.close()
    scene.counts()
    first.close()
    scene.counts()
    scene.note(scene.opener.still_open)


@story(pool_size=0)
def a_pool_without_a_limit(scene: Scene) -> None:
    connections = [scene.connect() for _ in range(4)]
    for connection in connections:
        connection.close()
    scene.counts()


@story(pool_size=1, max_overflow=-1)
def overflow_without_a_limit(scene: Scene) -> None:
    connections = [scene.connect() for _ in range(4)]
    scene.counts()
    for connection in connections:
        connection.close()
    scene.counts()


@story(pool_size=3)
def first_in_first_out(scene: Scene) -> None:
    for connection in [scene.connect() for _ in range(3)]:
        connection.close()
    for connection in [scene.connect() for _ in range(3)]:
        connection.close()


@story(pool_size=3, use_lifo=True)
def last_in_first_out(scene: Scene) -> None:
    for connection in [scene.connect() for _ in range(3)]:
        connection.close()
    for connection in [scene.connect() for _ in range(3)]:
        connection.close()


@story()
def closed_once_more_while_it_is_being_closed(scene: Scene) -> None:
    connection = scene.connect()
    scene.on("reset", lambda *_: connection.close())
    scene.attempt(connection.close)
    scene.counts()
    one, other = scene.connect(), scene.connect()
    scene.note(one.dbapi_connection is other.dbapi_connection)
    scene.counts()


@story()
def checked_in_twice(scene: Scene) -> None:
    connection = scene.connect()
    record = connection._connection_record
    connection.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record.checkin()
    scene.note(*(str(warning.message).partition(" on ")[0] for warning in caught))
    scene.counts()


@story()
def notes_in_info_last_as_long_as_the_connection(scene: Scene) -> None:
    connection = scene.connect()
    connection.info["n"] = 1
    connection.record_info["n"] = 2
    connection.close()
    connection = scene.connect()
    scene.note(connection.info, connection.record_info)
    connection.invalidate()
    connection = scene.connect()
    scene.note(connection.info, connection.record_info)
    connection.close()


@story()
def a_finalize_callback(scene: Scene) -> None:
    connection = scene.connect()
    connection._connection_record.finalize_callback.append(lambda found: scene.note("callback", found))
    connection.close()
    connection = scene.connect()
    connection.close()
    connection = scene.connect()
    connection._connection_record.finalize_callback.append(lambda found: scene.note("callback", found))
    connection.invalidate()


# Reset on return


@story(reset_on_return="rollback")
def reset_by_rollback(scene: Scene) -> None:
    connection = scene.connect()
    driver = connection.dbapi_connection
    connection.cursor().execute("CREATE TEMPORARY TABLE t (n int)")
    connection.close()
    scene.note(driver.closed or driver.info.transaction_status.name)
    scene.note(driver.closed or driver.execute("SELECT to_regclass('t')").fetchone())


@story(reset_on_return="commit")
def reset_by_commit(scene: Scene) -> None:
    connection = scene.connect()
    driver = connection.dbapi_connection
    connection.cursor().execute("CREATE TEMPORARY TABLE t (n int)")
    connection.close()
    scene.note(driver.closed or driver.info.transaction_status.name)
    scene.note(driver.closed or driver.execute("SELECT to_regclass('t')").fetchone())


@story(reset_on_return=None)
def never_reset(scene: Scene) -> None:
    connection = scene.connect()
    driver = connection.dbapi_connection
    connection.cursor().execute("CREATE TEMPORARY TABLE t (n int)")
    connection.close()
    scene.note(driver.closed or driver.info.transaction_status.name)


@story()
def reset_fails_since_the_session_is_gone(scene: Scene) -> None:
    connection = scene.connect()
    connection.cursor().execute("SELECT 1")
    scene.opener.end_session(-1)
    connection.close()
    scene.counts()
    scene.connect().close()


@story()
def reset_is_interrupted(scene: Scene) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    connection = scene.connect()
    scene.on("reset", interrupt)
    scene.attempt(connection.close)
    scene.counts()
    event.remove(scene.pool, "reset", interrupt)
    scene.connect().close()
    scene.counts()


@story()
def a_reset_listener_fails(scene: Scene) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no reset")

    connection = scene.connect()
    scene.on("reset", fail)
    scene.attempt(connection.close)
    scene.counts()


@story()
def a_checkin_listener_fails(scene: Scene) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no checkin")

    connection = scene.connect()
    scene.on("checkin", fail)
    scene.attempt(connection.close)


# Broken, taken out, forgotten


@story()
def invalidated(scene: Scene) -> None:
    connection = scene.connect()
    connection.invalidate(ValueError("broken"))
    scene.note(connection.is_valid)
    scene.attempt(connection.invalidate)
    connection.close()
    scene.counts()
    scene.connect().close()


@story()
def invalidated_softly(scene: Scene) -> None:
    connection = scene.connect()
    connection.invalidate(soft=True)
    scene.note(connection.is_valid)
    time.sleep(0.03)  # what SQLAlchemy's clock needs
    connection.close()
    scene.connect().close()
    scene.counts()


@story()
def invalidated_through_its_record(scene: Scene) -> None:
    connection = scene.connect()
    connection._connection_record.invalidate()
    scene.attempt(connection.close)
    scene.counts()
    scene.connect().close()


@story()
def closed_through_its_record(scene: Scene) -> None:
    connection = scene.connect()
    record = connection._connection_record
    connection.close()
    record.close()
    scene.counts()
    scene.connect().close()


@story(pool_size=3)
def the_whole_pool_invalidated(scene: Scene) -> None:
    connections = [scene.connect() for _ in range(3)]
    connections[0].close()
    scene.pool._invalidate(connections[1], ValueError("gone"))
    time.sleep(0.03)
    connections[2].close()
    for connection in [scene.connect() for _ in range(3)]:
        connection.close()
    scene.counts()
    scene.note(scene.opener.still_open)


@story()
def detached(scene: Scene) -> None:
    connection = scene.connect()
    connection.info["n"] = 1
    driver = connection.dbapi_connection
    connection.detach()
    scene.note(connection.is_detached, connection.is_valid, connection.info, connection.record_info, driver.closed)
    scene.note(connection.dbapi_connection, connection.driver_connection)
    connection.detach()
    scene.counts()
    scene.note(connection.cursor().execute("SELECT 7").fetchone())
    connection.close()
    scene.note(driver.closed, connection.is_valid)
    scene.counts()
    scene.connect().close()


@story()
def detached_and_invalidated(scene: Scene) -> None:
    connection = scene.connect()
    connection.detach()
    scene.attempt(connection.invalidate)
    scene.note(scene.opener.still_open)


@story(pool_size=2)
def disposed(scene: Scene) -> None:
    first, second = scene.connect(), scene.connect()
    first.close()
    scene.pool.dispose()
    scene.note(scene.opener.still_open)
    second.close()
    scene.note(scene.opener.still_open)


@story()
def forgotten(scene: Scene) -> None:
    connection = scene.connect()
    connection.cursor().execute("SELECT 1")
    del connection
    gc.collect()
    scene.counts()
    scene.connect().close()
    scene.counts()


@story()
def forgotten_in_a_cycle(scene: Scene) -> None:
    cycle: list[object] = [scene.connect()]
    cycle.append(cycle)
    del cycle
    gc.collect()
    scene.counts()
    scene.connect().close()
    scene.counts()


@story()
def forgotten_after_it_was_closed(scene: Scene) -> None:
    connection = scene.connect()
    connection.close()
    other = scene.connect()
    del connection
    gc.collect()
    scene.counts()
    other.close()


@story(recycle=0)
def recycled(scene: Scene) -> None:
    for _ in range(2):
        scene.connect().close()
        time.sleep(0.03)
    scene.note(scene.opener.still_open)
    scene.counts()


# Trouble


@story()
def the_creator_fails(scene: Scene) -> None:
    for trouble in (ValueError("no server"), KeyboardInterrupt(), IndexError("pop from an empty deque")):
        scene.opener.trouble = trouble
        scene.attempt(scene.connect)
        scene.counts()
    scene.connect().close()
    scene.counts()


@story()
def the_creator_fails_after_invalidation(scene: Scene) -> None:
    scene.connect().invalidate()
    scene.opener.trouble = ValueError("no server")
    scene.attempt(scene.connect)
    scene.counts()
    scene.connect().close()
    scene.counts()


def failing(*errors: BaseException) -> Callable[..., None]:
    """Return a listener that raises these errors, one a call, and then no more."""
    remaining = list(errors)

    def listener(*_: object) -> None:
        if remaining:
            raise remaining.pop(0)

    return listener


@story()
def a_connect_listener_fails(scene: Scene) -> None:
    scene.on("connect", failing(ValueError("not this one"), KeyboardInterrupt()))
    scene.attempt(scene.connect)
    scene.attempt(scene.connect)
    scene.counts()
    scene.connect().close()
    scene.counts()


@story()
def a_checkout_listener_fails(scene: Scene) -> None:
    scene.on("checkout", failing(ValueError("not now"), KeyboardInterrupt()))
    scene.attempt(scene.connect)
    scene.attempt(scene.connect)
    scene.counts()
    scene.connect().close()
    scene.counts()


@story()
def a_checkout_listener_finds_the_connection_dead(scene: Scene) -> None:
    scene.on("checkout", failing(DisconnectionError("dead")))
    connection = scene.connect()
    scene.note(connection.dbapi_connection, connection._counter)
    connection.close()
    scene.counts()


@story(pool_size=2)
def a_checkout_listener_finds_the_whole_pool_dead(scene: Scene) -> None:
    for connection in [scene.connect(), scene.connect()]:
        connection.close()
    time.sleep(0.03)
    scene.on("checkout", failing(InvalidatePoolError("all dead")))
    for connection in [scene.connect(), scene.connect()]:
        connection.close()
    scene.counts()


@story()
def a_checkout_listener_finds_every_connection_dead(scene: Scene) -> None:
    scene.on("checkout", failing(*[DisconnectionError(f"dead {number}") for number in range(3)]))
    scene.attempt(scene.connect)
    scene.counts()
    scene.connect().close()
    scene.counts()


@story()
def reconnecting_on_checkout_fails(scene: Scene) -> None:
    scene.connect().close()
    scene.on("checkout", failing(DisconnectionError("dead")))
    scene.opener.trouble = ValueError("no server")
    scene.attempt(scene.connect)
    scene.counts()
    scene.connect().close()


@story()
def an_invalidate_listener_fails(scene: Scene) -> None:
    connection = scene.connect()
    scene.on("invalidate", failing(ValueError("no")))
    scene.attempt(connection.invalidate)
    del connection
    gc.collect()
    scene.connect().close()


@story()
def the_pool_recreated_keeps_its_listeners(scene: Scene) -> None:
    again = scene.pool.recreate()
    again.connect().close()
    again.dispose()


# The audience


def told(
    pool_class: type[Pool],
    act: Callable[[Scene], None],
    options: dict[str, Any],
    opener: Opener,
    caplog: pytest.LogCaptureFixture,
) -> list[str]:
    """Play the story to a pool and return the account."""
    if not issubclass(pool_class, QueuePool):
        options = {name: value for name, value in options.items() if name not in QUEUE_OPTIONS}
    opener.close()
    account = Account()
    pool = pool_class(opener, **options)
    account.listen(pool)
    scene = Scene(pool, opener, account)
    caplog.clear()
    scene.attempt(lambda: act(scene))
    lines = list(account.lines)
    pool.dispose()
    return lines


PAIRS = pytest.mark.parametrize(
    ("theirs", "ours"), [(QueuePool, PidPool), (NullPool, PidNullPool)], ids=["PidPool", "PidNullPool"]
)


@PAIRS
@pytest.mark.parametrize(("act", "options"), STORIES)
def test_a_story_goes_as_with_sqlalchemys_pool(  # noqa: PLR0913, PLR0917 - what is compared, and the fixtures it needs
    theirs: type[Pool],
    ours: type[Pool],
    act: Callable[[Scene], None],
    options: dict[str, Any],
    opener: Opener,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = told(theirs, act, options, opener, caplog)
    assert told(ours, act, options, opener, caplog) == expected
    assert len(expected) > 1


@PAIRS
@pytest.mark.parametrize(("act", "options"), STORIES)
def test_a_story_is_logged_as_with_sqlalchemys_pool(  # noqa: PLR0913, PLR0917 - as above
    theirs: type[Pool],
    ours: type[Pool],
    act: Callable[[Scene], None],
    options: dict[str, Any],
    opener: Opener,
    caplog: pytest.LogCaptureFixture,
) -> None:
    logs = []
    for pool_class in (theirs, ours):
        told(pool_class, act, {**options, "echo": "debug", "logging_name": "reservoir"}, opener, caplog)
        # NullPool says nothing when it is disposed of.
        lines = [(record.levelname, record.msg) for record in caplog.records]
        logs.append([line for line in lines if issubclass(theirs, QueuePool) or "disposed" not in line[1]])
    assert logs[1] == logs[0]
