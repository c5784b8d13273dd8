"""A parent and its children: forked in every way, watched by the recording proxy, and never waited for without limit.

What they share, SQL connections or a client of some other server, is the business of who stands on this: `Stage` and
`ClientStage`.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import secrets
import select
import signal
import time
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .errors import Hang, Lost, Skip, summary
from .proxy import RecordingProxy
from .target import through

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .target import Target

T = TypeVar("T")

How = Literal["fork", "hookless", "multiprocessing"]
Leave = Literal["os._exit", "sys.exit", "exception", "SIGKILL"]

LEFT_TO_FINALIZATION: list[object] = []
"""What a child puts here is still alive when its interpreter shuts down, like a module's global engine."""

_STATUS = {"os._exit": 0, "sys.exit": 0, "exception": 1, "SIGKILL": -9}
_OPEN_DESCRIPTORS = "/dev/fd"
_PAUSE = 0.001


class UncaughtInChild(Exception):  # noqa: N818 - it stands for any exception of an application
    """The exception that nobody catches; it ends a child that leaves by "exception"."""


class Family:
    """The process that was started for one scenario alone, and its children.

    Args:
        target: what is under audit.
        address: host and port of its server, for the recording proxy; None: without.
        seconds: the time limit of a single step (a child's whole life, or one check in the parent).
        report: called with what the parent waits for, and for how many seconds at most; and with None, None
            when it no longer waits. A driver that hangs inside a C library can only be ended from another
            process.
    """

    def __init__(
        self,
        target: Target,
        address: tuple[str, int] | None,
        seconds: float,
        report: Callable[[str | None, float | None], None],
    ) -> None:
        self.target = target
        self.seconds = seconds
        self.depth = 0
        """How many forks lie between the process that started and this one."""
        self.forked = False
        """Whether there has been a child yet."""
        self.noise = ""
        """What the proxy saw on the parent's connections; reported if nothing worse comes to light."""
        self._report = report
        self.url = target.url
        """Where connections go: to the server, or to a proxy before it."""
        self._proxy: RecordingProxy | None = None
        if address is not None:
            self._proxy = RecordingProxy(*address)
            self.url = through(self._proxy, target.url)

    @staticmethod
    def token() -> str:
        """Return a text that occurs nowhere else."""
        return secrets.token_hex(8)

    # Children

    def child(
        self,
        action: Callable[[], Any],
        *,
        how: How = "fork",
        leave: Leave = "os._exit",
        limit: float | None = None,
        starving: bool = False,
    ) -> Any:  # noqa: ANN401 - whatever the action returns, as JSON
        """Fork a child, let it run `action` and leave, wait for it, and return what `action` returned.

        The parent says nothing meanwhile, so any byte on its connections comes from the child: it is noted.

        Args:
            action: what the child does. Should it raise, the parent is told and the scenario ends there.
            how: `os.fork`; a C-level fork, of which Python learns nothing; or `multiprocessing`'s.
            leave: by `os._exit`, by `SystemExit`, by an exception (these two unwind the scenario's own frames
                in the child, `with` blocks included, and end in the finalization of the interpreter), or
                killed.
            limit: seconds until the child counts as hung.
            starving: the process is at its descriptor limit when it forks.

        """
        with self.silence():
            return self.start(action, how=how, leave=leave, limit=limit, starving=starving).wait()

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Note any byte that the children of this block send on connections which were open before it."""
        before = self._proxy.snapshot() if self._proxy else {}
        yield
        after = self._proxy.snapshot() if self._proxy else {}
        sent = {n: after[n].client_bytes - was.client_bytes for n, was in before.items()}
        loud = [n for n in before if sent[n]]
        ended = [n for n, was in before.items() if after[n].client_ended and not was.client_ended]
        if loud:
            self._heard(f"{sum(sent.values())} bytes were sent on {len(loud)} of the parent's connections")
        if ended:
            self._heard(f"the stream of {len(ended)} of the parent's connections was ended")

    def start(
        self,
        action: Callable[[], Any],
        *,
        how: How = "fork",
        leave: Leave = "os._exit",
        limit: float | None = None,
        starving: bool = False,
    ) -> Child:
        """Fork a child and return at once; see `child`."""
        self.forked = True
        limit = limit or self.seconds
        reading, writing = os.pipe()
        if how == "multiprocessing":

            def run() -> None:
                self._live(action, writing, limit)

            process = multiprocessing.get_context("fork").Process(target=run)
            process.start()
            pid = process.pid or 0
        else:
            with descriptor_limit() if starving else nullcontext():
                # PyDLL keeps the interpreter's lock across the call, or the child would have nobody to hand
                # it back.
                pid = os.fork() if how == "fork" else ctypes.PyDLL(None).fork()
                if pid == 0:
                    os.close(reading)
                    self._live(action, writing, limit, starving=starving)
                    _leave(leave)
        os.close(writing)
        return Child(pid, reading, limit, expected=_STATUS[leave])

    def _live(self, action: Callable[[], Any], writing: int, limit: float, *, starving: bool = False) -> None:
        """Be the child: run the recipe under test, then `action`, and answer."""
        self.depth += 1
        depth = self.depth
        self.noise = ""
        # By default the alarm kills, even inside a C library that waits for ever.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limit + 1)
        answer: dict[str, Any] = {}
        try:
            if starving:  # there is no descriptor for an event loop
                answer["value"] = self._begin(action)
            else:
                answer["value"] = self.awaited(lambda: self._begin(action))
            if self.noise:
                answer["Lost"] = self.noise
        except (Lost, Hang, Skip) as finding:
            answer[type(finding).__name__] = str(finding)
        except Exception as error:
            if self.depth != depth:
                raise  # This is a child of that child, on its way out.
            answer["Lost"] = f"the child failed: {summary(error)}"
        os.write(writing, json.dumps(answer).encode() + b"\n")
        os.close(writing)

    def awaited(self, action: Callable[[], T]) -> T:
        """Let a child call `action` where it can do its work."""
        return action()

    def follow_recipe(self) -> None:
        """Do what the recipe under test tells children to do first."""

    def _begin(self, action: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever the action returns
        self.follow_recipe()
        return action()

    def _heard(self, noise: str) -> None:
        self.noise = self.noise or noise

    @staticmethod
    def is_refused(action: Callable[[], object]) -> bool:
        """Return whether `action` raised: any error at all is a refusal, the driver's own included."""
        try:
            action()
        except Exception:  # noqa: BLE001 - as it says
            return True
        return False

    # Limits

    @contextmanager
    def within(self, what: str, seconds: float | None = None) -> Iterator[None]:
        """Let the block take a step's time at most; if it hangs, the verdict is "`what` hung"."""
        depth = self.depth
        if depth == 0:
            self._report(what, seconds or self.seconds)
        try:
            yield
        finally:
            # A child that leaves by an exception passes here, too; it has nothing to report.
            if depth == self.depth == 0:
                self._report(None, None)

    def close(self) -> None:
        """End the recording proxy."""
        if self._proxy is not None:
            self._proxy.close()


