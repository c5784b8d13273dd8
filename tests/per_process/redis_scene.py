"""A Redis server, as seen by a parent, by its children, and by somebody who looks on. Runs in a fresh process."""

from __future__ import annotations

import secrets
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis
import redis.asyncio

from pidpool.hazards.proxy import RecordingProxy
from tests.drivers.owner import silence

if TYPE_CHECKING:
    from collections.abc import Iterator


class Scene:
    """Clients whose connections run through a recording proxy, and a way round it.

    Parameters:
        url: what the fixture `redis_url` gave.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        # The proxy ends with the script: a child must not close it on its way out.
        self._proxy = RecordingProxy(parts.hostname, parts.port or 6379)
        self._direct = url
        self._url = parts._replace(netloc=f"{self._proxy.host}:{self._proxy.port}").geturl()
        #: Ours, on a server that other workers use as well.
        self.name = f"pidpool-{secrets.token_hex(8)}"
        self.key, self.channel = f"{self.name}:key", f"{self.name}:channel"
        self.onlooker: Any = redis.Redis.from_url(url, decode_responses=True)

    def options(self, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - redis-py's own
        return {"client_name": self.name, "decode_responses": True, "socket_timeout": 5, **more}

    def client(self, kind: str = "pool", *, direct: bool = False) -> Any:  # noqa: ANN401 - any client of redis-py's
        """Make a client; `direct`: past the proxy, as over the Unix socket."""
        url = self._direct if direct else self._url
        if kind == "blocking":
            return redis.Redis(connection_pool=redis.BlockingConnectionPool.from_url(url, **self.options()))
        if kind == "single":
            return redis.Redis.from_url(url, **self.options(single_connection_client=True))
        if kind == "unix":
            path, database = self.onlooker.config_get("unixsocket")["unixsocket"], urlsplit(url).path.strip("/")
            return redis.Redis(unix_socket_path=path, db=int(database or 0), **self.options())
        return redis.Redis.from_url(url, **self.options())

    def borrow(self, client: Any) -> Any:  # noqa: ANN401 - as above
        """Take a connection out of a client's pool."""
        get = client.connection_pool.get_connection
        return get("_") if redis.__version__.startswith("5.0.") else get()

    def async_client(self, *, direct: bool = False, **more: Any) -> Any:  # noqa: ANN401 - as above
        return redis.asyncio.Redis.from_url(self._direct if direct else self._url, **self.options(**more))

    def sessions(self) -> list[int]:
        """Return the server's numbers of our sessions."""
        return sorted(int(each["id"]) for each in self.onlooker.client_list() if each["name"] == self.name)

    def wait_until(self, count: int) -> None:
        """Wait until we have so many sessions."""
        deadline = time.monotonic() + 10
        while len(self.sessions()) != count:
            assert time.monotonic() < deadline, f"the server has {len(self.sessions())} sessions, not {count}"
            time.sleep(0.01)

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Fail if the block says anything on a connection that was open before it."""
        sessions = self.sessions()
        with silence(self._proxy):
            yield
        assert set(sessions) <= set(self.sessions()), "the server has ended a session"
