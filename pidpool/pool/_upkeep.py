"""How a pool keeps itself healthy, without background threads: those would not survive a fork.

Everything here happens while somebody checks a connection out or in, to that thread, and never takes more than one
connection's time.
"""

from __future__ import annotations

import select
from dataclasses import dataclass


@dataclass(frozen=True)
class Upkeep:
    """The settings of a PidPool that QueuePool does not have.

    Attributes:
        min_size: how many connections ``max_idle`` leaves open.
        max_idle: close a connection that nobody has used for so long (seconds); None for never.
        max_waiting: refuse a checkout when so many threads wait already; None for no limit.
        leak_threshold: warn about a checkout that lasts longer (seconds); None for never.
        recycle_jitter: recycle a connection by up to this fraction of ``recycle`` early, each by a fraction of its own,
            so that connections opened together are not replaced together.
        pre_ping_idle: with ``pre_ping``, ask the socket instead of the server while a connection has been idle for less
            than this (seconds). 0: always ask the server, as QueuePool does.

    """

    min_size: int = 0
    max_idle: float | None = None
    max_waiting: int | None = None
    leak_threshold: float | None = None
    recycle_jitter: float = 0.05
    pre_ping_idle: float = 0.0

    def __post_init__(self) -> None:
        for name in ("min_size", "max_idle", "max_waiting", "leak_threshold", "recycle_jitter", "pre_ping_idle"):
            value: object = getattr(self, name)
            if value is None and name in ("max_idle", "max_waiting", "leak_threshold"):
                continue
            if not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, and is {value!r}")
            if value < 0:
                raise ValueError(f"{name} must not be negative, and is {value!r}")
        if self.recycle_jitter >= 1:
            raise ValueError(
                f"recycle_jitter is a fraction of recycle, from 0 to below 1, and is {self.recycle_jitter!r}"
            )


def has_something_to_say(descriptor: int) -> bool:
    """Tell whether the server has sent something unasked: in most cases, that it has hung up.

    One system call, a fiftieth of a ping. It sees an orderly close, a reset and a NOTIFY (a reason for a real ping, not
    for a verdict). It does not see a network that has gone silent.
    """
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLPRI | getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))
