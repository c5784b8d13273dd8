"""Unusual families: grandchildren, forks that Python does not see, equal numbers, orphans."""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .catalogue import enters
from .errors import Lost
from .family import LEFT_TO_FINALIZATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .family import How, Leave
    from .stage import Stage
    from .witness import Witness

_GENERATIONS = 3
_ENDS_WITHIN = 2.0  # "At once", with some patience for a busy machine.
_CLONE_NEWUSER = 0x1000_0000
_CLONE_NEWPID = 0x2000_0000


@enters(
    "nested",
    title="forks again, with and without using the pool in between",
    promise="keep its session, at every level",
    advice="Nothing needs doing with PidPool. Without it, every level needs an engine of its own.",
)
def nested(stage: Stage) -> None:
    """A grandchild inherits from everybody before it.

    A pre-forking server forks a worker, which forks again for a job. The grandchild holds the sockets of
    both, and the process between them may or may not have touched the pool, so what it was told of the first
    fork may be stale.
    """
    for busy in (True, False):
        witness = stage.witness()
        _descend(stage, witness, _GENERATIONS, busy=busy)
        witness.finish("grandchildren were forked")


def _descend(stage: Stage, witness: Witness, generations: int, *, busy: bool) -> None:
    """Fork a child with something of its own to lose (if busy), that forks a child, that ..."""

    def live() -> None:
        if generations == 1:
            stage.use(witness.engine)
            witness.drop()
        elif busy:
            own = stage.witness(witness.engine)
            _descend(stage, own, generations - 1, busy=busy)
            own.finish("its child was forked")
        else:
            _descend(stage, witness, generations - 1, busy=busy)

    stage.child(live, leave="sys.exit", limit=stage.seconds * generations)


@enters(
    "hookless",
    title="comes from a C-level fork (uWSGI, an extension), of which Python learns nothing",
    promise="keep its session",
    advice="Nothing needs doing with PidPool. Recipes that rely on os.register_at_fork miss such forks.",
)
def hookless(stage: Stage) -> None:
    """Not every fork is os.fork.

    uWSGI forks its workers in C. None of Python's at-fork hooks runs, so a pool that waits to be told is
    never told; the child finds everything as it was in the parent, down to the locks.
    """
    for hold in (False, True):
        witness = stage.witness(hold=hold)
        for deed, action, leave in _hookless_deeds(stage, witness, hold=hold):
            stage.child(action, how="hookless", leave=leave)
            witness.check(f"the child of a C-level fork {deed}")
        witness.finish("children came from a C-level fork")


def _hookless_deeds(stage: Stage, witness: Witness, *, hold: bool) -> Iterator[tuple[str, Callable[[], object], Leave]]:
    yield "ended", lambda: None, "os._exit"
    yield "used the pool", lambda: stage.use(witness.engine), "os._exit"
    yield "called engine.dispose()", witness.engine.dispose, "os._exit"
    if hold:
        intruder = stage.dialect.store(witness.token)
        yield "executed", lambda: stage.is_refused(lambda: witness.held.exec_driver_sql(intruder)), "os._exit"
        yield "rolled back", witness.held.rollback, "os._exit"
        yield "closed the connection it inherited", witness.held.close, "os._exit"
        yield "dropped the connection it inherited", witness.drop_held, "os._exit"
    yield "dropped the engine", witness.drop, "os._exit"
    yield "left by sys.exit", lambda: None, "sys.exit"
    yield "left by sys.exit, all in a global", lambda: LEFT_TO_FINALIZATION.append(witness), "sys.exit"


@enters(
    "same-pid",
    title="has the same PID number (a PID namespace, a reused PID), or os.getpid is replaced",
    promise="keep its session",
    advice=("Nothing needs doing with PidPool on Linux 4.14 or later, where the kernel itself marks the fork."),
)
def same_pid(stage: Stage) -> None:
    """Process ids are not unique.

    Recipes compare os.getpid() with the number noted at connect. In containers both may be 1; numbers are
    reused; and test suites replace os.getpid. The child then takes itself for its parent.
    """
    ways: tuple[How, ...] = ("fork", "hookless")
    with _one_pid():
        for how in ways:
            witness = stage.witness()
            _use_and_drop(stage, witness, how)
            witness.finish("the child has the same PID")
    if _enter_pid_namespace():
        stage.child(lambda: _be_first(stage), limit=stage.seconds * 3)


def _use_and_drop(stage: Stage, witness: Witness, how: How = "fork") -> None:
    sessions = stage.child(lambda: stage.use(witness.engine, 2), how=how)
    if set(sessions) & witness.pooled:
        raise Lost("the child was given a session of the parent's")
    stage.child(witness.drop, how=how)


@contextmanager
def _one_pid() -> Iterator[None]:
    """Let `os.getpid` return the same number in every process."""
    getpid = os.getpid
    number = getpid()
    os.getpid = lambda: number
    try:
        yield
    finally:
        os.getpid = getpid


def _enter_pid_namespace() -> bool:
    """Put the next child of this process into a PID namespace, as its number 1, if the kernel lets us."""
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    # Who is not root needs a user namespace around it, which some systems forbid.
    return unshare is not None and (unshare(_CLONE_NEWPID) == 0 or unshare(_CLONE_NEWUSER | _CLONE_NEWPID) == 0)


def _be_first(stage: Stage) -> None:
    """Live as number 1 of a PID namespace, and have a child that is number 1 of its own."""
    witness = stage.witness()

    def be_first_too() -> None:
        if os.getpid() != 1:
            raise Lost(f"the scenario failed: the child is number {os.getpid()} of its namespace, not 1")
        sessions = stage.use(witness.engine, 2)
        if set(sessions) & witness.pooled:
            raise Lost("the child was given a session of the parent's")
        witness.drop()

    if _enter_pid_namespace():
        stage.child(be_first_too)
        witness.finish("parent and child are both number 1 of a PID namespace")


@enters(
    "parent-death",
    title="lives on after the parent was killed",
    promise="end: the server must end its sessions within a second",
    advice=(
        "Nothing needs doing with PidPool after an ordinary fork: the child does not keep the parent's "
        "sockets. Without it, have children ended when their parent dies."
    ),
)
def parent_death(stage: Stage) -> None:
    """A dead process keeps its session as long as a child keeps its socket.

    The parent is killed (out of memory, say) with an open transaction. Its child lives on, and with it its
    copy of the socket: to the server nothing has happened. Transaction, rows and locks stay taken until the
    child ends, too.
    """

    def live_and_die() -> list[int]:
        witness = stage.witness()
        stage.start(lambda: time.sleep(stage.seconds))  # Its end is the scenario's: the group is killed.
        return [witness.session, *witness.pooled]

    sessions = stage.start(live_and_die, leave="SIGKILL").wait()
    with stage.observer() as observer:
        left = observer.alive(sessions, patience=_ENDS_WITHIN)
    if left:
        raise Lost(
            f"{_ENDS_WITHIN:g} s after the parent was killed the server still had {len(left)} of its "
            f"{len(sessions)} sessions, with their transaction and locks"
        )
