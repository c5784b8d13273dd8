"""What a child has, and what it does to its parent's instance: nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.family import WAYS, assert_quiet, script

if TYPE_CHECKING:
    from tests.conftest import RunScript

each_way = pytest.mark.parametrize("how", WAYS)
#: How pidpool may let go of a client: by what it knows of its class, by the user's function, or by pinning.
KINDS = ("known", "discard", "pinned")
each_kind = pytest.mark.parametrize("kind", KINDS)

PREPARED = script("""
import gc, logging, os, sys, threading, warnings
from pidpool import PerProcess, InheritedConnectionError
from tests.family import child, fork
from tests.per_process.goodbyes import Known, Unknown, heard

how = sys.argv[1]

def per_process(kind, **options):
    if kind == "known":
        return PerProcess(Known, **options)
    if kind == "discard":
        return PerProcess(Unknown, discard=lambda client: None, **options)
    warnings.simplefilter("ignore")
    return PerProcess(Unknown, **options)
""")


@each_way
@each_kind
def test_a_child_makes_its_own_and_the_parents_hears_nothing(run_script: RunScript, kind: str, how: str) -> None:
    source = """
clients = per_process(sys.argv[2])
client = clients.get()
number = client.fileno() if sys.argv[2] == "known" else None
def use():
    own = clients.get()
    assert own is clients.get() is not client and own.pid == os.getpid()
    if number is not None:
        assert os.readlink(f"/proc/self/fd/{number}") == "/dev/null", "the parent's socket stayed open here"
    own.close()
    assert heard(own) == b"goodbye"
def drop():
    global clients, client
    clients.get() if how == "hookless" else None
    del clients, client
    gc.collect()
def close():
    clients.close()
    with clients:
        pass
    assert "not made yet" in repr(clients)
def nothing():
    pass
for deed in (use, drop, close, nothing):
    for leave in ("os._exit", "sys.exit"):
        child(deed, how=how, leave=leave)
assert clients.get() is client and heard(client) == b""
clients.close()
assert heard(client) == b"goodbye"
"""
    assert_quiet(run_script(PREPARED + source, how, kind))


@each_way
def test_without_it_a_child_that_only_drops_what_it_inherited_says_goodbye(run_script: RunScript, how: str) -> None:
    source = """
client = Unknown()
def drop():
    global client
    del client
    gc.collect()
child(drop, how=how)
assert heard(client) == b"goodbye"
"""
    assert_quiet(run_script(PREPARED + source, how))


@each_way
def test_a_collection_in_a_child_that_never_asked_frees_nothing(run_script: RunScript, how: str) -> None:
    source = """
clients = per_process("pinned")
client = clients.get()
def drop():
    global clients, client
    del clients, client
    gc.collect()
child(drop, how=how)
child(drop, how=how, leave="sys.exit")
assert heard(client) == b""
"""
    assert_quiet(run_script(PREPARED + source, how))


@each_way
def test_a_close_in_a_child_that_made_one_closes_that(run_script: RunScript, how: str) -> None:
    source = """
clients = per_process("known")
client = clients.get()
def close():
    with clients:
        own = clients.get()
    assert heard(own) == b"goodbye" and "not made yet" in repr(clients)
child(close, how=how)
assert heard(client) == b"" and clients.get() is client
"""
    assert_quiet(run_script(PREPARED + source, how))


@each_way
def test_generations_each_have_their_own(run_script: RunScript, how: str) -> None:
    source = """
clients = per_process(sys.argv[2])
client = clients.get()
def descend(depth, uses):
    def deed():
        own = clients.get() if uses(depth) else None
        if depth:
            descend(depth - 1, uses)
        if own is not None:
            assert clients.get() is own and heard(own) == b""
        gc.collect()
    child(deed, how=how)
for uses in (lambda depth: True, lambda depth: not depth, lambda depth: depth % 2, lambda depth: False):
    descend(3, uses)
assert clients.get() is client and heard(client) == b""
"""
    for kind in KINDS:
        assert_quiet(run_script(PREPARED + source, how, kind))


@each_way
def test_repr_counts_what_was_inherited_and_makes_nothing(run_script: RunScript, how: str) -> None:
    source = """
clients = per_process("known", name="cache")
clients.get()
def look():
    import re
    assert re.fullmatch(rf"<PerProcess cache pid {os.getpid()} gen 1 . not made yet . 1 discarded>", repr(clients))
    clients.get()
    assert re.fullmatch(rf"<PerProcess cache pid {os.getpid()} gen 1 . owned: Known . 1 discarded>", repr(clients))
    child(lambda: (clients.get(), repr(clients).index("gen 2"), repr(clients).index("2 discarded")), how=how)
