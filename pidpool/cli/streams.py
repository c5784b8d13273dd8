"""Stdout and stderr: a reader who leaves is no error, results that reach nobody are one."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import TYPE_CHECKING

from pidpool.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

_STDOUT, _STDERR = 1, 2


@contextlib.contextmanager
def outlets() -> Iterator[None]:
    """Put streams in the place of stdout and stderr that know what to do when nothing can be written to them.

    Left alone, a closed pipe ends the process half-way or shows as exit code 120, and a full disk as a traceback.
    """
    originals = sys.stdout, sys.stderr
    # What belongs to somebody else (a test's capture) stays, and Python sets None for a stream that is closed.
    if originals[0] is None or isinstance(originals[0], io.TextIOWrapper):
        sys.stdout = _stream(_STDOUT, originals[0], must_arrive=True)
    if originals[1] is None or isinstance(originals[1], io.TextIOWrapper):
        sys.stderr = _stream(_STDERR, originals[1], must_arrive=False)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = originals


class _Outlet(io.RawIOBase):
    """A file descriptor that complains once, and not at all about a reader who has seen enough."""

    def __init__(self, descriptor: int, *, must_arrive: bool) -> None:
        self._descriptor = descriptor
        self._must_arrive = must_arrive
        self._has_failed = False

    def write(self, data: Buffer) -> int:
        """Write `data`, or some of it; after a failure, pretend to."""
        if not self._has_failed:
            try:
                return os.write(self._descriptor, data)
            except OSError as error:
                self._has_failed = True  # What is still in the buffers would fail again when Python ends.
                if self._must_arrive and error.errno != errno.EPIPE:
                    raise CommandError(f"stdout cannot be written: {error.strerror}.") from error
        return memoryview(data).nbytes

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether somebody may be watching."""
        return os.isatty(self._descriptor)


class _Closed(_Outlet):
    """A stream that was closed before we began."""

    def __init__(self, descriptor: int, *, must_arrive: bool) -> None:
        super().__init__(descriptor, must_arrive=must_arrive)
        # The next file to be opened would get this number, and with it what was meant for the stream. What is
        # open for reading alone takes its place and refuses every write, as a closed one would.
        null = os.open(os.devnull, os.O_RDONLY)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)


def _stream(descriptor: int, original: io.TextIOWrapper | None, *, must_arrive: bool) -> io.TextIOWrapper:
    kind = _Closed if original is None else _Outlet
    encoding, errors = (original.encoding, original.errors) if original else ("utf-8", "backslashreplace")
    outlet = io.BufferedWriter(kind(descriptor, must_arrive=must_arrive))
    return io.TextIOWrapper(outlet, encoding=encoding, errors=errors, line_buffering=True)
