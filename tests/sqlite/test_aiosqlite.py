"""The same table where the connections are aiosqlite's: a thread, dead in the child, has the handle."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from tests.sqlite.conftest import fails, passes

if TYPE_CHECKING:
    from tests.sqlite.conftest import Play

either_fork = pytest.mark.parametrize("how", ["fork", "hookless"])

# A control must not await a thread that is not there, so in the child the other pools forget what they had first. That
# is what SQLAlchemy's manual recommends, and it does not make a file safe.
_PRELUDE = """
    import asyncio
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import AsyncAdaptedQueuePool
    import time
    from tests import family
    from pidpool import AsyncPidPool
    POOL = {"PidPool": AsyncPidPool, "QueuePool": AsyncAdaptedQueuePool}[sys.argv[2]]
    URL = f"sqlite+aiosqlite:///{PATH}"

    def prepare(how):
        # A thread that waits for the interpreter's lock would spoil it for the child of a C-level fork, with any pool:
        # see docs/sqlite.md. So let aiosqlite's finish what they are at.
        if how == "hookless":
            time.sleep(0.2)

    def child(action, how="fork"):
        prepare(how)
        family.child(action, how=how)

    def async_engine(url=URL, *, journal=None, functions=(), **options):
        engine = create_async_engine(url, poolclass=POOL, connect_args={"timeout": 0.2}, **options)
        @event.listens_for(engine.sync_engine, "connect")
        def set_up(connection, _):
            for function in functions:
                connection.create_function(function.__name__, 0, function)
            if journal:
                cursor = connection.cursor()  # what SQLAlchemy 2.0's execute() returns is aiosqlite's, to be awaited
                cursor.execute(f"PRAGMA journal_mode = {journal}")
                cursor.fetchall()
                cursor.close()
        return engine

    async def put(engine, row):
        async with engine.begin() as connection:
            await connection.exec_driver_sql("INSERT INTO ledger VALUES (?)", (row,))

    async def seen_by(engine):
        async with engine.connect() as connection:
            return sorted((await connection.exec_driver_sql("SELECT row FROM ledger")).scalars())

    def live(coroutine):
        asyncio._set_running_loop(None)  # which a C-level fork leaves behind
        return asyncio.run(asyncio.wait_for(coroutine, 10))

    async def refused_to(engine):
        if POOL is AsyncAdaptedQueuePool:
            engine.sync_engine.dispose(close=False)
        try:
            await put(engine, "intruder")
        except InheritedConnectionError as error:
            return str(error)
        raise AssertionError("not refused")

    def child_is_refused(engine, *words, how="fork"):
        def be_refused():
            message = live(refused_to(engine))
            for word in (PATH, *words):
                assert word in message, message
        child(be_refused, how=how)
"""


def source(body: str) -> str:
    """Return a script for `play`."""
    return _PRELUDE + body


IN_TURN = """
    how, = REST
    create(PATH)
    engine = async_engine(journal="WAL")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(put(engine, 1))
    (told, tell), (answered, answer) = os.pipe(), os.pipe()

    async def take_turns():
        os.close(answer)
        if POOL is AsyncAdaptedQueuePool:
            engine.sync_engine.dispose(close=False)
        async with engine.connect() as connection:
            await connection.exec_driver_sql("INSERT INTO ledger VALUES (2)")
            await connection.commit()
            os.write(tell, b".")
            os.read(answered, 1)
            await connection.exec_driver_sql("INSERT INTO ledger VALUES (4)")
            await connection.commit()

    prepare(how)
    pid = family.fork(how)
    if pid == 0:
        try:
            live(take_turns())
        except BaseException as error:
            print(repr(error), flush=True)
        os._exit(0)
    os.close(tell)
    os.read(told, 1)
    loop.run_until_complete(engine.dispose())
    with contextlib.closing(sqlite3.connect(PATH)) as other:
        other.execute("INSERT INTO ledger VALUES (3)")
        other.commit()
    os.close(answer)
    os.waitpid(pid, 0)
    found = rows()
    assert found == [1, 2, 3, 4], found
