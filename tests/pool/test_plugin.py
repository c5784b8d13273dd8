"""`?plugin=pidpool`: which pool class an engine gets when only its URL was changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import (
    AssertionPool,
    AsyncAdaptedQueuePool,
    NullPool,
    QueuePool,
    SingletonThreadPool,
    StaticPool,
)

from pidpool import AsyncPidPool, PidNullPool, PidPool
from pidpool.pool.plugin import PidPoolPlugin
from tests.pool.forking import in_child, use

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Pool

    from tests.pool.conftest import Play
    from tests.servers import Address


def with_plugin(url: str) -> URL:
    return make_url(url).update_query_dict({"plugin": "pidpool"})


def test_a_dialect_that_takes_queue_pool_gets_pid_pool(database_url: str) -> None:
    engine = create_engine(with_plugin(database_url), pool_size=2)
    assert type(engine.pool) is PidPool
    use(engine)  # so the driver has not been sent `plugin=pidpool`
    assert "plugin" not in engine.url.query
    engine.dispose()


def test_a_dialect_that_takes_null_pool_gets_pid_null_pool(tmp_path: Path) -> None:
    class FileDialect(type(make_url("sqlite://").get_dialect()())):  # type: ignore[misc]
        """What SQLite's own was before SQLAlchemy 2.0."""

        @classmethod
        def get_pool_class(cls, url: URL) -> type[Pool]:
            del url
            return NullPool

    class FileURL(URL):
        def get_dialect(self, _is_async: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - SQLAlchemy's signature
            del _is_async
            return FileDialect

    kwargs: dict[str, Any] = {}
    PidPoolPlugin(FileURL.create("sqlite", database=str(tmp_path / "file")), kwargs)
    assert kwargs == {"poolclass": PidNullPool}


@pytest.mark.parametrize("pool_class", [QueuePool, NullPool, StaticPool, AssertionPool])
def test_a_pool_class_of_the_applications_own_stays(pool_class: type[Pool], postgresql: Address) -> None:
    engine = create_engine(with_plugin(postgresql.url("psycopg")), poolclass=pool_class)
    assert type(engine.pool) is pool_class


def test_a_pool_of_the_applications_own_stays(postgresql: Address) -> None:
    url = postgresql.url("psycopg")
    pool = create_engine(url).pool
    assert create_engine(with_plugin(url), pool=pool).pool is pool


def test_a_sqlite_file_gets_pid_pool(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/file.db?plugin=pidpool")
    assert type(engine.pool) is PidPool
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 42").scalar() == 42
    engine.dispose()


def test_an_sqlite_database_in_memory_keeps_its_pool() -> None:
    engine = create_engine("sqlite://?plugin=pidpool")
    assert type(engine.pool) is SingletonThreadPool
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "before", "after"),
    [
        (URL.create("postgresql+asyncpg", host="nowhere"), AsyncAdaptedQueuePool, AsyncPidPool),
        (URL.create("mysql+aiomysql", host="nowhere"), AsyncAdaptedQueuePool, AsyncPidPool),
        (URL.create("sqlite+aiosqlite"), StaticPool, StaticPool),  # a database in memory
    ],
)
def test_an_asyncio_dialect_gets_the_class_that_matches(url: URL, before: type[Pool], after: type[Pool]) -> None:
    assert type(create_async_engine(url).pool) is before
    assert type(create_async_engine(url.update_query_dict({"plugin": "pidpool"})).pool) is after


def test_one_name_for_two_dialects_gets_the_class_for_the_engine_that_is_created(postgresql: Address) -> None:
    url = with_plugin(postgresql.url("psycopg"))
    assert type(create_engine(url).pool) is PidPool
    assert type(create_async_engine(url).pool) is AsyncPidPool


def test_options_of_the_pool_arrive(postgresql: Address) -> None:
    engine = create_engine(
        with_plugin(postgresql.url("psycopg")), pool_size=3, max_overflow=4, pool_timeout=5, pool_recycle=6
    )
    pool: Any = engine.pool
    assert (pool.size(), pool._max_overflow, pool.timeout(), pool._recycle) == (3, 4, 5, 6)


def sessions_of_parent_and_child(url: str) -> list[int]:
    engine = create_engine(url)
    return [use(engine), in_child(lambda: use(engine)), use(engine)]


def test_it_protects(play: Play, postgresql: Address) -> None:
    url = with_plugin(postgresql.url("psycopg")).render_as_string(hide_password=False)
    before, in_child_, after = play(sessions_of_parent_and_child, url)
    assert before == after != in_child_
