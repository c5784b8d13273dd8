"""Settings and circumstances: pre-ping, TLS, limits, and a crowd."""

from __future__ import annotations

import gc
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import exc

from .backends import scalar
from .catalogue import enters
from .errors import Lost, Skip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .family import Child
    from .stage import Stage
    from .witness import Witness

_NOBODY = 65534
_CROWD = 200
_AT_A_TIME = 10
_SESSIONS = 10
_GROWTH = 4 << 20  # Bytes; the allocator's own noise stays far below.


@enters(
    "ping-recycle",
    title="checks out with pre-ping and recycle on",
    promise="keep its session",
    advice=(
        "Nothing needs doing with PidPool. Recipes that compare PIDs in a checkout event come too late: "
        "ping and recycle happen before it."
    ),
)
def ping_recycle(stage: Stage) -> None:
    """Pre-ping and recycle talk to the server before anybody could object.

    With pool_pre_ping the pool sends a query at checkout to see whether the connection lives; with
    pool_recycle it closes what is too old. In a child both happen on the parent's connection, before the
    checkout event in which the documented recipe compares PIDs.
    """
    pinging = stage.witness(pool_pre_ping=True)
    stage.child(lambda: stage.use(pinging.engine, 2))
    pinging.finish("the child checked out with pre-ping")
    recycling = stage.witness(pool_pre_ping=True, pool_recycle=1)
    time.sleep(1.1)  # Older than a second: due for recycling.
    stage.child(lambda: stage.use(recycling.engine, 2))
    recycling.finish("the child checked out with recycle", recycled=True)


@enters(
    "descriptors",
    title="is at its descriptor limit",
    promise="keep its session",
    advice=("Nothing needs doing with PidPool: what it needs to let go of a connection was opened beforehand."),
)
def descriptors(stage: Stage) -> None:
    """Even letting go can fail.

    A process at its limit (RLIMIT_NOFILE) forks. The child can open nothing: no new connection, and not the
    file that it might need to put in the place of an inherited socket. It may fail to connect; it must not
    break the parent, and must recover.
    """
    import resource  # noqa: PLC0415 - not on Windows, where this module is imported, too

    witness = stage.witness()

    def starve() -> None:
        stage.is_refused(lambda: stage.awaited(lambda: stage.use(witness.engine)))
        stage.is_refused(witness.held.close)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft + 100, hard), hard))
        stage.awaited(lambda: stage.use(witness.engine, witness.capacity))

    stage.child(starve, starving=True)
    witness.check("the child was at its descriptor limit")
    stage.child(lambda: stage.is_refused(witness.drop), starving=True, leave="sys.exit")
    witness.finish("the child was at its descriptor limit")


@enters(
    "fork-fails",
    title="never comes to be: fork raises",
    promise="keep everything usable",
    advice=(
        "Nothing needs doing with PidPool. Recipes that close connections before each fork have closed them"
        " for nothing."
    ),
    controls={"*": "queuepool+before-fork"},
)
def fork_fails(stage: Stage) -> None:
    """Forking can fail, after the hooks that prepare for it have run.

    At its process limit (RLIMIT_NPROC) fork raises. Whatever was done before the fork for the child's sake is
    now to be undone: the process goes on as if nothing had happened, with its connections.
    """
    witness = stage.witness()
    with _forks_forbidden():
        try:
            pid = os.fork()
        except OSError:
            pid = -1
        if pid == 0:
            os._exit(0)
    if pid > 0:
        os.waitpid(pid, 0)
        raise Skip("this system lets fork succeed beyond the process limit")
    stage.forked = True
    witness.finish("fork raised")


@contextmanager
def _forks_forbidden() -> Iterator[None]:
    import resource  # noqa: PLC0415 - see above

    limits = resource.getrlimit(resource.RLIMIT_NPROC)
    is_root = os.geteuid() == 0
    resource.setrlimit(resource.RLIMIT_NPROC, (0, limits[1]))
    try:
        if is_root:
            try:
                os.setresuid(_NOBODY, _NOBODY, 0)  # The limit does not bind root.
            except OSError as error:
                raise Skip("fork cannot be made to fail here: root cannot become nobody") from error
        yield
    finally:
        if is_root:
            os.setresuid(0, 0, 0)
        resource.setrlimit(resource.RLIMIT_NPROC, limits)


