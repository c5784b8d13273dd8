"""What a checkout and checkin costs when nobody else wants a connection: PidPool against SQLAlchemy's pools.

    python benchmarks/checkout.py [--asyncio] [--rounds 101] [--loops 2000] [--fail-above 0.35]

The DB-API's calls do nothing, so all that is measured is the pool. The pools take turns, round by round, in one
process; each figure is a pool's median over QueuePool's in the same rounds. Absolute times depend on the machine;
ratios little.

With --asyncio it is AsyncPidPool against AsyncAdaptedQueuePool, in a running event loop. A pool's `connect` and `close`
are ordinary functions there, too, and with an idle connection nobody awaits.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import statistics
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, QueuePool
from sqlalchemy.util import greenlet_spawn

import pidpool
from pidpool import AsyncPidPool, PidNullPool, PidPool
from pidpool.errors import UnknownDriverWarning

if TYPE_CHECKING:
    from sqlalchemy.pool import Pool


class Connection:
    """A DB-API connection that does nothing."""

    def cursor(self) -> Connection:
        """Return something."""
        return self

    def rollback(self) -> None:
        """Do nothing."""

    commit = close = rollback


def per_checkout(pool: Pool, loops: int) -> float:
    """Return what one checkout and checkin costs (seconds of processor time, which no other process adds to)."""
    connect = pool.connect
    started = time.thread_time()
    for _ in range(loops):
        connect().close()
    return (time.thread_time() - started) / loops


def in_turn(classes: list[type[Any]], rounds: int, loops: int) -> dict[str, list[float]]:
    """Return what a checkout costs with each pool, in each round."""
    pools = {pool_class.__name__: pool_class(Connection) for pool_class in classes}
    times: dict[str, list[float]] = {name: [] for name in pools}
    for pool in pools.values():
        per_checkout(pool, loops // 10)
    for _ in range(rounds):
        for name, pool in pools.items():
            times[name].append(per_checkout(pool, loops))
    return times


def main() -> int:
    """Measure, print, and compare with the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=101, help="how often each pool takes its turn (default 101)")
    parser.add_argument("--loops", type=int, default=2_000, help="checkouts in a turn (default 2000)")
    parser.add_argument("--asyncio", action="store_true", help="measure the pools for asyncio engines")
    parser.add_argument(
        "--fail-above", type=float, metavar="RATIO", help="exit 1 if PidPool costs more of QueuePool than this"
    )
    arguments = parser.parse_args()

    warnings.simplefilter("ignore", UnknownDriverWarning)
    classes: list[type[Any]] = [QueuePool, PidPool, NullPool, PidNullPool]
    if arguments.asyncio:
        classes = [AsyncAdaptedQueuePool, AsyncPidPool]
        times = asyncio.run(greenlet_spawn(in_turn, classes, arguments.rounds, arguments.loops))
    else:
        times = in_turn(classes, arguments.rounds, arguments.loops)
    base, ours = (pool_class.__name__ for pool_class in classes[:2])

    say = sys.stdout.write
    say(
        f"pidpool {pidpool.__version__}, SQLAlchemy {sqlalchemy.__version__}, CPython {platform.python_version()}, "
        f"{arguments.rounds} rounds of {arguments.loops} checkouts\n"
    )
    ratios = {}
    width = max(map(len, times))
    for name, values in times.items():
        by_round = [value / base for value, base in zip(values, times[base], strict=True)]
        quartiles = statistics.quantiles(by_round)
        ratios[name] = quartiles[1]
        say(
            f"{name:{width}} {statistics.median(values) * 1e6:7.2f} us   {ratios[name]:.3f} of {base} "
            f"(half of the rounds: {quartiles[0]:.3f} to {quartiles[2]:.3f})\n"
        )
    if arguments.fail_above is not None and ratios[ours] > arguments.fail_above:
        say(f"{ours} costs {ratios[ours]:.3f} of {base}, more than {arguments.fail_above}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
