"""The command line: ``pidpool`` and ``python -m pidpool``.

Parsing and calling stand in the modules named after their command; what a user reads comes out of `render`.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

_EXTRA = frozenset({"click", "rich"})


def main() -> None:
    """Run the command line and leave the process with its exit code.

    The extra ``cli`` is imported here and not above: without it the user gets one sentence that says what to
    install instead of a traceback.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    try:
        from pidpool.cli.application import run  # noqa: PLC0415 - see above
    except ModuleNotFoundError as missing:
        if missing.name not in _EXTRA:
            raise
        sys.stderr.write(f"pidpool: the command line needs {missing.name}: pip install 'pidpool[cli]'\n")
        sys.exit(2)
    sys.exit(run())


def _leave(number: int, _frame: FrameType | None) -> None:
    """End here and now: until the command runs, and when it has run, there is nothing to tidy up.

    An exception would show as a traceback, or get lost in the middle of an import.
    """
    os._exit(128 + number)