class Child:
    """A forked child from its parent's point of view."""

    def __init__(self, pid: int, reading: int, limit: float, expected: int) -> None:
        self.pid = pid
        self._reading = reading
        self._limit = limit
        self._expected = expected
        self._deadline = time.monotonic() + limit

    def wait(self) -> Any:  # noqa: ANN401 - whatever the action returned, as JSON
        """Wait for the child's answer and its end; return the answer.

        Raises:
            Hang: it did neither in time; it is killed.
            Lost: it failed, or was killed by a signal.
        """
        answer = self._answer()
        status = self._status()
        if status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise Hang(f"the child hung {'while it was leaving' if answer else 'at its work'} ({self._limit:.0f} s)")
        for kind in (Lost, Hang, Skip):
            if kind.__name__ in answer:
                raise kind(answer[kind.__name__])
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) != -self._expected:
            raise Lost(f"the child was killed by {signal.Signals(os.WTERMSIG(status)).name}")
        code = os.waitstatus_to_exitcode(status)
        if not answer or code != self._expected:
            raise Lost(f"the child left with status {code} instead of {self._expected}")
        return answer.get("value")

    def _answer(self) -> dict[str, Any]:
        line = b""
        try:
            while not line.endswith(b"\n"):
                remaining = self._deadline - time.monotonic()
                if remaining <= 0 or not select.select([self._reading], [], [], remaining)[0]:
                    break
                piece = os.read(self._reading, 65536)
                if not piece:
                    break
                line += piece
        finally:
            os.close(self._reading)
        answer: dict[str, Any] = json.loads(line) if line else {}
        return answer

    def _status(self) -> int | None:
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return status
            if time.monotonic() > self._deadline:
                return None
            time.sleep(_PAUSE)


@contextmanager
def descriptor_limit() -> Iterator[None]:
    """Let the block run at the limit: not one more descriptor can be opened.

    Every number below the limit is taken, so that all that is open stays below it: `dup2` refuses numbers
    above.
    """
    import resource  # noqa: PLC0415 - not on Windows, where this module is imported, too

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir(_OPEN_DESCRIPTORS))  # noqa: PTH208 - plain names
    filling: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        with suppress(OSError):
            while True:
                filling.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filling:
            os.close(descriptor)


def _leave(way: Leave) -> None:
    if way == "sys.exit":
        raise SystemExit(0)
    if way == "exception":
        raise UncaughtInChild
    if way == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(0)
