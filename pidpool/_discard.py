"""The one definition of *discard*: let go of a connection that another process owns, so that the owner cannot notice.

Discarding makes the connection's descriptor a dead end: ``dup2`` puts ``/dev/null`` in its place. This process then
holds the owner's socket no longer, and whatever the driver does afterwards, in ``close()``, in a finalizer, in a TLS
shutdown, fails at once or goes nowhere. Why not something simpler:

- ``os.close(fd)``: the number is soon reused, and the driver's late goodbye lands in an unrelated socket.
- ``shutdown(2)``: acts on the connection, not on the descriptor; it ends the owner's session too.
- a socketpair in place of ``/dev/null``: OpenSSL can spin on it, while ``/dev/null`` answers ENOTSOCK.
- closing politely: that *is* the owner's session ending.

The connection object is *pinned* besides: it gets a reference that nobody drops, so that its finalizer never runs, not
even when the interpreter exits. Where the descriptor cannot be found, that is all that is done, and it stays open in
this process.

Discarding opens no descriptor, does no I/O, takes no lock and raises nothing: it runs inside ``os.fork()``, in
finalizers, and in children that have reached their descriptor limit.
"""

from __future__ import annotations

import functools
import os
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal

from pidpool import _fork, drivers
from pidpool.errors import DiscardRefusedError, InheritedConnectionError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pidpool.drivers import Driver


def identity_of(descriptor: int) -> tuple[int, int]:
    """Return what a descriptor number refers to: numbers are reused, inodes of living sockets are not."""
    status = os.fstat(descriptor)
    return status.st_ino, status.st_dev


