"""The command line: ``pidpool`` and ``python -m pidpool``.

Parsing and calling stand in the modules named after their command; what a user reads comes out of `render`.
"""

from __future__ import annotations

import sys

_EXTRA = frozenset({"click", "rich"})


def main() -> None:
    """Run the command line and leave the process with its exit code.

    The extra ``cli`` is imported here and not above: without it the user gets one sentence that says what to
    install instead of a traceback.
    """
    try:
        from pidpool.cli.application import run  # noqa: PLC0415 - see above
    except ModuleNotFoundError as missing:
        if missing.name not in _EXTRA:
            raise
        sys.stderr.write(f"pidpool: the command line needs {missing.name}: pip install 'pidpool[cli]'\n")
        sys.exit(2)
    sys.exit(run())
