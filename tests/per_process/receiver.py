"""What fluentd is to a test: a receiver of the Forward protocol that counts events. Runs in a fresh process."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import msgpack

Place = tuple[str, int]


class Receiver:
    """Decodes each connection by itself, so that what two processes mix up on one is seen as garbage."""

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        #: For each connection, in the order of their arrival.
        self._events: list[list[dict[str, Any]]] = []
        #: How many connections have ended, and how much on them was no event.
        self.ended = self.garbage = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            events: list[dict[str, Any]] = []
            self._events.append(events)
            threading.Thread(target=self._decode, args=(connection, events), daemon=True).start()

    def _decode(self, connection: socket.socket, events: list[dict[str, Any]]) -> None:
        unpacker = msgpack.Unpacker(raw=False)
        while received := connection.recv(65536):
            unpacker.feed(received)
            try:
                for message in unpacker:
                    tag, moment, record = message
                    assert (tag, type(moment), type(record)) == ("test", int, dict)
                    events.append(record)
            except Exception:  # noqa: BLE001 - whatever it is, it is no event
                self.garbage += 1
                unpacker = msgpack.Unpacker(raw=False)
        self.ended += 1

    def numbers(self) -> list[list[Any]]:
        """Return what each connection brought: the field `n` of its events."""
        return [[event.get("n") for event in events] for events in list(self._events)]

    def wait_for(self, *wanted: Any) -> None:  # noqa: ANN401 - numbers, or names
        """Wait until exactly these have come, in any order, on any connection."""
        deadline = time.monotonic() + 10
        while len(came := [number for numbers in self.numbers() for number in numbers]) < len(wanted):
            assert time.monotonic() < deadline, f"{came} have come, not {wanted}; {self.garbage} pieces of garbage"
            time.sleep(0.01)
        assert sorted(map(str, came)) == sorted(map(str, wanted)), came
