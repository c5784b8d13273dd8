"""A MariaDB server of the tests' own."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

import pymysql

from tests.servers.address import Address
from tests.servers.process import LOOPBACK, PASSWORD, USER, PrivateServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Debian keeps mariadbd in a folder that is not on everybody's PATH.
_SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


class MariaDB(PrivateServer):
    """MariaDB from PATH or /usr/sbin."""

    product = "mariadb"
    # Its data are thrown away: nothing is gained by an orderly shutdown, which takes seconds.
    stop_signal = signal.SIGKILL

    @classmethod
    def available(cls) -> bool:
        return all(_find(program) for program in ("mariadbd", "mariadb-install-db"))

    def _create(self, data: Path) -> None:
        command = [_find("mariadb-install-db"), "--no-defaults", f"--datadir={data}", "--skip-test-db"]
        self._run([*command, "--skip-name-resolve", "--auth-root-authentication-method=normal"])

    def _command(self, port: int) -> Sequence[str]:
        accounts = self.folder / "accounts.sql"
        accounts.write_text(
            f"CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON *.* TO '{USER}'@'%' WITH GRANT OPTION;\n"
        )
        return [
            _find("mariadbd"),
            "--no-defaults",
            f"--datadir={self.data}",
            f"--socket={self.folder}/socket",
            f"--pid-file={self.folder}/pid",
            f"--init-file={accounts}",
            f"--bind-address={LOOPBACK}",
            f"--port={port}",
            f"--ssl-cert={self.certificate}",
            f"--ssl-key={self.key}",
            f"--ssl-ca={self.certificate}",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--max-connections=500",
            # Children leave in the middle of a handshake: the server must not shut them out for it.
            "--max-connect-errors=4294967295",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=8M",
            # Each aborted connection would be a line; there are thousands.
            "--log-warnings=0",
        ]

    def _address(self, port: int) -> Address:
        return Address("mysql", LOOPBACK, port, USER, PASSWORD, "mysql", self.certificate)

    def _probe(self, address: Address) -> None:
        run_mariadb(address, "SELECT 1")


def run_mariadb(address: Address, *statements: str) -> None:
    """Run statements in autocommit."""
    connection = pymysql.connect(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        database=address.database,
        autocommit=True,
        connect_timeout=5,
        ssl_disabled=True,
    )
    with connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def _find(program: str) -> str:
    return shutil.which(program, path=_SEARCH) or ""
