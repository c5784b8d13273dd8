"""Discarding, seen from the descriptor: sockets without a database, whose other end tells what became of them.

`tests/drivers/` does the same with real drivers and servers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.family import WAYS, assert_quiet, script

if TYPE_CHECKING:
    from tests.conftest import RunScript

each_way = pytest.mark.parametrize("how", WAYS)

PREPARED = script("""
import gc, os, resource, signal, socket, sys, time
from pidpool import _discard
from pidpool._discard import Ownership, discard
from pidpool.errors import DiscardRefusedError
from tests.family import child, fork

class Connection:
    '''Like a driver's, of the worst kind: it says goodbye whenever it is closed or freed.'''
    def __init__(self):
        self.socket, self.server = socket.socketpair()
        self.server.setblocking(False)
    def cursor(self):
        raise NotImplementedError
    def fileno(self):
        return self.socket.fileno()
    def close(self):
        self.socket.send(b"goodbye")
        self.socket.close()
    def __del__(self):
        try:
            self.close()
        except OSError:
            pass

def heard(connection):
    '''What has come to the server: None for nothing.'''
    try:
        return connection.server.recv(100)
    except BlockingIOError:
        return None

def target(descriptor):
    return os.readlink(f"/proc/self/fd/{descriptor}")

def refused(connection):
    try:
        discard(connection)
    except DiscardRefusedError as error:
        assert error.owner == os.getpid()
        return True
    return False
""")


# What it does


@each_way
def test_a_discarded_connection_says_nothing_when_it_is_closed_freed_or_finalized(
    run_script: RunScript, how: str
) -> None:
    source = """
connection = Connection()
def close():
    discard(connection)
    connection.close()
def drop():
    global connection
    discard(connection)
    del connection
    gc.collect()
for deed in (close, drop):
    child(deed, how=sys.argv[1])
    assert heard(connection) is None, deed
child(lambda: discard(connection), how=sys.argv[1], leave="sys.exit")
assert heard(connection) is None
connection.socket.send(b"still here")
assert heard(connection) == b"still here"
"""
    # Close fails in the child: /dev/null is no socket. That is the driver's own error.
    assert_quiet(run_script(PREPARED + source.replace("    connection.close()", CLOSE), how))


CLOSE = """    try:
        connection.close()
    except OSError:
        pass"""


@pytest.mark.parametrize("leave", ["os._exit", "sys.exit"])
def test_without_a_discard_each_of_these_says_goodbye(run_script: RunScript, leave: str) -> None:
    source = """
connection = Connection()
def drop():
    global connection
    del connection
if sys.argv[1] == "sys.exit":
    child(leave="sys.exit")
else:
    child(drop)
assert heard(connection) == b"goodbye"
"""
    assert_quiet(run_script(PREPARED + source, leave))


def test_the_descriptor_becomes_a_dead_end_that_no_program_started_by_the_child_inherits(
    run_script: RunScript,
) -> None:
    source = """
connection = Connection()
number = connection.fileno()
def look():
    discard(connection)
    assert (target(number), connection.fileno()) == ("/dev/null", number)
    assert not os.get_inheritable(number)
child(look)
assert target(number).startswith("socket:")
"""
    assert_quiet(run_script(PREPARED + source))


@pytest.mark.parametrize("discards", [True, False])
def test_the_server_notices_at_once_that_the_owner_died_while_its_child_lives_on(
    run_script: RunScript, *, discards: bool
) -> None:
    source = """
# The server is this process. The owner connects to it and has a child, which outlives it.
listener = socket.create_server(("127.0.0.1", 0))
reading, writing = os.pipe()
owner = os.fork()
if owner == 0:
    class Client(Connection):
        def __init__(self):
            self.socket = socket.create_connection(listener.getsockname())
    connection = Client()
    if os.fork() == 0:
        if sys.argv[1] == "True":
            discard(connection)
        os.write(writing, b"%d" % os.getpid())
        time.sleep(600)
    time.sleep(600)
session, _ = listener.accept()
survivor = int(os.read(reading, 100))
os.kill(owner, signal.SIGKILL)
os.waitpid(owner, 0)
session.settimeout(1)
try:
    noticed = session.recv(100) == b""
except TimeoutError:
    noticed = False
os.kill(survivor, signal.SIGKILL)
assert noticed == (sys.argv[1] == "True")
"""
    assert_quiet(run_script(PREPARED + source, str(discards)))


def test_discarding_twice_changes_nothing(run_script: RunScript) -> None:
    source = """
