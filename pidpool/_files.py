"""What a process has open, and what it inherited, of databases that live inside the process: SQLite's, DuckDB's.

A file goes by device and inode, whatever it is called: so do the kernel's locks, and SQLite's table of them.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pidpool import _fork

if TYPE_CHECKING:
    from typing_extensions import Self


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


class Inheritance:
    """What one process inherited, of one kind of database. A subclass for each kind; ``begin`` it once.

    Args:
        previous: that of the process which forked this one; None in the first.

    """

    __slots__ = ("__weakref__", "generation", "heir", "owner")

    #: The last that began; of this process, or of an ancestor.
    _latest: ClassVar[Any]
    generation: _fork.Generation
    #: The process that forked this one.
    owner: int
    #: That of the next generation in the same process. ``dict.setdefault`` decides a race between threads.
    heir: dict[_fork.Generation, Self]

    def __init__(self, previous: Self | None) -> None:
        self.generation = _fork.current()
        self.owner = 0 if previous is None else previous.generation.pid
        self.heir = {}

    @classmethod
    def begin(cls) -> None:
        """Begin that of the first process."""
        cls._latest = first = cls(None)
        _fork.register(first)

    @classmethod
    def here(cls) -> Self:
        """Return this process's."""
        ended: Self = cls._latest
        if ended.generation is _fork.current():
            return ended
        fresh = cls(ended)
        cls._latest = found = ended.heir.setdefault(fresh.generation, fresh)
        if found is fresh:
            _fork.register(fresh)
        return found

    def after_fork(self) -> None:
        """Begin the child's, which looks at once what is open."""
        self.here()
