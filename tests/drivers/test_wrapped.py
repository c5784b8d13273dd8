"""`discard()` of connections that SQLAlchemy has wrapped, in pidpool's pools and in those that know nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.family import WAYS, assert_quiet, script

if TYPE_CHECKING:
    from tests.conftest import RunScript

each_pool = pytest.mark.parametrize("pool", ["PidPool", "PidNullPool", "QueuePool", "NullPool"])

PREPARED = script("""
import gc, os, sys, pidpool, sqlalchemy.pool
from pidpool import discard
from pidpool.errors import DiscardRefusedError
from sqlalchemy import text
from tests.drivers.owner import Owner, query
from tests.family import child

owner, name = Owner(sys.argv[1]), sys.argv[2]
engine = owner.engine(getattr(pidpool, name, None) or getattr(sqlalchemy.pool, name))

def use():
    '''The engine must serve, with a session that is not the parent's.'''
    with engine.connect() as own:
        assert owner.session_id(own) != owner.session
""")


@each_pool
def test_a_discarded_raw_connection_is_quiet_and_its_engine_serves_the_child(
    run_script: RunScript, plain_server: str, pool: str
) -> None:
    source = """
connection = engine.raw_connection()
owner.begin(connection)
def live():
    global connection
    discard(connection)
    discard(connection)
    connection.close()
    use()
    del connection
    gc.collect()
    use()
    engine.dispose()
    use()
for leave in ("os._exit", "sys.exit"):
    with owner.silence():
        child(live, leave=leave)
owner.finish(connection)
connection.close()
"""
    assert_quiet(run_script(PREPARED + source, plain_server, pool))


@each_pool
@pytest.mark.parametrize("how", WAYS)
def test_a_discarded_connection_lets_its_with_block_be_left_quietly(
    run_script: RunScript, plain_server: str, pool: str, how: str
) -> None:
    source = """
def live():
    discard(connection)
    discard(connection)
    use()
with engine.connect() as connection:
    owner.begin(connection)
    with owner.silence():
        child(live, how=sys.argv[3], leave="sys.exit")
    owner.finish(connection)
"""
    assert_quiet(run_script(PREPARED + source, plain_server, pool, how))


@each_pool
@pytest.mark.parametrize("way_out", ["return", "raise"])
def test_a_transaction_in_a_discarded_connection_ends_without_a_word(
    run_script: RunScript, any_server: str, pool: str, way_out: str
) -> None:
    # The child leaves the block itself, and lives on.
    source = """
from tests.family import fork
def live():
    with engine.connect() as connection:
        transaction = connection.begin()
        owner.begin(connection)
        with owner.silence():
            pid = fork()
            if pid == 0:
                discard(connection)
                if sys.argv[3] == "raise":
                    raise LookupError("of the application's")
                return
            assert os.waitpid(pid, 0)[1] == 0
        owner.finish(connection)
parent = os.getpid()
try:
    live()
except LookupError:
    assert os.getpid() != parent
if os.getpid() != parent:
    use()
"""
    assert_quiet(run_script(PREPARED + source, any_server, pool, way_out))


@pytest.mark.parametrize("pool", ["QueuePool", "NullPool"])
def test_a_discarded_connection_of_another_pool_reconnects_like_an_invalidated_one(
    run_script: RunScript, any_server: str, pool: str
) -> None:
    source = """
connection = engine.connect()
owner.begin(connection)
def live():
    discard(connection)
    assert connection.invalidated and not connection.closed
    connection.rollback()
    assert owner.session_id(connection) != owner.session
with owner.silence():
    child(live, leave="sys.exit")
owner.finish(connection)
"""
    assert_quiet(run_script(PREPARED + source, any_server, pool))


@each_pool
def test_the_process_that_was_never_forked_is_refused(run_script: RunScript, any_server: str, pool: str) -> None:
    source = """
def refused(connection):
    try:
        discard(connection)
    except DiscardRefusedError as error:
        return error.owner == os.getpid()
    return False
connection = engine.connect()
owner.begin(connection)
assert refused(connection) and refused(connection.connection) and refused(connection.connection.driver_connection)
owner.finish(connection)
connection.close()
discard(connection)  # closed: there is nothing to discard
"""
    assert_quiet(run_script(PREPARED + source, any_server, pool))


@pytest.mark.parametrize("pool", ["PidPool", "PidNullPool"])
def test_a_child_is_refused_for_what_it_checked_out_itself(run_script: RunScript, any_server: str, pool: str) -> None:
    source = """
def live():
    with engine.connect() as connection:
        for mine in (connection, connection.connection, connection.connection.driver_connection):
            try:
                discard(mine)
            except DiscardRefusedError as error:
                assert error.owner == os.getpid()
            else:
                raise AssertionError(mine)
        assert query(connection, "SELECT 1") == [(1,)]
child(live)
"""
    assert_quiet(run_script(PREPARED + source, any_server, pool))


@each_pool
@pytest.mark.parametrize("wrapper", ["connect", "raw_connection"])
def test_an_owner_that_insists_loses_the_connection_and_gets_another(
    run_script: RunScript, any_server: str, pool: str, wrapper: str
) -> None:
    source = """
connection = getattr(engine, sys.argv[3])()
owner.session = owner.session_id(connection)
said = owner.client_bytes()
discard(connection, force=True)
connection.close()
assert owner.client_bytes() == said
use()
del connection
gc.collect()
use()
"""
    assert_quiet(run_script(PREPARED + source, any_server, pool, wrapper))


def test_a_discarded_connection_leaves_its_place_in_the_pool(run_script: RunScript, any_server: str) -> None:
    source = """
engine = owner.engine(pidpool.PidPool, pool_size=1, max_overflow=0, pool_timeout=1)
kept = [engine.raw_connection()]
discard(kept[0], force=True)  # neither closed nor freed: whoever has it may keep it
kept.append(engine.raw_connection())
discard(kept[1], force=True)
assert engine.pool.checkedout() == 0
use()
"""
    assert_quiet(run_script(PREPARED + source, any_server, "PidPool"))
