"""Rounds of four children at a time, which do what they like while the parent goes on storing rows."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.duckdb.conftest import PIN_ONLY, fails, passes

if TYPE_CHECKING:
    from tests.duckdb.conftest import Play

_ROUNDS = 12

STRESS = """
    import random
    rounds, seed = REST
    chance = random.Random(seed)
    ACTS = ["dispose", "drop", "close", "roll back", "other file", "memory"]

    def live(engine, held, act, name):
        if act == "use":
            refused(lambda: store(engine, -7))
        elif act == "dispose":
            engine.dispose()
        elif act == "drop":
            held.clear()
            gc.collect()
        elif act == "close":
            for thing in reversed(held):
                thing.close()
        elif act == "roll back":
            for thing in held[:1]:
                thing.rollback()
        else:
            other = engine_on(name if act == "other file" else ":memory:")
            with other.begin() as connection:
                connection.exec_driver_sql("CREATE TABLE numbers AS SELECT range a, range % 7 b FROM range(100000)")
                sums = "SELECT b, sum(a) FROM numbers GROUP BY b"
                assert len(connection.exec_driver_sql(sums).fetchall()) == 7
            if chance.random() < 0.5:
                other.dispose()

    def one(number, path):
        engine = engine_on(path)
        stored = [1]
        create(engine, 1)
        state = chance.choice(["idle", "in a transaction", "half read", "in another thread"])
        held = []
        begun, finish = threading.Event(), threading.Event()

        def work():
            with engine.begin() as connection:
                connection.exec_driver_sql("INSERT INTO ledger VALUES (2)")
                begun.set()
                finish.wait()

        thread = threading.Thread(target=work, daemon=True)
        if state == "in a transaction":
            held.append(engine.connect())
            held[0].exec_driver_sql("INSERT INTO ledger VALUES (2)")
            stored.append(2)
        elif state == "half read":
            held.append(engine.connect())
            held.append(held[0].connection.cursor())
            held[1].execute("SELECT * FROM range(10000000)")
            held[1].fetchone()
        elif state == "in another thread":
            thread.start()
            begun.wait()
            stored.append(2)
        children = {}
        for child in range(4):
            act = "use" if child == 0 else chance.choice(ACTS)
            leave = chance.choice(["os._exit", "sys.exit"])
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                try:
                    live(engine, held, act, f"{path}.{child}")
                except BaseException as error:
                    print(state, act, repr(error), flush=True)
                    os._exit(1)
                if leave == "sys.exit":
                    sys.exit(0)
                os._exit(0)
            children[pid] = act, leave
            if state != "half read":
                store(engine, 10 + child)
                stored.append(10 + child)
        ends = {pid: os.waitpid(pid, 0)[1] for pid in children}
        finish.set()
        if state == "in another thread":
            thread.join()
        for thing in reversed(held):
            if state == "in a transaction":
                thing.commit()
            thing.close()
        store(engine, 3)
        stored.append(3)
        found = after_a_crash(path)
        assert found == seen(engine) == sorted(stored), (number, state, children, found, sorted(stored))
        engine.dispose()
        assert rows(path) == sorted(stored)
        assert not any(ends.values()), (state, [(children[pid], status) for pid, status in ends.items() if status])

    for number in range(int(rounds)):
        one(number, f"{PATH}.{seed}.{number}")
"""


def test_no_row_is_lost_and_no_child_fails(play: Play) -> None:
    passes(play(STRESS, "3", "suite"))


@pytest.mark.slow
def test_it_is_so_every_time(play: Play) -> None:
    for seed in range(3):
        passes(play(STRESS, str(_ROUNDS), str(seed)))


@pytest.mark.parametrize("control", ["QueuePool", "pinning alone"])
def test_a_control_loses_rows_or_children(control: str, play: Play) -> None:
    # Children of the control hang, too; it need not be watched for long.
    source = STRESS.replace("signal.alarm(20)", "signal.alarm(3)")
    if control == "QueuePool":
        fails(play(source, "3", "suite", pool=control))
    else:
        fails(play(PIN_ONLY + textwrap.dedent(source), "3", "suite"))
