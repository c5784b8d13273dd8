"""Servers, and the way tests run code that forks.

Fork scenarios never run in the test process: an xdist worker has two threads, and a child that goes wrong
must not take the run with it. They are scripts, run by the fixture `run_script` in a fresh process.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import ssl  # noqa: F401 - for _mysql_connector, below
import subprocess
import sys
import textwrap
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from hypothesis import settings

from tests.servers import DRIVERS, Address, MariaDB, PostgreSQL, Redis
from tests.servers.address import MARIADB_DRIVERS
from tests.servers.keeper import Keeper
from tests.servers.mariadb import run_mariadb
from tests.servers.postgresql import run_postgresql
from tests.servers.process import locked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xdist.workermanage import WorkerController

    from tests.servers import PrivateServer
    from tests.servers.address import Backend

# mysql.connector's C build brings a libssl that fits its own libcrypto only. It loads beside the system's if `ssl` is
# loaded and little else; later, whoever asks for it quietly gets the build in Python.
with contextlib.suppress(ImportError):
    importlib.import_module("_mysql_connector")

# The same examples on every run, and no limit that a busy machine would exceed.
settings.register_profile("pidpool", derandomize=True, deadline=None, database=None)
settings.load_profile("pidpool")

_keeper_key = pytest.StashKey[Keeper]()


class RunScript(Protocol):
    """The type of the fixture `run_script`."""

    def __call__(
        self,
        source: str,
        *args: str,
        timeout: float = 30,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]: ...


# The run


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Tests of forks and hangs wait more than they compute: half as many workers again as there are processors."""
    processors = os.cpu_count() or 1
    return processors + (processors + 1) // 2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.stash[_keeper_key] = Keeper()


@pytest.hookimpl(optionalhook=True)  # xdist's
def pytest_configure_node(node: WorkerController) -> None:
    node.workerinput["pidpool_run_folder"] = str(node.config.stash[_keeper_key].run_folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    keeper = config.stash.get(_keeper_key, None)
    if keeper is not None:
        keeper.finish()


@pytest.fixture(scope="session")
def run_folder(pytestconfig: pytest.Config) -> Path:
    """The folder that all workers of this run share."""
    if hasattr(pytestconfig, "workerinput"):
        return Path(pytestconfig.workerinput["pidpool_run_folder"])
    return pytestconfig.stash[_keeper_key].run_folder


# Servers


@pytest.fixture(scope="session")
def postgresql(run_folder: Path, worker_id: str) -> Iterator[Address]:
    """A database of this worker's own on the run's PostgreSQL server.

    PIDPOOL_TEST_POSTGRESQL_URL names a server of yours instead, whose user may create databases.
    """
    server = _shared_server("postgresql", PostgreSQL, run_folder)
    database = f"pidpool_test_{worker_id}"
    run_postgresql(server, f"DROP DATABASE IF EXISTS {database} WITH (FORCE)", f"CREATE DATABASE {database}")
    yield server.at(database)
    run_postgresql(server, f"DROP DATABASE {database} WITH (FORCE)")


@pytest.fixture(scope="session")
def mariadb(run_folder: Path, worker_id: str) -> Iterator[Address]:
    """A database of this worker's own on the run's MariaDB server.

    PIDPOOL_TEST_MARIADB_URL names a server of yours instead, whose user may create databases.
    """
    server = _shared_server("mysql", MariaDB, run_folder)
    database = f"pidpool_test_{worker_id}"
    run_mariadb(server, f"DROP DATABASE IF EXISTS {database}", f"CREATE DATABASE {database}")
    yield server.at(database)
    run_mariadb(server, f"DROP DATABASE {database}")


@pytest.fixture(scope="session")
def redis_url(run_folder: Path, worker_id: str) -> str:
    """The URL of a database of this worker's own on the run's Redis server.

    PIDPOOL_TEST_REDIS_URL names a server of yours instead. Nothing is flushed: tests have keys of their own.
    """
    server = _shared_server("redis", Redis, run_folder)
    if "PIDPOOL_TEST_REDIS_URL" not in os.environ:
        server = server.at(worker_id.removeprefix("gw") if worker_id != "master" else "0")
    return server.url("redis")


@pytest.fixture
def private_postgresql(run_folder: Path) -> Iterator[PrivateServer]:
    """A started PostgreSQL server which the test may stop, kill and start again."""
    yield from _private_server(PostgreSQL(run_folder))


@pytest.fixture
def private_mariadb(run_folder: Path) -> Iterator[PrivateServer]:
    """A started MariaDB server which the test may stop, kill and start again."""
    yield from _private_server(MariaDB(run_folder))


def address_for(driver: str, request: pytest.FixtureRequest) -> Address:
    """Return the database that a driver speaks to, starting only that server."""
    fixture = "mariadb" if driver in MARIADB_DRIVERS else "postgresql"
    address = request.getfixturevalue(fixture)
    assert isinstance(address, Address)
    return address


@pytest.fixture(params=DRIVERS)
def database_url(request: pytest.FixtureRequest) -> str:
    """A URL; the test runs once with each driver. Plain, but for pg8000: see `Address.url`."""
    return address_for(request.param, request).url(request.param)


@pytest.fixture(params=DRIVERS)
def tls_url(request: pytest.FixtureRequest) -> str:
    """A URL whose connections are over TLS; the test runs once with each driver."""
    address = address_for(request.param, request)
    if address.certificate is None:
        pytest.skip("this server has no TLS: the PostgreSQL of the `embedded` extra is built without it")
    return address.url(request.param, tls=True)


def _private_server(server: PrivateServer) -> Iterator[PrivateServer]:
    try:
        server.start()
        yield server
    finally:
        server.remove()


def _shared_server(backend: Backend, product: type[PrivateServer], run_folder: Path) -> Address:
    """Return the run's server, which the first worker that asks for it starts."""
    variable = f"PIDPOOL_TEST_{product.product.upper()}_URL"
    if variable in os.environ:
        certificate = os.environ.get(f"PIDPOOL_TEST_{product.product.upper()}_CERTIFICATE")
        return Address.parse(backend, os.environ[variable], Path(certificate) if certificate else None)
    if not product.available():
        pytest.fail(
            f"no {product.product} server on this machine: run `python tests/servers/provision.py`, which "
            f"installs what the tests need or says how, or name a server of yours in {variable}",
            pytrace=False,
        )
    known = run_folder / f"{product.product}.json"
    with locked(run_folder / f"{product.product}.lock"):
        if not known.exists():
            server = product(run_folder)
            address = server.start()
            server.leave_to_keeper()
            known.write_text(json.dumps(asdict(address), default=str))
    content = json.loads(known.read_text())
    content["certificate"] = content["certificate"] and Path(content["certificate"])
    return Address(**content)


# Scripts


@pytest.fixture
def run_script(tmp_path: Path) -> RunScript:
    """Run Python source in a fresh process and a session of its own; kill all of it after `timeout` seconds.

    Raises subprocess.TimeoutExpired, with the output so far, when the script or a child of it hangs.
    """
    numbers = count(1)

    def run(
        source: str,
        *args: str,
        timeout: float = 30,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        script = tmp_path / f"script{next(numbers)}.py"
        script.write_text(textwrap.dedent(source))
        command = [sys.executable, "-X", "faulthandler", str(script), *args]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        ) as process:
            try:
                output, errors = process.communicate(stdin, timeout=timeout)
            finally:
                # Children that outlive the script are in its process group, and end with it.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    return run
