"""The servers, for each asyncio driver."""

from __future__ import annotations

import pytest

from tests.conftest import address_for
from tests.servers import ASYNCIO_DRIVERS

# asyncmy is aiomysql's kin, so once must do: over TLS, where more can go wrong.
_SERVERS = [f"{driver}-{manner}" for driver in ASYNCIO_DRIVERS for manner in ("plain", "tls")] + ["asyncmy-tls"]


@pytest.fixture(params=_SERVERS)
def server(request: pytest.FixtureRequest) -> list[object]:
    """What `tests.pool.awaiting.scenes.Scene` takes; the test runs with each driver, plain and over TLS."""
    driver, _, manner = request.param.partition("-")
    address = address_for(driver, request)
    if manner == "tls" and address.certificate is None:
        pytest.skip("this server has no TLS: the PostgreSQL of the `embedded` extra is built without it")
    return [address.url(driver, tls=manner == "tls"), manner == "tls"]


@pytest.fixture(params=ASYNCIO_DRIVERS)
def plain_server(request: pytest.FixtureRequest) -> list[object]:
    """As `server`, each driver once."""
    return [address_for(request.param, request).url(request.param), False]


@pytest.fixture
def any_server(request: pytest.FixtureRequest) -> list[object]:
    """As `server`, for what makes no difference to a driver."""
    return [address_for("asyncpg", request).url("asyncpg"), False]
