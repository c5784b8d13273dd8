"""The Redis server under audit: is it usable, what has the audit left there, and what does it say of its sessions?

redis-py is imported where it is used: nobody needs it who audits a database.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import make_url

from .errors import Unusable, summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PORT = 6379
_CONNECT_SECONDS = 10
_REMEMBERED_SECONDS = 24 * 60 * 60  # Should the audit be killed, its keys go by themselves.


class Observer:
    """An independent eye on the server.

    Args:
        client: a client that nobody else has, past the proxy.
        namespace: how every key of the audit's begins; also the key of the set in which they all stand.
    """

    def __init__(self, client: Any, namespace: str) -> None:  # noqa: ANN401 - redis-py's types promise awaitables, too
        self.client = client
        self._namespace = namespace

    def key(self, name: str) -> str:
        """Return the key for `name`, noted for removal."""
        key = f"{self._namespace}:{name}"
        self.client.sadd(self._namespace, key)
        self.client.expire(self._namespace, _REMEMBERED_SECONDS)
        return key

    def put(self, key: str, value: str) -> None:
        """Store a value, as another client would."""
        self.client.set(key, value, ex=_REMEMBERED_SECONDS)

    def value(self, key: str) -> str | None:
        """Return what is stored under a key."""
        value: str | None = self.client.get(key)
        return value

    def sessions(self, name: str, *, among: Iterable[int] = (), patience: float = 0.0) -> set[int]:
        """Return the ids of the sessions whose client has this name.

        Args:
            name: the client's name (CLIENT SETNAME).
            among: only these.
            patience: wait so many seconds at most for all of them to end.

        """
        wanted = set(among)
        deadline = time.monotonic() + patience
        while True:
            found = {int(each["id"]) for each in self.client.client_list() if each["name"] == name}
            found = found & wanted if wanted else found
            if not found or time.monotonic() >= deadline:
                return found
            time.sleep(0.02)

    def has_waiting(self, name: str) -> bool:
        """Tell whether a client of this name waits in a blocking command."""
        return any(each["name"] == name and "b" in each["flags"] for each in self.client.client_list())

    def subscribers(self, channel: str) -> int:
        """Return how many sessions are subscribed to a channel."""
        ((_, count),) = self.client.pubsub_numsub(channel)
        return int(count)


@contextmanager
def observer(url: str, namespace: str) -> Iterator[Observer]:
    """Open a session of its own, and end it afterwards; never while a child forks."""
    from redis import Redis  # noqa: PLC0415 - see above

    client = Redis.from_url(url, decode_responses=True, socket_connect_timeout=_CONNECT_SECONDS)
    try:
        yield Observer(client, namespace)
    finally:
        client.close()


def address(url: str) -> tuple[str, int] | None:
    """Return host and port if the URL means TCP, or None for a socket file."""
    parsed = make_url(url)
    if parsed.drivername == "unix" or parsed.host is None:
        return None
    return parsed.host, parsed.port or _PORT


def ping(url: str) -> bool:
    """Return whether a server answers at `url`."""
    try:
        with observer(url, "") as seen:
            seen.client.ping()
    except Exception:  # noqa: BLE001 - whatever the objection is, certificates' included
        return False
    return True


def reach(url: str, namespace: str) -> str:
    """Connect to `url`, do once what the audit does there, and return what the server calls itself.

    Raises:
        ImportError: there is no redis-py.
        Unusable: the server is unreachable, or something of it is refused; the message may quote redis-py's.
    """
    from redis import RedisError  # noqa: PLC0415 - see above

    try:
        with observer(url, namespace) as seen:
            seen.client.ping()
            about = seen.client.info("server")
    except (RedisError, OSError, TypeError, ValueError) as error:  # the latter two about parameters in the URL
        raise Unusable(f"cannot connect: {summary(error)}. Is the server up, and the URL right?") from error
    if about.get("redis_mode") == "cluster":
        raise Unusable("it is a node of a Redis Cluster, which keeps each key elsewhere. Name a server that is none")
    try:
        with observer(url, namespace) as seen:
            seen.put(seen.key("probe"), "")
            seen.sessions("")
            seen.subscribers(namespace)
        remove(url, namespace)
    except RedisError as error:
        raise Unusable(
            f"{summary(error)}. The audit needs a user who may call CLIENT LIST, publish and subscribe, and write keys "
            "that begin with pidpool_audit_; nothing else there is touched"
        ) from error
    product = about.get("server_name", "redis")
    return f"{str(product).title()} {about.get(f'{product}_version', about.get('redis_version', 'unknown'))}"


def remove(url: str, namespace: str) -> None:
    """Remove every key of the audit's."""
    with observer(url, namespace) as seen:
        seen.client.delete(namespace, *seen.client.smembers(namespace))
