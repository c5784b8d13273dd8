"""Drivers that hide their socket: found where there can be no mistake, pinned where there can."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.family import WAYS, assert_quiet, script

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunScript
    from tests.servers import Address

PREPARED = script("""
import gc, os, socket, sys, threading, warnings
from pidpool import PerProcess, PidPool
from tests.drivers.hidden import Hidden, sockets
from tests.family import child

hidden = Hidden(sys.argv[1])
before = sockets()

def check(session, connection):
    assert hidden.session(connection) == session
""")

KINDS = ("mysqlconnector", "pyodbc-mariadb", "pyodbc-postgresql")
ODBC = KINDS[1:]


def described(kind: str, request: pytest.FixtureRequest) -> str:
    """Return what `tests.drivers.hidden.Hidden` takes."""
    server: Address = request.getfixturevalue("postgresql" if kind == "pyodbc-postgresql" else "mariadb")
    session = "SELECT pg_backend_pid()" if kind == "pyodbc-postgresql" else "SELECT connection_id()"
    if kind == "mysqlconnector":
        named = {
            "host": server.host,
            "port": server.port,
            "user": server.user,
            "password": server.password,
            "database": server.database,
            "use_pure": False,
        }
        return json.dumps(
            {
                "module": "mysql.connector",
                "class": "mysql.connector.connection_cext",
                "positional": [],
                "named": named,
                "session": session,
            }
        )
    driver = {"pyodbc-mariadb": "MariaDB Unicode", "pyodbc-postgresql": "PostgreSQL Unicode"}[kind]
    words = (
        f"DRIVER={{{driver}}};SERVER={server.host};PORT={server.port};DATABASE={server.database};"
        f"UID={server.user};PWD={server.password}"
    )
    return json.dumps({"module": "pyodbc", "class": "pyodbc", "positional": [words], "named": {}, "session": session})


@pytest.fixture(params=KINDS)
def hidden(request: pytest.FixtureRequest) -> str:
    return described(request.param, request)


@pytest.fixture(params=ODBC)
def odbc(request: pytest.FixtureRequest) -> str:
    return described(request.param, request)


@pytest.fixture
def mysqlconnector(request: pytest.FixtureRequest) -> str:
    return described("mysqlconnector", request)


# Found


@pytest.mark.parametrize("how", WAYS)
def test_a_child_lets_go_of_a_socket_that_its_driver_hides(run_script: RunScript, hidden: str, how: str) -> None:
    source = """
pool = PidPool(hidden.connect)
connection = pool.connect()
[own] = sockets() - before
session = hidden.session(connection)
def live():
    global connection, pool
    mine = pool.connect()
    assert hidden.session(mine) != session
    mine.close()
    assert own not in sockets()
    connection.close()
    del connection, pool
    gc.collect()
child(live, how=sys.argv[2], leave="sys.exit")
check(session, connection)
"""
    assert_quiet(run_script(PREPARED + source, hidden, how))


def test_a_child_lets_go_of_a_hidden_socket_that_is_used_once_per_process(
    run_script: RunScript, mysqlconnector: str
) -> None:
    source = """
client = PerProcess(hidden.connect)
session = hidden.session(client.get())
[own] = sockets() - before
def live():
    assert hidden.session(client.get()) != session
    assert own not in sockets()
child(live)
check(session, client.get())
"""
    assert_quiet(run_script(PREPARED + source, mysqlconnector))


def test_without_pidpool_closing_a_hidden_socket_in_a_child_ends_the_parents_session(
    run_script: RunScript, hidden: str
) -> None:
    source = """
connection = hidden.connect()
session = hidden.session(connection)
child(connection.close)
assert hidden.is_broken(connection, session)
"""
    assert_quiet(run_script(PREPARED + source, hidden))


def test_a_driver_that_surely_opened_a_socket_is_found_while_other_threads_live(
    run_script: RunScript, mysqlconnector: str
) -> None:
    source = """
done = threading.Event()
threading.Thread(target=done.wait, daemon=True).start()
pool = PidPool(hidden.connect)
connection = pool.connect()
[own] = sockets() - before
def live():
    assert own not in sockets()
child(live)
done.set()
"""
    assert_quiet(run_script(PREPARED + source, mysqlconnector))


# Pinned

BESIDE = """
made, done, asked, answered = [], threading.Event(), threading.Event(), threading.Event()
def live_beside():
    asked.wait()
    made.extend(make())
    answered.set()
    done.wait()
threading.Thread(target=live_beside, daemon=True).start()
def connect_beside():
    connection = hidden.connect()
    asked.set()
    answered.wait()
    return connection
def is_whole():
    '''Tell whether the sockets of the other thread work as they did.'''
    return {os.fstat(each.fileno()).st_ino for each in made} <= sockets()
"""


def test_where_another_thread_opens_sockets_meanwhile_nothing_is_touched(run_script: RunScript, hidden: str) -> None:
    source = """
make = socket.socketpair
pool = PidPool(connect_beside)
connection = pool.connect()
[own] = sockets() - before - {os.fstat(each.fileno()).st_ino for each in made}
session = hidden.session(connection)
def live():
    global connection, pool
    connection.close()
    del connection, pool
    gc.collect()
    assert is_whole() and own in sockets()  # pinned
    made[0].send(b"still alive")
    assert made[1].recv(100) == b"still alive"
child(live, leave="sys.exit")
assert is_whole()
check(session, connection)
done.set()
"""
    assert_quiet(run_script(PREPARED + BESIDE + source, hidden))


def test_a_driver_that_may_have_opened_none_is_pinned_while_other_threads_live(
    run_script: RunScript, odbc: str
) -> None:
    source = """
