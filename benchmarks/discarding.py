"""The fresh process of the suite *discard*: what a child pays, inside fork, for what it inherits."""

from __future__ import annotations

import os
import resource
import time
from typing import TYPE_CHECKING

from sqlalchemy import create_engine

# Hooks run in the order in which they were registered: this one after those of what stands above, and before pidpool's.
_clock: list[float] = []
os.register_at_fork(after_in_child=lambda: _clock.append(time.perf_counter()))

from pidpool import PidPool  # noqa: E402 - see above

os.register_at_fork(after_in_child=lambda: _clock.append(time.perf_counter()))

from pidpool.bench import Round  # noqa: E402
from pidpool.hazards.errors import summary  # noqa: E402
from pidpool.hazards.fresh import begin  # noqa: E402

if TYPE_CHECKING:
    from sqlalchemy import Pool

_CHILDREN = 10


def work(*, connections: int, url: str, channel: int) -> None:
    """Fork children that inherit so many idle `connections`; tell what discarding all of them took; end the process."""
    tell = begin(channel)
    parent = os.getpid()
    try:
        found = _measure(connections, url)
    except Exception as error:
        if os.getpid() != parent:
            raise
        found = Round("error", summary(error))
    tell(found.as_json())
    os._exit(0)


def _measure(connections: int, url: str) -> Round:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    engine = create_engine(url, poolclass=PidPool, pool_size=connections, max_overflow=0)
    held = [engine.connect() for _ in range(connections)]
    for connection in held:
        connection.close()
    times = sorted(_child(engine.pool, connections) for _ in range(_CHILDREN))
    return Round("done", operations=_CHILDREN, seconds=times[_CHILDREN // 2])


def _child(pool: Pool, connections: int) -> float:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        before, after = _clock
        discarded = isinstance(pool, PidPool) and pool.stats().discards == connections
        os.write(writing, f"{after - before if discarded else -1}".encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answers:  # noqa: PTH123 - a descriptor
        seconds = float(answers.read())
    os.waitpid(pid, 0)
    if seconds < 0:
        raise RuntimeError("the child has not discarded everything")
    return seconds
