"""How the tests of the command line call it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

import pidpool

if TYPE_CHECKING:
    from collections.abc import Mapping

# Each of them would change what a run prints or does.
_FOREIGN = (
    "COLUMNS",
    "FORCE_COLOR",
    "NO_COLOR",
    "PIDPOOL_AUDIT_URL",
    "PIDPOOL_BENCH_URL",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
)

COMMAND = [sys.executable, "-m", "pidpool"]


class Pidpool(Protocol):
    """The type of the fixture `run_pidpool`."""

    def __call__(
        self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """An environment in which this pidpool is found from any directory, and nothing changes its output."""
    variables = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    here = str(Path(pidpool.__file__).parents[1])
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return variables


@pytest.fixture
def run_pidpool(environment: dict[str, str], tmp_path: Path) -> Pidpool:
    """Run `pidpool` with arguments, in an empty directory, and return its exit code and what it printed."""

    def run(
        *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        return call(*arguments, folder=tmp_path, environment={**environment, **(env or {})}, timeout=timeout)

    return run


def call(
    *arguments: str, folder: Path, environment: Mapping[str, str], timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run `pidpool` with arguments in `folder`."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
    )
