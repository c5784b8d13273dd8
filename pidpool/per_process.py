"""One instance of any client object per process: what a pool is to connections, for clients that pool by themselves.

A Redis client, a log sender, an HTTP session: they are made when a program starts, and a forked worker inherits the
copy with its sockets. ``PerProcess`` holds such a client and is keyed by process, as the pools are. It stands on the
same floor: ``pidpool._discard`` lets go of what an ancestor owns, and ``pidpool._fork`` says when.
"""

from __future__ import annotations

import functools
import inspect
import logging
import operator
import os
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from pidpool import _fork, _loops, _opening, _sqlite
from pidpool._discard import Appeared
from pidpool.drivers import Driver

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

    from pidpool._discard import Ownership

T = TypeVar("T")

_logger = logging.getLogger("pidpool.per_process")


class PerProcess(Generic[T]):
    """One instance of a client per process, made on first use.

    A process that forks keeps its instance, whatever its children do. A child *discards* the copy that it inherits: it
    is never used, closed or finalized here, and this process's copies of its sockets are released. The child's own is
    made when the child first asks for one. It needs no hook to notice: a C-level fork is noticed at the next ``get()``.

    How an inherited instance is let go of:

    - a client that pidpool knows (``pidpool.drivers``: redis-py, fluent-logger, sockets, ``http.client``, and the
      database drivers): its sockets are found, and their copies released;
    - else by ``discard``, if given;
    - else it is pinned, with one ``UnknownDriverWarning``: no finalizer runs, but the copies of its sockets stay open.

    It is safe to use from several threads. For asyncio clients it works as it does for others, as long as ``factory``
    need not be awaited; close them by ``aclose()`` or ``async with``.

    Args:
        factory: makes the client. Called without arguments, in the process that will use it. If it raises, the next
            ``get()`` calls it again.
        discard: called in a child, inside ``os.fork()``, with the instance that an ancestor made: instead of what
            pidpool knows of its class. It may do no I/O and take no lock; it must not close the instance politely. The
            instance is pinned all the same. What it raises is logged, but for a C-level fork: a lock of a log handler
            may be held there for ever.
        name: what ``repr`` and messages call it; by default, what the factory is called.

    """

    def __init__(
        self, factory: Callable[[], T], *, discard: Callable[[T], object] | None = None, name: str | None = None
    ) -> None:
        _insist(
            callable(factory),
            f"PerProcess takes a function that makes the client, not {type(factory).__name__!r}: "
            "PerProcess(lambda: Client(...)). A client that is made before would belong to one process only",
        )
        _insist(
            discard is None or callable(discard),
            f"discard must be a function of the client, or None, not {type(discard).__name__!r}",
        )
        self._factory = factory
        self._discard = discard
        self.name = name or getattr(factory, "__qualname__", None) or type(factory).__name__
        #: Stands for this object where nothing is known of it.
        self._opener = object()
        self._life: _Life[T] = _Life(_fork.current())

    def get(self) -> T:
        """Return this process's instance; make it, if there is none yet.

        Of several threads that ask for it at once, one makes it, and the others wait.

        Raises:
            RuntimeError: ``factory`` itself asks for the instance.
            TypeError: ``factory`` returned a coroutine, or None.
            Exception: whatever ``factory`` raises.

        """
        life = self._life
        if not life.page[0] or life.pid != os.getpid():
            life = self._after_fork()
        instance = life.instance  # looked at once: another thread may be closing it
        if instance is None:
            return self._make(life)
        if life.is_asyncio:
            _loops.here()  # the client may open sockets in it, which a child's copy of it must leave alone
        return instance

    __call__ = get

    def proxy(self) -> T:
        """Return an object that forwards everything to this process's instance: for code that expects the client.

        It answers ``isinstance`` as the instance would. It may be created before the fork, kept in a module and passed
        around. A bound method taken from it (``send = proxy.send``) belongs to the process that took it.
        """
        return cast("T", _Proxy(self))

    def close(self) -> None:
        """Close this process's instance politely, by its ``close()``; the next ``get()`` makes another.

        In a process that has none it does nothing: what was inherited is not closed.

        Raises:
            TypeError: the instance must be awaited to be closed; use ``aclose()``.

        """
        life = self._here()
        _insist(
            not _closes_by_awaiting(life.instance),
            f"{self.name} is an asyncio client: use `await {type(self).__name__}.aclose()`, or `async with`",
        )
        instance, _ownership = life.end()
        close = getattr(instance, "close", None)
        if close is not None:
            close()

    async def aclose(self) -> None:
        """Close this process's asyncio instance politely, by its ``aclose()`` or ``close()``."""
        instance, _ownership = self._here().end()
        close = getattr(instance, "aclose", None) or getattr(instance, "close", None)
        if close is not None:
            closing = close()
            if inspect.isawaitable(closing):
                await closing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        here = _fork.current()
        life = self._life
        if life.generation is here:
            state = f"owned: {type(life.instance).__name__}" if life.is_made else "not made yet"
            discards = life.discards
        else:  # nobody has asked since the fork
            state, discards = "not made yet", life.discards + life.is_made
        return f"<{type(self).__name__} {self.name} pid {here.pid} gen {here.number} | {state} | {discards} discarded>"

    def __reduce__(self) -> tuple[Any, ...]:
        # For multiprocessing by spawn: the other process makes its own. A lambda cannot go there, and says so itself.
        return functools.partial(type(self), discard=self._discard, name=self.name), (self._factory,)

    # -- one process ---------------------------------------------------------------------------------------------------

    def _here(self) -> _Life[T]:
        life = self._life
        return life if life.generation.is_current() else self._after_fork()

    def _after_fork(self) -> _Life[T]:
        """Start this process's own life. The instance itself has been discarded, at fork or by ``current()`` now."""
        generation = _fork.current()
        ended = self._life
        fresh: _Life[T] = _Life(generation, ended.discards + ended.is_made)
        life = ended.heir.setdefault(generation, fresh)
        self._life = life
        if life is fresh and generation.announced:  # else another thread may have held a log handler's lock at fork
            for failure in ended.failures:
                _logger.error("discard of %s raised in pid %d", self.name, generation.pid, exc_info=failure)
        return life

    def _make(self, life: _Life[T]) -> T:
        if life.maker == threading.get_ident():
            message = f"the factory of {self.name} asks for the instance that it is about to make"
            raise RuntimeError(message)
        with life.lock:
            if not life.is_made:
                life.maker = threading.get_ident()
                try:
                    instance, ownership = self._open(life)
                finally:
                    life.maker = 0
                if life.page[0]:
                    life.keep(instance, ownership)
        # The factory may have forked, and this may be the child: the instance is discarded here, and so is the lock.
        return self.get()

    def _open(self, life: _Life[T]) -> tuple[T, Ownership]:
        driver = None
        if self._discard is not None:
            driver = Driver(self.name, disarm=functools.partial(_discard_by, self._discard, life.failures))
        while True:  # again, if something that was inherited had to be closed first: see _opening
            instance = _opening.make_way(self._opener)
            appeared = Appeared()
            if instance is None:
                instance = self._factory()
            _insist(instance is not None, f"the factory of {self.name} returned None instead of a client")
            if inspect.iscoroutine(instance):
                instance.close()  # it would complain that nobody awaited it
                message = (
                    f"the factory of {self.name} returned a coroutine, which can be awaited once only. Return a client "
                    "that connects when it is used"
                )
                raise TypeError(message)
            ownership = _opening.own(instance, life.generation, self._opener, appeared=appeared, driver=driver)
            if ownership is not None and _is_safe(ownership):
                return instance, ownership