connection, owned = Connection(), Connection()
ownership = Ownership(owned)
def twice():
    for _ in range(2):
        discard(connection)
        ownership.discard()
        discard(owned)
    assert target(connection.fileno()) == target(owned.fileno()) == "/dev/null"
child(twice)
assert heard(connection) is None and heard(owned) is None
"""
    assert_quiet(run_script(PREPARED + source))


def test_a_closed_connection_can_be_discarded(run_script: RunScript) -> None:
    source = """
connection = Connection()
connection.close()
child(lambda: discard(connection))
"""
    assert_quiet(run_script(PREPARED + source))


# It cannot fail


def test_discarding_opens_no_descriptor(run_script: RunScript) -> None:
    source = """
connections = [Connection() for _ in range(10)]
owned = [Ownership(Connection()) for _ in range(10)]
before = os.listdir("/proc/self/fd")
def look():
    for connection in connections:
        discard(connection)
    assert {target(own.connection.fileno()) for own in owned} == {"/dev/null"}
    assert os.listdir("/proc/self/fd") == before
child(look)
"""
    assert_quiet(run_script(PREPARED + source))


@each_way
def test_discarding_works_where_not_one_more_descriptor_can_be_opened(run_script: RunScript, how: str) -> None:
    source = """
connection, ownership = Connection(), Ownership(Connection())
highest = max(map(int, os.listdir("/proc/self/fd")))
resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, highest + 1))
try:
    while True:
        os.dup(0)
except OSError:
    pass
def look():
    discard(connection)
    ownership.discard()
    # readlink needs no descriptor, unlike nearly all else that could ask
    assert target(connection.fileno()) == target(ownership.connection.fileno()) == "/dev/null"
child(look, how=sys.argv[1])
"""
    assert_quiet(run_script(PREPARED + source, how))


def test_descriptors_above_a_lowered_limit_are_closed(run_script: RunScript) -> None:
    # dup2 refuses such numbers, and nothing else can get them. A daemon may lower its limit after it has connected.
    source = """
connection, ownership = Connection(), Ownership(Connection())
owned = ownership.connection
def lower_and_leave():
    global connection, ownership, owned
    lowest = min(connection.fileno(), owned.fileno())
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, lowest))
    discard(connection)
    ownership.discard()
    assert not os.path.exists(f"/proc/self/fd/{connection.fileno()}")
    try:
        connection.close()
    except OSError:
        pass
    del connection, ownership, owned
    gc.collect()
def lower_then_fork():
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    child(leave="sys.exit")
child(lower_and_leave, leave="sys.exit")
assert heard(connection) is None and heard(owned) is None
"""
    assert_quiet(run_script(PREPARED + source))


def test_after_a_daemonizer_has_closed_everything_nothing_is_redirected(run_script: RunScript) -> None:
    source = """
import tempfile
connection, ownership = Connection(), Ownership(Connection())
def daemonize():
    os.closerange(3, 256)
    # Every number that a connection or pidpool had is now an unrelated file or socket.
    files = [tempfile.TemporaryFile() for _ in range(4)]
    sockets = [end for _ in range(10) for end in socket.socketpair()]
    numbers = range(3, max(end.fileno() for end in sockets) + 1)
    before = [target(number) for number in numbers]
    discard(connection)
    ownership.discard()
    assert [target(number) for number in numbers] == before
    sockets[0].send(b"works")
    assert sockets[1].recv(10) == b"works"
# A C-level fork: an ordinary one would have discarded what is owned before anything was closed.
child(daemonize, how="hookless")
"""
    assert_quiet(run_script(PREPARED + source))


def test_a_number_that_another_socket_has_taken_since_is_not_redirected(run_script: RunScript) -> None:
    # The dead end stays open here, so that nothing but the inode noted at connect protects the other socket.
    source = """
ownership = Ownership(Connection())
number = ownership.connection.fileno()
def look():
    near, far = socket.socketpair()
    os.dup2(near.fileno(), number)
    ownership.discard()
    os.write(number, b"works")
    assert far.recv(10) == b"works"
child(look, how="hookless")
"""
    assert_quiet(run_script(PREPARED + source))


def test_a_number_that_a_file_has_taken_since_is_not_redirected(run_script: RunScript) -> None:
    source = """
