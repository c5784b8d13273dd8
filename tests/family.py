"""What scripts that fork have in common. They run in a fresh process: see the fixture `run_script`.

Imports nothing of pidpool, so that a script may prepare the process before pidpool looks at it.
"""

from __future__ import annotations

import ctypes
import os
import sys
import textwrap
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    How = Literal["fork", "hookless"]
    Leave = Literal["os._exit", "sys.exit"]

#: A fork that runs Python's at-fork hooks, and one in C that runs none.
WAYS: tuple[How, ...] = ("fork", "hookless")

_REPOSITORY = Path(__file__).parents[1]


def script(source: str) -> str:
    """Return a script that can import `tests`; the checkout comes last, behind an installed pidpool."""
    return f"import sys\nsys.path.append({str(_REPOSITORY)!r})\n{textwrap.dedent(source)}"


def assert_quiet(done: subprocess.CompletedProcess[str]) -> None:
    """Fail unless the script and all its children ended well and printed nothing."""
    said = done.stdout + done.stderr
    assert (done.returncode, said) == (0, ""), said


def fork(how: How = "fork") -> int:
    """Fork; return 0 in the child, and its PID in the parent."""
    # PyDLL keeps the interpreter's lock across the call, or the child would have nobody to hand it back.
    return os.fork() if how == "fork" else int(ctypes.PyDLL(None).fork())


def child(action: Callable[[], object] = lambda: None, *, how: How = "fork", leave: Leave = "os._exit") -> None:
    """Fork a child, have it run `action` and leave, and wait for it. Fail if it did not do so without an error.

    A child that leaves by sys.exit unwinds its copy of the caller's frames, `with` blocks included.
    """
    pid = fork(how)
    if pid == 0:
        try:
            action()
        except BaseException:  # noqa: BLE001 - whatever it was, this is the child's end
            traceback.print_exc()
            os._exit(1)
        if leave == "sys.exit":
            sys.exit(0)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the child failed"
