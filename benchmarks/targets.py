"""What we want to reach, and whether we have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pidpool.bench.figures import FEWEST_ROUNDS, SIGNIFICANT, Spread, chance_of_ratios

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.record import Record


@dataclass(frozen=True)
class Verdict:
    """One row of the table, for one record.

    Attributes:
        measured: the figure; None if it was not measured, or is not to be trusted.
        target: the limit, in words.
        missed_by: how far beyond the limit the figure is, as a share of the limit; 0 if it is within, infinite if
            nothing lies in between.
        doubt: why the figure might as well be on the other side of the limit; empty if that would be strange.
    """

    measured: Spread | None
    target: str
    missed_by: float = 0.0
    doubt: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the figure is within the limit; None where there is none."""
        return None if self.measured is None else not self.missed_by

    @property
    def words(self) -> str:
        """The verdict as it stands in a table."""
        if self.measured is None:
            return "not measured"
        how_far = f" by {max(self.missed_by, 0.001):.1%}" if math.isfinite(self.missed_by) else ""
        verdict = f"**missed{how_far}**" if self.missed_by else "met"
        return f"{verdict}, {self.doubt}" if self.doubt else verdict


@dataclass(frozen=True)
class Target:
    """A figure that must be at most, or at least, as large as a limit.

    Attributes:
        against: what the row says.
        measure: returns the figure of each round.
        limit: in the unit of the figure; a function of the record where it depends on versions.
        at_least: the limit is the least, not the most.
        unit: of both.
        is_count: the figures are counted, not measured: there is no chance in them, and the worst round decides.
        reason: if it is missed somewhere: why, and what was tried. This is the place to write it down, and the only
            one: docs/performance.md takes it from here.
    """

    against: str
    measure: Callable[[Record], list[float]]
    limit: Callable[[Record], float]
    at_least: bool = False
    unit: str = ""
    is_count: bool = False
    reason: str = ""

    def verdict(self, record: Record) -> Verdict:
        """Return the row for `record`; what counts is the median, or the worst of what is counted."""
        limit = self.limit(record)
        words = f"{'≥' if self.at_least else '≤'} {limit:g}{self.unit}"
        figures = self.measure(record)
        if not figures:
            return Verdict(None, words)
        if self.is_count:
            spread = Spread(max(figures), min(figures), max(figures))
            return Verdict(spread, words, missed_by=math.inf if spread.median > limit else 0.0)
        spread = Spread.of(figures)
        excess = (limit - spread.median if self.at_least else spread.median - limit) / limit
        doubt = ""
        if chance_of_ratios([figure / limit for figure in figures]) >= SIGNIFICANT:
            doubt = "not significant" if len(figures) >= FEWEST_ROUNDS else f"{len(figures)} rounds are too few to tell"
        return Verdict(spread, words, max(0.0, excess), doubt)


def _ratio(suite: str, base: str) -> Callable[[Record], list[float]]:
    return lambda record: record.ratios(suite, "pidpool", base)


def _speed(suite: str, base: str) -> Callable[[Record], list[float]]:
    return lambda record: record.ratios(suite, base, "pidpool")


def _is(limit: float) -> Callable[[Record], float]:
    return lambda _: limit


def _times(suite: str, pool: str, factor: float) -> Callable[[Record], list[float]]:
    return lambda record: [(each.seconds or 0.0) * factor for each in record.clean(suite, pool)]


_GETPID = (
    "the largest part of what is left is os.getpid(), a system call at each checkout, and a dear one on a virtual "
    "machine. It stays: a changed PID always counts as a fork. Tried besides: changing the class of what is given "
    "back instead of running a finalizer that has nothing to do (hardly a gain on 3.11, none on 3.13)."
)
_PAGES = (
    "what takes the time is the kernel, which copies each memory page that a forked child touches for the first "
    "time; on a virtual machine that takes microseconds. Tried: not asking the driver for the descriptor, not "
    "touching the connection, and not unlisting one by one. What is left are the pages that Python's own code "
    "touches before the first connection is discarded, and pidpool's notes of each connection, which lie "
    "scattered among the driver's objects."
)

TARGETS = (
    Target(
        "QueuePool, uncontended",
        _ratio("checkout", "queuepool"),
        lambda record: 0.20 if record.versions["sqlalchemy"].startswith("2.1") else 0.27,
        reason=_GETPID,
    ),
    Target(
        "psycopg_pool, getconn and putconn",
        _ratio("psycopg", "psycopg_pool"),
        _is(0.50),
        reason="as with QueuePool; psycopg_pool never looks for a fork.",
    ),
    Target(
        "DBUtils PooledDB, defaults",
        _ratio("checkout", "PooledDB"),
        _is(0.60),
        reason="as with QueuePool; DBUtils never looks for a fork, and has no events.",
    ),
    Target("QueuePool, psycopg on loopback, the pool alone", _ratio("psycopg", "queuepool"), _is(0.30)),
    Target("QueuePool, PyMySQL in autocommit", _ratio("pymysql", "queuepool"), _is(0.10)),
    Target(
        "PyMySQL in autocommit: statements that the server was sent, such as ROLLBACK",
        lambda record: [each.statements for each in record.clean("pymysql", "pidpool") if each.statements is not None],
        _is(0),
        is_count=True,
    ),
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
        lambda record: [each.timeouts for each in record.clean("contended", "pidpool")],
        _is(0),
        is_count=True,
    ),
    Target(
        "32 threads, 5 connections, connect().close() without a hold: throughput of QueuePool's",
        _speed("crowded", "queuepool"),
        _is(3),
        at_least=True,
        reason="the rounds lie on both sides of the target: CPython lets a thread run for 5 ms, and chance decides how "
        "many connections are held by threads that do not run.",
    ),
    Target(
        "32 threads, 5 connections, held for time.sleep(0): throughput of QueuePool's",
        _speed("yielding", "queuepool"),
        _is(3),
        at_least=True,
        reason="each turn hands the interpreter to another thread, which costs more than either pool does, and both "
        "pay it. Tried: handing each connection over, and leaving it to whoever runs for up to a millisecond (ADR 3).",
    ),
    Target("NullPool, fork to first query, 10 inherited", _ratio("fork", "nullpool"), _is(1.10)),
    Target(
        "discard of 10 connections",
        _times("discard", "pidpool, 10 connections", 1e3),
        _is(0.4),
        unit=" ms",
        reason=_PAGES,
    ),
    Target(
        "discard of 1000, each",
        _times("discard", "pidpool, 1000 connections", 1e6 / 1000),
        _is(1.5),
        unit=" µs",
        reason=_PAGES,
    ),
    Target(
        "QueuePool, engine.connect() and one SELECT on PostgreSQL",
        _ratio("query", "queuepool"),
        _is(0.95),
        reason="the query and its ROLLBACK go to the server through either pool and take some hundred times as long as "
        "a checkout; the rest drowns in noise.",
    ),
)
