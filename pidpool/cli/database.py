"""The database that a command works on: the user's, or one that is thrown away afterwards."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeAlias

from pidpool import hazards
from pidpool.cli.errors import CommandError
from pidpool.hazards import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pidpool.cli.interrupts import Interrupts
    from pidpool.cli.render import Renderer
    from pidpool.hazards import Target

    Terminal: TypeAlias = tuple[Renderer, Interrupts]


@contextmanager
def until_done(interrupts: Interrupts) -> Iterator[ExitStack]:
    """Yield a stack whose unwinding no signal can cut short."""
    resources = ExitStack()
    try:
        yield resources
    finally:
        with interrupts.shield():
            resources.close()


def find(url: str | None, resources: ExitStack, terminal: Terminal, *, with_corner: bool) -> Target:
    """Connect to the database at `url`, or start one; `resources` removes what was made there.

    Args:
        url: the user's database, or None.
        resources: takes what is to be removed at the end.
        terminal: where to say so if that takes a while, and who may interrupt it.
        with_corner: create a schema or tables to work in.

    Raises:
        CommandError: there is no usable database.
    """
    renderer, interrupts = terminal
    try:
        if url is None:
            renderer.notice("No URL: starting a throw-away PostgreSQL in a temporary folder ...")
            with interrupts.shield():  # Cut in two, a start leaves a server behind.
                url = resources.enter_context(embedded.postgresql())
        if not with_corner:
            target = hazards.reach(url)
            if target.is_asyncio:
                raise CommandError(
                    f"{target.driver} is an asyncio driver, and the workloads are not written for one; name another "
                    "driver in the URL. `python benchmarks/checkout.py --asyncio` measures AsyncPidPool."
                )
            return target
        with interrupts.shield():  # Likewise, a schema.
            target = hazards.check_target(url)
            resources.callback(_remove, target, renderer)
    except hazards.TargetError as error:
        raise CommandError(str(error)) from error
    return target


def _remove(target: Target, renderer: Renderer) -> None:
    """Remove what was created; if the server refuses, say so and keep the results."""
    try:
        target.close()
    except hazards.TargetError as error:
        renderer.error(str(error))
