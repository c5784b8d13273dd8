"""In a process that does not own a connection nothing reaches the server on it, and its owner keeps everything.

A recording proxy stands before the server; the parent is silent while a child lives, so every byte is the child's.
"""

from __future__ import annotations

import gc
import itertools
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.conftest import address_for
from tests.pool.forking import engine_of, fill, in_child, noise, raised, session_id, use, wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine

    from tests.pool.conftest import Play
    from tests.pool.forking import Leave


class Scene:
    """A parent that has much to lose: connections held in every way, and idle ones."""

    def __init__(self, pool_name: str, url: str) -> None:
        self.engine: Engine = engine_of(pool_name, url, **({} if "Null" in pool_name else {"pool_size": 8}))
        self.connection: Connection = self.engine.connect()
        self.connection.execute(text("CREATE TEMPORARY TABLE keepsake (n int)"))
        self.connection.commit()
        self.connection.execute(text("INSERT INTO keepsake VALUES (1)"))
        self.session = Session(self.engine)
        self.session_id = session_id(self.session)
        self.raw: Any = self.engine.raw_connection()
        self.cursor = self.raw.cursor()
        self.cursor.execute("SELECT 1")
        self.cursor.fetchall()
        self.detached: Any = self.engine.raw_connection()
        self.detached.detach()
        self.idle = [] if "Null" in pool_name else fill(self.engine, 2)
        self.connection_id = session_id(self.connection)
        self.local_id: int | None = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._hold, args=[ready := threading.Event()], daemon=True)
        self.thread.start()
        assert ready.wait(20)

    def _hold(self, ready: threading.Event) -> None:
        """Keep a connection in a thread-local, in a transaction."""
        local = threading.local()
        local.connection = self.engine.connect()
        self.local_id = session_id(local.connection)
        ready.set()
        self.stop.wait(60)
        assert session_id(local.connection) == self.local_id
        local.connection.close()

    def check(self) -> None:
        """Everything is as it was."""
        assert session_id(self.connection) == self.connection_id
        assert self.connection.scalar(text("SELECT count(*) FROM keepsake")) == 1
        self.connection.commit()
        assert self.connection.scalar(text("SELECT count(*) FROM keepsake")) == 1
        assert session_id(self.session) == self.session_id
        self.session.close()
        self.cursor.execute("SELECT 1")
        assert [tuple(row) for row in self.cursor.fetchall()] == [(1,)]
        self.cursor.close()
        self.raw.close()
        cursor = self.detached.cursor()
        cursor.execute("SELECT 1")
        cursor.close()
        self.detached.close()
        self.connection.close()
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()
        if self.idle:
            again = fill(self.engine, 6)
            assert {*self.idle, self.connection_id, self.session_id, self.local_id} <= set(again)
        self.engine.dispose()


# What children do. Each leaves by os._exit, unless ACTS says otherwise.


def do_nothing(_scene: Scene) -> None:
    """The bare minimum."""


def check_out(scene: Scene) -> None:
    use(scene.engine)


def check_out_every_one(scene: Scene) -> None:
    fill(scene.engine, 8)


def check_in(scene: Scene) -> None:
    scene.connection.close()
    scene.raw.close()


def close_detached(scene: Scene) -> None:
    scene.detached.close()


def close_session(scene: Scene) -> None:
    scene.session.close()


def leave_with_blocks(scene: Scene) -> None:
    with scene.session, scene.connection, scene.raw:
        pass


def roll_back(scene: Scene) -> None:
    scene.connection.rollback()
    scene.raw.rollback()
    scene.session.rollback()


def invalidate(scene: Scene) -> None:
    scene.connection.invalidate()
    scene.raw.invalidate()
    scene.detached.invalidate()


def invalidate_softly(scene: Scene) -> None:
    scene.raw.invalidate(soft=True)
    scene.raw.close()
    use(scene.engine)


def dispose(scene: Scene) -> None:
    scene.engine.dispose()
    use(scene.engine)


def dispose_without_close(scene: Scene) -> None:
    scene.engine.dispose(close=False)
    gc.collect()
    use(scene.engine)


def forget(scene: Scene) -> None:
    scene.__dict__.clear()
    gc.collect()


def misuse(scene: Scene) -> None:
    for action in (
        lambda: scene.connection.execute(text("INSERT INTO keepsake VALUES (2)")),
        scene.connection.commit,
        scene.raw.cursor,
        scene.raw.commit,
        scene.detached.cursor,
        lambda: scene.session.execute(text("SELECT 1")),
        scene.session.commit,
    ):
        assert raised(action) == "InheritedConnectionError"


def detach(scene: Scene) -> None:
    scene.raw.detach()
    scene.raw.close()


ACTS: tuple[tuple[Callable[[Scene], None], Leave], ...] = (
    (do_nothing, "os._exit"),
    (do_nothing, "sys.exit"),
    (do_nothing, "exception"),
    (check_out, "os._exit"),
    (check_out_every_one, "sys.exit"),
    (check_in, "os._exit"),
    (close_detached, "os._exit"),
    (close_session, "os._exit"),
    (leave_with_blocks, "os._exit"),
    (roll_back, "os._exit"),
    (invalidate, "os._exit"),
    (invalidate_softly, "os._exit"),
    (dispose, "sys.exit"),
    (dispose_without_close, "sys.exit"),
    (forget, "sys.exit"),
    (misuse, "exception"),
    (detach, "os._exit"),
)


