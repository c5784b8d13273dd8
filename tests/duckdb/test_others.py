"""Other files, other names, other pools, memory, grandchildren; and what was closed before the fork."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.duckdb.conftest import fails, passes

if TYPE_CHECKING:
    from tests.duckdb.conftest import Play

either_fork = pytest.mark.parametrize("how", ["fork", "hookless"])


@pytest.mark.parametrize("pool", ["PidPool", pytest.param("PidNullPool", marks=pytest.mark.slow)])
def test_a_child_opens_other_files_and_leaves_by_sys_exit(pool: str, play: Play) -> None:
    # duckdb 1.5 aborts a child that exits and has closed a file of its own, if nobody pins the module's connection
    passes(
        play(
            """
            engine = engine_on()
            with engine.begin() as connection:
                connection.exec_driver_sql("CREATE TABLE ledger (row BIGINT)")
                connection.exec_driver_sql("INSERT INTO ledger VALUES (1)")
                for number in range(3):
                    def live():
                        other = engine_on(f"{PATH}.other{number}")
                        create(other, 7)
                        with other.connect() as mine:
                            sums = "SELECT sum(range) FROM range(1000000) GROUP BY range % 7"
                            assert len(mine.exec_driver_sql(sums).fetchall()) == 7
                        if number:
                            other.dispose()
                    child(live, leave="sys.exit")
            assert rows(PATH + ".other0") == rows(PATH + ".other2") == [7]
            assert after_a_crash() == [1]
            """,
            pool=pool,
        )
    )


def test_what_was_closed_before_the_fork_may_be_opened(play: Play) -> None:
    passes(
        play(
            """
            engine = engine_on()
            create(engine, 1)
            engine.dispose()
            child(lambda: (store(engine, 2), engine.dispose()), leave="sys.exit")
            store(engine, 3)
            assert seen(engine) == after_a_crash() == [1, 2, 3]
            """
        )
    )


CLOSE_BEFORE_FORK = """
    engine = engine_on(close_before_fork=REST[0] == "True")
    create(engine, 1)
    assert engine.pool.checkedin() == 1
    child(lambda: (store(engine, 2), engine.dispose()), leave="sys.exit")
    store(engine, 3)
    assert seen(engine) == after_a_crash() == [1, 2, 3]
    with engine.begin() as connection:  # what is out stays open
        connection.exec_driver_sql("INSERT INTO ledger VALUES (4)")
        child(lambda: refused(lambda: store(engine, 9)))
    assert after_a_crash() == [1, 2, 3, 4]
"""


def test_close_before_fork_lets_the_child_open_the_file(play: Play) -> None:
    passes(play(CLOSE_BEFORE_FORK, "True"))
    fails(play(CLOSE_BEFORE_FORK, "False"))


def test_what_was_closed_behind_the_pools_back_is_not_in_the_way(play: Play) -> None:
    # Nor are the inodes of files that are gone, which the next files get.
    passes(
        play(
            """
            engines = []
            for number in range(5):
                engine = engine_on(f"{PATH}{number}", pool_reset_on_return=None)
                create(engine, number)
                connection = engine.raw_connection()
                connection.driver_connection.close()
                engines.append((engine, connection))
                os.unlink(f"{PATH}{number}")
            def live():
                for number, (engine, connection) in enumerate(engines):
                    create(engine, number)
                    engine.dispose()
                    assert rows(f"{PATH}{number}") == [number]
                    create(engine_on(f"{PATH}.new{number}"), 1)
            child(live, leave="sys.exit")
            """
        )
    )


@pytest.mark.parametrize("name", ["path", "symlink", "relative", "read-only"])
def test_another_engine_on_the_same_file_is_refused(name: str, play: Play) -> None:
    passes(
        play(
            """
            engine = engine_on()
            create(engine, 1)
            if REST == ["read-only"]:
                engine.dispose()
                engine = engine_on(connect_args={"read_only": True})
                assert seen(engine) == [1]
            def live():
                name = PATH
                if REST == ["symlink"]:
                    name += ".symlink"
                    os.symlink(PATH, name)
                elif REST == ["relative"]:
                    os.chdir(os.path.dirname(PATH))
                    name = os.path.basename(PATH)
                options = {"connect_args": {"read_only": True}} if REST == ["read-only"] else {}
                other = engine_on(name, **options)
                for _ in range(3):
                    refused_by_either(lambda: seen(other), PATH, "DuckDB")
                    refused_by_either(lambda: seen(engine_on(name, poolclass=PidNullPool, **options)), PATH)
            child(live, leave="sys.exit")
            if REST != ["read-only"]:
                store(engine, 2)
                assert after_a_crash() == [1, 2]
            """,
            name,
        )
    )


def test_a_child_stays_refused_after_the_parent_has_closed_the_file_and_deleted_it(play: Play) -> None:
    # DuckDB's table goes by path: even the new file's would be the old instance.
    passes(
        play(
            """
            engine = engine_on()
            create(engine, 1)
            (told, tell) = os.pipe()
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                os.close(tell)
                for _ in range(2):
                    os.read(told, 1)
                    refused(lambda: store(engine, 9), PATH)
                    refused(lambda: store(engine_on(), 9), PATH)
                os._exit(0)
            os.close(told)
            engine.dispose()
            os.write(tell, b".")
            os.unlink(PATH)
            create(engine, 2)
            os.close(tell)
            assert os.waitpid(pid, 0)[1] == 0
            assert after_a_crash() == [2]
            """
        )
    )


FOREIGN = """
    foreign = duckdb.connect(PATH)  # of which pidpool knows nothing
    foreign.execute("CREATE TABLE ledger (row BIGINT)")
    foreign.execute("CHECKPOINT")
    foreign.execute("INSERT INTO ledger VALUES (1)")
    if REST == ["closed"]:
        foreign.close()
        engine = engine_on()
        child(lambda: (store(engine, 2), engine.dispose()))
        store(engine, 3)
    else:
        # not an engine: that asks for another configuration, which DuckDB itself refuses
        pool = POOL(lambda: duckdb.connect(PATH))
        child(lambda: refused(pool.connect, PATH, "of which pidpool knows nothing"))
        foreign.execute("INSERT INTO ledger VALUES (2)")
    assert after_a_crash() == ([1, 2, 3] if REST == ["closed"] else [1, 2])
