"""Every row of the table in docs/sqlite.md: what was open at fork, what the child does, and what the parent keeps."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.sqlite.conftest import fails, passes

if TYPE_CHECKING:
    from tests.sqlite.conftest import Play

every_journal = pytest.mark.parametrize("journal", ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF", "WAL"])
either_fork = pytest.mark.parametrize("how", ["fork", "hookless"])

# Parent and child write in turn, and in between the parent closes what it has: with WAL, the last one out deletes the
# log. A child that only believes that it holds a lock goes on writing into the deleted one.
IN_TURN = """
    journal, how = REST
    create(PATH)
    engine = engine_on(journal=journal)
    store(engine, 1)
    (told, tell), (answered, answer) = os.pipe(), os.pipe()

    def take_turns():
        os.close(answer)
        with engine.connect() as connection:
            connection.exec_driver_sql("INSERT INTO ledger VALUES (2)")
            connection.commit()
            os.write(tell, b".")
            os.read(answered, 1)
            connection.exec_driver_sql("INSERT INTO ledger VALUES (4)")
            connection.commit()

    def meanwhile():
        os.read(told, 1)
        engine.dispose()
        with contextlib.closing(sqlite3.connect(PATH)) as other:
            other.execute("INSERT INTO ledger VALUES (3)")
            other.commit()

    from tests.family import fork
    pid = fork(how)
    if pid == 0:
        try:
            take_turns()
        except BaseException as error:
            print(repr(error), flush=True)
        os._exit(0)
    os.close(tell)
    meanwhile()
    os.close(answer)
    os.waitpid(pid, 0)
    found = rows()
    assert found == [1, 2, 3, 4], found
"""


@either_fork
@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_idle_connections_are_closed_before_the_child_opens_the_file(journal: str, how: str, play: Play) -> None:
    passes(play(IN_TURN, journal, how))


@either_fork
@pytest.mark.parametrize("pool", ["QueuePool", "SingletonThreadPool", "StaticPool"])
def test_other_pools_with_an_idle_connection_lose_rows(pool: str, how: str, play: Play) -> None:
    fails(play(IN_TURN, "WAL", how, pool=pool))


def test_pinning_without_closing_in_its_place_loses_rows(play: Play) -> None:
    control = "from tests.sqlite.stress import pin_but_never_close\n    pin_but_never_close()\n"
    fails(play("\n    " + control + IN_TURN, "WAL", "fork"))


IN_A_TRANSACTION = """
    journal, how, deed = REST
    create(PATH, 1)
    engine = engine_on(journal=journal)
    connection = engine.connect()
    connection.exec_driver_sql("INSERT INTO ledger VALUES (2)")
    held = [connection]
    del connection

    def use():
        if POOL is PidPool:
            refused(lambda: store(engine, 3), PATH, "a transaction open on it that writes", str(os.getpid()),
                    str(os.getppid()), "no open transaction", "spawn")
            refused(lambda: store(engine, 3))  # and again
        else:
            no_harm(lambda: store(engine, 3))

    def drop():
        held.clear()
        gc.collect()

    deeds = {"use": use, "drop": drop, "close": lambda: held[0].close(), "rollback": lambda: held[0].rollback(),
             "dispose": engine.dispose, "exit": lambda: None}
    child(deeds[deed], how=how, leave="sys.exit" if deed == "exit" else "os._exit")
    held[0].exec_driver_sql("INSERT INTO ledger VALUES (4)")
    held[0].commit()
    held.pop().close()
    store(engine, 5)
    engine.dispose()
    found = rows()
    assert found == [1, 2, 4, 5], found
