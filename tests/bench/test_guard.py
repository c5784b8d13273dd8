"""The guard of the hot path lets through what is within its limit, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def guard(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **({} if path is None else {"PATH": path})}
    command = [sys.executable, "-m", "benchmarks.guard", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=110)


@pytest.mark.parametrize(("limit", "code"), [("100", 0), ("0.001", 1)])
def test_without_valgrind_times_are_compared_and_it_says_so(limit: str, code: int) -> None:
    done = guard("--limit", limit, "--rounds", "3", path="")
    assert done.returncode == code, done
    assert "no valgrind" in done.stdout
    assert "PidPool" in done.stdout


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="tox -e guard installs it")
def test_with_valgrind_instructions_are_counted() -> None:
    done = guard("--limit", "0.001")
    assert done.returncode == 1, done
    assert "Instructions a checkout" in done.stdout
