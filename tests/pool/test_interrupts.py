"""An interrupt at any step of a checkout or a checkin loses nothing: no slot, no waiter, no connection.

A KeyboardInterrupt and an ordinary exception are raised before each opcode of the pools' code in turn, ours and
SQLAlchemy's. That is more than CPython does: it looks for signals on entering a function, after a call, and on jumping
back, and nowhere else.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.pool.interrupting import SCENES, interrupt_at_every_step, interrupt_by_signals

if TYPE_CHECKING:
    from tests.pool.conftest import Play

#: The one place where an interrupt may cost a slot: a finalizer, before it has come to its `try`. Python swallows what
#: is raised in a finalizer ("Exception ignored in"), and calls none a second time. Nothing written in Python can run
#: before its first opcode (RESUME, or what comes first in 3.10), and that is where CPython would raise; between the
#: others there is no call. QueuePool's weakref callback has the same first opcode.
TOLERATED = ("_record.py:Fairy.__del__:",)

FORGOTTEN = [name for name in SCENES if name.startswith("forgotten")]


def untolerated(found: dict[str, Any]) -> list[list[str]]:
    return [loss for loss in found["losses"] if not loss[0].startswith(TOLERATED)]


@pytest.mark.slow
@pytest.mark.parametrize("busy", [False, True], ids=["plain", "with listeners and upkeep"])
@pytest.mark.parametrize("name", SCENES)
def test_an_interrupt_at_any_step_loses_nothing(  # one of five where more is under way: see interrupt_at_every_step
    name: str,
    busy: bool,  # noqa: FBT001 - a parameter of the test
    play: Play,
) -> None:
    found = play(interrupt_at_every_step, name, "PidPool", "KeyboardInterrupt", busy=busy, limit=100)
    assert untolerated(found) == [], json.dumps(found["losses"], indent=1)
    assert found["steps"] > 50


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_an_exception_at_one_step_of_five_loses_nothing(name: str, play: Play) -> None:
    found = play(interrupt_at_every_step, name, "PidPool", "Exception", limit=100)
    assert untolerated(found) == [], json.dumps(found["losses"], indent=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORGOTTEN)
def test_what_is_tolerated_is_the_entry_of_a_finalizer(name: str, play: Play) -> None:
    found = play(interrupt_at_every_step, name, "PidPool", "KeyboardInterrupt", limit=100)
    between = [loss[0] for loss in found["losses"] if " CALL" in loss[0].partition("|")[0]]
    assert between == []  # no call comes before the `try`


@pytest.mark.parametrize("seed", [1, 2])
def test_a_hundred_signals_lose_nothing(seed: int, play: Play) -> None:
    found = play(interrupt_by_signals, "PidPool", 100, seed, limit=110)
    assert found["wrong"] == []
    assert found["hits"] >= 100
    assert found["in the pool"] > 15


# That the checks can fail


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first_checkout", "checkin", "connect_that_fails", "dispose"])
def test_with_queue_pool_an_interrupt_loses_a_slot_or_the_whole_pool(name: str, play: Play) -> None:
    found = play(interrupt_at_every_step, name, "QueuePool", "KeyboardInterrupt", env={"PATIENCE": "2"}, limit=100)
    assert any({"lost slot", "the pool hangs"} & set(loss) for loss in found["losses"])
