"""Ctrl-C and SIGTERM end a run in order.

What it started is stopped, what it made is removed, and what it has found is shown.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

    from typing_extensions import Self

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # By name: Windows has no SIGHUP.


class Interrupted(BaseException):
    """A signal asked the process to stop.

    Like KeyboardInterrupt it is no `Exception`, so that nobody swallows it by catching errors.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number
        """What a shell reports for a process ended by this signal: 130 for Ctrl-C, 143 for SIGTERM."""


class Interrupts:
    """Turns the first signal into `Interrupted`; ignores those after it, which would cut the tidying short.

    Only the main thread may install signal handlers, and they run in no other: the fields need no lock.
    """

    def __init__(self) -> None:
        self.received: Interrupted | None = None
        self._shielded = False
        self._previous: dict[signal.Signals, signal.Handlers] = {}

    def __enter__(self) -> Self:
        """Install the handlers; outside the main thread there is nothing to install."""
        if threading.current_thread() is threading.main_thread():
            for name in _SIGNALS:
                if (number := getattr(signal.Signals, name, None)) is not None:
                    self._install(number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back to whoever had them, but for the last words of an interrupted process."""
        if self.received:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def shield(self) -> Iterator[None]:
        """Let a step end that would leave something behind if it were cut in two; interrupt after it."""
        before = self.received
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
            if self.received and self.received is not before:
                raise self.received

    def _install(self, number: signal.Signals) -> None:
        previous = signal.getsignal(number)
        # nohup ignores SIGHUP, and a shell's background job SIGINT: what our caller ignores stays ignored.
        if previous is not signal.SIG_IGN and previous is not None:
            self._previous[number] = previous  # type: ignore[assignment]
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received = Interrupted(number)
            if not self._shielded:
                raise self.received
