"""A child starts whole: empty, with its full capacity and locks that work; and its parent loses nothing by it."""

from __future__ import annotations

import itertools
import logging
import os
import stat
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tests.pool.forking import engine_of, fill, in_child, raised, session_id, use

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.pool.conftest import Play
    from tests.servers import Address


def counts(engine: Engine) -> list[int]:
    pool: Any = engine.pool
    return [pool.checkedin(), pool.checkedout(), pool.overflow()]


# Capacity


def capacity_when_all_are_out(pool_name: str, url: str) -> dict[str, Any]:
    """Check everything out, in this thread and another one, fork, and let the child do the same."""
    engine = engine_of(pool_name, url, pool_size=2, max_overflow=2, pool_timeout=0.5)
    ready, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with engine.connect() as first, engine.connect() as second:
            sessions.extend([session_id(first), session_id(second)])
            ready.set()
            leave.wait(60)

    sessions: list[int] = []
    thread = threading.Thread(target=hold)
    thread.start()
    assert ready.wait(20)
    with engine.connect() as first, engine.connect() as second:
        sessions.extend([session_id(first), session_id(second)])

        def act() -> Any:  # noqa: ANN401 - JSON
            try:
                return [fill(engine, 4), counts(engine), raised(partial(fill, engine, 5))]
            except PoolTimeoutError:
                return "time is up"

        answers = [in_child(act), in_child(act, hookless=True)]
        assert [session_id(first), session_id(second)] == sessions[2:]
        full = raised(engine.connect)
    leave.set()
    thread.join(20)
    return {"children": answers, "parent": sessions, "full": full, "counts": counts(engine)}


def test_a_child_has_its_full_capacity_when_its_parents_is_used_up(database_url: str, play: Play) -> None:
    found = play(capacity_when_all_are_out, "PidPool", database_url)
    for sessions, in_child_, too_many in found["children"]:
        assert len(set(sessions)) == 4
        assert not set(sessions) & set(found["parent"])
        assert in_child_ == [2, 0, 0]
        assert too_many == "TimeoutError"
    assert found["full"] == "TimeoutError"  # the parent's limit is still its own
    assert found["counts"] == [2, 0, 0]


def test_with_queue_pool_a_child_inherits_the_full_pool(postgresql: Address, play: Play) -> None:
    assert play(capacity_when_all_are_out, "QueuePool", postgresql.url("psycopg"))["children"] == ["time is up"] * 2


def child_of_threads_in_line(url: str) -> list[Any]:
    """Fork while threads wait in line; the line is not the child's, and the parent's threads are served."""
    engine = engine_of("PidPool", url, pool_size=1, max_overflow=0, pool_timeout=60)
    pool: Any = engine.pool
    held = engine.connect()
    session = session_id(held)
    served: list[int] = []
    threads = [threading.Thread(target=lambda: served.append(use(engine))) for _ in range(3)]
    for thread in threads:
        thread.start()
    while pool._life.queue.waiting < 3:
        time.sleep(0.01)
    answer = in_child(lambda: [use(engine) != session, use(engine) != session, counts(engine)])
    held.close()
    for thread in threads:
        thread.join(20)
    return [answer, served == [session] * 3, counts(engine)]


def test_a_child_does_not_inherit_the_line(database_url: str, play: Play) -> None:
    assert play(child_of_threads_in_line, database_url) == [[True, True, [1, 0, 0]], True, [1, 0, 0]]


# Locks


def children_of_a_busy_parent(url: str, forks: int) -> list[int]:
    """Fork again and again while threads check out and in.

    By `os.fork` alone: without Python's own hook the child of a busy parent waits for ever for a thread to take over
    the interpreter's lock, whatever the pool does.
    """
    engine = engine_of("PidPool", url, pool_size=3, max_overflow=1)
    fill(engine, 3)
    stop = threading.Event()
    trouble: list[str] = []

    def work() -> None:
        while not stop.is_set():
            try:
                raw: Any = engine.raw_connection()
                raw.close()
            except Exception as error:  # noqa: BLE001 - told to the test
                trouble.append(repr(error))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(forks):
        assert len(set(in_child(lambda: fill(engine, 4)))) == 4
    stop.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert trouble == []
    return counts(engine)


def test_children_of_a_busy_parent_find_no_lock_held(postgresql: Address, play: Play) -> None:
    idle, out, _ = play(children_of_a_busy_parent, postgresql.url("psycopg"), 12)
    assert (idle, out) == (3, 0)


