"""The recording proxy misses nothing: silence is only worth something if noise would be heard."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from pidpool.hazards import RecordingProxy, Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def proxy(server: socket.socket) -> Iterator[RecordingProxy]:
    with RecordingProxy(*server.getsockname()) as recording:
        yield recording


@pytest.fixture
def ends(server: socket.socket, proxy: RecordingProxy) -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_connection((proxy.host, proxy.port)) as client:
        accepted, _ = server.accept()
        with accepted:
            yield client, accepted


def test_every_byte_is_counted_at_once(ends: tuple[socket.socket, socket.socket], proxy: RecordingProxy) -> None:
    client, accepted = ends
    assert proxy.snapshot() == {0: Traffic(0, 0, client_ended=False, server_ended=False)}
    client.sendall(b"x")
    assert proxy.snapshot()[0].client_bytes == 1
    accepted.sendall(b"yyy")
    assert proxy.snapshot()[0].server_bytes == 3
    assert accepted.recv(10) == b"x"
    assert client.recv(10) == b"yyy"


def test_the_end_of_a_stream_is_noticed_and_handed_on(
    ends: tuple[socket.socket, socket.socket], proxy: RecordingProxy
) -> None:
    client, accepted = ends
    client.shutdown(socket.SHUT_WR)
    assert proxy.snapshot()[0].client_ended
    assert not proxy.snapshot()[0].server_ended
    assert accepted.recv(10) == b""
    accepted.close()
    assert client.recv(10) == b""
    assert proxy.snapshot()[0].server_ended


def test_a_client_that_does_not_read_does_not_stop_the_proxy(
    ends: tuple[socket.socket, socket.socket], proxy: RecordingProxy
) -> None:
    client, accepted = ends
    total = 32 << 20
    writer = threading.Thread(target=accepted.sendall, args=(bytes(total),))
    writer.start()
    client.sendall(b"x")
    assert proxy.snapshot()[0].client_bytes == 1
    received = 0
    while received < total:
        received += len(client.recv(1 << 20))
    writer.join()
    assert proxy.snapshot()[0].server_bytes == total
