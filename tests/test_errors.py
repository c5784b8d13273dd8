"""What the exceptions say, and that they survive the way home from a child."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING

import pytest

from pidpool.errors import DiscardRefusedError, InheritedConnectionError, InheritedFileError, PidPoolError
from tests.family import assert_quiet, script

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import RunScript

EACH = [
    InheritedConnectionError(4100, 4107),
    InheritedFileError(4100, 4107, "/srv/books.db", "a half-read result open on it"),
    InheritedFileError(4100, 4107, "/srv/books.duckdb", "it open in DuckDB", "DuckDB"),
    DiscardRefusedError(4100),
]


def test_using_an_inherited_connection_names_both_pids_and_says_what_to_do() -> None:
    assert str(InheritedConnectionError(4100, 4107)) == (
        "this connection was checked out in pid 4100 and used in pid 4107. It was discarded here; "
        "pid 4100 still owns it. Check out a new connection after fork."
    )


def test_one_number_for_two_processes_is_explained() -> None:
    assert "used in pid 1 (the same number, but a process forked from it)." in str(InheritedConnectionError(1, 1))
    assert "the same number" not in str(InheritedConnectionError(1, 2))


def test_a_file_that_may_not_be_opened_is_named_with_the_reason_and_both_ways_out() -> None:
    error = InheritedFileError(4100, 4107, "/srv/books.db", "a half-read result open on it")
    assert isinstance(error, InheritedConnectionError)
    assert str(error).startswith(
        "pid 4107 may not open the SQLite database /srv/books.db: when it was forked, pid 4100 had a half-read result "
        "open on it. "
    )
    assert "fork while nothing is in use on the file" in str(error)
    assert "or start this process by spawn" in str(error)


def test_of_a_duckdb_file_it_says_what_helps_there() -> None:
    message = str(InheritedFileError(4100, 4107, "/srv/books.duckdb", "it open in DuckDB", "DuckDB"))
    assert message.startswith(
        "pid 4107 may not open the DuckDB database /srv/books.duckdb: when it was forked, pid 4100 had it open in "
        "DuckDB. "
    )
    assert "close every connection to it before you fork (engine.dispose(), " in message
    assert "or start this process by spawn" in message
    assert "SQLite" not in message


def test_a_refused_discard_names_the_owner_and_both_ways_out() -> None:
    message = str(DiscardRefusedError(4100))
    assert "pid 4100 opened this connection and owns it" in message
    assert "close()" in message
    assert "discard(connection, force=True)" in message


@pytest.mark.parametrize("error", EACH, ids=lambda error: type(error).__name__)
def test_every_exception_has_one_base(error: Exception) -> None:
    assert isinstance(error, PidPoolError)


@pytest.mark.parametrize("error", EACH, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])  # noqa: S301
def test_an_exception_survives_copying_and_pickling(
    error: Exception, duplicate: Callable[[Exception], Exception]
) -> None:
    other = duplicate(error)
    assert type(other) is type(error)
    assert (str(other), vars(other)) == (str(error), vars(error))


def test_an_exception_of_a_worker_comes_home_through_multiprocessing(run_script: RunScript) -> None:
    source = """
        import multiprocessing, os
        from pidpool import InheritedConnectionError
        from pidpool.errors import DiscardRefusedError

        def refuse(owner):
            raise InheritedConnectionError(owner, os.getpid()) if owner else DiscardRefusedError(os.getpid())

        with multiprocessing.get_context("fork").Pool(1) as pool:
            try:
                pool.apply(refuse, (os.getpid(),))
            except InheritedConnectionError as error:
                assert error.owner == os.getpid() != error.user
                assert f"used in pid {error.user}." in str(error)
            try:
                pool.apply(refuse, (0,))
            except DiscardRefusedError as error:
                assert error.owner != os.getpid()
    """
    assert_quiet(run_script(script(source)))
