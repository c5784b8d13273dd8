"""A recording TCP proxy: how many bytes has each side sent, and who has said goodbye?

`RecordingProxy` starts this very file in a process of its own, with nothing but the standard library, before
anything forks. It is single-threaded, and before it answers a question it reads whatever has arrived. On the
loopback interface a byte has arrived when `send` returns, so a snapshot taken after a child has ended misses
nothing that the child sent.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from typing_extensions import Self

_CHUNK = 65536
_HIGH_WATER = 1 << 20  # A half-read result must not fill this process: above this much, stop reading.


@dataclass(frozen=True)
class Traffic:
    """What one connection through the proxy has seen so far."""

    client_bytes: int
    """Bytes that came from the application."""
    server_bytes: int
    """Bytes that came from the database."""
    client_ended: bool
    """The application's side has sent end-of-stream, or a reset."""
    server_ended: bool
    """The database has closed its side: the session is over."""


class RecordingProxy:
    """Forwards a free port on 127.0.0.1 to `host`:`port` and counts; use it as a context manager.

    Args:
        host: the server to forward to.
        port: its TCP port.
    """

    def __init__(self, host: str, port: int) -> None:
        # A terminal sends Ctrl-C to the proxy as well; it inherits this, and ends when we do.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, this file
                [sys.executable, "-I", "-S", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        self._unread = b""
        self.host = "127.0.0.1"
        self.port: int = self._ask({"host": host, "port": port})

    def snapshot(self) -> dict[int, Traffic]:
        """Return the traffic of every connection so far, by the order in which they came."""
        answer = self._ask("snapshot")
        return {number: Traffic(*counts) for number, counts in enumerate(answer)}

    def close(self) -> None:
        """End the proxy and with it every connection that runs through it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        """Return the proxy itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the proxy."""
        self.close()

    def _ask(self, question: object) -> Any:  # noqa: ANN401 - JSON
        # Unbuffered on both sides: a forked child may take over the conversation between two questions.
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the recording proxy has no pipes")
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            piece = os.read(self._process.stdout.fileno(), _CHUNK)
            if not piece:
                raise RuntimeError("the recording proxy has died")
            answer += piece
        return json.loads(answer)


class _Side:
    """One socket of a pair, with what still has to be written to it."""

    def __init__(self, stream: socket.socket) -> None:
        stream.settimeout(0)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = stream
        self.received = 0
        self.ended = False
        self.outgoing = bytearray()
        self.told_the_end = False
        self.peer: _Side = self

    @property
    def wants_to_read(self) -> bool:
        """Whether more may be taken: there is more to come, and the other side keeps up."""
        return not self.ended and len(self.peer.outgoing) <= _HIGH_WATER

    def read(self) -> bool:
        """Take what has arrived; return whether there was anything."""
        if not self.wants_to_read:
            return False
        try:
            data = self.stream.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self.received += len(data)
        self.ended = not data
        self.peer.outgoing += data
        return True

    def write(self) -> None:
        """Hand on what is waiting, and the end of the stream after it."""
        try:
            while self.outgoing:
                del self.outgoing[: self.stream.send(self.outgoing)]
            if self.peer.ended and not self.told_the_end:
                self.told_the_end = True
                self.stream.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            self.outgoing.clear()  # The receiver is gone: there is nobody left to hand this to.


class _Pair:
    """The application's side and the database's side of one connection."""

    def __init__(self, near: _Side, far: _Side) -> None:
        near.peer, far.peer = far, near
        self.near, self.far = near, far
        self.sides = (near, far)

    @property
    def is_over(self) -> bool:
        """Both sides have ended, and all has been handed on."""
        return self.near.ended and self.far.ended and not self.near.outgoing and not self.far.outgoing

    def forward(self) -> bool:
        """Move what there is; return whether anything arrived."""
        # In this order: what one side may read depends on how much the other has written.
        arrived = [side.read() for side in self.sides]
        for side in self.sides:
            side.write()
        return any(arrived)


class _Loop:
    """The proxy process: accepts, forwards, counts, answers."""

    def __init__(self) -> None:
        self.pairs: list[_Pair] = []
        self.open: list[_Pair] = []
        self.selector = selectors.DefaultSelector()
        job = json.loads(self._question())
        self.server = (job["host"], job["port"])
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.listener.settimeout(0)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(0, selectors.EVENT_READ)
        self._answer(self.listener.getsockname()[1])

    def run(self) -> None:
        """Serve until the other end of the control pipe is closed."""
        while True:
            for key, _ in self.selector.select():
                if key.fd == 0:
                    if not self._question():
                        return
                    while self._accept() or sum(self._forward(pair) for pair in tuple(self.open)):
                        pass  # Whatever has arrived by now belongs into the answer.
                    self._answer([(p.near.received, p.far.received, p.near.ended, p.far.ended) for p in self.pairs])
                elif key.fileobj is self.listener:
                    self._accept()
                elif not key.data.is_over:
                    self._forward(key.data)

    def _accept(self) -> bool:
        try:
            stream, _ = self.listener.accept()
        except BlockingIOError:
            return False
        try:
            upstream = socket.create_connection(self.server, timeout=10)
        except OSError:
            stream.close()
            return True
        pair = _Pair(_Side(stream), _Side(upstream))
        self.pairs.append(pair)
        self.open.append(pair)
        self._forward(pair)
        return True

    def _forward(self, pair: _Pair) -> bool:
        moved = pair.forward()
        for side in pair.sides:
            self._watch(side, pair)
        if pair.is_over:
            self.open.remove(pair)
            for side in pair.sides:
                side.stream.close()
        return moved

    def _watch(self, side: _Side, pair: _Pair) -> None:
        """Ask the selector for just those events that can move something, or it would spin."""
        wanted = selectors.EVENT_READ if side.wants_to_read else 0
        wanted |= selectors.EVENT_WRITE if side.outgoing else 0
        watched = self.selector.get_map().get(side.stream)
        if watched is None:
            if wanted:
                self.selector.register(side.stream, wanted, pair)
        elif not wanted:
            self.selector.unregister(side.stream)
        elif watched.events != wanted:
            self.selector.modify(side.stream, wanted, pair)

    @staticmethod
    def _question() -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            piece = os.read(0, _CHUNK)
            if not piece:
                return b""
            line += piece
        return line

    @staticmethod
    def _answer(value: object) -> None:
        data = json.dumps(value).encode() + b"\n"
        while data:
            data = data[os.write(1, data) :]


if __name__ == "__main__":
    _Loop().run()