import tempfile
connection = Connection()
def look():
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), connection.fileno())
        before = target(connection.fileno())
        discard(connection)
        assert target(connection.fileno()) == before
child(look)
"""
    assert_quiet(run_script(PREPARED + source))


def test_a_dead_end_whose_number_is_something_else_now_is_not_used(run_script: RunScript) -> None:
    source = """
connection, ownership = Connection(), Ownership(Connection())
def look():
    near, far = socket.socketpair()
    far.setblocking(False)
    os.dup2(near.fileno(), _discard._dead_end.descriptor)
    for discarded in (connection, ownership.connection):
        before = target(discarded.fileno())
        discard(discarded)
        assert target(discarded.fileno()) == before
    try:
        far.recv(100)
    except BlockingIOError:
        pass
child(look, how="hookless", leave="sys.exit")
assert heard(connection) is None and heard(ownership.connection) is None
"""
    assert_quiet(run_script(PREPARED + source))


def test_an_owner_whose_daemonizer_closed_the_dead_end_opens_another_when_it_connects(run_script: RunScript) -> None:
    source = """
os.close(_discard._dead_end.descriptor)
ownership = Ownership(Connection())
def look():
    assert target(ownership.connection.fileno()) == "/dev/null"
child(look)
assert target(ownership.connection.fileno()).startswith("socket:")
"""
    assert_quiet(run_script(PREPARED + source))


def test_a_thousand_connections_are_discarded_within_a_tenth_of_a_second(run_script: RunScript) -> None:
    source = """
limit = 4096
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
owned = [Ownership(Connection()) for _ in range(1000)]
def look():
    assert time.perf_counter() - started < 0.1, time.perf_counter() - started
    assert {ownership.state for ownership in owned} == {"discarded"}
started = time.perf_counter()
child(look)
"""
    assert_quiet(run_script(PREPARED + source))


# Who may


def test_a_process_that_was_never_forked_is_refused_unless_it_insists(run_script: RunScript) -> None:
    source = """
connection, ownership = Connection(), Ownership(Connection())
for mine in (connection, ownership.connection):
    assert refused(mine)
    assert target(mine.fileno()).startswith("socket:")
    discard(mine, force=True)
    assert target(mine.fileno()) == "/dev/null"
    assert heard(mine) is None or heard(mine) == b""
assert ownership.state == "discarded"
"""
    assert_quiet(run_script(PREPARED + source))


@each_way
def test_a_child_is_refused_for_what_it_opened_through_pidpool_itself(run_script: RunScript, how: str) -> None:
    source = """
inherited = Connection()
def look():
    own = Ownership(Connection())
    assert refused(own.connection) and own.state == "owned"
    discard(inherited)
    assert target(own.connection.fileno()).startswith("socket:")
    discard(own.connection, force=True)
    assert own.state == "discarded" and target(own.connection.fileno()) == "/dev/null"
child(look, how=sys.argv[1])
"""
    assert_quiet(run_script(PREPARED + source, how))


def test_a_child_that_is_the_first_to_use_a_name_of_pidpool_may_discard(run_script: RunScript) -> None:
    # Names load on first use: `import pidpool` at the top of a module must be enough to know the parent by.
    source = """
        import socket, os, pidpool
        from tests.family import child
        class Connection(socket.socket):
            def cursor(self): ...
        connection = Connection()
        def look():
            pidpool.discard(connection)
            assert os.readlink(f"/proc/self/fd/{connection.fileno()}") == "/dev/null"
        child(look)
    """
    assert_quiet(run_script(script(source)))


@pytest.mark.parametrize("thing", ["None", "5", "'text'", "object()", "[socket]", "sys"])
def test_what_is_not_a_connection_is_a_type_error(run_script: RunScript, thing: str) -> None:
    source = f"""
import sqlalchemy
def look(thing):
    try:
        discard(thing, force=True)
    except TypeError as error:
        assert "takes a DB-API connection" in str(error) and repr(type(thing).__name__) in str(error)
    else:
        raise AssertionError(thing)
look({thing})
look(sqlalchemy.create_engine("sqlite://"))
"""
    assert_quiet(run_script(PREPARED + source))


# Ownership


@each_way
def test_what_is_owned_is_discarded_in_the_child_without_being_asked(run_script: RunScript, how: str) -> None:
    source = """
import pidpool._fork
ownership = Ownership(Connection())
def look():
    pidpool._fork.current()
    assert ownership.state == "discarded"
    assert target(ownership.connection.fileno()) == "/dev/null"
