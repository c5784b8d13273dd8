"""A server process of the tests' own: started, stopped, killed, and its folder removed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.servers.address import Address

USER = "pidpool"
PASSWORD = "the-Secret-never-shown"
LOOPBACK = "127.0.0.1"

_STARTUP_SECONDS = 60.0
_STOP_SECONDS = 10.0
_PORT_ATTEMPTS = 5


class ServerError(RuntimeError):
    """A test server is missing, or did not start."""


class PrivateServer(ABC):
    """A server in a folder of its own under `run_folder`, which the keeper removes after the run.

    The folder is a copy of a template that is made once per run, since creating a cluster takes seconds.
    """

    product: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.product}-", dir=run_folder))
        self.process: subprocess.Popen[bytes] | None = None
        self.address: Address | None = None
        account = unprivileged_account()
        self._user = account.pw_uid if account else None
        self._group = account.pw_gid if account else None
        self._groups: list[int] | None = [] if account else None

    # What a product must say about itself

    @classmethod
    @abstractmethod
    def available(cls) -> bool:
        """Return whether the server's programs are on this machine."""

    @abstractmethod
    def _create(self, data: Path) -> None:
        """Create an empty cluster whose only user is USER."""

    @abstractmethod
    def _command(self, port: int) -> Sequence[str]:
        """Return the command that serves the cluster in `self.data` on LOOPBACK."""

    @abstractmethod
    def _address(self, port: int) -> Address:
        """Return where the server is."""

    @abstractmethod
    def _probe(self, address: Address) -> None:
        """Connect once, or raise."""

    # Life and death

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    def start(self) -> Address:
        """Start the server, again on the same port after `stop` or `kill`; return its address."""
        if not self.data.exists():
            shutil.copytree(self._template(), self.folder, dirs_exist_ok=True)
            self._hand_over(self.folder)
        ports = [self.address.port] if self.address else (free_port() for _ in range(_PORT_ATTEMPTS))
        for port in ports:
            # Somebody else may take the port before the server does: then try another one.
            if self._start_on(port):
                self.address = self._address(port)
                return self.address
        raise ServerError(f"{self.product} did not start; its log ends with:\n{self._log_tail()}")

    def stop(self) -> None:
        """Stop the server as fast as it can without leaving shared memory behind."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """Kill the server without warning, as a power cut would."""
        self._end(signal.SIGKILL)

    def remove(self) -> None:
        """Stop the server and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def leave_to_keeper(self) -> None:
        """Let the server outlive this process; the keeper ends it after the run."""
        if self.process is not None:
            self.process.returncode = 0  # or Popen would warn that it is dropped while it runs
            self.process = None

    def _start_on(self, port: int) -> bool:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command(port),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal must not reach it before the tests end
                user=self._user,
                group=self._group,
                extra_groups=self._groups,
            )
        # Written at once: the keeper ends whatever is recorded here, even after a SIGKILL of the tests.
        record = {"pid": self.process.pid, "signal": int(self.stop_signal)}
        (self.folder / "process.json").write_text(json.dumps(record))
        return self._wait_until_ready(self._address(port))

    def _wait_until_ready(self, address: Address) -> bool:
        assert self.process is not None
        deadline = time.monotonic() + _STARTUP_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(Exception):  # not ready yet, said in as many ways as there are drivers
                self._probe(address)
                return True
            time.sleep(0.05)
        self.kill()
        return False

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
        (self.folder / "process.json").unlink(missing_ok=True)

    # The template

    def _template(self) -> Path:
        """Return the folder with an empty cluster and certificate, made by whoever comes first."""
        template = self.run_folder / f"template-{self.product}"
        with locked(self.run_folder / f"template-{self.product}.lock"):
            if not template.exists():
                unfinished = Path(tempfile.mkdtemp(prefix=f"unfinished-{self.product}-", dir=self.run_folder))
                make_certificate(unfinished / "certificate.pem", unfinished / "key.pem")
                self._hand_over(unfinished)
                self._create(unfinished / "data")
                unfinished.rename(template)
        return template

    def _run(self, command: Sequence[str]) -> None:
        """Run a command of the server's product to its end, as the account that serves."""
        done = subprocess.run(
            command,
            check=False,
            cwd=self.run_folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            user=self._user,
            group=self._group,
            extra_groups=self._groups,
        )
        if done.returncode != 0:
            raise ServerError(f"{command[0]} failed with exit code {done.returncode}:\n{done.stdout}")

    def _hand_over(self, folder: Path) -> None:
        """Give a folder to the account that serves; everybody may pass, to read the certificate."""
        if self._user is not None and self._group is not None:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, self._user, self._group)
        folder.chmod(0o755)

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _log_tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return "\n".join(lines[-20:])


def unprivileged_account() -> pwd.struct_passwd | None:
    """Return the account that serves when we are root, which PostgreSQL refuses; None: our own."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerError("no account `postgres` or `nobody` to run database servers as; run the tests as a user")


def free_port() -> int:
    """Return a loopback port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def make_certificate(certificate: Path, key: Path) -> None:
    """Write a self-signed certificate for LOOPBACK and its key."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650"]
    command += ["-subj", f"/CN={LOOPBACK}", "-addext", f"subjectAltName=IP:{LOOPBACK}"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    key.chmod(0o600)  # PostgreSQL refuses a key that others can read


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep the other workers of this run out."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
