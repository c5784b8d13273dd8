"""Servers for clients whose real one does not run here, or is of no account: they say what a client must hear."""

from __future__ import annotations

import contextlib
import socketserver
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.drivers.specimens import Server


class _HTTP(BaseHTTPRequestHandler):
    """Keeps connections alive, and tells each which one it is."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = str(self.client_address[1]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Lines(socketserver.StreamRequestHandler):
    """Answers each line with which connection it came by."""

    def handle(self) -> None:
        for _ in self.rfile:
            self.wfile.write(f"{self.client_address[1]}\n".encode())


class _Sink(socketserver.StreamRequestHandler):
    """Takes whatever comes: a fluentd that acknowledges nothing."""

    def handle(self) -> None:
        while self.rfile.read1():
            pass


class _TDS(socketserver.StreamRequestHandler):
    """Says yes to everything in SQL Server's protocol: enough for pymssql's connections to be real."""

    _PRELOGIN, _LOGIN, _IS_LAST = 0x12, 0x10, 1
    _DONE = struct.pack("<BHHQ", 0xFD, 0, 0, 0)

    def handle(self) -> None:
        while len(header := self.rfile.read(8)) == 8:
            kind, status, length = struct.unpack(">BBH", header[:4])
            self.rfile.read(length - 8)
            if status & self._IS_LAST:
                answer = self._answer(kind)
                self.wfile.write(struct.pack(">BBHHBB", 4, 1, len(answer) + 8, 0, 1, 0) + answer)

    def _answer(self, kind: int) -> bytes:
        if kind == self._PRELOGIN:  # a version, and no encryption
            options = struct.pack(">BHH", 0, 11, 6) + struct.pack(">BHH", 1, 17, 1) + b"\xff"
            return options + bytes([15, 0, 0, 0, 0, 0]) + b"\x02"
        if kind == self._LOGIN:
            acknowledged = b"\x01\x74\x00\x00\x04\x04" + "Fake".encode("utf-16le") + bytes([15, 0, 0, 0])
            return b"\xad" + struct.pack("<H", len(acknowledged)) + acknowledged + self._DONE
        return self._DONE


STANDINS: Final[dict[Server, type[socketserver.BaseRequestHandler]]] = {
    "http": _HTTP,
    "lines": _Lines,
    "forward": _Sink,
    "tds": _TDS,
}


class _Quiet(socketserver.BaseServer):
    """Clients are killed in the middle of everything: nobody wants to read of it."""

    def handle_error(self, *_: object) -> None:
        pass


class _Server(_Quiet, socketserver.ThreadingTCPServer):
    daemon_threads = True


class _HTTPServer(_Quiet, ThreadingHTTPServer):
    pass


@contextlib.contextmanager
def standin(name: Server) -> Iterator[int]:
    """Serve, on a free loopback port, which is given."""
    kind = _HTTPServer if name == "http" else _Server
    with kind(("127.0.0.1", 0), STANDINS[name]) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
