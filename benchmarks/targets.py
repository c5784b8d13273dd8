"""What we want to reach, and whether we have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pidpool.bench.figures import Spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.record import Record


@dataclass(frozen=True)
class Verdict:
    """One row of the table."""

    against: str
    measured: Spread | None
    """None: not measured, or not to be trusted."""
    target: str
    is_met: bool | None


@dataclass(frozen=True)
class Target:
    """A figure that must be at most, or at least, as large as a limit.

    Attributes:
        against: what the row says.
        measure: returns the figure of each round.
        limit: in the unit of the figure; a function of the record where it depends on versions.
        at_least: the limit is the least, not the most.
        unit: of both.
    """

    against: str
    measure: Callable[[Record], list[float]]
    limit: Callable[[Record], float]
    at_least: bool = False
    unit: str = ""

    def verdict(self, record: Record) -> Verdict:
        """Return the row for `record`; what counts is the median."""
        limit = self.limit(record)
        words = f"{'≥' if self.at_least else '≤'} {limit:g}{self.unit}"
        figures = self.measure(record)
        if not figures:
            return Verdict(self.against, None, words, None)
        spread = Spread.of(figures)
        return Verdict(self.against, spread, words, spread.median >= limit if self.at_least else spread.median <= limit)


def _ratio(suite: str, base: str) -> Callable[[Record], list[float]]:
    return lambda record: record.ratios(suite, "pidpool", base)


def _speed(suite: str, base: str) -> Callable[[Record], list[float]]:
    return lambda record: record.ratios(suite, base, "pidpool")


def _is(limit: float) -> Callable[[Record], float]:
    return lambda _: limit


def _times(suite: str, pool: str, factor: float) -> Callable[[Record], list[float]]:
    return lambda record: [(each.seconds or 0.0) * factor for each in record.clean(suite, pool)]


TARGETS = (
    Target(
        "QueuePool, uncontended",
        _ratio("checkout", "queuepool"),
        lambda record: 0.20 if record.versions["sqlalchemy"].startswith("2.1") else 0.27,
    ),
    Target("psycopg_pool, getconn and putconn", _ratio("psycopg", "psycopg_pool"), _is(0.50)),
    Target("DBUtils PooledDB, defaults", _ratio("checkout", "PooledDB"), _is(0.60)),
    Target("QueuePool, psycopg on loopback, the pool alone", _ratio("psycopg", "queuepool"), _is(0.30)),
    Target("QueuePool, PyMySQL in autocommit: no ROLLBACK is sent", _ratio("pymysql", "queuepool"), _is(0.10)),
    Target(
        "8 threads, 2 connections, 0.5 ms: fairness",
        lambda record: [each.fairness or 0.0 for each in record.clean("contended", "pidpool")],
        _is(0.99),
        at_least=True,
    ),
    Target(
        "8 threads, 2 connections, 0.5 ms: throughput of QueuePool's",
        _speed("contended", "queuepool"),
        _is(0.95),
        at_least=True,
    ),
    Target(
        "8 threads, 2 connections, 0.5 ms: timeouts",
        lambda record: [float(each.timeouts) for each in record.clean("contended", "pidpool")],
        _is(0),
    ),
    Target(
        "32 threads, 5 connections, no hold: throughput of QueuePool's",
        _speed("crowded", "queuepool"),
        _is(3),
        at_least=True,
    ),
    Target("NullPool, fork to first query, 10 inherited", _ratio("fork", "nullpool"), _is(1.10)),
    Target("discard of 10 connections", _times("discard", "pidpool, 10 connections", 1e3), _is(0.4), unit=" ms"),
    Target("discard of 1000, each", _times("discard", "pidpool, 1000 connections", 1e6 / 1000), _is(1.5), unit=" µs"),
    Target("QueuePool, engine.connect() and one SELECT on PostgreSQL", _ratio("query", "queuepool"), _is(0.95)),
)
