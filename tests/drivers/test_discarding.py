"""A raw connection with an open transaction in the parent, discarded in children that then do their worst."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.family import WAYS, assert_quiet, script

if TYPE_CHECKING:
    from tests.conftest import RunScript

each_way = pytest.mark.parametrize("how", WAYS)

PREPARED = script("""
import gc, os, socket, sys
from pidpool import discard
from pidpool._discard import Ownership
from tests.drivers.owner import Owner, query
from tests.family import child

owner = Owner(sys.argv[1])
connection = owner.connect()

def swallow(action):
    '''Run it; drivers differ in what they make of a dead descriptor, and that is theirs to decide.'''
    try:
        action()
    except Exception:
        pass
""")


def test_the_descriptor_that_a_driver_names_is_the_socket_to_the_server(run_script: RunScript, server: str) -> None:
    source = """
from pidpool import drivers
connection = owner.connect(direct=True)
number = owner.descriptor(connection)
assert os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
with socket.socket(fileno=os.dup(number)) as seen:
    assert seen.getpeername() == (owner.host, owner.port)
connection.close()
try:
    number = drivers.of(connection).fileno(connection)
except Exception:  # or the driver never tells
    number = -1
assert number is None or number < 0, "a closed connection has no descriptor"
"""
    assert_quiet(run_script(PREPARED + source, server))


@each_way
def test_the_parents_session_goes_on_whatever_a_child_does_that_has_discarded(
    run_script: RunScript, server: str, how: str
) -> None:
    source = """
how = sys.argv[2]
owner.begin(connection)
def close():
    discard(connection)
    swallow(connection.rollback)
    swallow(connection.close)
def use():
    discard(connection)
    swallow(lambda: query(connection, "SELECT 1"))
def drop():
    global connection
    discard(connection)
    del connection
    gc.collect()
for deed in (close, use, drop):
    with owner.silence():
        child(deed, how=how)
with owner.silence():
    child(lambda: discard(connection), how=how, leave="sys.exit")
owner.finish(connection)
connection.close()
"""
    assert_quiet(run_script(PREPARED + source, server, how))


def test_without_a_discard_close_in_a_child_ends_the_parents_session(run_script: RunScript, server: str) -> None:
    source = """
owner.begin(connection)
owner.disown()
child(connection.close)
assert owner.has_lost(connection)
"""
    assert_quiet(run_script(PREPARED + source, server))


@each_way
def test_a_grandchild_may_discard_what_the_child_left_alone(run_script: RunScript, plain_server: str, how: str) -> None:
    source = """
owner.begin(connection)
def descend():
    child(lambda: discard(connection) or swallow(connection.close), how=sys.argv[2])
with owner.silence():
    child(descend, how=sys.argv[2])
owner.finish(connection)
connection.close()
"""
    assert_quiet(run_script(PREPARED + source, plain_server, how))


def test_a_connection_in_a_reference_cycle_stays_silent_in_a_child_that_noticed_nothing(
    run_script: RunScript, plain_server: str
) -> None:
    source = """
class Holder:
    pass
holder = Holder()
holder.myself, holder.ownership = holder, Ownership(connection)
owner.begin(connection)
def drop():
    global holder, connection
    del holder, connection
    gc.collect()
with owner.silence():
    child(drop, how="hookless")
owner.finish(connection)
connection.close()
"""
    assert_quiet(run_script(PREPARED + source, plain_server))


# Half-read results

STREAM = """
MANY = 20000  # more than fits into the buffers on the way: the server waits for the parent to read on
NUMBERS = {
    "mysql": f"SELECT seq FROM seq_1_to_{MANY}",
    "postgresql": f"SELECT generate_series(1, {MANY})",
}
def stream():
    '''Return a cursor whose rows wait at the server.'''
    if owner.driver == "pymysql":
        from pymysql.cursors import SSCursor
        cursor = connection.cursor(SSCursor)
    elif owner.driver == "mysqlconnector":
        cursor = connection.cursor(buffered=False)
    elif owner.driver == "mysqldb":
        from MySQLdb.cursors import SSCursor
        cursor = connection.cursor(SSCursor)
    else:
        cursor = connection.cursor(name="half_read")
    cursor.execute(NUMBERS["mysql" if owner.mysql else "postgresql"])
    return cursor
cursor = stream()
assert [cursor.fetchone()[0] for _ in range(10)] == list(range(1, 11))
"""


@pytest.fixture
def streaming_server(plain_server: str) -> str:
    if "pg8000" in plain_server:
        pytest.skip("pg8000 reads every result to its end")
    return plain_server


@each_way
@pytest.mark.parametrize("leave", ["os._exit", "sys.exit"])
def test_the_parent_reads_the_rest_of_a_result_that_its_child_has_dropped(
    run_script: RunScript, streaming_server: str, how: str, leave: str
) -> None:
    source = """
how, leave = sys.argv[2:]
def drop():
    global cursor, connection
    discard(connection)
    if leave == "os._exit":
        del cursor, connection
        gc.collect()
with owner.silence():
    child(drop, how=how, leave=leave)
assert [row[0] for row in cursor.fetchall()] == list(range(11, MANY + 1))
cursor.close()
connection.close()
"""
    assert_quiet(run_script(PREPARED + STREAM + source, streaming_server, how, leave))


def test_without_a_discard_a_cursor_that_the_child_closes_spoils_the_rest(
    run_script: RunScript, streaming_server: str
) -> None:
    source = """
import signal
child(lambda: swallow(cursor.close))
signal.alarm(3)  # a parent that waits for rows which its child has read waits for ever
try:
    rest = [row[0] for row in cursor.fetchall()]
except Exception:
    rest = None
assert rest != list(range(11, MANY + 1))
"""
    done = run_script(PREPARED + STREAM + source, streaming_server)
    # What the finalizers say of the ruin is theirs.
    assert done.returncode in (0, -signal.SIGALRM), done.stderr


# Descriptors


def test_the_server_ends_the_session_of_a_killed_owner_while_its_child_lives_on(
    run_script: RunScript, server: str
) -> None:
    source = """
import signal, time
reading, writing = os.pipe()
parent = os.fork()
if parent == 0:
    connection = owner.connect(direct=True)
    ownership = Ownership(connection)  # besides the owner's, where that has one
    session = owner.session_id(connection)
    survivor = os.fork()
    if survivor:
        os.write(writing, b"%d %d" % (session, survivor))
    time.sleep(600)
session, survivor = map(int, os.read(reading, 100).split())
os.kill(parent, signal.SIGKILL)
os.waitpid(parent, 0)
alive = (
    f"SELECT 1 FROM information_schema.processlist WHERE id = {session}" if owner.mysql else
    f"SELECT 1 FROM pg_stat_activity WHERE pid = {session}"
)
deadline = time.monotonic() + 5
while found := owner.observe(alive):
    assert time.monotonic() < deadline
    time.sleep(0.02)
os.kill(survivor, 0)  # it was there all the time
os.kill(survivor, signal.SIGKILL)
"""
    assert_quiet(run_script(PREPARED + source, server))


def test_a_child_at_its_descriptor_limit_may_be_the_first_to_ask_for_the_driver(
    run_script: RunScript, plain_server: str
) -> None:
    source = """
import resource
owner.begin(connection)
def starve():
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, highest + 1))
    swallow(lambda: [os.dup(0) for _ in range(highest)])
    discard(connection)
    swallow(connection.close)
with owner.silence():
    child(starve)
owner.finish(connection)
connection.close()
"""
    assert_quiet(run_script(PREPARED + source, plain_server))
