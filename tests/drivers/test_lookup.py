"""How pidpool finds out what a connection's driver is, and what it does about one that it does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.family import WAYS, assert_quiet, script

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunScript

# A driver of a third party, installed in a folder, and what describes it to pidpool.
ACMEDB = """
class Connection:
    def __init__(self, sock=None):
        self.transport = sock
    def cursor(self): ...
    def close(self): ...
"""
ACMEDB_PIDPOOL = """
from pidpool.drivers import Driver
DRIVER = Driver("AcmeDB", fileno=lambda connection: connection.transport.fileno())
WRONG = lambda connection: connection.transport.fileno()
"""

# A driver that hides its descriptor and speaks in its finalizer: the worst there is.
HIDDEN = """
import os, socket
class Connection:
    def __init__(self):
        self.hidden, self.server = socket.socketpair()
        self.server.setblocking(False)
        self.number = os.dup(self.hidden.fileno())
    def cursor(self): ...
    def close(self): ...
    def __del__(self, write=os.write):
        write(self.number, b"goodbye")
class Other(Connection):
    pass
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with two third-party drivers."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "acmedb.py").write_text(ACMEDB)
    (folder / "acmedb_pidpool.py").write_text(ACMEDB_PIDPOOL)
    (folder / "hiddendb.py").write_text(HIDDEN)
    return folder


def install_entry_point(site: Path, value: str) -> None:
    """Write what an installer would."""
    metadata = site / "acmedb_pidpool-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acmedb-pidpool\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[pidpool.drivers]\nacmedb = {value}\n")


def in_site(site: Path, source: str) -> str:
    return script(f"import sys\nsys.path.insert(0, {str(site)!r})\n{source}")


# Drivers that pidpool knows


@pytest.mark.parametrize(
    ("connection_class", "name"),
    [
        ("psycopg.Connection", "psycopg"),
        ("psycopg2.extensions.connection", "psycopg2"),
        ("pg8000.dbapi.Connection", "pg8000"),
        ("pg8000.legacy.Connection", "pg8000"),
        ("pymysql.connections.Connection", "pymysql"),
        ("MySQLdb.connections.Connection", "mysqlclient"),
    ],
)
@pytest.mark.parametrize("whose", ["the driver's", "a subclass of the application's"])
def test_a_driver_is_found_by_its_connection_class(
    run_script: RunScript, connection_class: str, name: str, whose: str
) -> None:
    source = """
import pkgutil, sys
from pidpool import drivers
cls = pkgutil.resolve_name(sys.argv[1])
if sys.argv[3] != "the driver's":
    class Mixin:
        pass
    class cls(Mixin, cls):
        pass
driver = drivers.of(cls.__new__(cls))
assert driver.name == sys.argv[2] and driver.fileno is not None
"""
    assert_quiet(run_script(script(source), connection_class, name, whose))


def test_looking_a_driver_up_imports_no_driver(run_script: RunScript, site: Path) -> None:
    source = """
class Connection: ...
Connection.__module__ = "psycopg.connection"  # whatever made it, psycopg itself is not loaded
from pidpool import drivers
assert drivers.of(Connection()).name == "psycopg"
assert "psycopg" not in sys.modules
"""
    assert_quiet(run_script(in_site(site, source)))


# Drivers of third parties


def test_an_entry_point_describes_a_driver(run_script: RunScript, site: Path) -> None:
    install_entry_point(site, "acmedb_pidpool:DRIVER")
    source = """
import acmedb, os, socket
from pidpool import drivers
from pidpool._discard import Ownership, discard
from tests.family import child
class Mine(acmedb.Connection):
    pass
near, far = socket.socketpair()
connection, mine = acmedb.Connection(near), Mine(far)
ownership = Ownership(connection)
assert drivers.of(connection).name == drivers.of(mine).name == "AcmeDB"
def look():
    discard(mine)
    for number in (near.fileno(), far.fileno()):
        assert os.readlink(f"/proc/self/fd/{number}") == "/dev/null"
child(look)
"""
    assert_quiet(run_script(in_site(site, source)))


def test_an_entry_point_that_is_no_driver_is_a_type_error_which_names_it(run_script: RunScript, site: Path) -> None:
    install_entry_point(site, "acmedb_pidpool:WRONG")
    source = """
import acmedb
from pidpool import drivers
for _ in range(2):
    try:
        drivers.of(acmedb.Connection())
    except TypeError as error:
        assert "'acmedb_pidpool:WRONG'" in str(error) and "'pidpool.drivers'" in str(error)
        assert "must be an instance of pidpool.drivers.Driver, and is 'function'" in str(error)
    else:
        raise AssertionError
"""
    assert_quiet(run_script(in_site(site, source)))


def test_an_entry_point_of_another_package_is_not_asked(run_script: RunScript, site: Path) -> None:
    install_entry_point(site, "a_module_that_does_not_exist:DRIVER")
    source = """
class Connection:
    def fileno(self):
        return 7
from pidpool import drivers
assert drivers.of(Connection()).fileno(Connection()) == 7
"""
    assert_quiet(run_script(in_site(site, source)))


# Drivers that nobody describes


def test_an_unknown_driver_with_a_fileno_is_taken_at_its_word(run_script: RunScript) -> None:
    source = """
        import os, socket
        from pidpool import drivers
        from pidpool._discard import Ownership
        from tests.family import child
        class Connection:
            def __init__(self):
                self.socket = socket.socket()
            def fileno(self):
                return self.socket.fileno()
        connection = Connection()
        ownership = Ownership(connection)
        assert ownership.driver.name == "__main__"
        def look():
            assert os.readlink(f"/proc/self/fd/{connection.fileno()}") == "/dev/null"
        child(look)
    """
    assert_quiet(run_script(script(source)))


def test_an_unknown_driver_without_a_fileno_is_warned_of_exactly_once(run_script: RunScript, site: Path) -> None:
    source = """
import hiddendb, warnings
from pidpool import drivers
from pidpool._discard import Ownership
from pidpool.errors import UnknownDriverWarning
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for cls in (hiddendb.Connection, hiddendb.Connection, hiddendb.Other):
        assert drivers.of(cls()).fileno is None
        Ownership(cls())
[warning] = [warning for warning in caught if warning.category is UnknownDriverWarning]
assert "the driver 'hiddendb'" in str(warning.message)
assert "entry-point group 'pidpool.drivers'" in str(warning.message)
"""
    done = run_script(in_site(site, source))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("kept", ["owned", "discarded by hand"])
@pytest.mark.parametrize("leave", ["os._exit", "sys.exit"])
def test_the_finalizers_of_an_unknown_driver_never_run_in_a_child(
    run_script: RunScript, site: Path, how: str, kept: str, leave: str
) -> None:
    source = """
import gc, hiddendb, warnings
from pidpool._discard import Ownership, discard
from tests.family import child
warnings.simplefilter("ignore")
how, kept, leave = sys.argv[1:]
connection = hiddendb.Connection()
server = connection.server
ownership = Ownership(connection) if kept == "owned" else None
def drop():
    global connection, ownership
    if kept != "owned":
        discard(connection)
    del connection, ownership
    gc.collect()
def heard():
    try:
        return server.recv(100)
    except BlockingIOError:
        return None
child(drop, how=how, leave=leave)
assert heard() is None, heard()
# A control: in its owner the finalizer runs.
del connection, ownership
gc.collect()
assert heard() == b"goodbye"
"""
    assert_quiet(run_script(in_site(site, source), how, kept, leave))
