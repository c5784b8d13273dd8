"""A server of SQL Server's protocol (TDS 7.4) that says yes to everything: enough for a pymssql connection to exist.

Run as a program, it prints its port, and ends with its standard input.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading

_PRELOGIN = 0x12
_LOGIN = 0x10
_DONE = struct.pack("<BHHQ", 0xFD, 0, 0, 0)
_END_OF_MESSAGE = 1


def _packet(payload: bytes) -> bytes:
    return struct.pack(">BBHHBB", 4, _END_OF_MESSAGE, len(payload) + 8, 0, 1, 0) + payload


def _prelogin() -> bytes:
    """Say which version this is, and that it has no encryption."""
    options = b"\0" + struct.pack(">HH", 11, 6) + b"\1" + struct.pack(">HH", 17, 1) + b"\xff"
    return options + bytes([15, 0, 0, 0, 0, 0]) + b"\2"


def _login() -> bytes:
    name = "Yes".encode("utf-16le")
    acknowledged = b"\x01\x74\x00\x00\x04" + bytes([3]) + name + bytes([15, 0, 0, 0])
    return b"\xad" + struct.pack("<H", len(acknowledged)) + acknowledged + _DONE


def _serve(client: socket.socket) -> None:
    with client, client.makefile("rb") as stream:
        while len(header := stream.read(8)) == 8:
            kind, status, length = struct.unpack(">BBH", header[:4])
            stream.read(length - 8)
            if status & _END_OF_MESSAGE:
                client.sendall(_packet({_PRELOGIN: _prelogin, _LOGIN: _login}.get(kind, lambda: _DONE)()))


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            threading.Thread(target=_serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
