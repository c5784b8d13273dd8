"""Connections whose driver hides its socket, for scripts: opened by the driver itself, told apart by inodes."""

from __future__ import annotations

import importlib
import json
import os
import stat
import sys
from typing import Any


class Hidden:
    """Opens connections by one driver.

    Parameters:
        described: what the fixture `hidden` gave, as JSON.
    """

    def __init__(self, described: str) -> None:
        self._described: dict[str, Any] = json.loads(described)

    def connect(self) -> Any:  # noqa: ANN401 - any driver's connection
        module = importlib.import_module(self._described["module"])
        connection = module.connect(*self._described["positional"], **self._described["named"])
        assert type(connection).__module__ == self._described["class"]  # the build that is meant, not another one
        return connection

    def session(self, connection: Any) -> int:  # noqa: ANN401 - as above
        cursor = connection.cursor()
        cursor.execute(self._described["session"])
        [[number]] = cursor.fetchall()
        cursor.close()
        return int(number)

    def is_broken(self, connection: Any, session: int) -> bool:  # noqa: ANN401 - as above
        """Tell whether a connection no longer has its session."""
        try:
            return self.session(connection) != session
        except Exception:  # noqa: BLE001 - each driver says it in a way of its own
            return True


def sockets() -> set[int]:
    """Return the inodes of this process's sockets; that of a dead end is none."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - plain names
        try:
            status = os.fstat(int(name))
        except OSError:
            continue
        if stat.S_ISSOCK(status.st_mode):
            found.add(status.st_ino)
    return found


def die_of_time(seconds: int) -> None:
    """End this process without a word, should it wait for rows that another one has read."""
    import signal  # noqa: PLC0415 - for the few scripts that hang

    signal.signal(signal.SIGALRM, lambda *_: (sys.stderr.flush(), os._exit(0)))
    signal.alarm(seconds)
