"""The table of drivers in docs/drivers.md, and the command that writes it.

    python -m tests.drivers.table

starts servers, measures every specimen without pidpool and with it (minutes), and rewrites what stands between the
page's markers. `tests/drivers/test_table.py` fails when it is no longer true.
"""

from __future__ import annotations

import ast
import contextlib
import os
import pkgutil
import platform
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pymysql
from redis import Redis as RedisClient

from pidpool import drivers
from tests.drivers.measuring import SILENT, Findings, MeasurementError, measure
from tests.drivers.specimens import SPECIMENS, Place
from tests.drivers.standins import STANDINS, standin
from tests.readme import section, with_section
from tests.servers import MariaDB, PostgreSQL, Redis, ServerError
from tests.servers.keeper import Keeper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.drivers.specimens import Server, Specimen
    from tests.servers import Address

PAGE: Final = Path(__file__).parents[2] / "docs" / "drivers.md"
UNVERIFIED: Final = "unverified"
OVER_TLS: Final = "; over TLS: "

_HEAD: Final = (
    "client",
    "where its sockets are found",
    "a child only drops it",
    "a child calls its `close()`",
    "with pidpool",
    "measured with",
)
_MEASURED_ON: Final = "Measured on Linux, with CPython "
_FILES: Final = {"sqlite3": "sqlite.md", "aiosqlite": "sqlite.md", "duckdb": "duckdb.md"}
_STANDINS: Final[dict[Server, str]] = {
    "tds": "life-cycle only: a stand-in says yes to everything, no SQL Server runs here",
    "forward": "a receiver of the tests'",
    "http": "a server of the tests'",
    "lines": "a server of the tests'",
}


# What was measured


def place(address: Address, *, tls: bool = False) -> Place:
    """Return where a server of the tests' is."""
    certificate = str(address.certificate) if tls else ""
    login = (address.user, address.password)
    return Place(address.host, address.port, *login, database=address.database, certificate=certificate)


def both(plain: Findings, tls: Findings | None) -> Findings:
    """Return the table's words: what differs over TLS stands behind what happens without."""
    if tls is None:
        return plain
    words = {field.name: (getattr(plain, field.name), getattr(tls, field.name)) for field in fields(Findings)}
    return Findings(**{name: a if a == b else f"{a}{OVER_TLS}{b}" for name, (a, b) in words.items()})


def plain_part(words: Findings) -> Findings:
    """Return what of the table's words was measured without TLS."""
    return Findings(*(getattr(words, field.name).partition(OVER_TLS)[0] for field in fields(Findings)))


# What the driver modules say


def modules() -> list[str]:
    """Return the names of the modules that describe drivers; those that only say it is another's are in its row."""
    names = (module.name for module in pkgutil.iter_modules(drivers.__path__))
    return [name for name in names if _descriptions(_tree(name))]


def _tree(module: str) -> ast.Module:
    return ast.parse((Path(drivers.__path__[0]) / f"{module}.py").read_text())


def _descriptions(tree: ast.Module) -> list[ast.Call]:
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Driver"]


def where(module: str) -> str:
    """Return where a client's descriptors are found, as the source of its driver module has it."""
    if module not in modules():
        return "pidpool does not know it"
    if module in _FILES:
        page = _FILES[module] if (PAGE.parent / _FILES[module]).exists() else "sqlite.md"
        return f"none: it is a file ([{page}]({page}))"
    tree = _tree(module)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    arguments = {keyword.arg: keyword.value for keyword in _descriptions(tree)[0].keywords}
    if "descriptors" in arguments:
        return _expression(arguments["descriptors"], functions) or "each socket that it has when the process forks"
    found = []
    if isinstance(arguments.get("fileno"), (ast.Lambda, ast.Name)):
        found.append(_expression(arguments["fileno"], functions) or "its transport's socket")
    if "opens_a_socket" in arguments:
        is_certain = isinstance(arguments["opens_a_socket"], ast.Constant) and arguments["opens_a_socket"].value is True
        condition = "" if is_certain else ", if no other thread or task can have opened that"
        found.append(f"hidden: the socket that appears while it connects{condition}")
    return ", or ".join(found) or "hidden"


def _expression(function: ast.expr, functions: dict[str, ast.FunctionDef]) -> str:
    """Return the expression for the descriptor, if it says something by itself: it is all about the parameter."""
    body: Any = functions[function.id] if isinstance(function, ast.Name) else function
    parameter = body.args.args[0].arg
    for call in (node for node in ast.walk(body) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Attribute) and call.func.attr == "fileno" and _root(call.func) == parameter:
            return f"`{ast.unparse(call)}`"
        is_transport = isinstance(call.func, ast.Name) and call.func.id == "descriptor"
        if is_transport and _root(call.args[0]) == parameter:
            return f"the socket of `{ast.unparse(call.args[0])}`"
    return ""


def _root(expression: ast.expr) -> str:
    while isinstance(expression, ast.Attribute):
        expression = expression.value
    return expression.id if isinstance(expression, ast.Name) else ""


# The table


def table(results: dict[str, tuple[Findings, str]], python: str) -> str:
    """Return the table as Markdown: for each client its findings, and what they were measured with."""
    lines = ["", f"{_MEASURED_ON}{python}.", "", _line(_HEAD), _line(["---"] * len(_HEAD))]
    for specimen in SPECIMENS:
        words, verification = results[specimen.client]
        cells = [specimen.client, where(specimen.module), _stressed(words.drop), words.close, words.guarded]
        lines.append(_line([*cells, verification]))
    return "\n".join([*lines, "", ""])