make = list
pool = PidPool(connect_beside)
connection = pool.connect()
[own] = sockets() - before
session = hidden.session(connection)
def live():
    global connection, pool
    del connection, pool
    gc.collect()
    assert own in sockets()
child(live, leave="sys.exit")
check(session, connection)
done.set()
"""
    assert_quiet(run_script(PREPARED + BESIDE + source, odbc))


@pytest.mark.parametrize("lives", ["before", "after"])
def test_a_thread_that_lives_only_before_the_connect_or_only_after_it_counts(run_script: RunScript, lives: str) -> None:
    source = """
from pidpool._discard import Appeared
made, begin, opened, done = [], threading.Event(), threading.Event(), threading.Event()
def live_beside():
    begin.wait()
    made.append(socket.socket())
    if sys.argv[1] == "after":
        opened.set()
        done.wait()
thread = threading.Thread(target=live_beside, daemon=True)
if sys.argv[1] == "before":
    thread.start()
appeared = Appeared()
begin.set()
if sys.argv[1] == "before":
    thread.join()
    while len(os.listdir("/proc/self/task")) > 1:  # the kernel's thread outlives Python's for a moment
        pass
else:
    thread.start()
    opened.wait()
assert len(appeared.sockets()) == 1
assert appeared.the_one("usually") is None
assert appeared.the_one(True) is not None
done.set()
"""
    # No driver: what matters is that none of ours opens a socket meanwhile.
    assert_quiet(run_script(PREPARED.replace("hidden = Hidden(sys.argv[1])\n", "") + source, lives))


@pytest.fixture
def pooling(tmp_path: Path) -> dict[str, str]:
    """An environment in which unixODBC pools connections itself."""
    drivers = {"PostgreSQL Unicode": "psqlodbcw.so", "MariaDB Unicode": "libmaodbc.so"}
    sections = [f"[{name}]\nDriver={library}\nCPTimeout=60\n" for name, library in drivers.items()]
    (tmp_path / "odbcinst.ini").write_text("[ODBC]\nPooling=Yes\n" + "".join(sections))
    return {"ODBCSYSINI": str(tmp_path)}


def test_what_another_thread_opens_while_unixodbc_pools_is_not_taken_for_the_connections(
    run_script: RunScript, odbc: str, pooling: dict[str, str]
) -> None:
    source = """
make = lambda: [socket.socket()]
hidden.connect().close()  # into unixODBC's pool
before = sockets()
pool = PidPool(connect_beside)
connection = pool.connect()
assert sockets() - before == {os.fstat(each.fileno()).st_ino for each in made}, "unixODBC did not pool"
session = hidden.session(connection)
def live():
    assert is_whole()
child(live)
check(session, connection)
done.set()
"""
    assert_quiet(run_script(PREPARED + BESIDE + source, odbc, env=pooling))


def test_unixodbcs_own_pool_gives_the_parents_session_to_a_child(
    run_script: RunScript, odbc: str, pooling: dict[str, str]
) -> None:
    # It is what docs/drivers.md warns of. Should it end one day, the warning can go.
    source = """
connection = hidden.connect()
session = hidden.session(connection)
connection.close()
def live():
    assert hidden.session(hidden.connect()) == session
    os._exit(0)
child(live)
os._exit(0)
"""
    assert_quiet(run_script(PREPARED + source, odbc, env=pooling))


def test_a_connection_of_mysql_connectors_own_pooling_is_said_to_be_unknown(
    run_script: RunScript, mysqlconnector: str
) -> None:
    source = """
import json, mysql.connector
from pidpool._discard import Appeared, Ownership
from pidpool.errors import UnknownDriverWarning
named = json.loads(sys.argv[1])["named"]
appeared = Appeared()
connection = mysql.connector.connect(pool_name="its_own", pool_size=1, **named)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    ownership = Ownership(connection, appeared=appeared)
assert [warning.category for warning in caught] == [UnknownDriverWarning]
assert len(sockets() - before) == 1
before = sockets()
child(lambda: None if sockets() == before else os._exit(1))
"""
    assert_quiet(run_script(PREPARED + source, mysqlconnector))


# Cursors

KEPT = """
local = threading.local()
ready, forked = threading.Event(), threading.Event()
answers = []
def execute():
    local.cursor.execute("SELECT 40 + ?", 2)
    return local.cursor.fetchall()[0][0]
def keep():
    local.cursor = connection.cursor()
    answers.append(execute())
    ready.set()
    forked.wait()
    try:
        answers.append(execute())
    except Exception as error:
        answers.append(error)
thread = threading.Thread(target=keep, daemon=True)
thread.start()
ready.wait()
child(lambda: None)
forked.set()
thread.join()
"""


def test_an_odbc_cursor_in_another_threads_thread_local_is_not_freed_by_a_fork(
    run_script: RunScript, odbc: str
) -> None:
    source = "connection = PidPool(hidden.connect).connect()\n" + KEPT + "assert answers == [42, 42], answers\n"
    assert_quiet(run_script(PREPARED + source, odbc))


def test_without_a_guard_a_fork_frees_an_odbc_cursor_in_a_thread_local(
    run_script: RunScript, request: pytest.FixtureRequest
) -> None:
    source = """
connection = hidden.connect()
from tests.drivers.hidden import die_of_time
die_of_time(5)
"""
    source += KEPT + "assert answers != [42, 42], answers\n"
    done = run_script(PREPARED + source, described("pyodbc-postgresql", request))
    assert done.returncode == 0, done.stderr