"""


@pytest.mark.parametrize("deed", ["use", "drop", "close", "rollback", "dispose", "exit"])
@either_fork
@every_journal
def test_the_parents_commit_stores_every_row(journal: str, how: str, deed: str, play: Play) -> None:
    passes(play(IN_A_TRANSACTION, journal, how, deed))


@pytest.mark.parametrize("deed", ["drop", "close", "rollback"])
@pytest.mark.parametrize("pool", ["QueuePool", "NullPool", "SingletonThreadPool", "StaticPool"])
def test_other_pools_in_their_place_lose_rows(pool: str, deed: str, play: Play) -> None:
    fails(play(IN_A_TRANSACTION, "DELETE", "fork", deed, pool=pool))


@pytest.mark.parametrize("deed", ["use", "exit"])
def test_a_pid_null_pool_refuses_as_well(deed: str, play: Play) -> None:
    source = IN_A_TRANSACTION.replace("POOL is PidPool", "POOL is PidNullPool")
    passes(play(source, "WAL", "fork", deed, pool="PidNullPool"))


HALF_READ = """
    journal, kind, keep = REST
    create(PATH, *range(5))
    engine = engine_on(journal=journal)
    store(engine, 5)
    connection = engine.raw_connection()
    connection.driver_connection.isolation_level = None
    if keep == "detached":
        connection.detach()
    cursor = connection.cursor() if keep == "guarded" else connection.dbapi_connection.cursor()
    if kind == "INSERT":
        cursor.execute("INSERT INTO ledger VALUES (10), (11), (12) RETURNING row")
    else:
        cursor.execute("SELECT row FROM ledger")
    cursor.fetchone()
    cursors = [cursor]
    del cursor

    def drop():
        cursors.clear()
        gc.collect()
        if POOL is PidPool:
            refused(lambda: store(engine, 6), "open on it")

    child(drop)
    with contextlib.closing(sqlite3.connect(PATH, timeout=0)) as other:
        try:
            other.execute("INSERT INTO ledger VALUES (7)")
            other.rollback()
        except sqlite3.OperationalError:
            locked = True
        else:
            locked = False
    assert locked == (kind == "INSERT"), "the child ended the parent's statement"
    rest = len(cursors.pop().fetchall())
    assert rest == (2 if kind == "INSERT" else 5), rest
    connection.close()
    engine.dispose()
    assert rows() == [0, 1, 2, 3, 4, 5] + ([10, 11, 12] if kind == "INSERT" else [])
"""


@pytest.mark.parametrize("keep", ["guarded", "raw", "detached"])
@pytest.mark.parametrize("kind", ["INSERT", "SELECT"])
@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_a_half_read_result_stays_the_parents(journal: str, kind: str, keep: str, play: Play) -> None:
    passes(play(HALF_READ, journal, kind, keep))


def test_queue_pool_in_its_place_ends_the_parents_statement(play: Play) -> None:
    fails(play(HALF_READ, "DELETE", "INSERT", "raw", pool="QueuePool"))


def test_a_half_read_result_on_an_idle_connection_is_noticed(play: Play) -> None:
    passes(
        play(
            """
            create(PATH, *range(5))
            engine = engine_on()
            connection = engine.raw_connection()
            connection.driver_connection.isolation_level = None
            cursor = connection.driver_connection.cursor()
            cursor.execute("INSERT INTO ledger VALUES (10), (11) RETURNING row")
            connection.close()
            assert engine.pool.checkedin() == 1
            child(lambda: refused(lambda: store(engine, 6), "a transaction open on it that writes"))
            assert cursor.fetchall() == [(10,), (11,)]
            cursor.close()
            child(lambda: store(engine, 6))
            assert rows() == [0, 1, 2, 3, 4, 6, 10, 11]
            """
        )
    )


READING = """
    create(PATH, 1)
    engine = engine_on(journal=REST[0])
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("SELECT row FROM ledger").fetchall()
        child(lambda: refused(lambda: store(engine, 9), "a transaction open on it that reads"))
        connection.exec_driver_sql("INSERT INTO ledger VALUES (2)")
        connection.commit()
    assert rows() == [1, 2]
"""


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_a_transaction_that_has_read_is_in_use(journal: str, play: Play) -> None:
    passes(play(READING, journal))


def test_a_finished_result_does_not_count(play: Play) -> None:
    passes(
        play(
            """
            create(PATH, 1)
            engine = engine_on(journal="WAL")
            with engine.connect() as connection:
                result = connection.exec_driver_sql("SELECT row FROM ledger")
                result.fetchall()
                connection.commit()
                child(lambda: store(engine, 2))
            assert rows() == [1, 2]
            """
        )
    )


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the driver has no autocommit=False yet")
def test_a_transaction_that_has_done_nothing_does_not_count(play: Play) -> None:
    passes(
        play(
            """
            create(PATH, 1)
            engine = engine_on(connect_args={"autocommit": False})
            with engine.connect() as connection:
                assert connection.connection.in_transaction
                child(lambda: store(engine, 2))
            assert rows() == [1, 2]
            """
        )
    )


EXCLUSIVE = """
    create(PATH, 1)
    if REST[0] == "on connect":
        engine = engine_on(journal="WAL", pragmas=["locking_mode = EXCLUSIVE"])
    else:
        engine = engine_on(journal="WAL")
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA locking_mode = EXCLUSIVE")
    store(engine, 2)
    child(engine.dispose)
    if POOL is PidPool:
        child(lambda: refused(lambda: store(engine, 9), "locking_mode=EXCLUSIVE"))
    store(engine, 3)
    import shutil
    for suffix in ("", "-wal"):  # what would be left if the parent crashed now
        if os.path.exists(PATH + suffix):
            shutil.copy(PATH + suffix, PATH + ".crashed" + suffix)
    engine.dispose()
    assert rows() == [1, 2, 3]
    found = rows(PATH + ".crashed")
    assert found == [1, 2, 3], found
