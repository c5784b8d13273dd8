"""The fresh process of a suite of checkouts: it plays one round of one peer."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from benchmarks.peers import prepare
from pidpool.bench import Round
from pidpool.hazards.errors import summary
from pidpool.hazards.fresh import begin

if TYPE_CHECKING:
    from benchmarks.peers import Loop

_BATCH = 100


def work(*, peer: str, url: str, duration: float, channel: int) -> None:
    """Measure what a checkout and checkin of `peer` costs for `duration` seconds; tell it; end the process."""
    tell = begin(channel)
    try:
        loop = prepare(peer, url)
        _spend(loop, duration / 5)  # to warm up
        found = _counted(loop, duration, url) if url.startswith("mysql") else _spend(loop, duration)
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
        found = _spend(loop, seconds)
        return replace(found, statements=asked() - before - 1)  # The second look is a question, too.


def _spend(loop: Loop, seconds: float) -> Round:
    batches: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.perf_counter()
        loop(_BATCH)
        batches.append((time.perf_counter() - started) / _BATCH)
    # The median of short batches: what another process takes away makes a batch longer, and most it leaves alone.
    batches.sort()
    return Round("done", operations=len(batches) * _BATCH, seconds=batches[len(batches) // 2])
