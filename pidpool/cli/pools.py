"""The pools that a command was asked to look at."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pidpool import hazards
from pidpool.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pidpool.hazards import ClientSubject, Needs, Subject

    Kind = TypeVar("Kind")


def pools(names: tuple[str, ...]) -> tuple[Subject, ...]:
    """Return the pools of SQL connections to test, in the order in which they were asked for and each of them once."""
    return tuple({name: _found(name, hazards.subject) for name in names}.values())


def subjects(names: tuple[str, ...], kind: Needs) -> tuple[Subject | ClientSubject, ...]:
    """Return what is to be tested on a kind of target, in the same order."""
    return tuple({name: _found(name, partial(hazards.subject_for, kind)) for name in names}.values())


def _found(name: str, find: Callable[[str], Kind]) -> Kind:
    try:
        return find(name)
    except hazards.UnknownSubject as error:
        raise CommandError(str(error)) from error
    except Exception as error:  # A module of the user's was imported: it may fail in every way there is.
        raise CommandError(f"cannot import the pool {name}: {type(error).__name__}: {error}") from error
