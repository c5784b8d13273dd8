"""Which generation of which process is this?

A *generation* is one process's life between forks: a fork starts a new one in the child. This room knows no databases.
Whatever a process must not share with its children asks here whether it is still where it was made, in one of two ways:

``generation.page[0]``
    1 in the process that the generation belongs to, 0 in every process forked from it, for ever. It is one byte of a
    memory page that the *kernel* wipes in the child (``MADV_WIPEONFORK``, Linux 4.14), so it tells the truth after a
    C-level ``fork()`` that runs none of Python's hooks, and when parent and child report the same PID. Reading it costs
    an eighth of ``os.getpid()``. A page is never re-armed: each generation makes its own.

``current()``
    the generation of this process. It compares the PID as well (a changed ``os.getpid()`` always counts as a fork,
    whatever the page says), and when a fork has happened unnoticed it starts the new generation there and then: every
    registered object hears of it, through its ``after_fork`` method, before ``current`` returns.

No lock in this module: another thread may have held it at fork, and nobody would ever release it in the child. What
must be atomic is one operation on a dict.
"""

from __future__ import annotations

import atexit
import gc
import mmap
import os
import sys
import weakref
from typing import Final, Protocol

# Linux, <linux/mman.h>. CPython's mmap module does not name it before 3.14.
_MADV_WIPEONFORK: Final = 18
_NO_SUCH_ADVICE: Final = 0x7FFF


class Page(Protocol):
    """One byte that reads 1 in the process that made it and 0 in all that descend from it."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class Inheritable(Protocol):
    """What may be registered here."""

    def after_fork(self) -> None:
        """Let go of what an ancestor owns. Runs in the child; no I/O, no lock, no exception.

        Only when it had no room to run (RecursionError, MemoryError), or was interrupted, is it asked again.
        """


class _PidPage:
    """Where no kernel wipes a page: the PID, compared at every look, and a mark that the at-fork hook sets."""

    __slots__ = ("_alive", "_pid")

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._alive = 1

    def __getitem__(self, index: int, /) -> int:
        return self._alive if self._pid == os.getpid() else 0

    def __setitem__(self, index: int, value: int, /) -> None:
        self._alive = value


def _wiped_page() -> Page | None:
    """Make a page that the kernel wipes on fork, or return None where it has none."""
    if sys.platform != "linux":
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_MADV_WIPEONFORK)
    except OSError:  # a kernel before 4.14; or no memory, in a child that must get by without
        return None
    page[0] = 1
    return page


def _kernel_wipes() -> bool:
    """Tell whether the kernel knows the advice, rather than nodding at any (as user-mode QEMU does)."""
    if _wiped_page() is None:
        return False
    try:
        mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).madvise(_NO_SUCH_ADVICE)
    except OSError:
        return True
    return False


KERNEL_WIPES: Final = _kernel_wipes()


class Generation:
    """One process's life between forks."""

    __slots__ = ("_heir", "announced", "number", "page", "pid")

    page: Page
    pid: int
    #: 0 in the process that imported pidpool, one more in each child. For people: it is printed, never compared.
    number: int
    #: Whether it began with Python's at-fork hooks. If not (a C-level fork), the locks of Python's own modules may be
    #: held for ever: that of a logging handler, say.
    announced: bool
    #: The generation that followed this one *in this process*, if any. ``dict.setdefault`` decides a race between
    #: threads.
    _heir: dict[str, Generation]

    def __init__(self, number: int) -> None:
        self.page = (_wiped_page() if KERNEL_WIPES else None) or _PidPage()
        self.pid = os.getpid()
        self.number = number
        self.announced = False
        self._heir = {}

    def __repr__(self) -> str:
        return f"<pid {self.pid} gen {self.number}{'' if self.page[0] else ', ended by fork'}>"

    def is_current(self) -> bool:
        """Tell whether this process is still in this generation."""
        return bool(self.page[0]) and self.pid == os.getpid()


