"""A Redis server of the tests' own."""

from __future__ import annotations

import shutil
import signal
import socket
from typing import TYPE_CHECKING

from tests.servers.address import Address
from tests.servers.process import LOOPBACK, PrivateServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Redis(PrivateServer):
    """Redis from PATH, without a password: its other users are on loopback as well.

    Parameters:
        arguments: more options of redis-server's.
    """

    product = "redis"
    # Its data are thrown away.
    stop_signal = signal.SIGKILL

    def __init__(self, run_folder: Path, *arguments: str) -> None:
        super().__init__(run_folder)
        self._arguments = arguments

    @classmethod
    def available(cls) -> bool:
        return shutil.which("redis-server") is not None

    def _create(self, data: Path) -> None:
        data.mkdir()

    def _command(self, port: int) -> Sequence[str]:
        settings = {
            "--bind": LOOPBACK,
            "--port": str(port),
            "--dir": str(self.data),
            "--unixsocket": f"{self.folder}/socket",
            "--unixsocketperm": "777",
            "--save": "",
            "--databases": "64",  # one for each worker
            "--loglevel": "warning",
        }
        return ["redis-server", *(word for setting in settings.items() for word in setting), *self._arguments]

    def _address(self, port: int) -> Address:
        return Address("redis", LOOPBACK, port, "", "", "0")

    def _probe(self, address: Address) -> None:
        # Past redis-py, which other tests and the benchmarks can do without.
        with socket.create_connection((address.host, address.port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(64) != b"+PONG\r\n":
                raise ConnectionError("it answers, and is not ready")
