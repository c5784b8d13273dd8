"""A snapshot of one pool in one process, for people and for metrics exporters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PoolStats:
    """What one pool has done in this process since the last fork, and how it stands.

    Attributes:
        pid: this process.
        forks: how many forks lie between the process that made the pool and this one, as far as the pool was used.
        size: how many connections the pool keeps; 0 for no limit.
        max_overflow: how many more may be open at once; -1 for no limit.
        idle: connections that nobody uses.
        out: connections that are checked out, or are just being opened.
        overflow: how many of the two are beyond ``size``.
        waiting: threads that stand in line at this moment.
        checkouts: connections handed out.
        waits: how often a thread had to stand in line.
        wait_seconds: how long they stood there, all together (seconds).
        timeouts: how often a thread got none in time, or was refused because of ``max_waiting``.
        connects: connections opened.
        connect_errors: attempts to open one that failed.
        invalidations: connections found broken and dropped. One such marks all older ones to be replaced at their next
            checkout; those are not counted here.
        discards: connections that this process inherited and discarded.
        leaks: checkouts that ``leak_threshold`` has warned about.

    """

    pid: int
    forks: int
    size: int
    max_overflow: int
    idle: int
    out: int
    overflow: int
    waiting: int
    checkouts: int
    waits: int
    wait_seconds: float
    timeouts: int
    connects: int
    connect_errors: int
    invalidations: int
    discards: int
    leaks: int
