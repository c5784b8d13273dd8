"""``http.client``: a connection that is kept alive between requests, plain or over TLS, and opened when it is used.

Closing it is silent in a child. But parent and child would read each other's answers, and each a part of an answer that
is half read at fork.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pidpool.drivers import Driver, guarded

if TYPE_CHECKING:
    from pidpool.drivers import Check


#: Whatever is read of a response goes through one of these. Closing one only closes its copy of the descriptor.
_READING: Final = ("read", "read1", "readinto", "readline", "peek")


def _guard(connection: Any, check: Check) -> None:  # noqa: ANN401 - any of http.client's
    kind = type(connection)
    of_responses: dict[type[Any], type[Any]] = {}

    def getresponse(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - http.client's signature
        check()
        response = kind.getresponse(self, *args, **kwargs)
        made: type[Any] = type(response)
        if made not in of_responses:  # once, since a class costs more than reading a response does
            of_responses[made] = guarded(made, check, speaking=_READING, closing=())
        with suppress(TypeError):  # a class of the application's, with slots
            response.__class__ = of_responses[made]
        return response

    connection.__class__ = guarded(kind, check, speaking=("send",), closing=("close",), getresponse=getresponse)


DRIVER = Driver(
    "http.client",
    descriptors=lambda connection: [] if connection.sock is None else [int(connection.sock.fileno())],
    guard=_guard,
)
