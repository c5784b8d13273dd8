"""Result files are whole or not there: an interrupted write leaves the previous version."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from pidpool.cli.errors import CommandError


def check_writable(path: Path) -> None:
    """Raise `CommandError` unless `write` could write `path`; better asked before a long run than after."""
    destination = path.resolve()
    try:
        if destination.is_dir():
            raise IsADirectoryError(None, "it is a directory")
        if _is_replaceable(destination):
            descriptor, probe = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
            os.close(descriptor)
            Path(probe).unlink()
        else:
            with destination.open("a"):
                pass
    except OSError as error:
        raise CommandError(
            f"{path} cannot be written: {error.strerror or error}. Name a file in a directory of yours."
        ) from error


def write(path: Path, text: str) -> None:
    """Write `text` to `path` in one step, by a temporary file in the same directory and a rename."""
    destination = path.resolve()  # A symbolic link stays one: what it points to is replaced.
    try:
        if not _is_replaceable(destination):
            destination.write_text(text, encoding="utf-8")
            return
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
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror or error}.") from error


def _is_replaceable(destination: Path) -> bool:
    """Return whether a rename may take the place of `destination`: not that of a pipe or of /dev/stdout."""
    return destination.is_file() or not destination.exists()


def _mode_of(destination: Path) -> int:
    """Return the permissions that an ordinary write leaves: those of mkstemp are for the owner alone."""
    with contextlib.suppress(FileNotFoundError):
        return destination.stat().st_mode & 0o7777
    umask = os.umask(0)  # The only way to read it is to set it.
    os.umask(umask)
    return 0o666 & ~umask
