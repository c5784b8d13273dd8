"""Python's own sockets, wrapped by ``ssl`` or not: for a client of your own that is little more than that.

Freeing or closing one is silent in a child; ``shutdown(2)``, and what a buffered file of it still holds, is not.
"""

from __future__ import annotations

from pidpool.drivers import Driver

DRIVER = Driver("socket", fileno=lambda sock: int(sock.fileno()))