child(look, how=how)
"""
    assert_quiet(run_script(PREPARED + source, how))


@each_way
def test_every_thread_of_a_child_gets_the_same(run_script: RunScript, how: str) -> None:
    source = """
import time
class Slow(Known):
    def __init__(self):
        time.sleep(0.01)
        super().__init__()
clients = PerProcess(Slow)
clients.get()
def race():
    got, start = [], threading.Barrier(8)
    def ask():
        start.wait()
        got.append(clients.get())
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8 and len(set(map(id, got))) == 1 and got[0].pid == os.getpid()
for _ in range(5):
    child(race, how=how)
"""
    assert_quiet(run_script(PREPARED + source, how))


# The user's discard


def test_the_users_discard_is_called_once_inside_the_fork(run_script: RunScript) -> None:
    source = """
discarded = []
clients = PerProcess(Unknown, discard=discarded.append)
client = clients.get()
def look():
    assert discarded == [client], "before os.fork() returned"
    assert clients.get() is not client
    clients.close()
    gc.collect()
    assert discarded == [client]
    def look_again():
        assert discarded == [client]
    child(look_again)
    own = clients.get()
    def and_again():
        assert discarded == [client, own]
    child(and_again)
child(look)
assert discarded == [] and heard(client) == b""
"""
    assert_quiet(run_script(PREPARED + source, "fork"))


def test_where_no_hook_runs_the_users_discard_is_called_once_at_the_next_get(run_script: RunScript) -> None:
    source = """
discarded = []
clients = PerProcess(Unknown, discard=discarded.append)
client = clients.get()
def look():
    assert discarded == []
    clients.get()
    assert discarded == [client]
    clients.get()
    assert discarded == [client]
child(look, how="hookless")
child(lambda: child(look, how="hookless"), how="hookless")
assert discarded == [] and heard(client) == b""
"""
    assert_quiet(run_script(PREPARED + source, "hookless"))


@each_way
def test_what_the_users_discard_raises_is_logged_and_harms_nobody(run_script: RunScript, how: str) -> None:
    source = """
def fail(client):
    raise OSError("no")
records = []
class Keep(logging.Handler):
    def emit(self, record):
        records.append(record)
logging.getLogger("pidpool").addHandler(Keep())
clients, others = PerProcess(Unknown, discard=fail, name="cache"), PerProcess(Known)
client, other = clients.get(), others.get()
def look():
    clients.get(), clients.get()
    gc.collect()
    assert os.readlink(f"/proc/self/fd/{other.number}") == "/dev/null"
    if how == "hookless":
        assert records == [], "a lock of a handler may be held there"
        return
    [record] = records
    assert (record.name, record.levelname) == ("pidpool.per_process", "ERROR")
    assert record.getMessage() == f"discard of cache raised in pid {os.getpid()}"
    assert record.exc_info[0] is OSError
child(look, how=how)
child(look, how=how, leave="sys.exit")
assert records == [] and heard(client) == heard(other) == b""
"""
    assert_quiet(run_script(PREPARED + source, how))


def test_where_no_hook_runs_what_it_raises_keeps_nobody_waiting_for_a_log_handler(run_script: RunScript) -> None:
    source = """
def fail(client):
    raise OSError("no")
logging.getLogger("pidpool").addHandler(handler := logging.StreamHandler(open(os.devnull, "w")))
clients = PerProcess(Unknown, discard=fail)
clients.get()
is_held = threading.Event()
def hold():
    with handler.lock:
        is_held.set()
        threading.Event().wait()
threading.Thread(target=hold, daemon=True).start()
is_held.wait()
child(clients.get, how=how)
os._exit(0)
"""
    assert_quiet(run_script(PREPARED + source, "hookless", timeout=20))


@each_way
def test_an_unknown_client_is_pinned_with_one_warning(run_script: RunScript, how: str) -> None:
    source = """
from pidpool.errors import UnknownDriverWarning
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", UnknownDriverWarning)
    clients, others = PerProcess(Unknown), PerProcess(Unknown)
    client, other = clients.get(), others.get()
    def look():
        clients.get(), others.get()
        assert len(caught) == 1
        assert os.readlink(f"/proc/self/fd/{client.number}").startswith("socket:"), "its descriptor is not known"
    child(look, how=how)
[warning] = caught
assert warning.category is UnknownDriverWarning
assert "'tests'" in str(warning.message) and "PerProcess takes a function `discard`" in str(warning.message)
assert heard(client) == heard(other) == b""
"""
    assert_quiet(run_script(PREPARED + source, how))


# Forks at bad moments


@each_way
def test_a_factory_that_forks_makes_one_in_each_process(run_script: RunScript, how: str) -> None:
    source = """