class _Life(Generic[T]):
    """What a ``PerProcess`` has in one generation of one process. After a fork it starts another."""

    __slots__ = (
        "discards",
        "failures",
        "generation",
        "heir",
        "instance",
        "is_asyncio",
        "lock",
        "maker",
        "ownership",
        "page",
        "pid",
    )

    generation: _fork.Generation
    #: The generation's, for one step less.
    page: _fork.Page
    pid: int
    #: Held while the instance is made, by one thread; never taken in another process, which has a life of its own.
    lock: threading.RLock
    #: The thread that makes it, else 0.
    maker: int
    #: None until it is made, and again once it is closed. Read without the lock, so set last.
    instance: T | None
    ownership: Ownership | None
    #: Whether the client is asyncio's: its sockets are in the epoll of an event loop, which a child shares.
    is_asyncio: bool
    #: How many instances this process and those before it have inherited.
    discards: int
    #: What the user's ``discard`` raised in a child: one, if any. A list, because ``_discard_by`` must not refer to the
    #: life: that would be a reference cycle, with the instance in it.
    failures: list[Exception]
    #: The life after this one in the same process. ``dict.setdefault`` decides a race between threads.
    heir: dict[_fork.Generation, _Life[T]]

    def __init__(self, generation: _fork.Generation, discards: int = 0) -> None:
        self.generation = generation
        self.page = generation.page
        self.pid = generation.pid
        self.lock = threading.RLock()
        self.maker = 0
        self.instance = self.ownership = None
        self.failures = []
        self.is_asyncio = False
        self.discards = discards
        self.heir = {}

    @property
    def is_made(self) -> bool:
        return self.instance is not None

    def keep(self, instance: T, ownership: Ownership) -> None:
        """Note the instance that was just made."""
        self.ownership = ownership
        self.is_asyncio = _closes_by_awaiting(instance)
        self.instance = instance

    def end(self) -> tuple[T | None, Ownership | None]:
        """Forget the instance, and return what is to be closed, if anything.

        With its ownership, which has to be kept until it is closed: another thread may fork meanwhile.
        """
        with self.lock:
            ending = self.instance, self.ownership
            self.instance = self.ownership = None
            return ending


