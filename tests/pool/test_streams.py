"""A result that is half read at fork: its rows are the parent's, however the child lets go of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.family import assert_quiet, script

if TYPE_CHECKING:
    from tests.conftest import RunScript

PREPARED = """
    import gc, logging, os, sys, threading
    from sqlalchemy import create_engine, text
    from pidpool import InheritedConnectionError, PidPool
    from tests.family import child
    logging.disable()  # SQLAlchemy's own word on a cursor that refuses to be closed
    url = sys.stdin.read()
    rows = 5000
    series = f"seq_1_to_{rows}" if url.startswith("mysql") else f"generate_series(1, {rows})"
    query = text(f"SELECT repeat('x', 500) FROM {series} AS numbers")
    engine = create_engine(url, poolclass=PidPool)

    def stream():
        connection = engine.connect().execution_options(yield_per=10)
        result = connection.execute(query)
        assert result.fetchone()
        return connection, result
"""


def test_another_threads_stream_in_a_thread_local_is_read_to_its_end(run_script: RunScript, database_url: str) -> None:
    source = """
    local, ready, forked, counted = threading.local(), threading.Event(), threading.Event(), []
    def read():
        local.connection, local.result = stream()
        ready.set()
        forked.wait()
        counted.append(1 + sum(1 for _ in local.result))
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    ready.wait()
    child(lambda: None)
    forked.set()
    reader.join(20)
    assert counted == [rows], counted
    """
    assert_quiet(run_script(script(PREPARED + source), stdin=database_url))


@pytest.mark.parametrize("how", ["fork", "hookless"])
@pytest.mark.parametrize("way", ["close", "with", "drop", "generator"])
def test_a_child_lets_go_of_an_inherited_stream(run_script: RunScript, database_url: str, how: str, way: str) -> None:
    source = """
    how, way = sys.argv[1:]
    connection, result = stream()
    def leave():
        global connection, result
        if way == "close":
            result.close()
        elif way == "with":
            try:
                with connection, result:
                    raise KeyError
            except KeyError:
                pass
        elif way == "generator":
            def rows_of(result):
                try:
                    yield
                finally:
                    result.close()
            started = rows_of(result)
            next(started)
            del started
        del connection, result
        gc.collect()
    child(leave, how=how)
    assert 1 + sum(1 for _ in result) == rows
    """
    assert_quiet(run_script(script(PREPARED + source), how, way, stdin=database_url))


@pytest.mark.parametrize("how", ["fork", "hookless"])
def test_a_child_cannot_read_an_inherited_stream(run_script: RunScript, database_url: str, how: str) -> None:
    source = """
    connection, result = stream()
    def steal():
        taken = 1
        try:
            for _ in result:
                taken += 1  # what SQLAlchemy had in its own buffer
        except InheritedConnectionError:
            assert taken <= 11
        else:
            raise AssertionError("no error")
    child(steal, how=sys.argv[1])
    assert 1 + sum(1 for _ in result) == rows
    """
    assert_quiet(run_script(script(PREPARED + source), how, stdin=database_url))


def test_in_its_own_process_a_guarded_cursor_is_like_any(run_script: RunScript, database_url: str) -> None:
    source = """
    connection, result = stream()
    cursor = result.cursor
    assert "GuardedCursor" in repr(cursor)
    cursor.arraysize = 7
    assert cursor.arraysize == 7
    result.close()
    connection.close()
    with stream()[0] as connection:
        pass
    assert engine.pool.checkedout() == 0
    """
    if "pg8000" in database_url:
        pytest.skip("SQLAlchemy wraps pg8000's cursors once more")
    assert_quiet(run_script(script(PREPARED + source), stdin=database_url))
