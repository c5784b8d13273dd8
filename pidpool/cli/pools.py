"""The pools that a command was asked to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pidpool import hazards
from pidpool.cli.errors import CommandError

if TYPE_CHECKING:
    from pidpool.hazards import Subject


def subjects(names: tuple[str, ...]) -> tuple[Subject, ...]:
    """Return the pools to test, in the order in which they were asked for and each of them once."""
    return tuple({name: _subject(name) for name in names}.values())


def _subject(name: str) -> Subject:
    try:
        return hazards.subject(name)
    except hazards.UnknownSubject as error:
        raise CommandError(str(error)) from error
    except Exception as error:  # A module of the user's was imported: it may fail in every way there is.
        raise CommandError(f"cannot import the pool {name}: {type(error).__name__}: {error}") from error
