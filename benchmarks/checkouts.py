"""The fresh process of a suite of checkouts: it plays one round of one peer."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from benchmarks.peers import prepare
from pidpool.bench import Round
from pidpool.hazards.errors import summary
from pidpool.hazards.fresh import begin

if TYPE_CHECKING:
    from benchmarks.peers import Loop

READY = {"ready": True}
"""What a process tells when its connections are open and its code is warm."""

_BATCH = 100  # operations between two looks at the clock
_SLICE = 0.02  # seconds of a turn: much longer than a batch, much shorter than the moods of a machine
_TICK = 0.001


@dataclass(frozen=True)
class Turns:
    """Slices of the clock that all processes share: each of them works in its own and sleeps in the others'."""

    turn: int
    turns: int

    def wait(self) -> None:
        """Return in a slice of ours."""
        while True:
            slices, into = divmod(time.monotonic(), _SLICE)
            ahead = (self.turn - int(slices)) % self.turns
            if not ahead:
                return
            time.sleep(ahead * _SLICE - into)


def work(  # noqa: PLR0913 - what a job consists of
    *, peer: str, url: str, duration: float, turn: int, turns: int, go: str, channel: int
) -> None:
    """Measure what a checkout and checkin of a peer costs, tell it, and end the process.

    Args:
        peer: the pool's name.
        url: the database.
        duration: how long to measure (seconds).
        turn: which of the slices is this process's.
        turns: how many processes share the clock.
        go: a file that exists when all of them are ready.
        channel: the descriptor that takes messages.
    """
    tell = begin(channel)
    try:
        loop = prepare(peer, url)
        _spend(loop, duration / 5, Turns(0, 1))  # to warm up
        tell(READY)
        while not os.path.exists(go):  # noqa: PTH110 - asked a thousand times a second
            time.sleep(_TICK)
        slices = Turns(turn, turns)
        found = _counted(loop, duration, url) if url.startswith("mysql") else _spend(loop, duration, slices)
    except ImportError as error:
        found = Round("skipped", f"not installed: {error.name}")
    except Exception as error:  # noqa: BLE001 - a result like any other
        found = Round("error", summary(error))
    tell(found.as_json())
    os._exit(0)


def _counted(loop: Loop, seconds: float, url: str) -> Round:
    """Count what the server is asked meanwhile, in a session of our own: a ROLLBACK to no purpose shows there."""
    with create_engine(url, poolclass=NullPool).connect() as connection:

        def asked() -> int:
            return int(connection.exec_driver_sql("SHOW GLOBAL STATUS LIKE 'Questions'").one()[1])

        before = asked()
        found = _spend(loop, seconds, Turns(0, 1))
        return replace(found, statements=asked() - before - 1)  # The second look is a question, too.


def _spend(loop: Loop, seconds: float, turns: Turns) -> Round:
    batches: list[float] = []
    spent = 0.0
    while spent < seconds:
        turns.wait()
        started = time.perf_counter()
        loop(_BATCH)
        took = time.perf_counter() - started
        spent += took
        batches.append(took / _BATCH)
    # The mean of the middle half: what another process takes away makes a few batches much longer, and they do not
    # count; a processor that is sometimes faster is so for everybody, and counts in proportion.
    batches.sort()
    middle = batches[len(batches) // 4 : -(len(batches) // 4) or None]
    return Round("done", operations=len(batches) * _BATCH, seconds=sum(middle) / len(middle))
