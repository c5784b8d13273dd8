"""Numbers in sentences."""

from __future__ import annotations


def numbered(number: int, one: str, many: str = "") -> str:
    """Return `number` with what it counts: "1 round", "2 rounds".

    Args:
        number: how many there are.
        one: what one of them is called.
        many: what several are called; by default as `one`, with an "s".
    """
    return f"{number} {one if number == 1 else many or one + 's'}"
