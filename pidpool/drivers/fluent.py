"""fluent-logger: a log sender with one socket, opened when there is something to send, and again when it broke.

In a child ``close()`` calls ``shutdown(2)``, which ends the parent's stream. Events that were not sent yet are copied
with the sender, and sent twice. A thread that was sending at fork leaves the lock to nobody.

Checked against fluent-logger 0.11.1.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from pidpool.drivers import Driver, guarded

if TYPE_CHECKING:
    from pidpool.drivers import Check


def _sender(client: Any) -> Any:  # noqa: ANN401 - fluent-logger is not imported here
    """Return the sender, which may be inside a logging handler; None if that has not needed one yet."""
    return getattr(client, "_sender", None) if hasattr(client, "getSenderInstance") else client


def _descriptors(client: Any) -> list[int]:  # noqa: ANN401 - see above
    sock = getattr(_sender(client), "socket", None)
    return [] if sock is None else [int(sock.fileno())]


def _guard(client: Any, check: Check) -> None:  # noqa: ANN401 - see above
    if hasattr(client, "getSenderInstance"):
        kind = type(client)

        def make_guarded(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - fluent-logger's signature
            made = kind.getSenderInstance(self, *args, **kwargs)
            _guard(made, check)
            return made

        client.__class__ = guarded(kind, check, speaking=(), closing=("close",), getSenderInstance=make_guarded)
    sender = _sender(client)
    if hasattr(sender, "_send"):
        sender.__class__ = guarded(type(sender), check, speaking=("_send",), closing=("close",))


def _disarm(client: Any) -> None:  # noqa: ANN401 - see above
    """Have it closed, as far as anybody can tell: so it sends no event that the parent still has to send."""
    sender = _sender(client)
    if sender is not None:
        sender.lock = threading.Lock()
        sender._closed = True


DRIVER = Driver("fluent-logger", descriptors=_descriptors, guard=_guard, disarm=_disarm)
