"""The servers, as scripts are told of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.conftest import address_for
from tests.servers import DRIVERS

if TYPE_CHECKING:
    from tests.servers import Address


# Of the drivers that were added later each once, in the manner that says more: over TLS, but for the one that finds
# its socket by comparing only, where a failure to do so shows more plainly without.
_SERVERS = [f"{driver}-{manner}" for driver in DRIVERS for manner in ("plain", "tls")]
_MORE = {"mysqlconnector": "tls", "mysqlconnector_pure": "tls", "pyodbc": "plain"}


@pytest.fixture(params=_SERVERS + [f"{driver}-{manner}" for driver, manner in _MORE.items()])
def server(request: pytest.FixtureRequest) -> str:
    """What `tests.drivers.owner.Owner` takes; the test runs with each driver, plain and over TLS."""
    driver, _, manner = request.param.partition("-")
    address = address_for(driver, request)
    if manner == "tls" and address.certificate is None:
        pytest.skip("this server has no TLS: the PostgreSQL of the `embedded` extra is built without it")
    tls = manner == "tls"
    arguments = address.connect_args(driver, tls=tls)
    return json.dumps({"url": address.url(driver, tls=tls), "connect_args": arguments, "tls": tls})


@pytest.fixture
def plain_server(database_url: str, request: pytest.FixtureRequest) -> str:
    """As `server`, each driver once."""
    driver = request.node.callspec.params["database_url"]
    arguments = address_for(driver, request).connect_args(driver)
    return json.dumps({"url": database_url, "connect_args": arguments, "tls": False})


@pytest.fixture
def any_server(postgresql: Address) -> str:
    """As `server`, for what makes no difference to a driver."""
    return json.dumps({"url": postgresql.url("psycopg"), "connect_args": {}, "tls": False})