"""


@pytest.mark.parametrize("state", ["open", "closed"])
def test_a_connection_of_somebody_elses_is_noticed(state: str, play: Play) -> None:
    passes(play(FOREIGN, state))


def test_a_child_has_a_new_database_in_memory(play: Play) -> None:
    passes(
        play(
            """
            engine = engine_on(":memory:", pool_size=1, max_overflow=0)
            create(engine, 1)
            def live():
                create(engine, 2, 3)
                assert seen(engine) == [2, 3]
                with engine.connect() as connection:
                    connection.exec_driver_sql("SET threads = 2")
                    connection.exec_driver_sql(f"COPY ledger TO '{PATH}.csv'")
            child(live, leave="sys.exit")
            assert seen(engine) == [1]
            with open(PATH + ".csv") as file:
                assert file.read().split() == ["row", "2", "3"]
            """
        )
    )


def test_a_database_in_memory_with_a_name_is_refused_and_another_name_is_not(play: Play) -> None:
    passes(
        play(
            """
            engine = engine_on(":memory:books")
            create(engine, 1)
            def live():
                refused(lambda: seen(engine), "in memory", "DuckDB")
                refused(lambda: seen(engine_on(":memory:books")), "in memory")
                other = engine_on(":memory:films")
                create(other, 2)
                with other.connect() as one, other.connect() as two:
                    for connection in one, two:
                        assert connection.exec_driver_sql("SELECT row FROM ledger").fetchall() == [(2,)]
                unnamed = engine_on(":memory:")
                create(unnamed, 3)
                # Nor does it help to have others open.
                refused(lambda: seen(engine), "in memory")
                refused(lambda: seen(engine_on(":memory:books")), "in memory")
                with other.connect() as one, other.connect() as two:
                    refused(lambda: seen(engine_on(":memory:books")), "in memory")
                    assert seen(other) == [2]
            child(live, leave="sys.exit")
            assert seen(engine) == [1]
            """
        )
    )


def test_threads_of_a_child_that_open_a_named_database_at_once_do_not_let_each_other_in(play: Play) -> None:
    passes(
        play(
            """
            create(engine_on(":memory:books"), 1)
            kept = engine_on(":memory:books").connect()
            def try_it():
                for _ in range(50):
                    refused(lambda: seen(engine_on(":memory:books")), "in memory")
                done.append(True)
            done = []
            def live():
                threads = [threading.Thread(target=try_it) for _ in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert len(done) == 4, done
            child(live)
            """
        )
    )


@either_fork
def test_grandchildren_are_like_children(how: str, play: Play) -> None:
    passes(
        play(
            """
            engine = engine_on()
            create(engine, 1)
            def live(generations):
                refused(lambda: store(engine, 9), PATH)
                refused(lambda: store(engine_on(), 9), PATH)
                mine = engine_on(f"{PATH}{generations}")
                create(mine, generations)
                if generations:
                    child(lambda: live(generations - 1), how=REST[0])
                store(mine, 7)
                assert after_a_crash(f"{PATH}{generations}") == sorted([generations, 7])
            child(lambda: child(lambda: live(2), how=REST[0]), how=REST[0])
            store(engine, 2)
            assert after_a_crash() == [1, 2]
            """,
            how,
        )
    )


HALF_READ = """
    pool = POOL(lambda: duckdb.connect(PATH), reset_on_return=None)
    connection = pool.connect()
    cursors = [connection.cursor()]
    cursors[0].execute("SELECT * FROM range(100000000)")
    cursors[0].fetchone()
    def drop():
        cursors.clear()
        gc.collect()
    child(drop, leave="sys.exit", limit=5)
    assert cursors[0].fetchone() == (1,)
"""


def test_dropping_a_half_read_cursor_does_not_hang(play: Play) -> None:
    passes(play(HALF_READ))


def test_pools_of_the_drivers_own_connections_follow_the_same_rules(play: Play) -> None:
    passes(
        play(
            """
            opened = []
            def open_it():
                opened.append(os.getpid())
                return duckdb.connect(PATH)
            pool = POOL(open_it, reset_on_return=None)
            with contextlib.closing(pool.connect()) as connection:
                connection.execute("CREATE TABLE ledger (row BIGINT)")
                connection.execute("CHECKPOINT")
                connection.execute("INSERT INTO ledger VALUES (1)")
                def live():
                    refused(pool.connect, PATH)
                    assert os.getpid() not in opened  # DuckDB is not even asked
                    refused(lambda: connection.execute("SELECT 1"))
                child(live)
                connection.execute("INSERT INTO ledger VALUES (2)")
            child(lambda: (pool.dispose(), refused(pool.connect, PATH)), leave="sys.exit")
            with contextlib.closing(pool.connect()) as connection:
                connection.execute("INSERT INTO ledger VALUES (3)")
            assert after_a_crash() == [1, 2, 3]
            """
        )
    )


def test_per_process_follows_the_same_rules(play: Play) -> None:
    passes(
        play(
            """
            books = PerProcess(lambda: duckdb.connect(PATH), name="books")
            memory = PerProcess(duckdb.connect)
            books().execute("CREATE TABLE ledger (row BIGINT)")
            books().execute("CHECKPOINT")
            books().execute("INSERT INTO ledger VALUES (1)")
            memory().execute("CREATE TABLE ledger AS SELECT 5")
            def live():
                refused(books.get, PATH, "DuckDB")
                assert memory().execute("SHOW TABLES").fetchall() == []
                books.close()
            child(live, leave="sys.exit")
            books().execute("INSERT INTO ledger VALUES (2)")
            assert after_a_crash() == [1, 2]
            books.close()
            child(lambda: (books().execute("INSERT INTO ledger VALUES (3)"), books.close()), leave="sys.exit")
            assert rows(PATH) == [1, 2, 3]
            """
        )
    )


def test_a_child_whose_parent_used_the_modules_own_connection_exits_quietly(play: Play) -> None:
    passes(
        play(
            """
            assert duckdb.sql("SELECT 42").fetchall() == [(42,)]
            engine = engine_on()
            create(engine, 1)
            engine.dispose()
            child(leave="sys.exit")
            child(lambda: (store(engine, 2), engine.dispose()), leave="sys.exit")
            assert rows(PATH) == [1, 2]
            """
        )
    )


def test_files_that_were_attached_later_cannot_be_opened_beside_the_parent(play: Play) -> None:
    # DuckDB itself sees to that.
    passes(
        play(
            """
            other = engine_on(PATH + ".other")
            create(other, 1)
            other.dispose()
            engine = engine_on(":memory:")
            with engine.connect() as connection:
                connection.exec_driver_sql(f"ATTACH '{PATH}.other' AS other")
                def live():
                    try:
                        seen(engine_on(PATH + ".other"))
                    except Exception as error:
                        assert "already attached" in str(error), error
                    else:
                        raise AssertionError("opened")
                child(live, leave="sys.exit")
                connection.exec_driver_sql("INSERT INTO other.ledger VALUES (2)")
                connection.commit()
            assert after_a_crash(PATH + ".other") == [1, 2]
            """
        )
    )