"""


@either_fork
def test_idle_handles_are_closed_before_the_child_opens_the_file(how: str, play: Play) -> None:
    passes(play(source(IN_TURN), how))


@either_fork
def test_with_the_pool_of_sqlalchemys_rows_are_lost(how: str, play: Play) -> None:
    fails(play(source(IN_TURN), how, pool="QueuePool"))


def test_pinning_without_closing_in_its_place_loses_rows(play: Play) -> None:
    control = "\n    from tests.sqlite.stress import pin_but_never_close\n    pin_but_never_close()\n"
    fails(play(source(control + IN_TURN), "fork"))


IN_A_TRANSACTION = """
    journal, how = REST
    create(PATH, 1)

    async def main():
        engine = async_engine(journal=journal)
        async with engine.connect() as connection:
            await connection.exec_driver_sql("INSERT INTO ledger VALUES (2)")
            child_is_refused(engine, "a transaction open on it that writes", f"pid {os.getpid()}", how=how)
            child_is_refused(engine, "spawn", how=how)
            await connection.commit()
        await engine.dispose()

    asyncio.run(main())
    assert rows() == [1, 2]
"""


@either_fork
@pytest.mark.parametrize("journal", ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF", "WAL"])
def test_beside_a_tasks_transaction_the_child_is_refused(journal: str, how: str, play: Play) -> None:
    passes(play(source(IN_A_TRANSACTION), journal, how))


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_with_the_pool_of_sqlalchemys_it_is_not(journal: str, play: Play) -> None:
    fails(play(source(IN_A_TRANSACTION), journal, "fork", pool="QueuePool"))


HALF_READ = """
    create(PATH, *range(2000))

    async def main():
        engine = async_engine(journal="WAL", isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            result = await connection.stream(text("SELECT row FROM ledger").execution_options(yield_per=1))
            assert await result.fetchone() is not None
            child_is_refused(engine, "a half-read result open on it")
            assert len(await result.fetchall()) == 1999
        await engine.dispose()

    from sqlalchemy import text
    asyncio.run(main())
"""


def test_beside_a_half_read_result_the_child_is_refused(play: Play) -> None:
    passes(play(source(HALF_READ)))


def test_beside_a_half_read_result_the_pool_of_sqlalchemys_goes_on(play: Play) -> None:
    fails(play(source(HALF_READ), pool="QueuePool"))


# The driver's own cursor: the pool knows nothing of it.
HALF_READ_INSERT = """
    import sqlite3
    create(PATH)

    async def main():
        engine = async_engine(isolation_level="AUTOCOMMIT")
        connection = await engine.connect()
        driver_connection = (await connection.get_raw_connection()).driver_connection
        held = [await driver_connection.execute("INSERT INTO ledger VALUES (1), (2), (3) RETURNING row")]
        assert await held[0].fetchone() == (1,)
        await (await driver_connection.execute("SELECT 1")).close()  # its thread has held the cursor so far

        def drop():
            held.clear()
            gc.collect()

        child(drop)
        with contextlib.closing(sqlite3.connect(PATH, timeout=0.1)) as other:
            try:
                other.execute("INSERT INTO ledger VALUES (4)")
            except sqlite3.OperationalError:
                pass
            else:
                raise AssertionError("the child has ended the parent's statement")
        assert await held[0].fetchall() == [(2,), (3,)]
        await held.pop().close()
        await connection.close()
        await engine.dispose()

    asyncio.run(main())
    assert rows() == [1, 2, 3]
"""
needs_returning = pytest.mark.skipif(sqlite3.sqlite_version_info < (3, 35), reason="this SQLite knows no RETURNING")


@needs_returning
def test_a_child_that_frees_a_cursor_ends_no_statement(play: Play) -> None:
    passes(play(source(HALF_READ_INSERT)))


@needs_returning
def test_with_the_pool_of_sqlalchemys_it_does(play: Play) -> None:
    fails(play(source(HALF_READ_INSERT), pool="QueuePool"))


BUSY = """
    create(PATH, 1)
    inside, enough = threading.Event(), threading.Event()

    def hold():
        inside.set()
        enough.wait(30)
        return 7

    async def ask(engine):
        async with engine.connect() as connection:
            return (await connection.exec_driver_sql("SELECT hold()")).scalar()

    async def main():
        engine = async_engine(functions=[hold])
        query = asyncio.create_task(ask(engine))
        while not inside.is_set():
            await asyncio.sleep(0.001)
        try:
            child_is_refused(engine, "another thread inside SQLite")
        finally:
            enough.set()
        assert await query == 7
        # And when it is back, nothing is in use any more.
        child(lambda: live(put(engine, 2)))
        await engine.dispose()

    asyncio.run(main())
    assert rows() == [1, 2]
"""


def test_while_a_thread_of_aiosqlites_is_inside_sqlite_the_child_is_refused(play: Play) -> None:
    passes(play(source(BUSY)))


def test_while_a_thread_is_inside_sqlite_the_pool_of_sqlalchemys_goes_on(play: Play) -> None:
    fails(play(source(BUSY), pool="QueuePool"))


NOT_BEGUN = """
    create(PATH, 1)

    async def main():
        engine = async_engine(journal="WAL")
        async with engine.connect() as connection:
            child(lambda: live(put(engine, 2)))
            await connection.exec_driver_sql("INSERT INTO ledger VALUES (3)")
            await connection.commit()
        await engine.dispose()

    asyncio.run(main())
    assert rows() == [1, 2, 3]
"""


def test_a_checkout_that_has_not_begun_is_not_in_use(play: Play) -> None:
    passes(play(source(NOT_BEGUN)))


AT_ONCE = """
    create(PATH)
    engine = async_engine(journal="WAL")
    for number in range(0, 20, 2):
        asyncio.run(put(engine, number))
        engine.sync_engine.dispose()  # no loop is left: nothing is awaited
        child(lambda: live(put(engine, number + 1)))
    assert rows() == list(range(20))
"""


def test_what_is_closed_without_awaiting_is_closed_at_once(play: Play) -> None:
    passes(play(source(AT_ONCE)))


CLOSED_BEFORE_FORK = """
    create(PATH)
    engine = async_engine(journal="WAL", close_before_fork=True)

    def find_nothing():
        assert not [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")
                    and os.path.samefile(f"/proc/self/fd/{name}", PATH)]
        live(put(engine, 2))

    async def main():
        await put(engine, 1)
        child(find_nothing)
        await put(engine, 3)

    asyncio.run(main())
    child(find_nothing)
    assert rows() == [1, 2, 2, 3]
"""


def test_idle_connections_can_be_closed_before_the_fork_inside_a_loop_and_outside(play: Play) -> None:
    passes(play(source(CLOSED_BEFORE_FORK)))


SHARED_MEMORY = """
    engine = async_engine("sqlite+aiosqlite:///file::memory:?cache=shared&uri=true")

    async def main():
        async with engine.begin() as connection:
            await connection.exec_driver_sql("CREATE TABLE ledger (row)")
        await put(engine, 1)
        async with engine.connect() as connection:
            await connection.exec_driver_sql("INSERT INTO ledger VALUES (2)")
            child(its_own)
            await connection.commit()
        child(lambda: live(put(engine, 3)))
        assert await seen_by(engine) == [1, 2]
        await engine.dispose()

    def its_own():
        # One loop, for with its last connection goes the database.
        async def write_and_read():
            if POOL is AsyncAdaptedQueuePool:
                engine.sync_engine.dispose(close=False)
            await put(engine, 4)
            async with engine.connect(), engine.connect():
                assert await seen_by(engine) == [1, 4]
            await engine.dispose()
        live(write_and_read())

    asyncio.run(main())
"""


def test_a_database_in_memory_is_kept_without_what_was_not_committed(play: Play) -> None:
    passes(play(source(SHARED_MEMORY)))


def test_with_the_pool_of_sqlalchemys_the_copy_is_locked(play: Play) -> None:
    fails(play(source(SHARED_MEMORY), pool="QueuePool"))


PRIVATE_MEMORY = """
    PATH = "only one thread may use"
    engine = async_engine("sqlite+aiosqlite://")

    async def main():
        async with engine.begin() as connection:
            await connection.exec_driver_sql("CREATE TABLE ledger (row)")
        await put(engine, 1)
        child_is_refused(engine)
        assert await seen_by(engine) == [1]
        await engine.dispose()

    asyncio.run(main())
"""


def test_a_connection_for_one_thread_only_is_refused(play: Play) -> None:
    passes(play(source(PRIVATE_MEMORY)))


PLUGIN = """
    for url, expected in (
        ("sqlite+aiosqlite:///a-file?plugin=pidpool", "AsyncPidPool"),
        ("sqlite+aiosqlite:///file::memory:?cache=shared&uri=true&plugin=pidpool", "AsyncPidPool"),
        ("sqlite+aiosqlite://?plugin=pidpool", "StaticPool"),
    ):
        assert type(create_async_engine(url).pool).__name__ == expected, url
"""


def test_the_plugin_takes_the_pool_for_files_and_leaves_the_one_for_memory(play: Play) -> None:
    passes(play(source(PLUGIN)))
