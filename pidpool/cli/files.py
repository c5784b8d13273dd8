"""Result files are whole or not there: an interrupted write leaves the previous version."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pidpool.cli.errors import CommandError

if TYPE_CHECKING:
    from typing import TextIO

_MOST_LINKS = 40  # Linux follows as many.


def check_outputs(*paths: Path | None) -> None:
    """Raise `CommandError` unless `write` could write each of `paths`; better asked before a long run than after.

    Nor may two of them lead to one file, by whichever names: the second would replace the first. The same holds for a
    file to which this process's stdout or stderr goes.
    """
    wanted = [path for path in paths if path]
    for path in wanted:
        _check_writable(path)
        if _is_replaceable(path) and _ours(path):
            raise CommandError(f"{path} is where the rest of the output goes: name another file.")
    for first, second in itertools.combinations(wanted, 2):
        # What is written to a pipe or a device follows what is there already.
        if (_is_replaceable(first) or _is_replaceable(second)) and _are_same(first, second):
            raise CommandError(f"{first} and {second} are the same file: each output needs one of its own.")


def _are_same(first: Path, second: Path) -> bool:
    """Return whether both lead to the same file, which need not exist yet."""
    with contextlib.suppress(FileNotFoundError):
        return first.samefile(second)
    return first.resolve() == second.resolve()


def _check_writable(path: Path) -> None:
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a directory")
        if _is_replaceable(path):
            destination = path.resolve()
            descriptor, probe = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
            os.close(descriptor)
            Path(probe).unlink()
        elif not os.access(path, os.W_OK):  # Opening it would wake up the reader of a pipe.
            raise PermissionError(None, "it is not open for writing")
    except OSError as error:
        raise CommandError(
            f"{path} cannot be written: {error.strerror or error}. Name a file in a directory of yours."
        ) from error


def write(path: Path, text: str) -> None:
    """Write `text` to `path` in one step, by a temporary file in the same directory and a rename.

    What is no file of its own (a pipe, a device, /dev/stdout) is written to, after what is there already.
    """
    try:
        if _is_replaceable(path):
            _replace(path.resolve(), text)  # A symbolic link stays one: what it points to is replaced.
        elif stream := _ours(path):
            stream.write(text)
            stream.flush()
        else:
            with path.open("a", encoding="utf-8") as stream:
                stream.write(text)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror or error}.") from error


def _replace(destination: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        temporary.chmod(_mode_of(destination))
        temporary.replace(destination)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _is_replaceable(path: Path) -> bool:
    """Return whether a rename may take the place of `path`: not that of a pipe or of what is open already.

    /dev/stdout leads to a regular file under ``>> audit.log``, but names the open file and not that one.
    """
    for _ in range(_MOST_LINKS):
        path = path.parent.resolve() / path.name
        parents = path.parents
        if (Path("/dev") in parents and Path("/dev/shm") not in parents) or Path("/proc") in parents:  # noqa: S108
            return False
        if not path.is_symlink():
            return path.is_file() or not path.exists()
        path = path.parent / path.readlink()
    return False


def _ours(path: Path) -> TextIO | None:
    """Return the stream of this process that `path` stands for, if any.

    Opened a second time, a file would be written from another place in it, over what the stream writes.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):  # One that is captured has no descriptor.
            if os.path.samestat(path.stat(), os.fstat(stream.fileno())):
                return stream
    return None


def _mode_of(destination: Path) -> int:
    """Return the permissions that an ordinary write leaves: those of mkstemp are for the owner alone."""
    with contextlib.suppress(FileNotFoundError):
        return destination.stat().st_mode & 0o7777
    umask = os.umask(0)  # The only way to read it is to set it.
    os.umask(umask)
    return 0o666 & ~umask
