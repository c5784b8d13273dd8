"""Under which circumstances something was measured or tried: what somebody would ask about a surprising result."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from sqlalchemy import make_url

import pidpool
from pidpool.bench.words import numbered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pidpool.hazards import Target

PEERS = ("psycopg-pool", "DBUtils")
"""The packages whose pools `pidpool bench` and `pidpool audit` know by name."""

_DISTRIBUTIONS = {"MySQLdb": "mysqlclient"}
"""The module that does not tell its version -> the distribution that does."""


def versions(target: Target | None = None, packages: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the versions of everything that takes part, by names in lower case.

    Args:
        target: the database, if there is one; adds "driver" and "server".
        packages: further distributions; those that are not installed are left out.
    """
    found = {
        "pidpool": pidpool.__version__,
        "sqlalchemy": version("sqlalchemy"),
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()}",
    }
    for package in packages:
        try:
            found[package.lower()] = version(package)
        except PackageNotFoundError:
            continue
    if target is not None:
        found["driver"] = version("redis") if target.kind == "client" else _driver_version(target.url)
        found["server"] = target.server_version
    return found


def software(of: Mapping[str, str]) -> str:
    """Return the versions of what every run has as one line."""
    return f"pidpool {of['pidpool']}, SQLAlchemy {of['sqlalchemy']}, Python {of['python']}, {of['kernel']}"


def cores() -> int:
    """Return how many processors the machine has."""
    return os.cpu_count() or 1


def load_average() -> float | None:
    """Return how many processes wanted to run in the last minute, on average; None where nobody counts them."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def machine(count: int, load: float | None) -> str:
    """Return the number of processors, and the load if it is known, as words."""
    processors = numbered(count, "core")
    return processors if load is None else f"{processors}, load {load}"


def _driver_version(url: str) -> str:
    """Return what the driver says of itself, by the module that SQLAlchemy uses for this URL."""
    dialect: Any = make_url(url).get_dialect()
    if dialect.name == "duckdb":  # it inherits psycopg2's dialect, and would import that
        return version("duckdb")
    module = dialect.import_dbapi()
    # SQLAlchemy puts an adapter before an asyncio driver, which calls the driver's module by its name.
    module = getattr(module, dialect.driver, module) if dialect.is_async else module
    if module.__name__ == "sqlite3.dbapi2":
        return str(module.sqlite_version)  # of the library: the module has Python's
    stated = getattr(module, "__version__", None) or version(_DISTRIBUTIONS.get(module.__name__, module.__name__))
    return str(stated).partition(" ")[0]  # psycopg2 appends its build options.
