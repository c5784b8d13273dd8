"""Passwords stay out of everything that is printed or written."""

from __future__ import annotations

import re

from pidpool.hazards.target import hide_parameters

# The password of a URL, up to the last "@" of the word: people forget to escape an "@" in their password.
# The example in our own messages stays readable.
_IN_AUTHORITY = re.compile(r"(?<=://)(?!user:password@host/database(?!\S))([^\s:/@]*):\S*@")


def hidden(text: str) -> str:
    """Return `text` with the password of every URL in it (and what else is secret there) replaced by ``***``.

    A safety net: our own messages are made of URLs in which nothing secret is left, but those of others (a
    driver, the argument parser) may quote what the user typed.
    """
    return hide_parameters(_IN_AUTHORITY.sub(r"\1:***@", text))
