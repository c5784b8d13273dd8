"""A target for each driver, checked once per worker: creating it connects twice and starts a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from pidpool.hazards import check_target
from tests.servers.address import MARIADB_DRIVERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pidpool.hazards import Target
    from tests.servers import Address


class TargetOf(Protocol):
    """The type of the fixture `target_of`."""

    def __call__(self, driver: str) -> Target: ...


@pytest.fixture(scope="session")
def target_of(postgresql: Address, mariadb: Address) -> Iterator[TargetOf]:
    """Return the target that a driver reaches on this worker's database."""
    targets: dict[str, Target] = {}

    def target(driver: str) -> Target:
        if driver not in targets:
            server = mariadb if driver in MARIADB_DRIVERS else postgresql
            targets[driver] = check_target(server.url(driver))
        return targets[driver]

    yield target
    for made in targets.values():
        made.close()


@pytest.fixture(scope="session")
def redis_target(redis_url: str) -> Iterator[Target]:
    """Return the run's Redis server as a target."""
    with check_target(redis_url) as target:
        yield target


@pytest.fixture
def file_target(tmp_path: Path) -> Iterator[Target]:
    """Return a SQLite file as a target."""
    with check_target(f"sqlite:///{tmp_path}/file.db") as target:
        yield target


@pytest.fixture
def awaited_file_target(tmp_path: Path) -> Iterator[Target]:
    """Return a SQLite file as a target, for an asyncio engine."""
    with check_target(f"sqlite+aiosqlite:///{tmp_path}/file.db") as target:
        yield target


@pytest.fixture
def duckdb_target(tmp_path: Path) -> Iterator[Target]:
    """Return a DuckDB file as a target."""
    pytest.importorskip("duckdb_engine")
    with check_target(f"duckdb:///{tmp_path}/file.duckdb") as target:
        yield target
