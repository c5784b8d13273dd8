"""Other names, other pools, other threads, grandchildren; and the option that leaves nothing to inherit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sqlite.conftest import fails, passes

if TYPE_CHECKING:
    from tests.sqlite.conftest import Play

FOREIGN = """
    name = {"path": PATH, "symlink": PATH + ".symlink", "hard link": PATH + ".hard"}[REST[0]]
    create(PATH, 1)
    if name != PATH:
        (os.symlink if "symlink" in name else os.link)(PATH, name)
    foreign = sqlite3.connect(name)
    foreign.execute("INSERT INTO ledger VALUES (2)")
    engine = engine_on()
    child(lambda: refused(lambda: store(engine, 9), PATH, "of which pidpool knows nothing"))
    seen(engine)
    child(lambda: refused(lambda: store(engine, 9), PATH, "of which pidpool knows nothing"))
    foreign.commit()
    foreign.close()
    child(lambda: store(engine, 3))
    found = rows()
    assert found == [1, 2, 3], found
"""


@pytest.mark.parametrize("name", ["path", "symlink", "hard link"])
def test_a_connection_that_somebody_else_has_opened_is_noticed(name: str, play: Play) -> None:
    passes(play(FOREIGN, name))


def test_queue_pool_in_its_place_notices_nothing(play: Play) -> None:
    fails(play(FOREIGN, "path", pool="QueuePool"))


def test_what_the_child_has_opened_itself_does_not_count(play: Play) -> None:
    passes(
        play(
            """
            create(PATH, 1)
            engine = engine_on()

            def live():
                with contextlib.closing(sqlite3.connect(PATH)) as own:
                    own.execute("INSERT INTO ledger VALUES (2)")
                    own.commit()
                    store(engine, 3)

            child(live)
            assert rows() == [1, 2, 3]
            """
        )
    )


def test_another_pools_connections_count(play: Play) -> None:
    passes(
        play(
            """
            create(PATH, 1)
            os.symlink(PATH, PATH + ".symlink")
            one, other = engine_on(journal="WAL"), engine_on(PATH + ".symlink")
            store(one, 2)
            child(lambda: store(other, 3))  # idle: closed
            with one.begin() as connection:
                connection.exec_driver_sql("INSERT INTO ledger VALUES (4)")
                child(lambda: refused(lambda: store(other, 9), "a transaction open on it that writes"))
            assert rows() == [1, 2, 3, 4]
            """
        )
    )


def test_an_attached_file_counts(play: Play) -> None:
    passes(
        play(
            """
            create(PATH, 1)
            create(PATH + ".attached", 1)
            one, other = engine_on(), engine_on(PATH + ".attached")
            event.listen(one, "connect", lambda connection, _: connection.execute(
                f"ATTACH '{PATH}.attached' AS attached").connection.commit())
            seen(one)
            child(lambda: store(other, 2))
            with one.begin() as connection:
                connection.exec_driver_sql("INSERT INTO attached.ledger VALUES (3)")
                child(lambda: refused(lambda: store(other, 9), "a transaction open on it that writes"))
            with other.begin() as connection:
                connection.exec_driver_sql("INSERT INTO ledger VALUES (4)")
                child(lambda: refused(lambda: seen(one)))
            assert rows(PATH + ".attached") == [1, 2, 3, 4]
            """
        )
    )


def test_a_file_that_is_attached_only_in_the_child_counts(play: Play) -> None:
    passes(
        play(
            """
            create(PATH, 1)
            create(PATH + ".main")
            one, other = engine_on(journal="WAL"), engine_on(PATH + ".main")
            event.listen(other, "connect", lambda connection, _: connection.execute(f"ATTACH '{PATH}' AS attached"))

            def idle():
                return [handle for handle in _sqlite.Inheritance.here().handles if handle.opener is one.pool._opener]

            def attach():
                assert idle()
                seen(other)
                assert not idle()  # closed, before anything was read

            from pidpool import _sqlite
            store(one, 2)
            child(attach)
            with one.begin() as connection:
                connection.exec_driver_sql("INSERT INTO ledger VALUES (3)")
                child(lambda: refused(lambda: seen(other), PATH, "a transaction open on it that writes"))
            assert rows() == [1, 2, 3]
            """
        )
    )


def test_another_file_may_be_opened(play: Play) -> None:
    passes(
        play(
            """
            create(PATH, 1)
            create(PATH + ".other", 1)
            one, other = engine_on(), engine_on(PATH + ".other")
            with one.begin() as connection:
                connection.exec_driver_sql("INSERT INTO ledger VALUES (2)")
                child(lambda: store(other, 2))
            assert rows() == rows(PATH + ".other") == [1, 2]
            """
        )
    )


OTHER_THREAD = """
    create(PATH, 1)
    engine = engine_on(journal=REST[0])
    local = threading.local()
    begun, finish = threading.Event(), threading.Event()

    def work():
        local.connection = engine.raw_connection()
        local.cursor = local.connection.cursor()
        if REST[1] == "idle":
            local.connection.rollback()
        else:
            local.cursor.execute("INSERT INTO ledger VALUES (2)")
        begun.set()
        finish.wait()
        local.cursor.execute("INSERT INTO ledger VALUES (3)")
        local.connection.commit()
        local.connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    try:
        for leave in ("os._exit", "sys.exit"):
            child(lambda: None, leave="os._exit")
            child(lambda: refused(lambda: store(engine, 9), "checked out in another thread"))
    finally:
        finish.set()
        thread.join()
    found = rows()
    assert found == ([1, 3] if REST[1] == "idle" else [1, 2, 3]), found
