"""Runs one hazard against one pool: in a fresh process, within a time limit, to a verdict.

A hazard may hang inside a C library, crash, or leave children behind. So each run is a process of its own at
the head of a process group of its own, which is killed as a whole at the end, however it ends.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .catalogue import Hazard
    from .subjects import Subject
    from .target import Target

Outcome = Literal["safe", "lost", "hang", "error", "skipped"]

STEPS = 3
"""A single step of a scenario may take this fraction of the time limit."""

# The job comes through stdin: it contains a password, which neither arguments nor environment may show.
# sys.path comes with it, so that the fresh process finds the same pidpool and the same pool of the user's.
_BOOTSTRAP = (
    "import json, sys; job = json.load(sys.stdin); sys.path[:] = job.pop('path'); "
    "from pidpool.hazards.worker import work; work(**job)"
)
_TICK = 0.25

_running: set[int] = set()  # Process groups under way; guarded by _lock.
_stopped = False  # Set once by stop(): nothing is started any more; guarded by _lock.
_lock = threading.Lock()


@dataclass(frozen=True)
class Verdict:
    """What became of one hazard with one pool.

    Attributes:
        hazard: the hazard's name.
        subject: the pool's name.
        outcome: "safe"; "lost": the parent or the child lost something; "hang": somebody waited for ever;
            "error": the scenario itself could not be played; "skipped": not possible here.
        detail: one line a user understands; empty when safe, the reason when skipped.
        seconds: how long it took.
    """

    hazard: str
    subject: str
    outcome: Outcome
    detail: str
    seconds: float


def run(hazard: Hazard, subject: Subject, target: Target, *, timeout: float = 30.0) -> Verdict:
    """Play `hazard` against `subject` on `target` in a fresh process and return the verdict.

    Several threads may run hazards at the same time.

    Args:
        hazard: what to provoke.
        subject: the pool to provoke it with.
        target: the database.
        timeout: seconds after which the run counts as hung; a single step may take a third of it.
    """
    started = time.monotonic()
    reading, writing = os.pipe()
    job = {
        "path": sys.path,
        "hazard": hazard.name,
        "subject": subject.name,
        "target": target.as_job(),
        "seconds": timeout / STEPS,
        "channel": writing,
    }
    with tempfile.TemporaryFile() as errors:
        process = _start(job, writing, errors)
        try:
            outcome, detail = _listen(process, reading, started + timeout, timeout)
        finally:
            _end(process)
            os.close(reading)
        if not detail and outcome == "error":
            detail = _last_line(errors)
    return Verdict(hazard.name, subject.name, outcome, target.conceal(detail), time.monotonic() - started)


def stop() -> None:
    """Kill every run that is under way and start no more: for a program that was interrupted.

    The verdict of those runs is "error".
    """
    global _stopped  # noqa: PLW0603 - one switch for the whole process, as is an interrupt
    with _lock:
        _stopped = True
        for group in _running:
            os.killpg(group, signal.SIGKILL)


def _start(job: dict[str, Any], writing: int, errors: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - a file
    with _lock:
        try:
            if _stopped:
                raise RuntimeError("interrupted")
            process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
                [sys.executable, "-c", _BOOTSTRAP],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
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


def _end(process: subprocess.Popen[bytes]) -> None:
    with _lock:
        # Its leader is not yet waited for, so the number cannot mean another group by now.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _running.discard(process.pid)


def _listen(process: subprocess.Popen[bytes], reading: int, deadline: float, timeout: float) -> tuple[Outcome, str]:
    """Follow the worker's messages to its verdict, or to the end of its time."""
    waiting_for, step_deadline = "", deadline
    unread = b""
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        while True:
            remaining = min(deadline, step_deadline) - time.monotonic()
            if remaining <= 0:
                return "hang", waiting_for + " hung" if waiting_for else f"no end within {timeout:g} s"
            if not selector.select(min(remaining, _TICK)):
                # Children of a crashed worker may keep the pipe open: its end alone tells nothing.
                if _has_ended(process) and not selector.select(0):
                    return "error", ""
                continue
            piece = os.read(reading, 65536)
            if not piece:
                return "error", ""
            *lines, unread = (unread + piece).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "outcome" in message:
                    return message["outcome"], message["detail"]
                waiting_for = message["waiting_for"] or ""
                step_deadline = time.monotonic() + message["seconds"] if message["seconds"] else deadline


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    # WNOWAIT leaves it unreaped, so that its number stays taken until its group has been killed.
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _last_line(errors: Any) -> str:  # noqa: ANN401 - a file
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "the scenario's process died without a word"
