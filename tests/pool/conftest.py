"""How the tests of the pools reach their servers, and how they fork."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import RunScript
    from tests.servers import Address

ROOT = Path(__file__).parents[2]

# The answer is the last line of the output: whatever the scenario printed before stays visible in a failure.
PLAYER = """
    import faulthandler, importlib, json, os, signal, sys
    faulthandler.register(signal.SIGALRM, chain=True)  # shows where, and then the signal kills
    signal.alarm(int(sys.argv[1]))
    module, name, args, kwargs = json.load(sys.stdin)
    scenario = getattr(importlib.import_module(module), name)
    getpid = os.getpid  # which a scenario may replace
    first = getpid()
    answer = scenario(*args, **kwargs)
    if getpid() == first:
        print("\\n" + json.dumps(answer))
"""


class Play(Protocol):
    """The type of the fixture `play`."""

    def __call__(
        self,
        scenario: Callable[..., Any],
        *args: object,
        limit: int = 60,
        env: dict[str, str] | None = None,
        **kwargs: object,
    ) -> Any: ...  # noqa: ANN401 - whatever the scenario returns


@pytest.fixture
def play(run_script: RunScript) -> Play:
    """Call a module-level function in a fresh process and return what it returned.

    Arguments and result travel as JSON, and by stdin, since a URL holds a password. A process that hangs shows
    where.
    """

    def run(
        scenario: Callable[..., Any],
        *args: object,
        limit: int = 60,
        env: dict[str, str] | None = None,
        **kwargs: object,
    ) -> Any:  # noqa: ANN401 - see Play
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        result = run_script(
            PLAYER,
            str(limit - 2),
            stdin=json.dumps([scenario.__module__, scenario.__name__, args, kwargs]),
            timeout=limit,
            env={"PYTHONPATH": os.pathsep.join(paths), **(env or {})},
        )
        assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
        return json.loads(result.stdout.splitlines()[-1])

    return run


class Opener:
    """A plain DB-API creator: opens psycopg connections and remembers them."""

    def __init__(self, address: Address) -> None:
        self.opened: list[psycopg.Connection[Any]] = []
        #: Raised instead of connecting, once.
        self.trouble: BaseException | None = None
        self._address = address

    def __call__(self) -> Any:  # noqa: ANN401 - not all that psycopg has fits SQLAlchemy's protocol of a connection
        if self.trouble is not None:
            trouble, self.trouble = self.trouble, None
            raise trouble
        connection = self.connect()
        self.opened.append(connection)
        return connection

    def connect(self) -> psycopg.Connection[Any]:
        """Open a connection that is not counted."""
        address = self._address
        return psycopg.connect(
            host=address.host,
            port=address.port,
            user=address.user,
            password=address.password,
            dbname=address.database,
            sslmode="disable",
        )

    def close(self) -> None:
        """Close what was opened, and forget it."""
        for connection in self.opened:
            connection.close()
        self.opened.clear()

    @property
    def still_open(self) -> int:
        """How many of them are not closed."""
        return sum(not connection.closed for connection in self.opened)

    def end_session(self, number: int) -> None:
        """Have the server end the session of the connection that was opened as `number`; -1 is the last."""
        victim = self.opened[number].info.backend_pid
        with self.connect() as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", [victim])


@pytest.fixture
def opener(postgresql: Address) -> Iterator[Opener]:
    """A creator of plain connections; whatever it opened is closed in the end."""
    opener = Opener(postgresql)
    yield opener
    opener.close()
