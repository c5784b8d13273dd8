"""The servers that the other tests stand on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from tests.conftest import address_for
from tests.servers import DRIVERS

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tests.conftest import RunScript
    from tests.servers import Address, PrivateServer

REPOSITORY = Path(__file__).parents[1]


def encrypted(connection: Connection) -> bool:
    """Ask the server whether this session is encrypted."""
    if connection.dialect.name == "postgresql":
        statement = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        return bool(connection.scalar(text(statement)))
    row = connection.execute(text("SHOW SESSION STATUS LIKE 'Ssl_cipher'")).one()
    return bool(row[1])


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_driver_connects_plainly(driver: str, request: pytest.FixtureRequest) -> None:
    address = address_for(driver, request)
    engine = create_engine(address.url(driver), connect_args=address.connect_args(driver), poolclass=NullPool)
    with engine.connect() as connection:
        assert not encrypted(connection)


def test_each_worker_has_a_database_of_its_own(database_url: str, worker_id: str) -> None:
    assert make_url(database_url).database == f"pidpool_test_{worker_id}"


def test_tls_is_really_on(tls_url: str) -> None:
    with create_engine(tls_url, poolclass=NullPool).connect() as connection:
        assert encrypted(connection)


def test_a_wrong_password_is_refused(database_url: str) -> None:
    url = make_url(database_url).set(password="wrong")
    with pytest.raises(DBAPIError):
        create_engine(url, poolclass=NullPool).connect()


def test_the_password_stays_out_of_the_repr(postgresql: Address) -> None:
    assert postgresql.password not in repr(postgresql)


@pytest.mark.parametrize("product", ["postgresql", "mariadb"])
def test_a_private_server_can_be_killed_and_started_again(product: str, request: pytest.FixtureRequest) -> None:
    server: PrivateServer = request.getfixturevalue(f"private_{product}")
    assert server.address is not None
    url = server.address.url("psycopg" if product == "postgresql" else "pymysql")
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        server.kill()
        with pytest.raises(DBAPIError):
            connection.scalar(text("SELECT 1"))
        connection.invalidate()
    server.start()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1


def test_a_hanging_script_is_killed_with_its_children(run_script: RunScript, tmp_path: Path) -> None:
    source = """
        import os, sys, time
        child = os.fork()
        if child:
            open(sys.argv[1], "w").write(str(child))
        time.sleep(600)
    """
    with pytest.raises(subprocess.TimeoutExpired):
        run_script(source, str(tmp_path / "child"), timeout=1)
    assert ends(int((tmp_path / "child").read_text()))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_server_and_no_folder_outlives_an_interrupted_run(how: signal.Signals, tmp_path: Path) -> None:
    test = tmp_path / "test_that_waits.py"
    test.write_text(
        "import os, pathlib, time\n"
        "from tests.conftest import *\n"
        "def test_waits(private_postgresql):\n"
        "    ready = f'{private_postgresql.process.pid} {private_postgresql.run_folder}'\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'new').write_text(ready)\n"
        f"    os.rename({str(tmp_path / 'new')!r}, {str(tmp_path / 'ready')!r})\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(REPOSITORY / "pyproject.toml")]
    command += ["--rootdir", str(tmp_path), "-p", "no:cacheprovider", "-p", "no:xdist"]
    with subprocess.Popen(
        [*command, "-p", "tests.conftest", str(test)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as run:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        pid, folder = (tmp_path / "ready").read_text().split(maxsplit=1)
        run.send_signal(how)
        run.wait(60)
    assert ends(int(pid))
    deadline = time.monotonic() + 10
    while Path(folder).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(folder).exists()


def ends(pid: int, seconds: float = 10) -> bool:
    """Return whether a process ends within so many seconds; a zombie has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return True
        if status.rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False
