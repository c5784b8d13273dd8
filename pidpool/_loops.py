"""The event loop that a connection lives in, and its copy in a forked child.

The child's copy of a loop shares two things with its owner: the epoll instance, and the self-pipe (a pair of sockets)
by which other threads wake the loop. Both hurt the owner when the child does no more than tidy up: ``loop.close()``,
in ``asyncio.run`` or in a finalizer, takes the self-pipe out of the *shared* epoll, and from then on nothing that
another thread finishes wakes the owner, a query of aiosqlite's for one. So the child's copy gets an epoll and a
self-pipe of its own, in the same descriptor numbers. They watch nothing that the owner watches.

And it is pinned, with its tasks. A task that waits in the parent exists in the child as well, where nobody will ever
resume it. Freed, it would unwind: roll back, cancel, close.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import weakref
from typing import TYPE_CHECKING, Any, TypeAlias

from pidpool import _fork
from pidpool._discard import identity_of, pin, put_dead_end

if TYPE_CHECKING:
    from collections.abc import Callable

#: A number, and what it refers to.
_Descriptor: TypeAlias = "tuple[int, tuple[int, int]]"

#: By the id of the loop, which is unique as long as the home is alive: it holds the loop.
_homes: weakref.WeakValueDictionary[int, Home] = weakref.WeakValueDictionary()


class Home:
    """An event loop that has or had connections, and the process that it belongs to. Made by ``here``.

    It holds the loop: CPython forgets the event loops of other threads inside ``os.fork()``, before any hook, and a
    loop's finalizer closes it.

    Args:
        loop: the loop, which is running.

    """

    __slots__ = ("__weakref__", "_epoll", "_generation", "_pipe", "_separated", "loop")

    loop: asyncio.AbstractEventLoop
    #: The descriptors to replace in a child, with what they were when the loop was met.
    _epoll: _Descriptor | None
    _pipe: tuple[_Descriptor, ...]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._separated = False
        self._generation = _fork.current()
        # asyncio's own loops. Others have neither; uvloop's keeps to itself where it has them.
        selector, reading, writing = (getattr(loop, name, None) for name in ("_selector", "_ssock", "_csock"))
        self._epoll = _noted(selector)
        pipe = (_noted(reading), _noted(writing))
        self._pipe = tuple(end for end in pipe if end is not None)
        _fork.register(self)

    def after_fork(self) -> None:
        """Separate this process's copy of the loop from its owner's."""
        if self._separated:
            return
        self._separated = True
        pin(self.loop)
        try:
            pin(asyncio.all_tasks(self.loop))
            if self._epoll is not None and not self.loop.is_closed():
                _separate(self._epoll, self._pipe)
        except (MemoryError, RecursionError):
            self._separated = False
            raise  # not for ever: see _fork
        _fork.unregister(self)

    def __del__(self) -> None:
        if not self._separated and not self._generation.page[0]:
            self.after_fork()

    def run(self, action: Callable[[], None]) -> None:
        """Have ``action`` run where it may touch the loop's transports: here, if nobody else is running the loop."""
        if not self.loop.is_closed() and self.loop.is_running() and asyncio._get_running_loop() is not self.loop:
            try:
                self.loop.call_soon_threadsafe(action)
            except RuntimeError:  # closed at this moment
                pass
            else:
                return
        action()


def here() -> Home | None:
    """Return the home of connections that are opened now; None outside an event loop."""
    loop = asyncio._get_running_loop()
    if loop is None:
        return None
    home = _homes.get(id(loop))
    if home is None or home._generation is not _fork.current():
        _homes[id(loop)] = home = Home(loop)
        # As long as the loop, even when all its connections are closed: a child shares its epoll all the same. Not in a
        # list of ours, which would keep forgotten loops.
        with contextlib.suppress(TypeError):  # of another make, without room for it
            vars(loop)["_pidpool_home"] = home
    return home


def _noted(thing: Any) -> _Descriptor | None:  # noqa: ANN401 - a selector, a socket, or None
    try:
        descriptor = thing.fileno()
        return descriptor, identity_of(descriptor)
    except (AttributeError, OSError, ValueError):  # a selector without a descriptor; or the loop hides it
        return None


def _separate(epoll: _Descriptor, pipe: tuple[_Descriptor, ...]) -> None:
    """Put a new epoll and a new self-pipe in the place of the owner's; or a dead end, where that fails.

    The old ones are closed first, so that there is room for the new ones even at the descriptor limit. Nobody else can
    take their numbers at fork, where a child has one thread.
    """
    ends = [number for number, identity in pipe if _is_still(number, identity)]
    number, identity = epoll
    if len(ends) != len(pipe) or not _is_still(number, identity):
        return
    try:
        os.close(number)
        made = select.epoll()
        if made.fileno() == number:
            pin(made)  # which would close it
        else:
            os.dup2(made.fileno(), number, inheritable=False)
        _replace_pipe(ends)
        # asyncio believes the reading end to be registered; so it must be, or it never hears of its own threads.
        made.register(ends[0], select.EPOLLIN)
        if made.fileno() != number:
            made.close()
    except (AttributeError, IndexError, OSError):  # no more of them in this system; or a loop without a pipe
        for taken in (number, *ends):
            with contextlib.suppress(OSError):
                put_dead_end(taken)


def _replace_pipe(ends: list[int]) -> None:
    for end in ends:
        os.close(end)
    made = []
    for new in socket.socketpair():
        new.setblocking(False)  # noqa: FBT003 - its only parameter
        made.append(new.detach())
    # Which end is which makes no difference: both can be read and written.
    missing = [end for end in ends if end not in made]
    for extra in [new for new in made if new not in ends]:
        os.dup2(extra, missing.pop(), inheritable=False)
        os.close(extra)


def _is_still(number: int, identity: tuple[int, int]) -> bool:
    """Tell whether a descriptor is what it was: daemonizers close them all, and numbers are reused."""
    try:
        return identity_of(number) == identity
    except OSError:
        return False
