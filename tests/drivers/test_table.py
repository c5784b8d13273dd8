"""What docs/drivers.md says of each client is what is measured."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from tests.drivers import table
from tests.drivers.measuring import BUT, SILENT, measure, measure_guarded
from tests.drivers.specimens import SPECIMENS, Place
from tests.drivers.standins import STANDINS, standin
from tests.readme import section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.drivers.specimens import Specimen

#: The clients of which no server runs here: see their rows.
BY_LIFE_CYCLE = ("pymssql", "oracledb, thin")
#: One of each kind, and the one that is least forgiving.
QUICK = ("psycopg 3", "mysqlclient", "sqlite3", "redis-py", "fluent-logger", "oracledb, thin")


@pytest.fixture(
    params=[
        pytest.param(specimen, id=specimen.client, marks=() if specimen.client in QUICK else pytest.mark.slow)
        for specimen in SPECIMENS
    ]
)
def specimen(request: pytest.FixtureRequest) -> Specimen:
    found: Specimen = request.param
    try:
        found.version()
    except PackageNotFoundError:
        pytest.skip(f"{found.package} is not installed here")
    return found


@pytest.fixture
def there(specimen: Specimen, request: pytest.FixtureRequest) -> Iterator[Place]:
    """Where the specimen connects to; only that server is started."""
    if specimen.server in STANDINS:
        with standin(specimen.server) as port:
            yield Place("127.0.0.1", port)
    elif specimen.server == "redis":
        url = make_url(request.getfixturevalue("redis_url"))
        yield Place(str(url.host), url.port or 0)
    elif specimen.server in ("postgresql", "mariadb"):
        yield table.place(request.getfixturevalue(specimen.server))
    else:
        yield Place()


def test_the_table_has_a_row_for_each_client_in_the_words_of_its_driver_module() -> None:
    rows, python = table.recorded()

    assert list(rows) == [specimen.client for specimen in SPECIMENS]
    assert section("drivers", table.PAGE.read_text()) == table.table(rows, python)


def test_each_driver_module_has_a_client_in_the_table() -> None:
    assert set(table.modules()) <= {specimen.module for specimen in SPECIMENS}


def test_each_row_says_what_it_was_measured_with_or_that_it_is_unverified() -> None:
    rows, _ = table.recorded()

    for specimen in SPECIMENS:
        words, verification = rows[specimen.client]
        assert verification
        assert (words.guarded == table.UNVERIFIED) == (table.UNVERIFIED in verification)
        assert ("life-cycle only" in verification) == (specimen.client in BY_LIFE_CYCLE)
        assert (", plain and TLS" in verification) == specimen.has_tls


def test_with_pidpool_every_client_is_silent_and_without_it_most_are_not() -> None:
    rows = {client: words for client, (words, _) in table.recorded()[0].items() if client != "oracledb, thin"}

    for client, words in rows.items():
        for manner in words.guarded.split(table.OVER_TLS):
            assert manner.partition("; ")[0] == SILENT, client
            # What has been released cannot speak, whoever closes it.
            assert not manner.startswith("silent; released;"), client
    assert sum(words.close != SILENT for words in rows.values()) > len(rows) / 2


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("psycopg", "`connection.fileno()`"),
        ("asyncpg", "the socket of `connection._transport`"),
        ("redis", "each socket that it has when the process forks"),
        ("sqlite3", "none: it is a file ([sqlite.md](sqlite.md))"),
    ],
)
def test_the_place_of_a_descriptor_is_read_in_the_source_of_the_driver_module(module: str, expected: str) -> None:
    assert table.where(module) == expected


def test_a_fresh_measurement_agrees_with_the_table(specimen: Specimen, there: Place) -> None:
    rows, _ = table.recorded()
    recorded = table.plain_part(rows[specimen.client][0])

    if table.is_measured_with(specimen):
        assert measure(specimen, there) == recorded
    else:  # what another version does by itself is its own affair; what pidpool makes of it is not
        assert by_pidpool(measure_guarded(specimen, there)) == by_pidpool(recorded.guarded)


def by_pidpool(guarded: str) -> str:
    """Leave out what the driver does past pidpool."""
    return guarded.partition(BUT)[0]