"""


@pytest.mark.parametrize("when", ["on connect", "later"])
def test_exclusive_locking_mode_counts_as_in_use(when: str, play: Play) -> None:
    passes(play(EXCLUSIVE, when))


def test_queue_pool_in_its_place_deletes_the_parents_wal(play: Play) -> None:
    fails(play(EXCLUSIVE, "on connect", pool="QueuePool"))


def test_the_vfs_unix_excl_counts_as_in_use(play: Play) -> None:
    passes(
        play(
            """
            create(PATH, 1)
            engine = create_engine(f"sqlite:///file:{PATH}?uri=true&vfs=unix-excl", poolclass=PidPool)
            store(engine, 2)
            child(lambda: refused(lambda: store(engine, 9), "unix-excl"), leave="sys.exit")
            store(engine, 3)
            engine.dispose()
            assert rows() == [1, 2, 3]
            """
        )
    )


@pytest.mark.parametrize("database", [":memory:", "file::memory:?cache=shared&uri=true", "file:/x?vfs=memdb&uri=true"])
@either_fork
def test_a_database_in_memory_is_kept(database: str, how: str, play: Play) -> None:
    passes(
        play(
            """
            database, how = REST
            engine = create_engine(f"sqlite:///{database}", poolclass=PidPool, pool_size=1, max_overflow=0)
            with engine.begin() as connection:
                connection.exec_driver_sql("CREATE TABLE ledger (row)")
            store(engine, 1)

            def use():
                store(engine, 2)
                assert seen(engine) == [1, 2]
                child(lambda: (store(engine, 3), seen(engine) == [1, 2, 3] or os._exit(1)), how=how)
                assert seen(engine) == [1, 2]

            child(use, how=how)
            with engine.begin() as connection:
                connection.exec_driver_sql("INSERT INTO ledger VALUES (4)")
                child(use, how=how)  # and what is not committed is not the child's
            assert seen(engine) == [1, 4]
            """,
            database,
            how,
        )
    )


@pytest.mark.parametrize("attached", ["main", "attached"])
def test_a_temporary_file_is_refused(attached: str, play: Play) -> None:
    passes(
        play(
            """
            create(PATH)
            if REST[0] == "main":
                engine = create_engine("sqlite:///file:?uri=true", poolclass=PidPool, pool_size=1, max_overflow=0)
            else:
                engine = engine_on()
                event.listen(engine, "connect", lambda connection, _: connection.execute("ATTACH '' AS scratch"))
            with engine.begin() as connection:
                connection.exec_driver_sql("CREATE TABLE whatever (row)")
            child(lambda: refused(engine.connect, "a temporary database", "spawn"))
            """,
            attached,
        )
    )


SPILLED = """
    if REST[0] == "without the library":
        from pidpool import _sqlite
        _sqlite.library = lambda: None
    engine = create_engine("sqlite://", poolclass=POOL, **({"pool_size": 1} if POOL is PidPool else {}))

    def fill(count):
        with engine.begin() as connection:
            connection.exec_driver_sql("PRAGMA temp.cache_size = 10")
            connection.exec_driver_sql("CREATE TEMP TABLE IF NOT EXISTS scratch (owner, ballast)")
            for _ in range(count):
                connection.exec_driver_sql("INSERT INTO scratch VALUES ('parent', randomblob(1000))")

    def update():
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE scratch SET owner = 'child', ballast = randomblob(1000)")

    fill(1)
    if REST[0] != "without the library":
        child(update)  # still in memory: its own
    fill(500)
    if POOL is PidPool:
        child(lambda: refused(update, "temporary tables", "spawn"))
    else:
        child(update)
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT owner, count(*) FROM scratch GROUP BY owner").fetchall()
    assert found == [("parent", 501)], found
"""


@pytest.mark.parametrize("library", ["with the library", "without the library"])
def test_temporary_tables_in_a_file_are_the_parents(library: str, play: Play) -> None:
    passes(play(SPILLED, library))


def test_static_pool_in_its_place_overwrites_the_parents_temporary_tables(play: Play) -> None:
    fails(play(SPILLED, "with the library", pool="StaticPool"))
