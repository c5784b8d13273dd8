"""Who has kept a connection for too long? Only pools with a ``leak_threshold`` pay for the answer."""

from __future__ import annotations

import sys
import time
import traceback
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from logging import Logger

    from sqlalchemy.log import InstanceLogger

    from pidpool.pool._record import Record

#: Frames kept of each checkout: the caller's, not the whole way down from the web server.
_FRAMES: Final = 12


class LeakWatch:
    """Remembers where each connection was checked out, and warns once about those that stay out.

    There is no background thread (it would not survive a fork): the watch looks whenever a connection is checked out or
    in, a checkout times out, or somebody asks the pool for its status.

    Args:
        threshold: how long a checkout may last before it is called a leak (seconds).
        logger: where to warn.

    """

    __slots__ = ("_logger", "_out", "leaks", "threshold")

    #: By the id of the record, in the order of checkout: the first is the one that has been out longest.
    _out: dict[int, tuple[float, traceback.StackSummary]]

    def __init__(self, threshold: float, logger: Logger | InstanceLogger) -> None:
        self.threshold = threshold
        self.leaks = 0
        self._logger = logger
        self._out = {}

    def went_out(self, record: Record) -> None:
        """Note a checkout, and where in the program it happened."""
        frames = traceback.walk_stack(sys._getframe(2))
        stack = traceback.StackSummary.extract(frames, limit=_FRAMES, lookup_lines=False)
        stack.reverse()
        self._out[id(record)] = time.monotonic(), stack
        self.look()

    def came_back(self, record: Record) -> None:
        """Forget a checkout."""
        self.look()
        self._out.pop(id(record), None)

    def look(self) -> None:
        """Warn about each checkout that is over the threshold, once."""
        now = time.monotonic()
        for key, (since, stack) in list(self._out.items()):
            if now - since < self.threshold:
                return  # the others went out later
            if self._out.pop(key, None) is not None:
                self.leaks += 1
                self._logger.warning(
                    "A connection has been checked out for %.1f s (leak_threshold is %g s). Close it, or use a with "
                    "block. It was checked out here:\n%s",
                    now - since,
                    self.threshold,
                    "".join(stack.format()),
                )
