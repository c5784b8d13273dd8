"""The suites: what is measured, with which pools, and how one round of one pool is played."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from benchmarks.checkouts import READY
from pidpool.bench import Load, Round, nothing, play_round, workload
from pidpool.hazards import reach, subject
from pidpool.hazards.fresh import Died, FreshProcess, OutOfTime

_PATIENCE = 60.0  # seconds for a round: a thousand connections take a while
_CROWD = 2.5  # how much longer a round is in which many threads must come to their turns


@dataclass(frozen=True)
class Servers:
    """The databases; an empty URL where there is none."""

    postgresql: str = field(repr=False)
    mariadb: str = field(repr=False)


Play: TypeAlias = Callable[[Sequence[str], Servers, float], Iterator[tuple[str, Round]]]


@dataclass(frozen=True)
class Suite:
    """A few pools at the same work.

    Attributes:
        name: its name in the results.
        title: what is done.
        operation: what is counted, in the singular.
        pools: who does it; ours first.
        play: plays one round of some of them, and yields each with what it came to.
    """

    name: str
    title: str
    operation: str
    pools: tuple[str, ...]
    play: Play

    def rounds(self, servers: Servers, count: int, duration: float) -> Iterator[tuple[str, int, Round]]:
        """Yield pool, number and round, the pools in turn and another one first each time."""
        hung: set[str] = set()
        for number in range(count):
            first = number % len(self.pools)
            pools = (*self.pools[first:], *self.pools[:first])
            # One hang proves the point; each of them costs the time of many rounds.
            yield from ((pool, number, Round("skipped", "it has hung")) for pool in pools if pool in hung)
            for pool, found in self.play([pool for pool in pools if pool not in hung], servers, duration):
                if found.outcome == "hang" or found.hung:
                    hung.add(pool)
                yield pool, number, found


def _one_by_one(play: Callable[[str, Servers, float], Round]) -> Play:
    def play_all(pools: Sequence[str], servers: Servers, duration: float) -> Iterator[tuple[str, Round]]:
        for pool in pools:
            yield pool, play(pool, servers, duration)

    return play_all


def _checkouts(where: Callable[[Servers], str]) -> Play:
    """Return a way to let all pools check out and in by turns of milliseconds: what slows the machine slows each."""

    def play(pools: Sequence[str], servers: Servers, duration: float) -> Iterator[tuple[str, Round]]:
        with ExitStack() as stack:
            go = Path(stack.enter_context(TemporaryDirectory()), "go")
            deadline = time.monotonic() + _PATIENCE
            processes = {}
            for turn, pool in enumerate(pools):
                job = {"peer": pool, "url": where(servers), "duration": duration, "go": str(go)}
                job |= {"turn": turn, "turns": len(pools)}
                processes[pool] = stack.enter_context(FreshProcess("benchmarks.checkouts", job))
            heard = {pool: _heard(process, deadline) for pool, process in processes.items()}
            go.touch()  # All of them are ready, or will never be.
            for pool, process in processes.items():
                yield pool, heard[pool] or _heard(process, deadline) or Round("error", "it said nothing")

    return play


def _heard(process: FreshProcess, deadline: float) -> Round | None:
    """Return the round that a process tells of; None if all it tells is that it is ready."""
    try:
        message = process.listen(deadline)[0]
    except OutOfTime:
        return Round("hang", f"no end within {_PATIENCE:g} s")
    except Died as last_words:
        return Round("error", str(last_words))
    return None if message == READY else Round.from_json(message)


def _workload(
    name: str,
    *,
    longer: float = 1.0,
    **load: Any,  # noqa: ANN401 - fields of a Load
) -> Play:
    def play(pool: str, servers: Servers, duration: float) -> Round:
        work = workload(name)
        target = reach(servers.postgresql) if work.needs_server else None
        return play_round(work, subject(pool), Load(duration=duration * longer, **load), target)

    return _one_by_one(play)


def _discard(pool: str, servers: Servers, _duration: float) -> Round:
    if not servers.mariadb:
        return Round("skipped", "no such server here")
    job = {"connections": int(pool.split()[-2]), "url": servers.mariadb}
    with FreshProcess("benchmarks.discarding", job) as process:
        return _heard(process, time.monotonic() + _PATIENCE) or Round("error", "it said nothing")


def _pymysql(pool: str, servers: Servers, duration: float) -> Round:
    """One pool at a time has the server to itself, which counts what it is asked."""
    if not servers.mariadb:
        return Round("skipped", "no such server here")
    ((_, found),) = _checkouts(lambda servers: servers.mariadb)([pool], servers, duration)
    return found


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "checkout",
            "check out and in, without a database",
            "checkout",
            ("pidpool", "queuepool", "nullpool", "PooledDB"),
            _checkouts(lambda _: nothing.URL),
        ),
        Suite(
            "psycopg",
            "check out and in, psycopg on PostgreSQL, nothing sent",
            "checkout",
            ("pidpool", "queuepool", "psycopg_pool", "PooledDB", "django-db-connection-pool"),
            _checkouts(lambda servers: servers.postgresql),
        ),
        Suite(
            "pymysql",
            "check out and in, PyMySQL in autocommit on MariaDB",
            "checkout",
            ("pidpool", "queuepool"),
            _one_by_one(_pymysql),
        ),
        Suite(
            "query",
            "engine.connect(), one SELECT, close, on PostgreSQL",
            "query",
            ("pidpool", "queuepool", "psycopg-pool", "dbutils"),
            _workload("query"),
        ),
        Suite(
            "contended",
            "8 threads over 2 connections, each held 0.5 ms",
            "turn",
            ("pidpool", "queuepool"),
            _workload("contended", longer=_CROWD, threads=8, connections=2, hold=0.0005),
        ),
        Suite(
            "crowded",
            "32 threads over 5 connections: connect().close(), nothing in between",
            "turn",
            ("pidpool", "queuepool"),
            _workload("contended", longer=_CROWD, threads=32, connections=5, hold=None),
        ),
        Suite(
            "yielding",
            "32 threads over 5 connections, each held while other threads run: time.sleep(0)",
            "turn",
            ("pidpool", "queuepool"),
            _workload("contended", longer=_CROWD, threads=32, connections=5, hold=0.0),
        ),
        Suite(
            "fork",
            "from fork to the child's first result, 10 inherited connections",
            "child",
            ("pidpool", "nullpool", "queuepool+dispose-noclose", "queuepool"),
            _workload("fork"),
        ),
        Suite(
            "storm",
            "8 children at once, each with a query, 10 inherited connections",
            "child",
            ("pidpool", "nullpool", "queuepool+dispose-noclose", "queuepool"),
            _workload("storm"),
        ),
        Suite(
            "discard",
            "what discarding adds to fork in the child, PyMySQL",
            "fork",
            ("pidpool, 10 connections", "pidpool, 1000 connections"),
            _one_by_one(_discard),
        ),
    )
}
"""All suites, in the order in which they run."""