pids = []
def make():
    made = Known()
    if not pids:
        pids.append(fork(how))
    return made
clients = PerProcess(make)
mine = clients.get()
if pids[0] == 0:
    assert mine.pid == os.getpid(), "the child got the parent's"
    assert mine is clients.get()
    gc.collect()
    sys.exit()
_, status = os.waitpid(pids[0], 0)
assert status == 0 and mine.pid == os.getpid() and clients.get() is mine and heard(mine) == b""
"""
    assert_quiet(run_script(PREPARED + source, how))


@each_way
def test_a_thread_inside_the_factory_at_fork_keeps_no_child_waiting(run_script: RunScript, how: str) -> None:
    source = """
is_in, may_go_on = threading.Event(), threading.Event()
parent = os.getpid()
def make():
    if os.getpid() == parent:
        is_in.set()
        may_go_on.wait()
    return Known()
clients = PerProcess(make)
thread = threading.Thread(target=clients.get)
thread.start()
is_in.wait()
def look():
    assert clients.get().pid == os.getpid()
    clients.close()
child(look, how=how)
child(clients.close, how=how)
may_go_on.set()
thread.join()
assert clients.get().pid == parent
"""
    assert_quiet(run_script(PREPARED + source, how, timeout=20))


@each_way
def test_a_thread_that_waits_for_the_factory_at_fork_gets_the_parents(run_script: RunScript, how: str) -> None:
    source = """
import time
is_in, may_go_on, made, got = threading.Event(), threading.Event(), [], []
def make():
    is_in.set()
    may_go_on.wait()
    made.append(Known())
    return made[-1]
clients = PerProcess(make)
threads = [threading.Thread(target=lambda: got.append(clients.get())) for _ in range(4)]
for thread in threads:
    thread.start()
is_in.wait()
child(lambda: None, how=how)
may_go_on.set()
for thread in threads:
    thread.join()
assert got == made * 4
"""
    assert_quiet(run_script(PREPARED + source, how, timeout=20))


def test_an_instance_that_another_thread_is_closing_at_fork_is_let_go_of(run_script: RunScript) -> None:
    source = """
is_in, may_go_on = threading.Event(), threading.Event()
class Slow(Known):
    def close(self):
        is_in.set()
        may_go_on.wait()
        super().close()
clients = PerProcess(Slow)
client = clients.get()
thread = threading.Thread(target=clients.close)
thread.start()
is_in.wait()
def look():
    assert os.readlink(f"/proc/self/fd/{client.number}") == "/dev/null"
child(look)
may_go_on.set()
thread.join()
assert heard(client) == b"goodbye"
"""
    assert_quiet(run_script(PREPARED + source, "fork", timeout=20))


def test_another_number_from_getpid_counts_as_a_fork(run_script: RunScript) -> None:
    source = """
clients = per_process("known")
client = clients.get()
real = os.getpid
os.getpid = lambda: real() + 1
another = clients.get()
assert another is not client
assert os.readlink(f"/proc/self/fd/{client.number}") == "/dev/null"
assert heard(client) == b""
"""
    assert_quiet(run_script(PREPARED + source, "fork"))


@each_way
@pytest.mark.parametrize("kind", ["known", "discard"])
def test_a_child_with_the_same_number_has_its_own_all_the_same(run_script: RunScript, kind: str, how: str) -> None:
    source = """
from pidpool._fork import KERNEL_WIPES
if how == "hookless" and not KERNEL_WIPES:
    sys.exit()  # nothing is left to tell them apart by
number = os.getpid()
os.getpid = lambda: number
clients = per_process(sys.argv[2])
client = clients.get()
def look():
    assert clients.get() is not client
    gc.collect()
child(look, how=how, leave="sys.exit")
assert clients.get() is client and heard(client) == b""
"""
    assert_quiet(run_script(PREPARED + source, how, kind))


@each_way
def test_a_child_at_its_descriptor_limit_lets_go_of_what_it_inherited(run_script: RunScript, how: str) -> None:
    source = """
import errno, resource
clients = per_process("known")
client = clients.get()
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
filling = []
try:
    while True:
        filling.append(os.dup(0))
except OSError:
    pass
def look():
    try:
        clients.get()
    except OSError as error:
        assert error.errno == errno.EMFILE
    else:
        raise AssertionError("the limit is higher than that")
    os.close(filling.pop())
    assert os.readlink(f"/proc/self/fd/{client.number}") == "/dev/null"
    for descriptor in filling:
        os.close(descriptor)
    assert clients.get().pid == os.getpid()
