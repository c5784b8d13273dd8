"""asyncmy: closing a connection without awaiting, while somebody still refers to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.family import assert_quiet, script

if TYPE_CHECKING:
    from tests.conftest import RunScript
    from tests.servers import Address


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("loop", ["open", "closed"])
def test_a_connection_is_closed_at_once_though_its_loop_is_closed(
    run_script: RunScript, mariadb: Address, loop: str, *, tls: bool
) -> None:
    source = """
import asyncio, json, sys, time
import asyncmy, pymysql
from pidpool import drivers
from pidpool.hazards.backends import MySQL
arguments, loop_is, tls = json.loads(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
loop = asyncio.new_event_loop()
how = MySQL("no_matter").tls_arguments("asyncmy") if tls else {}
connection = loop.run_until_complete(asyncmy.connect(**arguments, **how))
session = connection.thread_id()
abort = drivers.of(connection).abort
async def abort_inside():
    abort(connection)
    await asyncio.sleep(0)
if loop_is == "open":
    loop.run_until_complete(abort_inside())
loop.close()
abort(connection)  # a second time, if it was open
with pymysql.connect(**arguments, autocommit=True, ssl_disabled=True) as observer, observer.cursor() as cursor:
    deadline = time.monotonic() + 5
    while cursor.execute("SELECT 1 FROM information_schema.processlist WHERE id = %s", (session,)):
        assert time.monotonic() < deadline, "the session lives on"
        time.sleep(0.01)
try:
    drivers.of(connection).fileno(connection)
except AttributeError:
    pass
else:
    raise AssertionError("it still has a transport")
"""
    arguments = {
        "host": mariadb.host,
        "port": mariadb.port,
        "user": mariadb.user,
        "password": mariadb.password,
        "database": mariadb.database,
    }
    assert_quiet(run_script(script(source), json.dumps(arguments), loop, json.dumps(tls)))
