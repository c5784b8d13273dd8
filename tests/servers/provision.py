"""Make sure that this machine has what the tests cannot get from PyPI.

    python tests/servers/provision.py [guard]

tox runs it before the tests, and before benchmarks/guard.py. It uses the standard library only. On Debian and its
kin, as root, it installs what is missing; elsewhere it says how and fails. It chooses packages that start no
service; redis-server's would, and is told not to.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Need(NamedTuple):
    """Something that the tests need of the machine."""

    what: str
    is_met: Callable[[], bool]
    debian_packages: tuple[str, ...]


# Debian keeps servers in folders that are not on everybody's PATH.
_SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def has(*programs: str) -> bool:
    """Return whether all these programs are on this machine."""
    return all(shutil.which(program, path=_SEARCH) for program in programs)


def has_library(*names: str) -> bool:
    """Return whether pkg-config, which mysqlclient's build asks, knows one of these libraries."""
    return has("pkg-config") and any(
        subprocess.run(["pkg-config", "--exists", name], check=False).returncode == 0 for name in names
    )


def has_odbc(*names: str) -> bool:
    """Return whether unixODBC knows drivers of these names."""
    if not has("odbcinst"):
        return False
    known = subprocess.run(["odbcinst", "-q", "-d"], check=False, capture_output=True, text=True).stdout
    return all(f"[{name}]" in known for name in names)


NEEDS = (
    Need(
        "a MariaDB server",
        lambda: "PIDPOOL_TEST_MARIADB_URL" in os.environ or has("mariadbd", "mariadb-install-db"),
        ("mariadb-server-core", "mariadb-client-core"),
    ),
    Need(
        "a Redis server",
        lambda: "PIDPOOL_TEST_REDIS_URL" in os.environ or has("redis-server"),
        ("redis-server",),
    ),
    Need(
        "ODBC drivers for PostgreSQL and MariaDB",
        lambda: has_odbc("PostgreSQL Unicode", "MariaDB Unicode"),
        ("odbcinst", "odbc-postgresql", "odbc-mariadb"),
    ),
    Need("the openssl command, for certificates", lambda: has("openssl"), ("openssl",)),
    # mysqlclient comes as source only.
    Need("a C compiler, for mysqlclient", lambda: has("cc") or has("gcc"), ("gcc", "libc6-dev")),
    Need("pkg-config, for mysqlclient", lambda: has("pkg-config"), ("pkg-config",)),
    Need(
        "MariaDB's client library, for mysqlclient",
        lambda: has_library("libmariadb", "mariadb", "mysqlclient"),
        ("libmariadb-dev",),
    ),
    Need(
        "Python's C headers, for mysqlclient",
        lambda: Path(sysconfig.get_path("include"), "Python.h").exists(),
        ("python3-dev",),
    ),
)


GUARD_NEEDS = (Need("valgrind, to count instructions", lambda: has("valgrind"), ("valgrind",)),)


def missing(needs: Iterable[Need]) -> list[Need]:
    """Return the needs that this machine does not meet."""
    return [need for need in needs if not need.is_met()]


def install(packages: Iterable[str]) -> None:
    """Install Debian packages; raises CalledProcessError. Errors are shown, progress is not."""
    # A runlevel for maintenance, or the package of redis-server starts one. (systemd does so all the same.)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    # Another apt-get may be at work: a machine that has just booted updates itself.
    apt_get = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    subprocess.run([*apt_get, "update"], check=True, env=environment, stdout=subprocess.DEVNULL)
    command = [*apt_get, "install", "--yes", "--no-install-recommends", *packages]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def main(needs: tuple[Need, ...]) -> int:
    """Provide what is missing; return the exit code."""
    lacking = missing(needs)
    if not lacking:
        return 0
    packages = [package for need in lacking for package in need.debian_packages]
    whats = "; ".join(need.what for need in lacking)
    if has("apt-get") and os.geteuid() == 0:
        sys.stderr.write(f"This machine lacks {whats}. Installing {' '.join(packages)} ...\n")
        install(packages)
        lacking = missing(needs)
        if not lacking:
            return 0
    how = f"sudo apt-get update && sudo apt-get install --no-install-recommends {' '.join(packages)}"
    if not has("apt-get"):
        how = f"your package manager; what Debian calls {' '.join(packages)}"
        if sys.platform == "darwin" and needs is NEEDS:
            how = "brew install mariadb redis openssl pkg-config"
    whats = "; ".join(need.what for need in lacking)
    sys.stderr.write(f"This machine lacks {whats}. Install it with:\n    {how}\n")
    return 1


if __name__ == "__main__":
    with Path(tempfile.gettempdir(), "pidpool-provision.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tox may run several environments at once
        sys.exit(main(GUARD_NEEDS if sys.argv[1:] == ["guard"] else NEEDS))
