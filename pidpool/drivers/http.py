"""``http.client``: a connection that is kept alive between requests, plain or over TLS, and opened when it is used.

Closing it is silent in a child. But parent and child would read each other's answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pidpool.drivers import Driver, guarded

if TYPE_CHECKING:
    from pidpool.drivers import Check


def _guard(connection: Any, check: Check) -> None:  # noqa: ANN401 - any of http.client's
    connection.__class__ = guarded(type(connection), check, speaking=("send", "getresponse"), closing=("close",))


DRIVER = Driver(
    "http.client",
    descriptors=lambda connection: [] if connection.sock is None else [int(connection.sock.fileno())],
    guard=_guard,
)
