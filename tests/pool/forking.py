"""What a scenario does: it forks, listens to the wire, and asks the server who is who.

Scenarios run in a fresh process (the fixture `play`), never in the test process.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import sqlalchemy.pool
from sqlalchemy import Connection, create_engine, make_url, text

import pidpool
from pidpool.hazards.proxy import RecordingProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine, Pool
    from sqlalchemy.orm import Session

    from pidpool.hazards.proxy import Traffic

Leave = Literal["os._exit", "sys.exit", "exception"]

CHILD_LIMIT = 20
"""Seconds until a child counts as hung, and shows where."""

SESSION_ID = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}


def pool_class(name: str) -> type[Pool]:
    """Return a pool class of pidpool's or SQLAlchemy's by its name."""
    found = getattr(pidpool, name, None) or getattr(sqlalchemy.pool, name)
    assert isinstance(found, type)
    return found


def engine_of(name: str, url: str, **options: Any) -> Engine:  # noqa: ANN401 - create_engine's own
    """Return an engine with the pool class of that name."""
    return create_engine(url, poolclass=pool_class(name), **options)


def session_id(connection: Connection | Session) -> int:
    """Return the server's name for this connection's session."""
    dialect = connection.dialect if isinstance(connection, Connection) else connection.get_bind().dialect
    found = connection.execute(text(SESSION_ID[dialect.name])).scalar_one()
    assert isinstance(found, int)
    return found


def use(engine: Engine) -> int:
    """Check out, ask for the session id, check in."""
    with engine.connect() as connection:
        return session_id(connection)


def fill(engine: Engine, count: int) -> list[int]:
    """Leave `count` connections idle in the pool; return their session ids."""
    connections = [engine.connect() for _ in range(count)]
    sessions = [session_id(connection) for connection in connections]
    for connection in connections:
        connection.close()
    return sessions


# Children


class ChildError(Exception):
    """The exception that a child did not catch."""


def in_child(action: Callable[[], Any], *, leave: Leave = "os._exit", hookless: bool = False) -> Any:  # noqa: ANN401
    """Fork, call `action` in the child, wait for its end, and return what it returned.

    A child that leaves by `sys.exit` or an exception unwinds the scenario's own frames, `with` blocks included, and
    finalizes its interpreter.

    Raises:
        AssertionError: the action raised, or the child came to another end than planned.
    """
    reading, writing = os.pipe()
    # PyDLL keeps the interpreter's lock across the call, or the child would have nobody to hand it back.
    pid = ctypes.PyDLL(None).fork() if hookless else os.fork()
    if pid == 0:
        os.close(reading)
        _live(action, writing)
        _leave(leave)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = json.loads(pipe.read() or '{"error": "no answer"}')
    _, status = os.waitpid(pid, 0)
    assert "error" not in answer, answer["error"]
    assert os.waitstatus_to_exitcode(status) == (1 if leave == "exception" else 0)
    return answer["value"]


def _live(action: Callable[[], Any], writing: int) -> None:
    signal.alarm(CHILD_LIMIT)  # the fixture `play` has seen to what happens then
    try:
        answer = {"value": action()}
    except BaseException:  # noqa: BLE001 - told to the parent
        answer = {"error": "in the child: " + traceback.format_exc()}
    os.write(writing, json.dumps(answer).encode())
    os.close(writing)


def _leave(leave: Leave) -> NoReturn:
    if leave == "os._exit":
        os._exit(0)
    if leave == "sys.exit":
        sys.exit(0)
    raise ChildError


def raised(action: Callable[[], object]) -> str:
    """Return the name of the exception that the action raises; "" if it raises none."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 - the caller judges it
        return type(error).__qualname__
    return ""


# The wire


@contextmanager
def wire(url: str) -> Iterator[tuple[str, RecordingProxy]]:
    """Put a recording proxy before the server; yield the URL that leads through it, and the proxy."""
    parts = make_url(url)
    assert parts.host is not None
    assert parts.port is not None
    first = os.getpid()
    proxy = RecordingProxy(parts.host, parts.port)
    try:
        yield parts.set(host=proxy.host, port=proxy.port).render_as_string(hide_password=False), proxy
    finally:
        if os.getpid() == first:  # a child that unwinds this leaves the proxy to its parent
            proxy.close()


def noise(before: dict[int, Traffic], after: dict[int, Traffic]) -> list[str]:
    """Return what a client said between two snapshots, on the connections that the first one shows."""
    found = []
    for number, was in before.items():
        sent = after[number].client_bytes - was.client_bytes
        if sent:
            found.append(f"{sent} bytes")
        if after[number].client_ended and not was.client_ended:
            found.append("end of stream")
    return found
