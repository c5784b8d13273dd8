"""Real database servers for the tests: private, on free loopback ports, in temporary folders, with TLS."""

from __future__ import annotations

from tests.servers.address import ASYNCIO_DRIVERS, DRIVERS, MORE_DRIVERS, Address
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.process import PrivateServer, ServerError
from tests.servers.redis import Redis

__all__ = [
    "ASYNCIO_DRIVERS",
    "DRIVERS",
    "MORE_DRIVERS",
    "Address",
    "MariaDB",
    "PostgreSQL",
    "PrivateServer",
    "Redis",
    "ServerError",
]