def noise_of_children(pool_name: str, url: str) -> list[str]:
    """Let children of either kind of fork do each of the acts to one parent; return what could be heard."""
    heard = []
    with wire(url) as (through, proxy):
        scene = Scene(pool_name, through)
        for hookless, (act, leave) in itertools.product([False, True], ACTS):
            before = proxy.snapshot()
            in_child(partial(act, scene), leave=leave, hookless=hookless)
            how = f"{act.__name__}, {leave}, {'hookless' if hookless else 'fork'}"
            heard += [f"{how}: {sound}" for sound in noise(before, proxy.snapshot())]
        scene.check()
    return heard


@pytest.mark.parametrize("pool_name", ["PidPool", "PidNullPool"])
def test_children_are_silent(pool_name: str, database_url: str, play: Play) -> None:
    assert play(noise_of_children, pool_name, database_url) == []


@pytest.mark.slow
def test_children_are_silent_over_tls(tls_url: str, play: Play) -> None:
    assert play(noise_of_children, "PidPool", tls_url) == []


def noise_of_one_child(
    pool_name: str,
    url: str,
    name: str,
    leave: Leave,
    **options: Any,  # noqa: ANN401 - create_engine's own
) -> list[str]:
    """Let a child do one of the acts to a parent with an idle and a held connection, whatever comes of it."""
    with wire(url) as (through, proxy):
        scene: Any = SmallScene(engine_of(pool_name, through, **options))
        before = proxy.snapshot()
        in_child(lambda: raised(partial(globals()[name], scene)), leave=leave)
        return noise(before, proxy.snapshot())


class SmallScene:
    """An idle connection and a held one, in a transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        fill(engine, 2)
        self.raw: Any = engine.raw_connection()
        self.raw.cursor().execute("SELECT 1")


@pytest.mark.parametrize("options", [{"pool_pre_ping": True}, {"pool_recycle": 0}], ids=["pre-ping", "recycle"])
def test_checkout_with_pre_ping_or_recycle_is_silent(options: dict[str, Any], database_url: str, play: Play) -> None:
    assert play(noise_of_one_child, "PidPool", database_url, "check_out", "os._exit", **options) == []


@pytest.mark.parametrize(
    ("name", "leave", "options"),
    [
        ("check_out", "os._exit", {}),
        ("check_out", "os._exit", {"pool_pre_ping": True}),
        ("dispose", "os._exit", {}),
        ("roll_back_raw", "os._exit", {}),
        ("forget", "os._exit", {}),
        ("use_raw", "os._exit", {}),
    ],
)
@pytest.mark.parametrize("driver", ["psycopg", "pymysql"])
def test_queue_pool_is_heard(  # noqa: PLR0913, PLR0917 - the table's columns
    name: str, leave: Leave, options: dict[str, Any], driver: str, request: pytest.FixtureRequest, play: Play
) -> None:
    """The measurement can tell: what proves nothing about QueuePool proves nothing about ours."""
    url = address_for(driver, request).url(driver)
    assert play(noise_of_one_child, "QueuePool", url, name, leave, **options) != []


def roll_back_raw(scene: Scene) -> None:
    scene.raw.rollback()


def use_raw(scene: Scene) -> None:
    scene.raw.cursor().execute("SELECT 1")


def noise_after_garbage(url: str) -> list[str]:
    """Forget connections, in a cycle too, before the fork: the pool has them back, and still knows its own."""
    with wire(url) as (through, proxy):
        engine = engine_of("PidPool", through, pool_size=2, max_overflow=0)
        connections = [engine.raw_connection() for _ in range(2)]
        cycle: list[Any] = [connections.pop()]
        cycle.append(cycle)
        del cycle, connections
        gc.collect()
        sessions = sorted(fill(engine, 2))
        before = proxy.snapshot()
        in_child(lambda: engine.dispose(close=False), leave="sys.exit")
        in_child(lambda: fill(engine, 2), leave="sys.exit")
        heard = noise(before, proxy.snapshot())
        assert sorted(fill(engine, 2)) == sessions
    return heard


def test_connections_that_were_once_forgotten_are_discarded_like_others(database_url: str, play: Play) -> None:
    assert play(noise_after_garbage, database_url) == []


def goodbyes(pool_name: str, url: str) -> list[list[str]]:
    """What is heard when the owner itself disposes, invalidates, and closes what it detached."""
    heard = []
    with wire(url) as (through, proxy):
        engine = engine_of(pool_name, through, pool_size=3)
        fill(engine, 3)
        invalid: Any = engine.raw_connection()
        detached: Any = engine.raw_connection()
        detached.detach()
        for goodbye in (invalid.invalidate, detached.close, engine.dispose):
            before = proxy.snapshot()
            goodbye()
            heard.append(noise(before, proxy.snapshot()))
    return heard


def test_the_owner_says_goodbye_as_with_queue_pool(database_url: str, play: Play) -> None:
    expected = play(goodbyes, "QueuePool", database_url)
    assert all("end of stream" in sounds for sounds in expected)
    assert play(goodbyes, "PidPool", database_url) == expected


def goodbyes_in_a_child(url: str) -> list[str]:
    """A child says goodbye to the connections of its own."""
    with wire(url) as (through, proxy):
        engine = engine_of("PidPool", through, pool_size=2)
        fill(engine, 1)

        def act() -> list[str]:
            fill(engine, 2)
            before = proxy.snapshot()
            engine.dispose()
            return noise(before, proxy.snapshot())

        heard: list[str] = in_child(act)
        assert fill(engine, 1)
    return heard


def test_a_child_says_goodbye_to_its_own_connections(database_url: str, play: Play) -> None:
    heard = play(goodbyes_in_a_child, database_url)
    assert heard.count("end of stream") == 2
    assert len(heard) == 4  # each said something before that