def _stressed(words: str) -> str:
    """What happens by itself is the worse for that."""
    return words if words in (SILENT, UNVERIFIED) else f"**{words}**"


def _line(cells: Any) -> str:  # noqa: ANN401 - any collection of text
    return f"| {' | '.join(cells)} |"


def recorded() -> tuple[dict[str, tuple[Findings, str]], str]:
    """Return what the page says, as `table` takes it."""
    first, _, _, _, *lines = section("drivers", PAGE.read_text()).strip().splitlines()
    found = {}
    for line in lines:
        client, _, drop, close, guarded, verification = line.strip("| ").split(" | ")
        found[client] = (Findings(drop.strip("*"), close, guarded), verification)
    return found, first.removeprefix(_MEASURED_ON).removesuffix(".")


def is_measured_with(specimen: Specimen) -> bool:
    """Tell whether the page has what this version of the client does, with this version of Python."""
    rows, python = recorded()
    is_same_python = python.rpartition(".")[0] == platform.python_version().rpartition(".")[0]
    return is_same_python and f"{rows[specimen.client][1]};".startswith(f"{version(specimen)};")


def version(specimen: Specimen) -> str:
    """Return what a table's row calls the client's version; raises PackageNotFoundError."""
    if specimen.package:
        return f"{specimen.package} {specimen.version()}"
    return f"SQLite {sqlite3.sqlite_version}" if specimen.server == "file" else f"CPython {platform.python_version()}"


class _Run:
    """All measurements: with the servers, and with what they say of themselves."""

    def __init__(self, keeper: Keeper, leaving: contextlib.ExitStack) -> None:
        self._places: dict[Server, Address | Place] = {"file": Place(), "none": Place()}
        self._said: dict[Server, str] = {"file": "", "none": "life-cycle only: no server here", **_STANDINS}
        for name in STANDINS:
            self._places[name] = Place("127.0.0.1", leaving.enter_context(standin(name)))
        for server, (product, ask) in _SERVERS.items():
            with contextlib.suppress(ServerError):  # then its clients are unverified
                _progress(f"starting {product.product}")
                self._places[server] = address = product(keeper.run_folder).start()
                self._said[server] = ask(address)

    def measure(self, specimen: Specimen) -> tuple[Findings, str]:
        """Measure a client; one that cannot be opened here is unverified."""
        unverified = Findings(UNVERIFIED, UNVERIFIED, UNVERIFIED)
        try:
            name = version(specimen)
        except PackageNotFoundError:
            _progress(f"{specimen.client}: not installed")
            return unverified, UNVERIFIED
        if specimen.server not in self._places:
            return unverified, f"{name}; {UNVERIFIED}"
        there = self._places[specimen.server]
        manners = [there] if isinstance(there, Place) else [place(there)]
        if specimen.has_tls and not isinstance(there, Place) and there.certificate is not None:
            manners.append(place(there, tls=True))
        try:
            plain, *over_tls = [measure(specimen, manner) for manner in manners]
        except MeasurementError as error:
            _progress(f"{specimen.client}: {error}")
            return unverified, f"{name}; {UNVERIFIED}"
        _progress(f"{specimen.client}: measured")
        manner = ", plain and TLS" if over_tls else ", plain" if specimen.has_tls else ""
        said = self._said[specimen.server] + manner
        return both(plain, over_tls[0] if over_tls else None), "; ".join(filter(None, [name, said]))


def _ask_postgresql(address: Address) -> str:
    with psycopg.connect(
        host=address.host, port=address.port, user=address.user, password=address.password, dbname=address.database
    ) as connection:
        return f"PostgreSQL {connection.info.parameter_status('server_version')}".partition(" (")[0]


def _ask_mariadb(address: Address) -> str:
    connection = pymysql.connect(
        host=address.host, port=address.port, user=address.user, password=address.password, ssl_disabled=True
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT version()")  # the greeting has 5.5.5, for the sake of old clients
        row: Any = cursor.fetchone()
    return f"MariaDB {row[0]}".partition("-")[0]


def _ask_redis(address: Address) -> str:
    with RedisClient(address.host, address.port) as client:
        information: Any = client.info("server")
    return f"Redis {information['redis_version']}"


_SERVERS: Final[dict[Server, tuple[Any, Callable[[Address], str]]]] = {
    "postgresql": (PostgreSQL, _ask_postgresql),
    "mariadb": (MariaDB, _ask_mariadb),
    "redis": (Redis, _ask_redis),
}


def _progress(words: str) -> None:
    sys.stderr.write(f"{words}\n")


@contextlib.contextmanager
def _run() -> Iterator[_Run]:
    keeper = Keeper()
    try:
        with contextlib.ExitStack() as leaving:
            yield _Run(keeper, leaving)
    finally:
        keeper.finish()


def main() -> None:
    """Rewrite the table."""
    with _run() as run, ThreadPoolExecutor(os.cpu_count()) as threads:
        results = dict(zip((each.client for each in SPECIMENS), threads.map(run.measure, SPECIMENS), strict=True))
    PAGE.write_text(with_section("drivers", table(results, platform.python_version()), PAGE.read_text()))


if __name__ == "__main__":
    main()
