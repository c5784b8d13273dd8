"""Passwords stay out of everything that is printed or written."""

from __future__ import annotations

import re

# The password of a URL, up to the last "@" of the word: people forget to escape an "@" in their password.
# The example in our own messages stays readable.
_IN_AUTHORITY = re.compile(r"(?<=://)(?!user:password@host/database(?!\S))([^\s:/@]*):\S*@")
# libpq and the MySQL drivers accept the password as a query parameter as well.
_IN_QUERY = re.compile(r"\b(password|passwd|sslpassword)=[^&\s]*", re.IGNORECASE)


def hidden(text: str) -> str:
    """Return `text` with the password of every URL in it replaced by ``***``.

    A safety net: our own messages are made of URLs whose password is hidden already, but those of others (a
    driver, the argument parser) may quote what the user typed.
    """
    return _IN_QUERY.sub(r"\1=***", _IN_AUTHORITY.sub(r"\1:***@", text))
