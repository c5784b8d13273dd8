"""The suites: what is measured, with which pools, and how one round of one pool is played."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pidpool.bench import Load, Round, nothing, play_round, workload
from pidpool.hazards import reach, subject
from pidpool.hazards.fresh import Died, FreshProcess, OutOfTime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATIENCE = 60.0  # seconds for a round: a thousand connections take a while
_CROWD = 2.5  # how much longer a round is in which many threads must come to their turns


@dataclass(frozen=True)
class Servers:
    """The databases; an empty URL where there is none."""

    postgresql: str = field(repr=False)
    mariadb: str = field(repr=False)


@dataclass(frozen=True)
class Suite:
    """A few pools at the same work.

    Attributes:
        name: its name in the results.
        title: what is done.
        operation: what is counted, in the singular.
        pools: who does it; ours first.
        play: plays one round of one of them.
    """

    name: str
    title: str
    operation: str
    pools: tuple[str, ...]
    play: Callable[[str, Servers, float], Round]

    def rounds(self, servers: Servers, count: int, duration: float) -> Iterator[tuple[str, int, Round]]:
        """Yield pool, number and round, the pools in turn and another one first each time."""
        hung: set[str] = set()
        for number in range(count):
            first = number % len(self.pools)
            for pool in (*self.pools[first:], *self.pools[:first]):
                # One hang proves the point; each of them costs the time of many rounds.
                found = Round("skipped", "it has hung") if pool in hung else self.play(pool, servers, duration)
                if found.outcome == "hang" or found.hung:
                    hung.add(pool)
                yield pool, number, found


def _checkouts(where: Callable[[Servers], str]) -> Callable[[str, Servers, float], Round]:
    def play(pool: str, servers: Servers, duration: float) -> Round:
        return _in_fresh_process("benchmarks.checkouts", where(servers), peer=pool, duration=duration)

    return play


def _workload(
    name: str,
    *,
    longer: float = 1.0,
    **load: Any,  # noqa: ANN401 - fields of a Load
) -> Callable[[str, Servers, float], Round]:
    def play(pool: str, servers: Servers, duration: float) -> Round:
        work = workload(name)
        target = reach(servers.postgresql) if work.needs_server else None
        return play_round(work, subject(pool), Load(duration=duration * longer, **load), target)

    return play


def _discard(pool: str, servers: Servers, _duration: float) -> Round:
    connections = int(pool.split()[-2])
    return _in_fresh_process("benchmarks.discarding", servers.mariadb, connections=connections)


def _in_fresh_process(module: str, url: str, **job: Any) -> Round:  # noqa: ANN401 - for JSON
    if not url:
        return Round("skipped", "no such server here")
    with FreshProcess(module, {**job, "url": url}) as process:
        try:
            return Round.from_json(process.listen(time.monotonic() + _PATIENCE)[0])
        except OutOfTime:
            return Round("hang", f"no end within {_PATIENCE:g} s")
        except Died as last_words:
            return Round("error", str(last_words))


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
            _checkouts(lambda servers: servers.mariadb),
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
            _discard,
        ),
    )
}
"""All suites, in the order in which they run."""
