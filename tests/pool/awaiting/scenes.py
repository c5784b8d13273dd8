"""A parent that awaits, seen from the server and from the wire. Runs in a fresh process (the fixture `play`)."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from pidpool.hazards.backends import BACKENDS
from pidpool.hazards.proxy import RecordingProxy
from tests.pool.forking import noise, pool_class

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


class Scene:
    """Engines whose connections run through a recording proxy, and a way round it.

    Parameters:
        server: what the fixture of that name gave.
        pool: the name of a pool class.
    """

    def __init__(self, server: list[Any], pool: str = "AsyncPidPool") -> None:
        self._direct, self._tls = server
        url = make_url(self._direct)
        self.driver = url.get_driver_name()
        self.dialect = BACKENDS[url.get_backend_name()]("no_matter")
        self._pool = pool
        # The proxy ends with the process: a child must not close it on its way out.
        assert url.host is not None
        assert url.port is not None
        self._proxy = RecordingProxy(url.host, url.port)
        self._url = url.set(host=self._proxy.host, port=self._proxy.port)
        self.table = f"t{secrets.token_hex(8)}"

    def engine(self, **options: Any) -> AsyncEngine:  # noqa: ANN401 - create_engine's own
        """Return a new engine; a NullPool has no use for the options, which are a pool's."""
        sizes = {"pool_size": 2, "max_overflow": 0, "pool_timeout": 5} | options
        if "NullPool" in self._pool:
            sizes = {}
        return create_async_engine(
            self._url,
            poolclass=pool_class(self._pool),
            connect_args=self.dialect.tls_arguments(self.driver) if self._tls else {},
            **sizes,
        )

    async def session(self, connection: AsyncConnection) -> int:
        """Return the server's name for a connection's session."""
        found = (await connection.execute(text(self.dialect.session_id))).scalar_one()
        assert isinstance(found, int)
        return found

    async def use(self, engine: AsyncEngine) -> int:
        """Check out, ask for the session, check in."""
        async with engine.connect() as connection:
            return await self.session(connection)

    async def observe(self, statement: str) -> list[tuple[Any, ...]]:
        """Execute a statement in a session of its own, past the proxy, and return its rows."""
        engine = create_async_engine(self._direct, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            result = await connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []

    async def alive(self, *sessions: int) -> int:
        """Return how many of these sessions the server still has, once it has had time to end them."""
        found: list[Any] = []
        for _ in range(200):
            found = await self.observe(self.dialect.alive(sessions))
            if not found:
                break
            await asyncio.sleep(0.01)
        return len(found)

    async def begin(self, engine: AsyncEngine) -> AsyncConnection:
        """Store a row in a transaction that stays open, and leave another connection idle."""
        await self.observe(f"CREATE TABLE {self.table} (number INT)")
        async with engine.connect() as one, engine.connect() as two:
            await self.session(one)
            await self.session(two)
        connection = await engine.connect()
        await connection.execute(text(f"INSERT INTO {self.table} VALUES (1)"))
        return connection

    async def finish(self, connection: AsyncConnection) -> None:
        """Commit, and fail unless the row is stored, and the loop hears of its threads."""
        # Long enough for the loop to fall asleep meanwhile.
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.05)
        await connection.commit()
        await connection.close()
        assert await self.observe(f"SELECT number FROM {self.table}") == [(1,)]

    @contextmanager
    def silence(self) -> Iterator[list[str]]:
        """Note what the block says on connections that were open before it."""
        said: list[str] = []
        before = self._proxy.snapshot()
        yield said
        said += noise(before, self._proxy.snapshot())


def in_loop(coroutine: Any) -> Any:  # noqa: ANN401 - any
    """Run a coroutine in a new event loop; in a child of a C-level fork, too, which takes its parent's for its own."""
    asyncio._set_running_loop(None)
    return asyncio.run(coroutine)
