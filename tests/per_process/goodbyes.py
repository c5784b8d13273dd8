"""Clients that say goodbye when they are closed, and when they are freed: the worst that a child can inherit.

Runs in a fresh process. Imports nothing of pidpool, so that a script may prepare the process before.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

#: By the descriptor of the client's end of the line: the other end.
_far: dict[int, socket.socket] = {}


def _line() -> socket.socket:
    near, far = socket.socketpair()
    far.settimeout(0)
    _far[near.fileno()] = far
    return near


class Unknown:
    """pidpool does not know its class, and it hides its descriptor from `drivers.of`."""

    def __init__(self) -> None:
        self._sock: socket.socket | None = _line()
        self.number = self._sock.fileno()
        self.pid = os.getpid()
        self.myself = self  # so that the collector frees it, in an order of its own

    def close(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            with suppress(OSError):
                sock.sendall(b"goodbye")
            sock.close()

    __del__ = close


class Known(socket.socket):
    """A class of the application's, derived from one that pidpool knows."""

    def __init__(self) -> None:
        super().__init__(fileno=_line().detach())
        self.number = self.fileno()
        self.pid = os.getpid()
        self.myself = self

    def close(self) -> None:
        if hasattr(self, "number"):  # or there was no descriptor for it
            with suppress(OSError):
                self.sendall(b"goodbye")
            super().close()

    __del__ = close


def heard(client: Unknown | Known) -> bytes:
    """Return what has been said on the client's line since somebody asked last."""
    said = b""
    with suppress(BlockingIOError):
        while received := _far[client.number].recv(4096):
            said += received
    return said