def _insist(met: bool, otherwise: str) -> None:  # noqa: FBT001 - it reads as a sentence
    if not met:
        raise TypeError(otherwise)


def _is_safe(ownership: Ownership) -> bool:
    """Tell whether a connection of SQLite's may be used here, now that the factory has set it up; if not, close it.

    Nothing but the caller refers to it, besides its ownership: see ``Handle.look``.
    """
    if not isinstance(ownership, _sqlite.Handle) or ownership.state != "owned":
        return True
    safe = False
    try:
        safe = ownership.look()
    finally:
        if not safe:
            _fork.unregister(ownership)
            ownership.database.close()
    if not safe:
        ownership.make_way()
    return safe


def _closes_by_awaiting(client: object) -> bool:
    """Tell whether a client is one of asyncio's."""
    kind = type(client)
    return hasattr(kind, "aclose") or inspect.iscoroutinefunction(getattr(kind, "close", None))


def _discard_by(discard: Callable[[Any], object], failures: list[Exception], instance: object) -> None:
    try:
        discard(instance)
    except Exception as error:  # noqa: BLE001 - inside os.fork() nobody would hear of it; the next get() tells
        failures.append(error)


# -- the proxy ---------------------------------------------------------------------------------------------------------


def _forwarded(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: _Proxy, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the client has
        return operation(_of(self).get(), *args, **kwargs)

    forward.__name__ = forward.__qualname__ = name
    return forward


def _of(proxy: _Proxy) -> PerProcess[Any]:
    found: PerProcess[Any] = object.__getattribute__(proxy, "_per_process")
    return found


class _Proxy:
    """Forwards everything to this process's instance: see ``PerProcess.proxy``.

    Python looks special methods up on the class, never through ``__getattr__``; so those that clients have stand here.
    """

    __slots__ = ("__weakref__", "_per_process")

    def __init__(self, per_process: PerProcess[Any]) -> None:
        object.__setattr__(self, "_per_process", per_process)

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        return type(_of(self).get())

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - see above
        return getattr(_of(self).get(), name)

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 - see above
        setattr(_of(self).get(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_of(self).get(), name)

    def __dir__(self) -> list[str]:
        return dir(_of(self).get())

    def __repr__(self) -> str:
        return f"<proxy of {_of(self)!r}>"  # making the client in order to print it would be a surprise

    def __reduce__(self) -> tuple[Any, ...]:
        return PerProcess.proxy, (_of(self),)

    def __bool__(self) -> bool:
        return bool(_of(self).get())

    def __eq__(self, other: object) -> bool:
        if type(other) is _Proxy:
            return _of(self) is _of(other)
        return bool(_of(self).get() == other)

    # A block may have been entered before a fork. In a child that has no instance nothing was entered, and nothing is
    # left: no client is made for that.

    def __exit__(self, *error: object) -> Any:  # noqa: ANN401 - see above
        return _of(self).get().__exit__(*error) if _of(self)._here().is_made else None

    async def __aexit__(self, *error: object) -> Any:  # noqa: ANN401 - see above
        return await _of(self).get().__aexit__(*error) if _of(self)._here().is_made else None

    def __hash__(self) -> int:
        return hash(_of(self))  # that of the instance would change at a fork, with the proxy in somebody's dict


#: By what asks for them, which knows what stands in for one that a client lacks, and how to say that nothing does.
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "__call__": lambda client, /, *args, **kwargs: client(*args, **kwargs),
    "__len__": len,
    "__iter__": iter,
    "__next__": next,
    "__contains__": operator.contains,
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
    "__delitem__": operator.delitem,
    "__enter__": lambda client: client.__enter__(),
    "__aenter__": lambda client: client.__aenter__(),
    "__aiter__": aiter,
    "__anext__": anext,
}
for _name, _operation in _OPERATIONS.items():
    setattr(_Proxy, _name, _forwarded(_name, _operation))