@enters(
    "tls",
    title="does the same over TLS",
    promise="keep its session",
    advice="Nothing needs doing with PidPool. Without it TLS makes the same mistakes fatal at once.",
)
def tls(stage: Stage) -> None:
    """Under TLS one stray record ends the connection.

    Both processes hold the same cipher state. One record sent by the child, be it the courtesy of closing
    TLS, and the server sees a sequence that is out of step: `bad record mac`, and the session is over.
    """
    witness = _encrypted_witness(stage)
    stage.child(lambda: stage.use(witness.engine, 2))
    witness.check("the child used the pool, over TLS")
    stage.child(witness.drop_held)
    witness.check("the child dropped the connection it inherited, over TLS")
    stage.child(witness.drop, leave="sys.exit")
    witness.check("the child dropped everything and left, over TLS")
    stage.child(witness.engine.dispose, leave="sys.exit")
    witness.finish("the child called engine.dispose(), over TLS")


def _encrypted_witness(stage: Stage) -> Witness:
    arguments = stage.dialect.tls_arguments(stage.driver)
    try:
        witness = stage.witness(connect_args=arguments)
    except (exc.DBAPIError, OSError) as error:  # asyncpg's own is a ConnectionError
        if stage.subject.adjustable:
            raise Skip("the server offers no TLS") from error
        raise
    if not scalar(witness.held, stage.dialect.encrypted):
        raise Skip("the server offers no TLS" if stage.subject.adjustable else "this engine does not use TLS")
    return witness


@enters(
    "storm",
    title=f"is one of {_CROWD}",
    promise="stay healthy: the same sessions, no more descriptors, no more memory",
    advice="Nothing needs doing with PidPool.",
)
def storm(stage: Stage) -> None:
    """What goes wrong once in a hundred forks goes wrong.

    A parent with ten idle connections forks two hundred children, a few at a time. Some use the pool, some
    dispose of it, some drop it, some do nothing; they leave in different ways.
    """
    witness = stage.witness(idle=_SESSIONS, pool_size=_SESSIONS + 1)
    with stage.silence():
        # Whatever is loaded or cached on first use is there after this.
        _wave(stage, witness, range(_AT_A_TIME))
        before = _footprint()
        for first in range(0, _CROWD, _AT_A_TIME):
            _wave(stage, witness, range(first, first + _AT_A_TIME))
        after = _footprint()
    witness.finish(f"{_CROWD} children")
    if after[0] > before[0]:
        raise Lost(f"{_CROWD} forks left the parent with {after[0]} open descriptors instead of {before[0]}")
    if after[1] > before[1] + _GROWTH:
        raise Lost(f"{_CROWD} forks let the parent's memory grow by {(after[1] - before[1]) >> 10} KiB")


def _wave(stage: Stage, witness: Witness, numbers: range) -> None:
    def use() -> None:
        stage.use(witness.engine)

    def dispose() -> None:
        witness.engine.dispose()

    def nothing() -> None:
        pass

    deeds = (nothing, use, nothing, dispose, use, nothing, witness.drop, use, nothing)
    children: list[Child] = [
        stage.start(deeds[number % len(deeds)], leave="os._exit" if number % _AT_A_TIME else "sys.exit")
        for number in numbers
    ]
    for child in children:
        child.wait()


def _footprint() -> tuple[int, int]:
    """Return how many descriptors this process has open, and how many bytes of memory."""
    gc.collect()
    descriptors = len(os.listdir("/dev/fd"))  # noqa: PTH208 - plain names
    statistics = Path("/proc/self/statm")
    pages = int(statistics.read_text().split()[1]) if statistics.exists() else 0
    return descriptors, pages * os.sysconf("SC_PAGE_SIZE")