child(look, how=how)
for descriptor in filling:
    os.close(descriptor)
assert heard(client) == b""
"""
    assert_quiet(run_script(PREPARED + source, how))


def test_a_number_that_was_reused_is_left_alone(run_script: RunScript) -> None:
    source = """
clients = per_process("known")
client = clients.get()
def daemonize():
    os.close(client.number)
    reading, writing = os.pipe()
    assert reading == client.number
    clients.get()
    os.write(writing, b"mine")
    assert os.read(reading, 10) == b"mine"
child(daemonize, how="hookless")
assert heard(client) == b""
"""
    assert_quiet(run_script(PREPARED + source, "hookless"))


@each_way
def test_a_client_that_connected_again_is_let_go_of_where_it_is_now(run_script: RunScript, how: str) -> None:
    source = """
import socket
class Reconnecting:
    def __init__(self):
        self.sock, self.far = socket.socketpair()
    def fileno(self):
        return self.sock.fileno()
clients, others = PerProcess(Reconnecting), PerProcess(Reconnecting)
client, other = clients.get(), others.get()
client.sock.close()  # so that the next has its number
client.sock, client.far = socket.socketpair()
before, other.sock = other.sock, socket.socketpair()[0]
before.close()
def look():
    clients.get()
    for each in (client, other):
        assert os.readlink(f"/proc/self/fd/{each.fileno()}") == "/dev/null"
        assert os.readlink(f"/proc/self/fd/{each.far.fileno()}").startswith("socket:")
child(look, how=how)
assert os.readlink(f"/proc/self/fd/{client.fileno()}").startswith("socket:")
"""
    assert_quiet(run_script(PREPARED + source, how))


# Connections


@each_way
@pytest.mark.parametrize("driver", ["psycopg", "pymysql"])
def test_a_database_connection_keeps_its_transaction(
    run_script: RunScript, driver: str, how: str, request: pytest.FixtureRequest
) -> None:
    from tests.conftest import address_for  # noqa: PLC0415 - beside its only use

    source = """
import json
from tests.drivers.owner import Owner, query
owner = Owner(sys.argv[2])
connections = PerProcess(owner.connect)
owner.begin(connections())
with owner.silence():
    def use():
        assert owner.session_id(connections()) != owner.session
        connections.close()
    child(use, how=how)
    child(connections.close, how=how)
    child(how=how, leave="sys.exit")
owner.finish(connections())
connections.close()
"""
    import json  # noqa: PLC0415 - as above

    server = {"url": address_for(driver, request).url(driver), "connect_args": {}, "tls": False}
    assert_quiet(run_script(PREPARED + source, how, json.dumps(server)))


@each_way
def test_a_sqlite_file_follows_sqlites_rule(run_script: RunScript, how: str) -> None:
    source = """
import sqlite3, tempfile
from pidpool.errors import InheritedFileError
file = tempfile.mkdtemp() + "/shop.db"
connections = PerProcess(lambda: sqlite3.connect(file))
connections().execute("CREATE TABLE orders (what)")
connections().commit()
def order():
    with connections() as own:
        own.execute("INSERT INTO orders VALUES ('from the child')")
child(order, how=how)
connections().execute("INSERT INTO orders VALUES ('from the parent')")
def be_refused(why):
    try:
        connections.get()
    except InheritedFileError as error:
        assert why in str(error), error
    else:
        raise AssertionError("the child was let in")
child(lambda: be_refused("a transaction open on it that writes"), how=how)
connections().commit()
rows = connections().execute("SELECT what FROM orders")
def drop_what_is_half_read():
    global rows
    if how == "hookless":
        repr(connections)
    del rows
    gc.collect()
    be_refused("a half-read result open on it")
child(drop_what_is_half_read, how=how)
rows.close()
found = connections().execute("SELECT what FROM orders").fetchall()
assert found == [("from the child",), ("from the parent",)], found
connections.close()
"""
    assert_quiet(run_script(PREPARED + source, how))


@each_way
def test_a_sqlite_database_in_memory_stays_with_the_child(run_script: RunScript, how: str) -> None:
    source = """
import sqlite3
connections = PerProcess(lambda: sqlite3.connect(":memory:"))
connections().execute("CREATE TABLE orders (what)")
def look():
    connections().execute("INSERT INTO orders VALUES ('from the child')")
    assert connections().execute("SELECT count(*) FROM orders").fetchone() == (1,)
child(look, how=how)
assert connections().execute("SELECT count(*) FROM orders").fetchone() == (0,)
connections.close()
"""
    assert_quiet(run_script(PREPARED + source, how))
