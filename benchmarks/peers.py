"""Other pools by their own interfaces, beside SQLAlchemy pools by ``pool.connect()`` and ``.close()``.

Each peer is a function from a URL to another function, which checks out and in as often as it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from sqlalchemy import make_url

from pidpool.hazards import subject

Loop: TypeAlias = Callable[[int], None]


def prepare(name: str, url: str) -> Loop:
    """Return the loop of the peer `name` on the database at `url`, its connections opened."""
    own = OWN_INTERFACES.get(name)
    return own(url) if own else sqlalchemy_pool(name, url)


def sqlalchemy_pool(name: str, url: str) -> Loop:
    """Return the loop of the pool that `pidpool bench` calls `name`."""
    # Autocommit is what makes a rollback at checkin superfluous with PyMySQL; with the others it changes nothing here.
    options = {"isolation_level": "AUTOCOMMIT"} if url.startswith("mysql") else {}
    connect = subject(name).build(url, **options).pool.connect

    def loop(count: int) -> None:
        for _ in range(count):
            connect().close()

    return loop


def psycopg_pool(url: str) -> Loop:
    """Return the loop of psycopg_pool's `getconn` and `putconn`."""
    from psycopg_pool import ConnectionPool  # noqa: PLC0415 - each peer in its own process

    pool = ConnectionPool(kwargs=_arguments(url), min_size=1, max_size=5, open=True)
    pool.wait()
    getconn, putconn = pool.getconn, pool.putconn

    def loop(count: int) -> None:
        for _ in range(count):
            putconn(getconn())

    return loop


def pooled_db(url: str) -> Loop:
    """Return the loop of DBUtils' PooledDB, with its own defaults."""
    from dbutils.pooled_db import PooledDB  # noqa: PLC0415 - each peer in its own process

    module = make_url(url).get_dialect().import_dbapi()
    connection = PooledDB(module, **_arguments(url)).connection

    def loop(count: int) -> None:
        for _ in range(count):
            connection().close()

    return loop


def django_db_connection_pool(url: str) -> Loop:
    """Return the loop of django-db-connection-pool, without the ping that it sends by default: the others send none."""
    from django.conf import settings  # noqa: PLC0415 - each peer in its own process

    settings.configure()
    from dj_db_conn_pool.backends.postgresql.base import DatabaseWrapper  # noqa: PLC0415 - needs the line above

    parsed = make_url(url)
    wrapper = DatabaseWrapper(
        {
            "ENGINE": "dj_db_conn_pool.backends.postgresql",
            "NAME": parsed.database,
            "USER": parsed.username,
            "PASSWORD": parsed.password,
            "HOST": parsed.host,
            "PORT": parsed.port,
            "OPTIONS": {},
            "TIME_ZONE": None,
            "POOL_OPTIONS": {"PRE_PING": False, "POOL_SIZE": 5},
        },
        "default",
    )
    parameters = wrapper.get_connection_params()
    connect = wrapper.get_new_connection

    def loop(count: int) -> None:
        for _ in range(count):
            connect(parameters).close()

    return loop


OWN_INTERFACES: dict[str, Callable[[str], Loop]] = {
    "psycopg_pool": psycopg_pool,
    "PooledDB": pooled_db,
    "django-db-connection-pool": django_db_connection_pool,
}
"""The peers that SQLAlchemy knows nothing of, by their name in the results."""


def _arguments(url: str) -> dict[str, Any]:
    """Return what SQLAlchemy would pass to the driver's `connect`."""
    parsed = make_url(url)
    _, arguments = parsed.get_dialect()().create_connect_args(parsed)
    return dict(arguments)
