"""redis-py, sync and asyncio: a client with a pool of its own, whose connections come and go.

redis-py compares the PID itself before it takes a connection from its pool, and where it closes one. What it leaves
open in a child:

- A pipeline that watches keys, a subscription, a client with a single connection: these hold a connection, and use it
  wherever they are. Dropping a pipeline that watches keys sends UNWATCH, so the parent's EXEC overwrites what it should
  not. A child that reads from a subscription reads the parent's messages.
- The pool's lock, if another thread held it at fork: freeing the client already waits for it, for ever.
- asyncio: freeing a connection takes its socket out of the epoll that the parent waits for.

Checked against redis-py 5.0.0, 6.4.0, 7.4.1 and 8.1.0.
"""

from __future__ import annotations

import inspect
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pidpool._transports import descriptor
from pidpool.drivers import Driver, guarded
from pidpool.errors import InheritedConnectionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pidpool.drivers import Check

#: From a client to what has connections: pools, the nodes of a cluster, Sentinel's clients, another client in between.
_PATHS: Final = (
    "connection_pool",
    "redis_connection",
    "nodes_manager",
    "cluster",
    "redis",
    "sentinel_manager",
    "_databases",
    "_client",
    "_pool",
    "_node",
)
_COLLECTIONS: Final = ("nodes_cache", "startup_nodes", "sentinels", "node_pubsub_mapping", "_items")
#: Where they keep connections: a blocking pool has one list, others have those that are out apart.
_CONNECTIONS: Final = ("_available_connections", "_in_use_connections", "_connections")
_HELD: Final = ("connection", "_transaction_connection")
#: Made when a pool or a client is, and by most versions never made anew.
_LOCKS: Final = ("_lock", "_fork_lock", "single_connection_lock")
_KINDS_OF_LOCKS: Final = (type(threading.Lock()), type(threading.RLock()))
#: Whatever is said on a connection, or heard, goes through one of these.
_SPEAKING: Final = ("connect", "send_packed_command", "read_response", "can_read", "can_read_destructive")


class _NoLock:
    """Stands in a child where a lock was: what is inherited there refuses to work, and has nothing to protect.

    Not simply another lock. Where no hook announced the fork, the one to be replaced may have been acquired by the very
    call that notices the fork, which will release what stands in its place.
    """

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: ARG002, FBT001, FBT002 - a lock's
        return True

    def release(self) -> None:
        pass

    __enter__ = acquire

    def __exit__(self, *_error: object) -> None:
        pass


def _members(collection: Any) -> list[Any]:  # noqa: ANN401 - redis-py is not imported here
    if isinstance(collection, dict):
        return list(collection.values())
    return [] if collection is None else list(collection)


def _walk(client: Any) -> tuple[list[Any], list[Any]]:  # noqa: ANN401 - see above
    """Return everything that has connections, and the connections. Takes no lock."""
    holders: dict[int, Any] = {}
    connections: dict[int, Any] = {}
    todo = [client]
    while todo:
        thing = todo.pop()
        if thing is None or id(thing) in holders or isinstance(thing, (int, float, str)):
            continue
        if isinstance(thing, tuple):  # a database, and its weight among others
            todo += thing
            continue
        if hasattr(thing, "_sock") or hasattr(thing, "_writer") or hasattr(thing, "_conn"):
            connections[id(thing)] = thing
            continue
        holders[id(thing)] = thing
        todo += [getattr(thing, name, None) for name in (*_PATHS, *_HELD)]
        for name in (*_COLLECTIONS, *_CONNECTIONS):
            with suppress(RuntimeError, TypeError):  # changed by another thread meanwhile; or it is something else
                todo += _members(getattr(thing, name, None))
    # A cache stands before some.
    return list(holders.values()), [getattr(each, "_conn", each) for each in connections.values()]


def _descriptors(client: Any) -> Iterator[int]:  # noqa: ANN401 - see above
    for connection in _walk(client)[1]:
        sock, writer = getattr(connection, "_sock", None), getattr(connection, "_writer", None)
        with suppress(Exception):  # closed
            if sock is not None:
                yield int(sock.fileno())
            if writer is not None:
                yield descriptor(writer.transport)


def _guarded(kind: type[Any], check: Check) -> type[Any]:
    """Return the class of connections with a check before each word.

    A child of a C-level fork has no hook, and CPython frees what other threads have in their thread-locals before it
    runs one: a pipeline says UNWATCH there, and must not hear of it.
    """

    def send_command(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - redis-py's signature
        try:
            check()
        except InheritedConnectionError as error:
            if args == ("UNWATCH",):
                raise _not_connected() from error
            raise
        return kind.send_command(self, *args, **kwargs)

    return guarded(kind, check, speaking=_SPEAKING, closing=("disconnect",), send_command=send_command)


def _not_connected() -> Exception:
    """Return what a pipeline expects of a connection that is lost while it resets itself."""
    error: type[Exception] = sys.modules["redis.exceptions"].ConnectionError
    return error("the connection belongs to another process")


def _guard(client: Any, check: Check) -> None:  # noqa: ANN401 - see above
    holders, connections = _walk(client)
    for holder in holders:
        kind = getattr(holder, "connection_class", None)
        if isinstance(kind, type):
            holder.connection_class = _guarded(kind, check)
    for connection in connections:  # a client with a single connection opens it at once
        with suppress(TypeError):  # a class of the application's, with slots
            connection.__class__ = _guarded(type(connection), check)


def _keep_nothing(*_args: Any, **_kwargs: Any) -> None:  # noqa: ANN401 - redis-py's signature
    """Stand for a pool's ``release``."""


async def _keep_nothing_asynchronously(*_args: Any, **_kwargs: Any) -> None:  # noqa: ANN401 - see above
    """Stand for a pool's ``release``."""


def _disarm(client: Any) -> None:  # noqa: ANN401 - see above
    """Free whoever waits for a lock here, and let pools take back what they lent, though they have begun anew."""
    for holder in _walk(client)[0]:
        release = getattr(type(holder), "release", None)
        if hasattr(holder, "make_connection") and release is not None:
            awaited = inspect.iscoroutinefunction(release)
            holder.release = _keep_nothing_asynchronously if awaited else _keep_nothing
        for name in _LOCKS:
            if isinstance(getattr(holder, name, None), _KINDS_OF_LOCKS):
                setattr(holder, name, _NoLock())


DRIVER = Driver("redis", descriptors=lambda client: list(_descriptors(client)), guard=_guard, disarm=_disarm)