"""


@pytest.mark.parametrize("work", ["idle", "in a transaction"])
@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_what_another_thread_has_checked_out_is_in_use(journal: str, work: str, play: Play) -> None:
    passes(play(OTHER_THREAD, journal, work))


def test_queue_pool_in_its_place_loses_the_threads_rows(play: Play) -> None:
    source = OTHER_THREAD.replace(
        'child(lambda: refused(lambda: store(engine, 9), "checked out in another thread"))', ""
    )
    passes(play(source, "DELETE", "in a transaction"))
    fails(play(source, "DELETE", "in a transaction", pool="QueuePool"))


@pytest.mark.parametrize("how", ["fork", "hookless"])
@pytest.mark.parametrize("busy", ["busy", "not busy"])
def test_grandchildren_are_like_children(busy: str, how: str, play: Play) -> None:
    passes(
        play(
            """
            busy, how = REST
            create(PATH, 1)
            engine = engine_on(journal="WAL")
            store(engine, 2)

            def live(generation):
                if busy == "busy":
                    store(engine, generation)
                if generation < 6:
                    child(lambda: live(generation + 1), how=how)
                else:
                    store(engine, 7)

            child(lambda: live(3), how=how)
            assert rows() == ([1, 2, 3, 4, 5, 6, 7] if busy == "busy" else [1, 2, 7])

            def refuse(generations):
                refused(lambda: store(engine, 9))
                if generations:
                    child(lambda: refuse(generations - 1), how=how)

            with engine.begin() as connection:
                connection.exec_driver_sql("INSERT INTO ledger VALUES (8)")
                child(lambda: child(lambda: refuse(2), how=how), how=how)
            assert 8 in rows() and 9 not in rows()
            """,
            busy,
            how,
        )
    )


def test_several_threads_of_a_child_wait_for_the_one_that_closes(play: Play) -> None:
    passes(
        play(
            """
            create(PATH)
            engine = engine_on(journal="WAL", connect_args={"timeout": 30})
            connections = [engine.connect() for _ in range(5)]
            for connection in connections:
                connection.exec_driver_sql("SELECT * FROM ledger").fetchall()
                connection.close()

            def live():
                threads = [threading.Thread(target=store, args=(engine, number)) for number in range(5)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

            child(live)
            assert rows() == [0, 1, 2, 3, 4]
            """
        )
    )


def test_dispose_in_the_child_changes_nothing(play: Play) -> None:
    passes(
        play(
            """
            create(PATH, 1)
            engine = engine_on(journal="WAL")
            store(engine, 2)

            def live():
                engine.dispose()
                store(engine, 3)
                engine.dispose()
                store(engine, 4)

            child(live)
            with engine.begin() as connection:
                connection.exec_driver_sql("INSERT INTO ledger VALUES (5)")
                child(lambda: (engine.dispose(), refused(lambda: store(engine, 9))))
            assert rows() == [1, 2, 3, 4, 5]
            """
        )
    )


@pytest.mark.parametrize("idle", ["pool's", "other pool's"])
def test_a_close_of_the_applications_executes_nothing_in_the_child(idle: str, play: Play) -> None:
    passes(
        play(
            """
            create(PATH)
            class Tidy(sqlite3.Connection):
                def close(self):
                    self.execute("INSERT INTO ledger VALUES ('tidied up in %d')" % os.getpid())
                    self.commit()
                    super().close()

            engine = engine_on(journal="WAL", connect_args={"factory": Tidy})
            store(engine, "parent")
            if REST[0] == "pool's":
                child(lambda: store(engine, "child"))
            else:
                other = engine_on(connect_args={"factory": Tidy})  # which notices only when it has opened the file
                child(lambda: store(other, "child"))
            assert rows() == ["child", "parent"], rows()
            """,
            idle,
        )
    )


# As a driver with a build of SQLite of its own: its classes are none of sqlite3's.
ANOTHER_DRIVER = """
    import types
    class Connection:
        def __init__(self, *args, **options):
            self.real = sqlite3.connect(*args, **options)
        def __getattr__(self, name):
            return getattr(self.real, name)
    Connection.__module__ = "sqlite4.dbapi2"
    module = types.ModuleType("sqlite4")
    module.__dict__.update({name: getattr(sqlite3, name) for name in dir(sqlite3) if name[0] != "_"})
    module.connect = Connection
    import warnings
    warnings.simplefilter("ignore")  # that pidpool does not know it
    create(PATH)
    engine = engine_on(journal="WAL", module=module, close_before_fork=REST[0] == "closed before fork")
    store(engine, 1)
    if REST[0] == "idle":
        child(lambda: refused(lambda: store(engine, 9), PATH, "a driver that pidpool does not know", "spawn"))
        engine.dispose()
    child(lambda: store(engine, 2))
    store(engine, 3)
    assert rows() == [1, 2, 3]
"""


@pytest.mark.parametrize("when", ["idle", "closed before fork"])
def test_an_idle_connection_by_another_driver_is_in_use(when: str, play: Play) -> None:
    passes(play(ANOTHER_DRIVER, when))


WITHOUT_LIBRARY = """
    from pidpool import _sqlite
    _sqlite.library = lambda: None  # as where libsqlite3 is hidden inside the interpreter
    create(PATH, 1)
    engine = engine_on(journal="WAL")
    store(engine, 2)
    child(lambda: store(engine, 3))
    with engine.connect() as connection:
        child(lambda: store(engine, 4))
        result = connection.exec_driver_sql("SELECT row FROM ledger")
        result.fetchone()
        child(lambda: refused(lambda: store(engine, 9), "open on it"))
        result.close()
        del result
        connection.rollback()
        connection.exec_driver_sql("INSERT INTO ledger VALUES (5)")
        child(lambda: refused(lambda: store(engine, 9), "a transaction open on it"))
        connection.commit()
    assert rows() == [1, 2, 3, 4, 5]
    memory = create_engine("sqlite://", poolclass=PidPool, pool_size=1, max_overflow=0)
    with memory.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE ledger (row)")
    store(memory, 1)
    child(lambda: seen(memory) == [1] or os._exit(1))
"""


def test_it_works_without_the_librarys_own_functions(play: Play) -> None:
    passes(play(WITHOUT_LIBRARY))


STUCK = """
    import ctypes, _sqlite3
    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_mutex_alloc.restype = ctypes.c_void_p
    mutex = ctypes.c_void_p(library.sqlite3_mutex_alloc(int(REST[0])))
    create(PATH, 1)
    engine = engine_on()
    taken, leave = threading.Event(), threading.Event()

    def be_inside():
        library.sqlite3_mutex_enter(mutex)
        taken.set()
        leave.wait()
        library.sqlite3_mutex_leave(mutex)

    seen(engine)
    thread = threading.Thread(target=be_inside)
    thread.start()
    taken.wait()
    try:
        import signal
        child(lambda: (signal.alarm(20), refused(lambda: store(engine, 9), "another thread inside SQLite")))
    finally:
        leave.set()
        thread.join()
    store(engine, 2)
    assert rows() == [1, 2]
"""


@pytest.mark.parametrize("number", ["2", "3", "6", "11"])
def test_a_mutex_of_the_library_that_nobody_will_release_is_not_waited_for(number: str, play: Play) -> None:
    passes(play(STUCK, number))


# The option


OPTION = """
    create(PATH, 1)
    engine = engine_on(journal="WAL", close_before_fork=REST[0] == "True")
    engine = engine.execution_options()
    engine.dispose()  # and with it, recreate()
    store(engine, 2)
    assert engine.pool.checkedin() == 1

    def open_descriptors():
        return [name for name in os.listdir("/proc/self/fd")
                if os.path.exists("/proc/self/fd/" + name) and os.path.samefile("/proc/self/fd/" + name, PATH)]

    def live():
        assert open_descriptors() == []
        store(engine, 3)

    child(live)
    assert engine.pool.checkedin() == 0
    with engine.begin() as connection:  # what is out stays open
        child(lambda: None)
        connection.exec_driver_sql("INSERT INTO ledger VALUES (4)")
    assert rows() == [1, 2, 3, 4]
"""


def test_close_before_fork_leaves_nothing_to_inherit(play: Play) -> None:
    passes(play(OPTION, "True"))


def test_without_close_before_fork_the_child_inherits(play: Play) -> None:
    fails(play(OPTION, "False"))
