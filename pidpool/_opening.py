"""Before and after a connection is opened, by whatever driver.

Most connections need nothing before, and after it somebody to belong to. A database that lives inside the process is
different: its locks, and its memory of what it has open, stand between a child and the file. What that means stands in
a room for each: ``_sqlite``, ``_duckdb``. Whoever opens connections, a pool or ``PerProcess``, need not know which it
is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pidpool import _discard, _duckdb, _sqlite, drivers

if TYPE_CHECKING:
    from pidpool import _fork
    from pidpool._discard import Appeared, Ownership
    from pidpool.drivers import Driver


def make_way(opener: object, *, dialect: str = "") -> Any:  # noqa: ANN401 - a DB-API connection
    """Prepare for opening a connection: to be called before, in any process, for any driver.

    Args:
        opener: what will be given to ``own``.
        dialect: which database it is for certain, as SQLAlchemy calls it.

    Returns:
        A connection to use instead of opening one; to be awaited, if the driver is asyncio's. Otherwise None.

    Raises:
        InheritedFileError: what ``opener`` had open at fork must not be opened here.

    """
    _duckdb.make_way(opener)
    return _sqlite.make_way(opener, certainly=dialect == "sqlite")


def own(  # noqa: PLR0913 - one for each thing that only the caller knows
    connection: Any,  # noqa: ANN401 - any driver's
    generation: _fork.Generation | None = None,
    opener: object | None = None,
    *,
    appeared: Appeared | None = None,
    driver: Driver | None = None,
    dialect: str = "",
) -> Ownership | None:
    """Return the ownership of a connection that was just opened, by whatever driver.

    Args:
        connection: the driver's connection.
        generation: the generation that opened it; by default, this process's.
        opener: whatever opened it, told apart by identity.
        appeared: the sockets that have appeared since before it was opened: see ``Ownership``.
        driver: how to let go of it; by default, what is known of its class.
        dialect: as in ``make_way``.

    Returns:
        Its ownership. None if something inherited was in the way: the connection is closed again, the way is free now,
        and another is to be opened.

    Raises:
        InheritedFileError: this process may not open the file. The connection is closed again.

    """
    driver = driver or drivers.of(connection)
    if driver.sqlite3 is not None or dialect == "sqlite":
        return _sqlite.own(connection, generation, opener)
    if driver.duckdb is not None:
        return _duckdb.own(connection, generation, opener)
    return _discard.own(connection, generation, driver=driver, appeared=appeared)