def child_of_a_thread_that_is_connecting(pool_name: str, url: str) -> str:
    """Fork while a thread is inside the pool's first `connect` event, whose mutex SQLAlchemy holds."""
    engine = engine_of(pool_name, url)
    inside, leave = threading.Event(), threading.Event()
    first = os.getpid()

    @event.listens_for(engine, "connect")
    def linger(*_: object) -> None:
        if os.getpid() == first and not inside.is_set():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=use, args=[engine])
    thread.start()
    assert inside.wait(20)

    def act() -> str:
        done: list[int] = []
        attempt = threading.Thread(target=lambda: done.append(use(engine)), daemon=True)
        attempt.start()
        attempt.join(5)
        return "connected" if done else "hangs"

    answer: str = in_child(act)
    leave.set()
    thread.join(20)
    assert use(engine)
    return answer


@pytest.mark.parametrize(("pool_name", "expected"), [("PidPool", "connected"), ("QueuePool", "hangs")])
def test_a_child_does_not_wait_for_a_thread_that_was_connecting(
    pool_name: str, expected: str, postgresql: Address, play: Play
) -> None:
    assert play(child_of_a_thread_that_is_connecting, pool_name, postgresql.url("psycopg")) == expected


def forks_inside_threads(url: str) -> list[bool]:
    """Fork from threads, each of which holds a connection of its own."""
    engine = engine_of("PidPool", url, pool_size=4)
    found: list[bool] = []

    def work() -> None:
        with engine.connect() as connection:
            session = session_id(connection)
            child = in_child(lambda: [use(engine), raised(lambda: connection.execute(text("SELECT 1")))])
            found.append(child[0] != session and child[1] == "InheritedConnectionError")
            found.append(session_id(connection) == session)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def test_threads_may_fork(database_url: str, play: Play) -> None:
    assert play(forks_inside_threads, database_url) == [True] * 8


# Generations


def families(url: str) -> list[list[int]]:
    """Return the sessions of four families: process, child, grandchild and great-grandchild.

    Born of either kind of fork; in two of them all use the pool, in the others only the eldest and the youngest do.
    """
    engine = engine_of("PidPool", url)
    held = engine.connect()
    session = session_id(held)
    fill(engine, 2)

    def generation(depth: int, *, used: bool, hookless: bool) -> list[int]:
        mine = engine.connect() if used or depth == 0 else None
        before = [] if mine is None else [session_id(mine)]
        younger = partial(generation, depth - 1, used=used, hookless=hookless)
        sessions: list[int] = in_child(younger, hookless=hookless) if depth else []
        assert raised(partial(held.execute, text("SELECT 1"))) == "InheritedConnectionError"
        if mine is not None:
            assert [session_id(mine)] == before
            mine.close()
        return before + sessions

    found = []
    for used, hookless in itertools.product([True, False], repeat=2):
        found.append([session, *in_child(partial(generation, 2, used=used, hookless=hookless), hookless=hookless)])
        assert session_id(held) == session
    return found


def test_descendants_of_every_degree_have_sessions_of_their_own(database_url: str, play: Play) -> None:
    assert [(len(family), len(set(family))) for family in play(families, database_url)] == [(4, 4)] * 2 + [(2, 2)] * 2


def sessions_of_a_lazy_family(pool_name: str, url: str) -> list[int]:
    """The parent has made an engine and never connected."""
    engine = engine_of(pool_name, url)
    return [in_child(lambda: use(engine)), in_child(lambda: use(engine), hookless=True), use(engine)]


@pytest.mark.parametrize("pool_name", ["PidPool", "PidNullPool"])
def test_an_engine_may_connect_for_the_first_time_in_a_child(pool_name: str, database_url: str, play: Play) -> None:
    assert len(set(play(sessions_of_a_lazy_family, pool_name, database_url))) == 3


def log_of_a_child(url: str) -> list[str]:
    engine = engine_of("PidPool", url, echo_pool=True)
    fill(engine, 3)
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.levelname} {record.getMessage()}")

    logging.getLogger().addHandler(Handler())

    def act() -> list[str]:
        use(engine)
        use(engine)
        return [line.replace(str(os.getpid()), "child").replace(str(os.getppid()), "parent") for line in lines]

    answer: list[str] = in_child(act)
    return answer


def test_a_child_says_once_what_it_has_discarded(postgresql: Address, play: Play) -> None:
    found = play(log_of_a_child, postgresql.url("psycopg"))
    expected = "INFO Pid child discarded 3 connections that it inherited from pid parent"
    assert [line for line in found if "discarded" in line] == [expected]


# The same number, another number