_current = Generation(0)

# Weak, so that registering keeps nothing alive. A plain dict of weak references: WeakSet guards its iteration with
# state that a thread may have left half-way at fork. Every change is one dict operation; readers copy first.
_registry: dict[int, weakref.ref[Inheritable]] = {}


class _Registered(weakref.ref["Inheritable"]):
    __slots__ = ("key",)
    key: int


def _unlist(reference: weakref.ref[Inheritable]) -> None:
    if isinstance(reference, _Registered):
        _registry.pop(reference.key, None)


def register(thing: Inheritable) -> None:
    """Call ``thing.after_fork()`` in the next process that is forked from this one; hold ``thing`` only weakly."""
    reference = _Registered(thing, _unlist)
    reference.key = id(thing)
    _registry[reference.key] = reference


def unregister(thing: Inheritable) -> None:
    """Undo ``register``; harmless when ``thing`` is not registered."""
    _registry.pop(id(thing), None)


def registered() -> list[Inheritable]:
    """Return what is registered in this process and still alive."""
    return [thing for reference in list(_registry.values()) if (thing := reference()) is not None]


def current() -> Generation:
    """Return the generation of this process; if it was forked unnoticed, start the new generation first."""
    here = _current
    if here.page[0] and here.pid == os.getpid():
        return here
    return _begin(here)


def _begin(ended: Generation) -> Generation:
    """Start this process's own generation, and tell everything that was registered in the one that ended."""
    global _current  # noqa: PLW0603 - which process this is, is global
    # If only the PID changed, the page still reads 1. What was checked out in the ended generation looks at nothing
    # else.
    ended.page[0] = 0
    inherited = registered()  # before there is an heir, in whose name another thread may register something new
    candidate = Generation(ended.number + 1)
    heir = ended._heir.setdefault("heir", candidate)
    if not heir.is_current():  # made by our parent, which was itself inside this function when it was forked
        ended._heir["heir"] = heir = candidate
    _current = heir
    if heir is candidate:  # of several threads that notice at once, one does the work
        done = False
        try:
            done = _let_go(inherited)
        finally:
            if not done:  # this generation ends here: whoever looks next begins another, and does the rest
                heir.page[0] = 0
    return heir


def _let_go(inherited: list[Inheritable]) -> bool:
    """Tell everything that was registered about the fork; return whether nothing is left to do."""
    done = True
    for thing in inherited:
        try:
            thing.after_fork()
        except (MemoryError, RecursionError):  # the fork happened deep down in a recursion; that will pass
            done = False
            continue
        except Exception:  # noqa: BLE001, S110 - one broken object must not leave the others' sockets shared, and an
            pass  # exception inside os.fork() would only be printed
        _registry.pop(id(thing), None)
    return done


def _after_fork_in_child() -> None:
    # CPython destroys the thread-locals of the parent's other threads inside os.fork(), *before* it runs this hook. A
    # finalizer among them may have noticed the fork already. Without a wiped page nobody can tell; begin again then.
    here = _current
    if not (KERNEL_WIPES and here.is_current()):
        here = _begin(here)
    here.announced = True


def _at_exit() -> None:
    # A child of a C-level fork (uWSGI) that never touched a pool finalizes its interpreter like any other process, and
    # that frees connections. ``current`` discards them first.
    current()


def _before_collection(phase: str, _info: dict[str, int]) -> None:
    # The garbage collector runs the finalizers of a cycle in any order: a driver's before ours. So ask before it
    # starts, for the child of a C-level fork; elsewhere the page is alive, and this is all it costs.
    if phase == "start" and not _current.page[0]:
        current()


if hasattr(os, "register_at_fork"):
    # Cheap on purpose: subprocess with preexec_fn runs it in a child that only wants to exec.
    os.register_at_fork(after_in_child=_after_fork_in_child)
    atexit.register(_at_exit)
    gc.callbacks.append(_before_collection)
