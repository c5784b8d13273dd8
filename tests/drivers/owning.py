"""The process that owns a specimen, forks, and lets its child do things to the copy; `tests.drivers.measuring` runs it.

    python -m tests.drivers.owning JOB

It says on its standard output how far it has come, one JSON value a line, and waits for a line on its standard input
before it goes on. It may hang or crash: then the client has been ruined.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import os
import signal
import socket
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

from tests.drivers import specimens
from tests.drivers.specimens import BY_NAME, Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.drivers.specimens import Specimen

#: Seconds after which something counts as hanging.
PATIENCE = 6
#: Exit codes of a child.
WELL, RAISED, FINALIZED = 0, 1, 3


class Bare:
    """The client as it is, without pidpool; the others differ in how it is opened and closed."""

    def __init__(self, specimen: Specimen, place: Place) -> None:
        self.specimen, self.place = specimen, place
        self.loop = asyncio.new_event_loop() if specimen.is_awaited else None
        self.client: Any = None
        self.holder: Any = None
        self.settle(self.open())

    def open(self) -> object:
        self.client = self.settle(self.specimen.open(self.place))
        return None

    def settle(self, thing: Any) -> Any:  # noqa: ANN401 - what is awaited, if it must be
        if self.loop is None or not inspect.isawaitable(thing):
            return thing

        async def wait() -> Any:  # noqa: ANN401 - as above
            return await thing

        return self.loop.run_until_complete(wait())

    def begin(self) -> Any:  # noqa: ANN401 - as above
        return self.settle((self.specimen.begin or self.specimen.finish)(self.client, self.place))

    def finish(self) -> Any:  # noqa: ANN401 - as above
        return self.settle(self.specimen.finish(self.client, self.place))

    def drop(self) -> None:
        self.client = self.holder = None
        gc.collect()

    def close(self) -> None:
        """Close as the program would: through pidpool, if it is there."""
        self.close_itself()

    def close_itself(self) -> None:
        """Close the client past pidpool."""
        self.settle(getattr(self.client, "aclose", self.client.close)())


class Pooled(Bare):
    """A database connection, checked out of a pool."""

    def open(self) -> object:
        from pidpool import PidPool  # noqa: PLC0415 - not where the client is bare

        self.holder = PidPool(lambda: self.specimen.open(self.place)).connect()
        self.client = self.holder.dbapi_connection
        return None

    def close(self) -> None:
        self.holder.close()


class AsyncPooled(Bare):
    """The same for asyncio."""

    async def open(self) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - as above

        from pidpool import AsyncPidPool  # noqa: PLC0415 - as above

        arguments = self.specimen.arguments(self.place)
        url = f"{self.specimen.dialect}://"
        if "database" in arguments and self.specimen.server == "file":
            url += f"/{arguments.pop('database')}"
        engine = create_async_engine(url, poolclass=AsyncPidPool, connect_args=arguments)
        self.holder = await engine.connect()
        self.client = (await self.holder.get_raw_connection()).driver_connection

    def close(self) -> None:
        asyncio.run(self.holder.close())


class PerProcessed(Bare):
    """A client in a `PerProcess`."""

    def open(self) -> object:
        from pidpool import PerProcess  # noqa: PLC0415 - as above

        self.holder = PerProcess(lambda: self.specimen.open(self.place))

        async def get() -> None:
            self.client = self.holder.get()

        if self.loop is None:
            self.client = self.holder.get()
            return None
        return get()

    def close(self) -> None:
        if self.loop is None:
            self.holder.close()
        else:
            asyncio.run(self.holder.aclose())


def guarded(specimen: Specimen) -> type[Bare]:
    """Return how pidpool holds a client of this kind."""
    if not specimen.is_pooled:
        return PerProcessed
    return AsyncPooled if specimen.is_awaited else Pooled


def child(action: Callable[[], object]) -> int:
    """Fork a child that does it; return how it ended, as `subprocess` says it."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(PATIENCE)
        code = WELL
        try:
            action()
        except Exception as error:  # noqa: BLE001 - drivers differ in what they make of a dead descriptor
            sys.stderr.write(f"{error!r}\n")
            code = RAISED
        os._exit(FINALIZED if specimens.finalized else code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def held(place: Place) -> int:
    """Return how many descriptors this process has of sockets that are connected to the place."""
    return sum(_peer(int(number)) == (place.host, place.port) for number in os.listdir("/proc/self/fd"))  # noqa: PTH208 - plain names


def _peer(number: int) -> object:
    try:
        with socket.socket(fileno=os.dup(number)) as seen:
            return seen.getpeername()
    except OSError:  # not a socket, or not connected
        return None


def tell(fact: object) -> None:
    """Say how far this has come, and wait until it has been noted."""
    os.write(1, json.dumps(fact).encode() + b"\n")
    if not os.read(0, 1):
        os._exit(0)  # enough has been seen


def survive(place: Place) -> None:
    """Live on after the parent has been killed."""
    os.write(1, json.dumps({"held": held(place)}).encode() + b"\n")
    signal.alarm(0)
    time.sleep(600)


def main() -> None:
    job = json.loads(sys.argv[1])
    specimen, place = BY_NAME[job["client"]], Place(**job["place"])
    warnings.simplefilter("ignore")  # pidpool's about a driver that it does not know, and asyncio's in a child
    subject = (guarded(specimen) if job["guarded"] else Bare)(specimen, place)
    for deed in job["deeds"]:
        before = subject.begin()
        tell("begun")
        if deed == "survive":
            child(lambda: survive(place))
        tell({"child": child(getattr(subject, deed))})
        signal.alarm(PATIENCE)
        try:
            same = subject.finish() == before
        except Exception as error:  # noqa: BLE001 - each driver says in a way of its own that the session is gone
            sys.stderr.write(f"{error!r}\n")
            same = False
        signal.alarm(0)
        tell({"same": same})
    os._exit(0)


if __name__ == "__main__":
    main()
