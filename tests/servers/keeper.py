"""The process that cleans up after a test run, however the run ends.

It reads a pipe whose other end only the run's first process holds. When that process is gone, be it by
SIGKILL, the pipe ends: the keeper then ends every server recorded in the run's folder and removes the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_STOP_SECONDS = 10.0


class Keeper:
    """The run's first process: owns the run's folder through a keeper."""

    def __init__(self) -> None:
        self.run_folder = Path(tempfile.mkdtemp(prefix="pidpool-tests-"))
        self.run_folder.chmod(0o711)  # servers run as another account and must pass
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.run_folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the tests; the keeper works after them
        )

    def finish(self) -> None:
        """End the servers, remove the folder, and wait until both is done."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def clean_up(run_folder: Path) -> None:
    """End every server that is recorded under the folder, and remove the folder."""
    pids = [_end(record) for record in run_folder.glob("*/process.json")]
    deadline = time.monotonic() + _STOP_SECONDS
    for pid in pids:
        while pid is not None and _is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
    shutil.rmtree(run_folder, ignore_errors=True)


def _end(record: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):  # the server, or its record, has just gone by itself
        content = json.loads(record.read_text())
        os.kill(content["pid"], signal.Signals(content["signal"]))
        return int(content["pid"])
    return None


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # a zombie is over; who started it will notice


if __name__ == "__main__":
    sys.stdin.read()
    clean_up(Path(sys.argv[1]))