child(look, how=sys.argv[1], leave="sys.exit")
assert heard(ownership.connection) is None and ownership.state == "owned"
"""
    assert_quiet(run_script(PREPARED + source, how))


def test_the_state_is_visible(run_script: RunScript) -> None:
    source = """
ownership = Ownership(Connection())
pid = os.getpid()
assert repr(ownership) == f"<__main__ connection, owned, of pid {pid} gen 0>"
def look():
    assert repr(ownership) == f"<__main__ connection, inherited, of pid {pid} gen 0>"
    ownership.discard()
    assert repr(ownership) == f"<__main__ connection, discarded, of pid {pid} gen 0>"
child(look, how="hookless")
"""
    assert_quiet(run_script(PREPARED + source))


@pytest.mark.parametrize(
    "held_by",
    [
        "name",
        "global",
        "reference cycle",
    ],
)
def test_an_ownership_that_dies_before_anybody_noticed_the_fork_discards(run_script: RunScript, held_by: str) -> None:
    source = """
class Holder:
    pass
holder = Holder()
holder.ownership = Ownership(Connection())
server = holder.ownership.connection.server
if sys.argv[1] == "reference cycle":
    holder.myself = holder
def drop():
    global holder
    if sys.argv[1] != "global":
        del holder
        gc.collect()
child(drop, how="hookless", leave="sys.exit" if sys.argv[1] == "global" else "os._exit")
try:
    assert server.recv(100) is None
except BlockingIOError:
    pass
"""
    assert_quiet(run_script(PREPARED + source, held_by))


@pytest.mark.parametrize("owned", [True, False])
def test_a_connection_in_another_threads_local_is_discarded_inside_os_fork(
    run_script: RunScript, *, owned: bool
) -> None:
    # CPython frees it in the child before any at-fork hook could have discarded it. Not owned, it says goodbye there.
    source = """
import threading
local, ready, done = threading.local(), threading.Event(), threading.Event()
servers = []
def keep():
    connection = Connection()
    servers.append(connection.server)
    local.value = Ownership(connection) if sys.argv[1] == "True" else connection
    del connection
    ready.set()
    done.wait()
thread = threading.Thread(target=keep)
thread.start()
ready.wait()
child()
try:
    heard = servers[0].recv(100)
except BlockingIOError:
    heard = None
assert heard == (None if sys.argv[1] == "True" else b"goodbye"), heard
done.set()
thread.join()
"""
    assert_quiet(run_script(PREPARED + source, str(owned)))


def test_an_ownership_keeps_nothing_alive_in_its_owner(run_script: RunScript) -> None:
    source = """
ownership = Ownership(Connection())
server = ownership.connection.server
del ownership
assert server.recv(100) == b"goodbye"
"""
    assert_quiet(run_script(PREPARED + source))


def test_a_connection_that_has_no_socket_yet_is_pinned_with_a_warning(run_script: RunScript) -> None:
    source = """
class Lazy(Connection):
    connected = False
    def fileno(self):
        if not self.connected:
            raise OSError("not connected yet")
        return super().fileno()
ownership = Ownership(Lazy())
ownership.connection.connected = True
def look():
    global ownership
    assert ownership.state == "discarded"
    assert target(ownership.connection.fileno()).startswith("socket:")
    del ownership
    gc.collect()
child(look, leave="sys.exit")
assert heard(ownership.connection) is None
"""
    done = run_script(PREPARED + source, env={"PYTHONWARNINGS": "ignore::ResourceWarning"})
    assert done.returncode == 0, done.stderr
    [warning] = [line for line in done.stderr.splitlines() if not line.startswith(" ")]
    assert "UnknownDriverWarning: pidpool does not know where the driver '__main__' keeps" in warning


@pytest.mark.parametrize(
    "filters",
    [
        "default",
        "error",
    ],
)
def test_a_warning_that_is_an_error_does_not_keep_a_child_from_discarding(run_script: RunScript, filters: str) -> None:
    source = """
class Hidden(Connection):
    fileno = None
connection = Hidden()
def drop():
    global connection
    try:
        discard(connection)
    except UserWarning:
        pass
    del connection
    gc.collect()
child(drop)
assert heard(connection) is None
"""
    done = run_script(PREPARED + source, env={"PYTHONWARNINGS": f"{filters}::UserWarning"})
    assert done.returncode == 0, done.stderr
