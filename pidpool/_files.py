"""Which files does this process have open? For databases that live inside the process: SQLite's, DuckDB's.

A file goes by device and inode, whatever it is called: so do the kernel's locks, and SQLite's table of them.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple


class Identity(NamedTuple):
    """Which file it is, whatever it is called."""

    device: int
    inode: int


def named(path: str) -> Identity:
    """Return which file has that name. It is not opened: closing it again would drop this process's locks on it.

    Raises:
        OSError: none has.

    """
    status = os.stat(path)  # noqa: PTH116 - the bare system call
    return Identity(status.st_dev, status.st_ino)


def open_files() -> list[tuple[int, Identity]] | None:
    """Return this process's descriptors of ordinary files; None where there is no list, or no room to read it."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            numbers = [int(name) for name in os.listdir(folder)]  # noqa: PTH208 - plain names
        except OSError:
            continue
        return [(number, file) for number in numbers if (file := behind(number)) is not None]
    return None


def behind(descriptor: int) -> Identity | None:
    """Return the ordinary file that a descriptor refers to, if any."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return Identity(status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
