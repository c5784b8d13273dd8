"""What a scenario, or the audit around it, can come to say."""

from __future__ import annotations

import re
from typing import Final

_FOLDER_OF_CODE: Final = re.compile(r"/(?:[^\s/:]+/)+(?=[^\s/:]+\.py:\d+)")


class Lost(Exception):  # noqa: N818 - a finding, not an error of the program
    """The hazard did harm; the message says what was lost, in a line a user understands."""


class Hang(Exception):  # noqa: N818 - a finding, not an error of the program
    """Somebody waited for ever; the message says who, and for what."""


class Skip(Exception):  # noqa: N818 - a decision, not an error
    """The hazard cannot be provoked here; the message says why."""


class TargetError(Exception):
    """The audit cannot use this database; the message says what to do and never shows a password."""


class Unusable(Exception):  # noqa: N818 - reads as what is said of the server
    """A server cannot be audited; the message says why, and may still show a password."""


class UnknownSubject(LookupError):  # noqa: N818 - reads as the answer to `subject("...")`
    """No pool has this name."""

    def __str__(self) -> str:
        """Return the sentence itself: `KeyError`'s quotes would make it unreadable."""
        return str(self.args[0])


class UnknownHazard(LookupError):  # noqa: N818 - reads as the answer to `hazard("...")`
    """No hazard has this name."""

    def __str__(self) -> str:
        """Return the sentence itself."""
        return str(self.args[0])


def summary(error: BaseException) -> str:
    """Return one line for `error`: its type and the first line of the driver's own words."""
    # SQLAlchemy wraps the driver's error, adds the statement, and links to its manual: noise in a table.
    cause = getattr(error, "orig", None) or error
    words = str(cause.args[1] if _is_numbered(cause) else cause)
    words = words.partition("(Background on this error")[0]
    # An event loop tells where a task stands; which folder that file is in says more about the machine than the fault.
    words = _FOLDER_OF_CODE.sub("", words)
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__


def _is_numbered(error: BaseException) -> bool:
    """Tell whether the words come second: after the number of a MySQL server's error, or after ODBC's SQLSTATE."""
    number = error.args[0] if len(error.args) > 1 else ""
    return isinstance(number, int) or re.fullmatch(r"[0-9A-Z]{5}", str(number)) is not None
