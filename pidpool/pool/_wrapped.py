"""``discard()`` for connections that SQLAlchemy has wrapped, in a pool of pidpool's or in any other."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection  # noqa: TC002 - singledispatch reads the annotations

from pidpool import _fork
from pidpool._discard import discard
from pidpool.errors import DiscardRefusedError
from pidpool.pool._record import Fairy
from pidpool.pool._sqlalchemy import PoolProxiedConnection  # noqa: TC001 - as above


@discard.register
def _discard_proxied(connection: PoolProxiedConnection, *, force: bool = False) -> None:
    if isinstance(connection, Fairy):
        _discard_fairy(connection, force=force)
        return
    proxied: Any = connection
    if proxied.dbapi_connection is None:
        return
    driver_connection = (
        proxied.driver_connection if proxied._connection_record is not None else proxied.dbapi_connection
    )
    discard(driver_connection, force=force)
    # Its pool must neither roll back nor close nor hand out again what is dead now.
    record, proxied.dbapi_connection = proxied._connection_record, None
    if record is not None:
        record.dbapi_connection = None
        proxied._checkin()


def _discard_fairy(fairy: Fairy, *, force: bool) -> None:
    here = _fork.current()  # discards it, if this process inherited it
    if not fairy._life.page[0] or fairy._connection is None:
        return
    if not force:
        raise DiscardRefusedError(here.pid)
    record: Any = fairy._connection_record
    (fairy._ownership if record is None else record.ownership).discard()
    fairy._connection = None
    if record is not None:
        record.dbapi_connection = record.ownership = None
        record.ready = False
        fairy._checkin()


@discard.register
def _discard_connection(connection: Connection, *, force: bool = False) -> None:
    if connection.closed or connection.invalidated:
        return
    discard(connection.connection, force=force)
    if force or not isinstance(connection.connection, Fairy):
        connection.invalidate()
