"""What several commands are told in the same words."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pidpool.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_Kind = TypeVar("_Kind")
_Command = TypeVar("_Command", bound="Callable[..., Any]")

FILE = click.Path(dir_okay=False, path_type=Path)
"""The type of a parameter that is a file's name."""


class Seconds(click.FloatRange):
    """The type of a parameter that is a time: unlike click's, it lets neither "nan" nor "inf" through.

    What is no number lies within every range, because each comparison with it is false.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Return `value` as a number of seconds, or fail."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value} is no number of seconds.", param, ctx)
        return seconds


def url(variable: str) -> Callable[[_Command], _Command]:
    """Return the parameter ``url``; `variable` is the environment's name for it, which no list of processes shows."""
    return click.argument("url", required=False, envvar=variable)


def pools(does: str, first: str, defaults: str) -> Callable[[_Command], _Command]:
    """Return the option ``--pool``, which may be repeated.

    Args:
        does: what the command does with a pool.
        first: what is special about the first one, as a sentence.
        defaults: the pools when none is named, in words.
    """
    return click.option(
        "--pool",
        "pools",
        multiple=True,
        metavar="NAME",
        help=f"A pool to {does}; repeat it for more. One of those that 'pidpool audit --list' names, or module:Class "
        f"for a pool class of yours, or module:function for a function of yours that takes a URL and returns an "
        f"Engine. {first}  [default: {defaults}]",
    )


def json(what: str) -> Callable[[_Command], _Command]:
    """Return the option ``--json``, for `what`."""
    return click.option("--json", "json_file", type=FILE, metavar="FILE", help=f"Write {what} for programs.")


def markdown(what: str) -> Callable[[_Command], _Command]:
    """Return the option ``--markdown``, for `what`."""
    return click.option("--markdown", "markdown_file", type=FILE, metavar="FILE", help=f"Write {what} for a README.")


def chosen(
    option: str, what: str, names: tuple[str, ...], known: Mapping[str, _Kind], find: Callable[[str], object]
) -> tuple[_Kind, ...]:
    """Return what an option with names chooses, in the order of `known` and each of them once; without names, all.

    Args:
        option: the option, for messages.
        what: what it names, for messages.
        names: its values: each is a name, or several with commas in between.
        known: what there is, by name.
        find: looks one up, and raises `LookupError` with a message for the user if there is none.

    Raises:
        CommandError: a name is unknown, or there is none in `names`, as in ``--only "$UNSET"``: whoever names
            something does not want everything.
    """
    if not names:
        return tuple(known.values())
    wanted = {name.strip() for many in names for name in many.split(",") if name.strip()}
    if not wanted:
        raise CommandError(f"{option} names no {what}; known are {', '.join(known)}.")
    try:
        for name in sorted(wanted):
            find(name)
    except LookupError as error:
        raise CommandError(str(error)) from error
    return tuple(each for name, each in known.items() if name in wanted)