def child_that_looks_like_its_parent(url: str) -> list[Any]:
    """In a PID namespace, or when PIDs come round, both report the same PID."""
    engine = engine_of("PidPool", url)
    fill(engine, 2)
    held = engine.connect()
    session = session_id(held)
    pid = os.getpid()

    def act() -> list[Any]:
        os.getpid = lambda: pid
        message = ""
        try:
            held.commit()
        except Exception as error:  # noqa: BLE001 - told to the test
            message = str(error)
        return [use(engine) != session, message]

    answer: list[Any] = in_child(act, hookless=True)
    assert session_id(held) == session
    return answer


def test_a_child_with_its_parents_pid_is_told_apart(database_url: str, play: Play) -> None:
    other_session, message = play(child_that_looks_like_its_parent, database_url)
    assert other_session
    assert "the same number, but a process forked from it" in message


def process_that_changes_its_pid(url: str) -> list[Any]:
    """A changed PID counts as a fork, whatever else is true."""
    engine = engine_of("PidPool", url, pool_size=2)
    fill(engine, 2)
    held = engine.connect()
    session = session_id(held)
    os.getpid = lambda: 4107
    status = engine.pool.status()
    return [use(engine) != session, raised(held.commit), "pid 4107 gen 1" in status]


def test_a_changed_pid_counts_as_a_fork(database_url: str, play: Play) -> None:
    assert play(process_that_changes_its_pid, database_url) == [True, "InheritedConnectionError", True]


def child_where_python_has_no_hooks(url: str) -> list[bool]:
    """In a process where `os.register_at_fork` registers nothing."""
    engine = engine_of("PidPool", url)
    held = engine.connect()
    session = session_id(held)
    fill(engine, 2)
    answer = in_child(lambda: [use(engine) != session, raised(held.rollback) == ""])
    return [*answer, session_id(held) == session]


def test_no_hook_is_needed(postgresql: Address, play: Play, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos.register_at_fork = lambda **_: None\n")
    env = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(tmp_path)])}
    assert play(child_where_python_has_no_hooks, postgresql.url("psycopg"), env=env) == [True] * 3


# Descriptors


DESCRIPTORS = Path("/proc/self/fd")


def sockets() -> set[int]:
    """Return the inodes of this process's sockets."""
    found = set()
    for entry in DESCRIPTORS.iterdir():
        with suppress(OSError):  # the listing's own
            status = entry.stat()
            if stat.S_ISSOCK(status.st_mode):
                found.add(status.st_ino)
    return found


def sockets_left_in_children(pool_name: str, url: str) -> list[int]:
    """Return how many of the parent's sockets children have: after a fork, and after a hookless one and a checkout."""
    before = sockets()
    engine = engine_of(pool_name, url, pool_size=5)
    fill(engine, 3)
    held: list[Any] = [engine.connect(), engine.raw_connection()]
    held[1].detach()
    parents = sockets() - before
    assert len(parents) == 3  # idle, held and detached

    left = [
        in_child(lambda: len(sockets() & parents)),
        in_child(lambda: [use(engine), len(sockets() & parents)][1], hookless=True),
    ]
    assert sockets() - before == parents
    return left


def test_a_child_does_not_keep_its_parents_sockets(database_url: str, play: Play) -> None:
    assert play(sockets_left_in_children, "PidPool", database_url) == [0, 0]


def test_with_queue_pool_a_child_keeps_them(postgresql: Address, play: Play) -> None:
    assert play(sockets_left_in_children, "QueuePool", postgresql.url("psycopg"))[0] == 3


# A storm


def resident_kilobytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise LookupError("VmRSS")


def storm(url: str, forks: int) -> dict[str, Any]:
    """Fork many children, each of which uses the pool; look at the parent before and after."""
    engine = engine_of("PidPool", url, pool_size=10)
    sessions = sorted(fill(engine, 10))
    children = [in_child(lambda: use(engine)) for _ in range(10)]  # until then Python warms up
    descriptors, memory = len(list(DESCRIPTORS.iterdir())), resident_kilobytes()
    children += [in_child(lambda: use(engine)) for _ in range(forks - 10)]
    return {
        "same sessions": sorted(fill(engine, 10)) == sessions,
        "children with sessions of their own": len(set(children) - set(sessions)),
        "more descriptors": len(list(DESCRIPTORS.iterdir())) - descriptors,
        "more kilobytes": resident_kilobytes() - memory,
    }


@pytest.mark.slow
def test_two_hundred_forks_leave_the_parent_as_it_was(database_url: str, play: Play) -> None:
    found = play(storm, database_url, 200, limit=110)
    assert found["same sessions"]
    assert found["children with sessions of their own"] > 190  # the server may number a session like an earlier one
    assert found["more descriptors"] == 0
    assert found["more kilobytes"] < 2048