class _DeadEnd:
    """An open ``/dev/null``. Opened while there is nothing to discard yet, because a child may not be able to."""

    __slots__ = ("_checked", "_identity", "descriptor")

    descriptor: int
    _identity: tuple[int, int] | None
    #: The page of the generation in which it was looked at last.
    _checked: _fork.Page

    def __init__(self) -> None:
        self.descriptor = -1
        self._identity = None
        self._checked = bytearray(1)

    def is_open(self) -> bool:
        """Tell whether the number is still ours: a daemonizer closes every descriptor, and numbers are reused."""
        try:
            return self._identity is not None and identity_of(self.descriptor) == self._identity
        except OSError:
            return False

    def keep_open(self) -> None:
        """Called by an owner whenever it opens a connection."""
        if self.is_open():
            return
        try:
            self.descriptor = os.open(os.devnull, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
            self._identity = identity_of(self.descriptor)
        except OSError:  # at the descriptor limit, or a chroot without /dev: discarding pins instead
            self._identity = None

    def usable(self) -> bool:
        """As ``is_open``, but asks the kernel once in a generation: at fork there may be thousands to discard."""
        if not self._checked[0]:
            here = _fork.current()
            if not self.is_open():
                return False
            self._checked = here.page
        return True

    def replace(self, descriptor: int) -> None:
        """Put it in the place of a connection's socket, if it can be."""
        if self.usable():
            try:
                os.dup2(self.descriptor, descriptor, inheritable=False)
            except OSError:
                # The limit was lowered below the number. Then nothing else can get it, and it may simply be closed.
                os.close(descriptor)


_dead_end: Final = _DeadEnd()
_dead_end.keep_open()
drivers.load()  # now, because a child at its descriptor limit cannot read their files

#: What this process discarded. Its finalizers never run, not even when the interpreter exits and empties every module:
#: the list itself has a reference that nobody drops.
_pinned: Final[list[object]] = []
try:
    from ctypes import py_object, pythonapi

    pythonapi.Py_IncRef(py_object(_pinned))
except (ImportError, AttributeError):  # an interpreter without CPython's C API
    pass


def put_dead_end(descriptor: int) -> None:
    """Put ``/dev/null`` in the place of what another process owns."""
    _dead_end.replace(descriptor)


def pin(thing: object) -> None:
    """Keep ``thing``, which belongs to another process, from ever being finalized in this one."""
    _pinned.append(thing)


class Appeared:
    """The sockets that appear in this process while a connection is opened, for drivers that hide theirs.

    Made before; ``sockets()`` is asked after. Everything that the process opens meanwhile is among them, another
    thread's sockets, too. But where a driver is known to have opened one by then, its own is one of them; so if there
    is one only, that is it. Numbers are compared together with what they refer to: one may have been closed and reused.

    Where a driver is not known to have opened one, the only one that appeared may still be another thread's, or another
    task's of the same event loop. So then it counts only outside of event loops, and in a process that has no other
    thread, neither before nor after: of Python's, or of a library's in C. What opens the connection must open no other.

    Where the system does not list a process's descriptors, no socket ever appears.
    """

    __slots__ = ("_before", "_was_alone")

    def __init__(self) -> None:
        self._before = _open_sockets()
        self._was_alone = _is_alone()

    def the_one(self, opened: bool | Literal["usually"]) -> tuple[int, tuple[int, int]] | None:  # noqa: FBT001 - as there
        """Return number and identity of the connection's own socket, if there can be no mistake.

        Args:
            opened: the driver's ``opens_a_socket``.

        """
        if opened is True or (opened and self._was_alone and _is_alone()):
            found = self.sockets()
            if len(found) == 1:
                return found[0]
        return None

    def sockets(self) -> list[tuple[int, tuple[int, int]]]:
        """Return number and identity of each."""
        now = _open_sockets()
        return [] if self._before is None or now is None else sorted(now - self._before)


def _is_alone() -> bool:
    """Tell whether certainly nothing else can run here: no thread, no task of an event loop.

    The kernel counts the threads, because Python knows its own only.
    """
    try:
        if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - plain names
            return False
    except OSError:
        return False
    asyncio = sys.modules.get("asyncio")  # most processes do without
    return asyncio is None or asyncio._get_running_loop() is None


def _open_sockets() -> set[tuple[int, tuple[int, int]]] | None:
    """Return number and identity of each socket of this process; None if that cannot be known."""
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - plain names
    except OSError:  # no such folder in this system, or no descriptor left to read it
        return None
    return {(number, identity) for number in numbers if (identity := _socket(number)) is not None}


def _socket(descriptor: int) -> tuple[int, int] | None:
    """Return what a descriptor refers to, if that is a socket."""
    try:
        status = os.fstat(descriptor)
    except OSError:  # closed
        return None
    return (status.st_ino, status.st_dev) if stat.S_ISSOCK(status.st_mode) else None


class Ownership:
    """One connection, and the process that it belongs to: *owned*, *inherited* or *discarded*.

    It holds the connection, so that in a process that does not own it the connection is discarded before the driver's
    own finalizer can run, even inside ``os.fork()`` where CPython frees the other threads' thread-locals.

    Args:
        connection: the driver's connection, just opened.
        generation: the generation that opened it; by default, this process's.
        driver: how to let go of it; by default, what is known of its class.
        appeared: the sockets that have appeared since before it was opened; None if nobody looked.

    """

    __slots__ = ("__weakref__", "_descriptor", "_device", "_discarded", "_inode", "connection", "driver", "generation")

    #: The number of its descriptor when it was opened, and which socket that was; -1 if it has none that we know of.
    #: So a child need not ask the driver: it would have to copy the memory pages of every connection that it asks.
    _descriptor: int
    _inode: int
    _device: int

    def __init__(
        self,
        connection: object,
        generation: _fork.Generation | None = None,
        *,
        driver: Driver | None = None,
        appeared: Appeared | None = None,
    ) -> None:
        self._discarded = False
        self.connection = connection
        self.generation = generation or _fork.current()
        self.driver = driver or drivers.of(connection)
        self._descriptor = -1
        self._inode = self._device = 0
        _dead_end.keep_open()
        self._find(appeared)
        if self.generation.page[0]:
            _fork.register(self)
        else:  # forked while it was being opened, and this is the child
            self.discard()

    def _find(self, appeared: Appeared | None) -> None:
        """Note the connection's descriptor, as far as it can be found."""
        if self.driver.fileno is not None:
            try:
                descriptor = self.driver.fileno(self.connection)
                if descriptor is not None:
                    status = os.fstat(descriptor)
                    if stat.S_ISSOCK(status.st_mode):
                        self._descriptor, self._inode, self._device = descriptor, status.st_ino, status.st_dev
                    return
            except Exception:  # noqa: BLE001 - a driver that connects later, or a file: pin, rather than guess later
                self.driver = drivers.unknown(self.connection)
        if appeared is not None:
            found = appeared.the_one(self.driver.opens_a_socket)
            if found is not None:
                self._descriptor, (self._inode, self._device) = found

    @property
    def state(self) -> str:
        """``owned``, ``inherited`` (a fork that no hook announced) or ``discarded``."""
        if self._discarded:
            return "discarded"
        return "owned" if self.generation.page[0] else "inherited"

    def __repr__(self) -> str:
        return (
            f"<{self.driver.name} connection, {self.state}, of pid {self.generation.pid} gen {self.generation.number}>"
        )

    def discard(self) -> None:
        """Give up this process's copy of the connection. Idempotent; cannot fail."""
        if self._discarded:
            return
        # Nothing is lost by keeping the object: the child has its memory anyway. And nothing is said by its finalizer,
        # neither to the server nor, as a ResourceWarning about an unclosed connection, to the user.
        pin(self)
        try:
            self._release()
            if self.driver.disarm is not None:
                self.driver.disarm(self.connection)
        except (MemoryError, RecursionError):
            raise  # not for ever: see _fork
        except Exception:  # noqa: BLE001, S110 - closed, or above a limit that was lowered since: nothing is left to do;
            pass  # or a description of somebody else's driver, which must not leave others' sockets shared
        self._discarded = True

    def _release(self) -> None:
        """Make a dead end of what was noted, if it still is what it was. May raise whatever the driver does."""
        if self._descriptor < 0:
            return
        try:
            status = os.fstat(self._descriptor)
        except OSError:  # closed
            pass
        else:
            if status.st_ino == self._inode and status.st_dev == self._device:
                _dead_end.replace(self._descriptor)
                return
        # The owner's may have connected again by itself, as PyMySQL's does in ping(): then the driver knows what it has
        # now. That is its socket, and no number that was reused here, if the owner has the very same one.
        if self.driver.fileno is not None:
            descriptor = self.driver.fileno(self.connection)
            if descriptor is not None and _has_socket(self.generation.pid, descriptor):
                _dead_end.replace(descriptor)

    after_fork = discard

    def __del__(self) -> None:
        if not self._discarded and not self.generation.page[0]:
            self.discard()


class _Check:
    """What the guards of a client ask: see ``drivers.Check``. It refers to nothing but the generation."""

    __slots__ = ("_generation",)

    def __init__(self, generation: _fork.Generation) -> None:
        self._generation = generation

    def __call__(self, *, quiet: bool = False) -> None:
        if not self._generation.page[0]:
            here = _fork.current()
            if not quiet:
                raise InheritedConnectionError(self._generation.pid, here.pid)


#: One for all clients of a generation. What several have in common, a pool of the application's, is then guarded once,
#: and not again by each client that is made on it.
_check_of: Final = functools.cache(_Check)


class ClientOwnership(Ownership):
    """A client whose sockets come and go, and the process that it belongs to: a pool, a log sender that reconnects.

    Nobody tells when it opens one. So it is asked for them whenever this process is about to fork, and once more where
    it is discarded. What turns up only there, in a child of a C-level fork, is let go of if the owner has the very same
    socket under the same number: then it cannot have been closed and the number reused.
    """

    __slots__ = ("_check", "_noted")

    _check: _Check
    #: Number and identity of its sockets when it was asked last.
    _noted: dict[int, tuple[int, int]]

    def _find(self, appeared: Appeared | None) -> None:  # noqa: ARG002 - nothing is hidden here
        self._noted = {}
        self._check = _check_of(self.generation)
        if self.driver.guard is not None:
            self.driver.guard(self.connection, self._check)
        self._note()
        _fork.register_before(self)

    def before_fork(self) -> None:
        """Look at what the client has now: nodes that it met meanwhile, sockets. Other threads may be using it."""
        if self._discarded:
            return
        if self.driver.guard is not None:
            with suppress(Exception):  # as below
                self.driver.guard(self.connection, self._check)
        self._note()

    def _note(self) -> None:
        with suppress(Exception):  # or what was noted before must do
            found = {descriptor: _socket(descriptor) for descriptor in self._descriptors()}
            self._noted = {descriptor: identity for descriptor, identity in found.items() if identity is not None}

    def _descriptors(self) -> list[int]:
        """Ask the client, which may be half changed by another thread: see ``Driver.descriptors``."""
        find = self.driver.descriptors
        return [] if find is None else [descriptor for descriptor in find(self.connection) if descriptor >= 0]

    def _release(self) -> None:
        released = set()
        for descriptor, identity in self._noted.items():
            with suppress(OSError):
                if identity_of(descriptor) == identity:
                    _dead_end.replace(descriptor)
                    released.add(descriptor)
        for descriptor in self._descriptors():
            if descriptor not in released and _has_socket(self.generation.pid, descriptor):
                _dead_end.replace(descriptor)


def _has_socket(owner: int, descriptor: int) -> bool:
    """Tell whether the owner has the same socket as this process, under the same number."""
    if owner == os.getpid():  # by its number; nothing could be told
        return False
    try:
        ours, theirs = (os.readlink(f"/proc/{process}/fd/{descriptor}") for process in ("self", owner))  # noqa: PTH115
    except OSError:  # no such system, no such process, or no permission
        return False
    return ours == theirs and ours.startswith("socket:")


def own(
    connection: object,
    generation: _fork.Generation | None = None,
    *,
    driver: Driver | None = None,
    appeared: Appeared | None = None,
) -> Ownership:
    """Return the ownership of what was just opened: see ``Ownership``."""
    driver = driver or drivers.of(connection)
    kind = Ownership if driver.descriptors is None else ClientOwnership
    return kind(connection, generation, driver=driver, appeared=appeared)


@functools.singledispatch
def discard(connection: Any, *, force: bool = False) -> None:  # noqa: ANN401 - any DB-API driver's connection
    """Forget a connection that this process inherited, without a word to the server: Perl DBI's ``InactiveDestroy``.

    The owner's session, transaction, locks and half-read results stay as they are. This process's copy of the
    descriptor is released. Idempotent; it does no I/O and cannot fail in a process that does not own the connection.

    Connections of a ``PidPool`` are discarded by themselves. Call this for a connection that you manage yourself, first
    thing in the child.

    Args:
        connection: a DB-API connection, an SQLAlchemy ``PoolProxiedConnection`` (``engine.raw_connection()``), an
            SQLAlchemy ``Connection``, or a client that pidpool knows: redis-py's, fluent-logger's, ``http.client``'s, a
            socket. A client that ``PerProcess`` holds discards itself.
        force: discard even in the process that owns the connection. Its session then stays on the server until the
            server or another process with a copy of the socket ends it.

    Raises:
        DiscardRefusedError: this process owns the connection, and ``force`` is false. pidpool knows the owner of what
            its pools opened, and that a process which was never forked owns all it has. In a forked process it takes
            your word for a connection that it did not see opened.
        TypeError: ``connection`` is neither a connection nor a client that pidpool knows.

    """
    is_connection = all(callable(getattr(connection, name, None)) for name in ("cursor", "close"))
    if not is_connection and not drivers.is_known(connection):
        message = (
            "discard() takes a DB-API connection, an SQLAlchemy PoolProxiedConnection, an SQLAlchemy Connection or a "
            "client that pidpool knows (redis-py, fluent-logger, http.client, a socket), "
            f"not {type(connection).__name__!r}"
        )
        raise TypeError(message)
    here = _fork.current()
    for thing in _fork.registered():
        if isinstance(thing, Ownership) and thing.connection is connection:  # opened in this generation
            if thing.state == "owned" and not force:
                raise DiscardRefusedError(here.pid)
            thing.discard()
            return
    if here.number == 0 and not force:
        raise DiscardRefusedError(here.pid)
    pin(connection)
    with suppress(Exception):  # the driver says that it is closed, in a way of its own
        _put_to_rest(connection)


def _put_to_rest(connection: object) -> None:
    """Discard what was not opened under our eyes: nobody noted its descriptors, so its driver is asked."""
    driver = drivers.of(connection)  # may warn, where warnings may be errors
    found: Iterable[int | None] = () if driver.fileno is None else (driver.fileno(connection),)
    if driver.descriptors is not None:
        found = driver.descriptors(connection)
    for descriptor in found:
        if descriptor is not None and stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            _dead_end.replace(descriptor)
            if driver.silence is not None:
                driver.silence(connection)
    if driver.disarm is not None:
        driver.disarm(connection)
