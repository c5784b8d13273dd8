"""Runs a piece of work in a fresh process: it may hang inside a C library, crash, or leave children behind.

So each is a process of its own at the head of a process group of its own, which is killed as a whole at the end,
however it ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

# The job comes through stdin: it contains a password, which neither arguments nor environment may show.
# sys.path comes with it, so that the fresh process finds the same pidpool and the same pool of the user's.
_BOOTSTRAP = (
    "import json, sys; job = json.load(sys.stdin); sys.path[:] = job.pop('path'); "
    "from {module} import work; work(**job)"
)
_TICK = 0.25
_PR_SET_PDEATHSIG = 1

_running: set[int] = set()  # Process groups under way; guarded by _lock.
_stopped = False  # Set once by stop(): nothing is started any more; guarded by _lock.
_lock = threading.Lock()


class OutOfTime(Exception):  # noqa: N818 - a finding, not an error of the program
    """The process was still at work when its time was up."""


class Died(Exception):  # noqa: N818 - as above
    """The process ended without the message that was waited for; ours is the last thing it said."""


class FreshProcess:
    """Calls ``work(**job, channel=...)`` of a module in a fresh process and listens to what it tells.

    Use it as a context manager: its end kills the whole process group.

    Args:
        module: where ``work`` is.
        job: its arguments, for JSON; they may contain a password.
    """

    def __init__(self, module: str, job: dict[str, Any]) -> None:
        self._reading, writing = os.pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._unread = b""
        self._process = self._start(module, {**job, "path": sys.path, "channel": writing}, writing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with _lock:
            # Its leader is not yet waited for, so the number cannot mean another group by now.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            _running.discard(self._process.pid)
        os.close(self._reading)
        self._errors.close()

    def listen(self, deadline: float) -> list[dict[str, Any]]:
        """Return the next messages, one at least.

        Args:
            deadline: when to give up, by `time.monotonic` (seconds).

        Raises:
            OutOfTime: the deadline has passed.
            Died: no more messages will come.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._reading, selectors.EVENT_READ)
            while True:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise OutOfTime
                if not selector.select(min(remaining, _TICK)):
                    # Children of a crashed worker may keep the pipe open: its end alone tells nothing.
                    if self._has_ended() and not selector.select(0):
                        raise Died(self._last_line())
                    continue
                piece = os.read(self._reading, 65536)
                if not piece:
                    raise Died(self._last_line())
                *lines, self._unread = (self._unread + piece).split(b"\n")
                if lines:
                    return [json.loads(line) for line in lines]

    def _start(self, module: str, job: dict[str, Any], writing: int) -> subprocess.Popen[bytes]:
        with _lock:
            try:
                if _stopped:
                    raise RuntimeError("interrupted")
                process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
                    [sys.executable, "-c", _BOOTSTRAP.format(module=module)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors,
                    pass_fds=(writing,),
                    start_new_session=True,
                )
            finally:
                os.close(writing)
            _running.add(process.pid)
        if process.stdin is not None:
            try:
                process.stdin.write(json.dumps(job).encode())
                process.stdin.close()
            except BrokenPipeError:
                pass  # It died at once; that it never answers is noticed soon enough.
        return process

    def _has_ended(self) -> bool:
        # WNOWAIT leaves it unreaped, so that its number stays taken until its group has been killed.
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _last_line(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "its process died without a word"


def stop() -> None:
    """Kill every fresh process and start no more: for a program that was interrupted."""
    global _stopped  # noqa: PLW0603 - one switch for the whole process, as is an interrupt
    with _lock:
        _stopped = True
        for group in _running:
            os.killpg(group, signal.SIGKILL)


def begin(channel: int) -> Callable[[dict[str, Any]], None]:
    """Return the function that tells the starter something; to be called first thing in the fresh process.

    Args:
        channel: the descriptor that takes messages, one JSON object a line.
    """
    if sys.platform == "linux":
        # Let the kernel end this process, should the one that started it be killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.set_inheritable(channel, False)  # noqa: FBT003 - its only parameter

    def tell(message: dict[str, Any]) -> None:
        unwritten = json.dumps(message).encode() + b"\n"
        while unwritten:
            unwritten = unwritten[os.write(channel, unwritten) :]

    return tell
