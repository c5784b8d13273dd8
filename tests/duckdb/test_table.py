"""What was open at fork, what the child does, and what the parent keeps.

A parent that lives on sees its rows even where they are lost, and a polite end stores them once more. So the files are
judged as they would be after a crash.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.duckdb.conftest import PIN_ONLY, fails, passes

if TYPE_CHECKING:
    from tests.duckdb.conftest import Play

SCENE = """
    state, how, *deeds = REST
    engine = engine_on()
    stored = [1, 2]
    create(engine, *stored)
    begun, finish = threading.Event(), threading.Event()
    held = []

    def work():
        with engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO ledger VALUES (3)")
            begun.set()
            finish.wait()

    thread = threading.Thread(target=work, daemon=True)
    if state == "in a transaction":
        held.append(engine.connect())
        held[0].exec_driver_sql("INSERT INTO ledger VALUES (3)")
    elif state == "half read":
        held.append(engine.connect())
        held.append(held[0].connection.cursor())
        held[1].execute("SELECT * FROM range(10000000)")
        assert held[1].fetchone() == (0,)
    elif state == "in another thread":
        thread.start()
        begun.wait()

    def use():
        if POOL in (PidPool, PidNullPool):
            refused(lambda: store(engine, 9), PATH, str(os.getpid()), str(os.getppid()), "engine.dispose()", "spawn")
            refused(lambda: store(engine, 9))  # and again
        else:
            no_harm(lambda: store(engine, 9))

    def drop():
        global engine
        held.clear()
        del engine
        gc.collect()

    def unwind():
        with contextlib.suppress(ZeroDivisionError):
            with held[0] if held else engine.begin():
                1 / 0

    actions = {
        "use": use,
        "drop": drop,
        "close": lambda: [thing.close() for thing in reversed(held)],
        "roll back": lambda: [thing.rollback() for thing in held[:1]],
        "invalidate": lambda: [thing.invalidate() for thing in held[:1]],
        "unwind": lambda: unwind() if held else None,
        "dispose": lambda: engine.dispose(),
        "exit": lambda: None,
    }
    for number, deed in enumerate(deeds, start=10):
        child(actions[deed], how=how, leave="sys.exit" if deed == "exit" else "os._exit")
        if state == "idle":
            store(engine, number)
            stored.append(number)
            found = after_a_crash()
            assert found == sorted(stored), (deed, found)
        elif state == "half read":
            assert held[1].fetchone() is not None
    if state == "in a transaction":
        held[0].commit()
    finish.set()
    if state == "in another thread":
        thread.join()
    for thing in reversed(held):
        thing.close()
    if state in ("in a transaction", "in another thread"):
        stored.append(3)
    store(engine, 4)
    stored.append(4)
    found = after_a_crash()
    assert found == sorted(stored), found
    engine.dispose()
    found = rows(PATH)
    assert found == sorted(stored), found
"""

DEEDS = ("use", "drop", "close", "roll back", "invalidate", "unwind", "dispose", "exit")
STATES = ("idle", "in a transaction", "half read", "in another thread")


# Without a hook, a child waits for ever for the interpreter's lock if another thread was just waiting for it.
@pytest.mark.parametrize(
    ("state", "how"), [*((state, "fork") for state in STATES), *((state, "hookless") for state in STATES[:3])]
)
def test_the_parent_keeps_every_row_whatever_the_child_does(state: str, how: str, play: Play) -> None:
    passes(play(SCENE, state, how, *DEEDS))


@pytest.mark.parametrize("state", ["in a transaction", "half read", "in another thread"])
def test_so_it_does_with_a_pid_null_pool(state: str, play: Play) -> None:
    passes(play(SCENE, state, "fork", *DEEDS, pool="PidNullPool"))


@pytest.mark.parametrize("deed", ["use", "dispose", "drop"])
def test_queue_pool_in_its_place_loses_rows(deed: str, play: Play) -> None:
    fails(play(SCENE, "idle", "fork", deed, pool="QueuePool"))


BESIDE_IT = """
    engine = engine_on()
    create(engine, 1)
    child(lambda: no_harm(lambda: store(engine, 9)))
    store(engine, 2)
    found = after_a_crash()
    assert found == [1, 2], found
"""


def test_pinning_alone_lets_the_child_write_into_the_parents_log(play: Play) -> None:
    passes(play(BESIDE_IT))
    fails(play(PIN_ONLY + textwrap.dedent(BESIDE_IT)))


# A script that knows nothing of pidpool in the child: what is pinned is closed by hand.
BY_HAND = """
    engine = engine_on()
    create(engine, 1)
    connection = engine.raw_connection()
    raw = connection.driver_connection
    if REST == ["close"]:
        # duckdb 2.0 crashes here, where it waits for its threads
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            no_harm(raw.close)
            os._exit(0)
        os.waitpid(pid, 0)
    connection.close()
    store(engine, 2)
    found = after_a_crash()
    assert found == [1, 2], found
"""


def test_even_closing_the_drivers_connection_by_hand_does_not_reach_the_files(play: Play) -> None:
    passes(play(BY_HAND, "close"))
    fails(play("\n    from pidpool import _duckdb\n    _duckdb.put_dead_end = lambda _: None\n" + BY_HAND, "close"))


def test_a_child_holds_none_of_the_parents_descriptors(play: Play) -> None:
    passes(
        play(
            """
            engine = engine_on()
            create(engine, 1)
            def ours():
                return [name for number in os.listdir("/proc/self/fd")
                        if (name := os.path.realpath("/proc/self/fd/" + number)).startswith(PATH)]
            assert sorted(ours()) == [PATH, PATH + ".wal"]
            def look():
                assert ours() == [], ours()
                child(lambda: ours() == [] or os._exit(1))
            child(look)
            store(engine, 2)
            assert sorted(ours()) == [PATH, PATH + ".wal"]
            """
        )
    )


def test_a_child_at_its_descriptor_limit_is_refused_and_leaves_the_files_alone(play: Play) -> None:
    passes(
        play(
            """
            from pidpool.hazards.family import descriptor_limit
            engine = engine_on()
            create(engine, 1)
            with descriptor_limit():
                child(lambda: (refused(lambda: store(engine, 9)), engine.dispose()), leave="sys.exit")
            store(engine, 2)
            assert after_a_crash() == [1, 2]
            """
        )
    )
