"""pymssql and oracledb, for which no server runs here: the life-cycle of their objects, and no more than that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.drivers import yes_server
from tests.family import WAYS, assert_quiet, script

if TYPE_CHECKING:
    from tests.conftest import RunScript

each_way = pytest.mark.parametrize("how", WAYS)

# pymssql

PYMSSQL = script("""
import gc, os, socket, subprocess, sys
import pymssql
from pidpool import PidPool, drivers
from pidpool.hazards.proxy import RecordingProxy
from tests.drivers.hidden import sockets
from tests.family import child

server = subprocess.Popen([sys.executable, sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
proxy = RecordingProxy("127.0.0.1", int(server.stdout.readline()))
before = sockets()

def connect():
    return pymssql.connect(
        server=proxy.host, port=str(proxy.port), user="u", password="p", tds_version="7.4", encryption="off"
    )

def end():
    '''The server ends with its standard input; nothing here is closed politely.'''
    server.kill()
    server.wait()
    os._exit(0)
""")
YES_SERVER = yes_server.__file__ or str(Path(__file__).with_name("yes_server.py"))


@each_way
def test_a_child_lets_go_of_a_pymssql_connection_in_silence(run_script: RunScript, how: str) -> None:
    source = """
pool = PidPool(connect)
connection = pool.connect()
assert drivers.of(connection.dbapi_connection).name == "pymssql"
[own] = sockets() - before
def live():
    global connection, pool
    pool.connect().close()
    assert own not in sockets()
    connection.close()
    del connection, pool
    gc.collect()
seen = proxy.snapshot()[0]
child(live, how=sys.argv[2])
child(lambda: None, how=sys.argv[2], leave="sys.exit")
assert proxy.snapshot()[0] == seen, "something was said, or ended"
connection.cursor().execute("SELECT 1")
assert proxy.snapshot()[0].client_bytes > seen.client_bytes
end()
"""
    assert_quiet(run_script(PYMSSQL + source, YES_SERVER, how))


def test_without_pidpool_a_child_keeps_a_copy_of_pymssqls_socket(run_script: RunScript) -> None:
    # With this protocol, and without encryption, closing it says nothing; see pidpool/drivers/pymssql.py.
    source = """
connection = connect()
[own] = sockets() - before
def live():
    assert own in sockets()
child(live)
end()
"""
    assert_quiet(run_script(PYMSSQL + source, YES_SERVER))


# oracledb

# Its own class and its own finalizer. What stands for the rest is told to close, as the one would be that then rolls
# back and logs off: by close(), or (before oracledb 3) by the finalizer itself.
ORACLEDB = script("""
import gc, os, sys
import oracledb
from pidpool import drivers
from pidpool._discard import Appeared, Ownership, discard
from tests.family import child

class Connection(oracledb.Connection):
    def close(self):
        self._impl.close()

class Rest:
    def close(self, *, in_del=False, write=os.write):
        write(writing, b"closed")

def heard():
    try:
        return os.read(reading, 100)
    except BlockingIOError:
        return None

reading, writing = os.pipe()
os.set_blocking(reading, False)
appeared = Appeared()
connection = Connection.__new__(Connection)
connection._impl = Rest()
""")


@each_way
@pytest.mark.parametrize("kept", ["owned", "discarded by hand"])
def test_the_finalizer_of_an_oracledb_connection_never_runs_in_a_child(
    run_script: RunScript, how: str, kept: str
) -> None:
    source = """
how, kept = sys.argv[1:]
assert drivers.of(connection).name == "oracledb"
ownership = Ownership(connection, appeared=appeared) if kept == "owned" else None
def drop():
    global connection, ownership
    if kept != "owned":
        discard(connection)
    del connection, ownership
    gc.collect()
child(drop, how=how)
child(drop, how=how, leave="sys.exit")
assert heard() is None
del connection, ownership
gc.collect()
assert heard() == b"closed", "its owner's finalizer runs"
"""
    assert_quiet(run_script(ORACLEDB + source, how, kept))


def test_without_pidpool_the_finalizer_of_an_oracledb_connection_runs_in_a_child(run_script: RunScript) -> None:
    source = """
def drop():
    global connection
    del connection
    gc.collect()
child(drop)
assert heard() == b"closed"
connection._impl = None
"""
    assert_quiet(run_script(ORACLEDB + source))


@pytest.mark.parametrize("how", ["asyncio", "alone"])
def test_what_another_task_opens_is_not_taken_for_a_connection_of_oracledbs_own_pool(
    run_script: RunScript, how: str
) -> None:
    source = """
import asyncio, socket, stat

def pooled(kind):
    found = kind.__new__(kind)
    found._impl = None
    return found

async def open_another():
    return socket.socket()

async def acquire():
    # As from oracledb's own pool: it waits, and opens no socket.
    other = asyncio.create_task(open_another())
    appeared = Appeared()
    await other
    return other.result(), Ownership(pooled(oracledb.AsyncConnection), appeared=appeared)

connection._impl = None
if sys.argv[1] == "asyncio":
    other, ownership = asyncio.run(acquire())
else:  # what opens a connection must open nothing else
    appeared = Appeared()
    other = socket.socket()
    ownership = Ownership(pooled(oracledb.Connection), appeared=appeared)
def look():
    assert stat.S_ISSOCK(os.fstat(other.fileno()).st_mode) == (sys.argv[1] == "asyncio")
child(look)
other.close()
"""
    assert_quiet(run_script(ORACLEDB + source, how))


@pytest.mark.parametrize("name", ["pymssql._pymssql.Connection", "oracledb.Connection", "oracledb.AsyncConnection"])
def test_a_driver_that_could_not_be_verified_is_known(run_script: RunScript, name: str) -> None:
    source = """
import contextlib, pkgutil, sys
from pidpool import drivers
found = pkgutil.resolve_name(sys.argv[1])
class Mine(found):
    pass
for each in (found, Mine):
    connection = each.__new__(each)
    with contextlib.suppress(AttributeError):
        connection._impl = None  # oracledb's: closed
    assert drivers.of(connection).name == sys.argv[1].partition(".")[0]
"""
    assert_quiet(run_script(script(source), name))
