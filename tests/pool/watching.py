"""An engine with one connection, which runs through a proxy that counts what the client says."""

from __future__ import annotations

import select
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, text

from pidpool import PidNullPool, PidPool, drivers
from tests.conftest import address_for
from tests.pool.forking import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest
    from sqlalchemy import Engine

    from pidpool.hazards.proxy import RecordingProxy

PATIENCE = 20
"""Seconds until something that is bound to happen counts as failed."""


@dataclass(frozen=True)
class Watched:
    """A pool of one connection, the proxy before it, and a way round the proxy."""

    engine: Engine
    observer: Engine
    proxy: RecordingProxy

    def sent(self, action: Callable[[], object]) -> int:
        """Return how many bytes the client sends while `action` runs."""
        before = self._client_bytes()
        action()
        return self._client_bytes() - before

    def check_out(self) -> Any:  # noqa: ANN401 - has what the driver's connection has
        """Check the one connection out."""
        return self.engine.raw_connection()

    def observe(self, statement: str, **values: object) -> list[tuple[Any, ...]]:
        """Execute a statement in a session of its own, in autocommit; return its rows."""
        with self.observer.connect() as connection:
            result = connection.execute(text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def _client_bytes(self) -> int:
        return sum(traffic.client_bytes for traffic in self.proxy.snapshot().values())


@contextmanager
def watched(driver: str, request: pytest.FixtureRequest, **options: Any) -> Iterator[Watched]:  # noqa: ANN401 - create_engine's
    """Open the one connection, have SQLAlchemy ask it what it asks a new server, and yield."""
    address = address_for(driver, request)
    arguments = address.connect_args(driver) | options.pop("connect_args", {})
    with wire(address.url(driver)) as (url, proxy):
        engine = create_engine(
            url, poolclass=PidPool, pool_size=1, max_overflow=0, pool_timeout=0, connect_args=arguments, **options
        )
        observer = create_engine(
            address.url(driver),
            poolclass=PidNullPool,
            connect_args=address.connect_args(driver),
            isolation_level="AUTOCOMMIT",
        )
        try:
            engine.connect().close()
            yield Watched(engine, observer, proxy)
        finally:
            engine.dispose()


def execute(connection: Any, statement: str) -> list[tuple[Any, ...]]:  # noqa: ANN401 - any driver's
    """Execute a statement with a cursor of the driver's and return its rows."""
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
    finally:
        cursor.close()


def has_heard(connection: Any) -> None:  # noqa: ANN401 - any driver's
    """Return once the server has sent something unasked on a driver's connection, or has hung up."""
    find_descriptor = drivers.of(connection).fileno
    assert find_descriptor is not None
    descriptor = find_descriptor(connection)
    assert descriptor is not None
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(PATIENCE * 1000), "nothing came from the server"


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)
