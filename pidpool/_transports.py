"""Sockets below asyncio's transports. It knows no databases, and imports no asyncio: drivers do."""

from __future__ import annotations

from typing import Any


def descriptor(transport: Any) -> int:  # noqa: ANN401 - any event loop's transport
    """Return the number of the socket's descriptor, over TLS too; negative or an exception once it is closed."""
    return int(transport.get_extra_info("socket").fileno())


def hang_up(transport: Any) -> None:  # noqa: ANN401 - as above
    """Close the socket of a transport whose event loop is closed.

    ``transport.abort()`` cannot: it asks the loop to do it. Left alone, the socket would stay open until the garbage
    collector finds the transport, and the server would keep the session as long. uvloop closes its transports with the
    loop; nothing is left to do there.
    """
    protocol = getattr(transport, "_ssl_protocol", None)
    if protocol is not None:  # over TLS: asyncio's wrapper, whose finalizer would complain
        transport._closed = True
        transport = getattr(protocol, "_transport", None)
    sock = getattr(transport, "_sock", None)
    if sock is not None:
        sock.close()
        transport._sock = None
        transport._closing = True
