"""SQLite databases across fork.

A SQLite connection has no server and no socket, so there is nothing to redirect. What goes wrong is this: SQLite locks
its files with POSIX locks, which belong to a process and are not inherited; but it remembers them in a table inside
libsqlite3, by device and inode, which *is* inherited. A child's libsqlite3 believes that it holds the parent's locks.

============================== ========================================== =========================================
what was open at fork          a child that closes or frees it            a child that opens the file beside it
============================== ========================================== =========================================
idle, rollback journal         harmless                                   correct
idle, WAL                      harmless                                   has no lock, and corrupts
a transaction that reads       harmless                                   reads without a lock, cannot commit
a transaction that writes      plays the parent's journal back: corrupt   "database is locked" for ever
half-read INSERT ... RETURNING commits it: corrupt                        as above
locking_mode=EXCLUSIVE         deletes the parent's WAL                   as above
in memory                      a private copy: correct                    correct
a temporary file               both processes share one file without locks
============================== ========================================== =========================================

Besides, closing *any* descriptor of a file drops all of this process's locks on it, so nothing may be closed once the
child has a connection of its own; and if another thread was inside libsqlite3 at fork, the child can wait for its
mutexes for ever. Hence:

1. At fork every inherited connection is pinned, and no function of SQLite is called.
2. Before a child opens a file, everything that it inherited on it is looked at. If something was in use, the child is
   refused (``InheritedFileError``), and nothing is touched. Otherwise what is left is closed, and the descriptors of
   this process tell whether somebody else's is left.
3. A database in memory is kept: the copy is the child's own. Not so its temporary tables, once SQLite has moved them
   from memory to a file: then the child is refused.

This room knows nothing of pools: whoever opens connections does so through ``pidpool._opening``, says which thread
uses a connection (``Handle.thread``), and lets it be looked at once it is set up (``Handle.look``).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Literal

from pidpool import _files, _fork, drivers
from pidpool._discard import Ownership, pin
from pidpool._files import behind, open_files
from pidpool.errors import InheritedFileError

if TYPE_CHECKING:
    import ctypes

    from pidpool._files import Identity

Kind = Literal["file", "memory", "temporary", "unknown"]

_SETTING_UP: Final = "a connection to it that was just being set up"
_TEMPORARY: Final = "a temporary database open, which no other process can have"
_RETICENT: Final = "a connection to it that tells nothing about itself"
_SPILLED: Final = "temporary tables in it that lie in a file, which no other process can have"
_EXCLUSIVE: Final = "it open with locking_mode=EXCLUSIVE"
_BUSY: Final = "another thread inside SQLite"
_CLOSING: Final = "a connection to it that was being closed"
_FOREIGN: Final = "a connection to it, idle or not, by a driver that pidpool does not know"
_ONE_THREAD: Final = "a connection to it that only one thread may use"

#: ``sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE``, which Python names since 3.12.
_NO_CHECKPOINT_ON_CLOSE: Final = 1006
_FCNTL_FILE_POINTER: Final = 7
_FCNTL_VFS_POINTER: Final = 27
_TXN_READ, _TXN_WRITE = 1, 2
_STATIC_MUTEXES: Final = range(2, 14)

#: How long this process's own threads may hold one of SQLite's own mutexes (seconds).
_PATIENCE: Final = 1.0


# -- libsqlite3 ------------------------------------------------------------------------------------------------------


class _Library:
    """What Python's module does not offer of libsqlite3: is anything under way on this connection?

    Python's ``in_transaction`` misses a half-read SELECT, and a half-read ``INSERT ... RETURNING``; and in the
    ``autocommit=False`` mode of Python 3.12 it is always true.
    """

    def __init__(self, path: str) -> None:
        import ctypes  # noqa: PLC0415 - not every interpreter has it, and only SQLite needs it

        # dlsym looks into what a library depends on, too: these are the functions that Python's own module calls.
        library = ctypes.CDLL(path)
        pointer, number = ctypes.c_void_p, ctypes.c_int

        def function(name: str, result: Any, *arguments: Any) -> Any:  # noqa: ANN401 - C types
            found = getattr(library, name)
            found.restype, found.argtypes = result, arguments
            return found

        class _Vfs(ctypes.Structure):
            _fields_ = (
                ("version", number),
                ("file_size", number),
                ("longest_path", number),
                ("next", pointer),
                ("name", ctypes.c_char_p),
            )

        self._vfs = ctypes.POINTER(_Vfs)
        self._by_reference = ctypes.byref
        self._pointer: type[ctypes.c_void_p] = pointer
        self._txn_state = function("sqlite3_txn_state", number, pointer, ctypes.c_char_p)
        self._next_statement = function("sqlite3_next_stmt", pointer, pointer, pointer)
        self._is_busy = function("sqlite3_stmt_busy", number, pointer)
        self._mutex_of = function("sqlite3_db_mutex", pointer, pointer)
        self._try = function("sqlite3_mutex_try", number, pointer)
        self._leave = function("sqlite3_mutex_leave", None, pointer)
        self._static = function("sqlite3_mutex_alloc", pointer, number)
        self._control = function("sqlite3_file_control", number, pointer, ctypes.c_char_p, number, pointer)

    def _database(self, connection: object) -> int | None:
        # The first field of Python's object, since there has been one.
        return self._pointer.from_address(id(connection) + object.__basicsize__).value

    def vfs(self, connection: object, schema: str) -> str:
        """Return the name of the VFS ("unix", "unix-excl", "memdb") that a database of the connection goes through."""
        found = self._vfs()
        database = self._database(connection)
        name = schema.encode()
        if database is None or self._control(database, name, _FCNTL_VFS_POINTER, self._by_reference(found)) != 0:
            return ""
        return (found.contents.name or b"").decode()  # always set, if the schema is there

    def has_spilled(self, connection: object) -> bool:
        """Tell whether temporary tables of the connection have grown out of its memory, into a file without a name."""
        database, found = self._database(connection), self._pointer()
        if database is None or self._control(database, b"temp", _FCNTL_FILE_POINTER, self._by_reference(found)) != 0:
            return False  # it has none
        # A file that is not open has no methods, which are its first field.
        return found.value is not None and self._pointer.from_address(found.value).value is not None

    def is_stuck(self) -> bool:
        """Tell whether one of the mutexes that all connections share was held at fork, by a thread that is not here.

        Any call could wait for it for ever. Does not wait long itself: this process's own threads hold them briefly.
        """
        suspects = [mutex for number in _STATIC_MUTEXES if (mutex := self._static(number)) is not None]
        deadline = time.monotonic() + _PATIENCE
        while True:
            suspects = [mutex for mutex in suspects if not self._is_free(mutex)]
            if not suspects or time.monotonic() > deadline:
                return bool(suspects)
            time.sleep(_PATIENCE / 100)

    def _is_free(self, mutex: int) -> bool:
        if self._try(mutex) != 0:
            return False
        self._leave(mutex)
        return True

    def activity(self, connection: object) -> str | None:
        """Return what is under way on a connection, or None. Does not wait for a mutex."""
        database = self._database(connection)
        if database is None:  # closed
            return None
        mutex = self._mutex_of(database)
        if mutex is not None and self._try(mutex) != 0:
            return _BUSY
        try:
            state = self._txn_state(database, None)
            if state == _TXN_WRITE:
                return "a transaction open on it that writes"
            statement = self._next_statement(database, None)
            while statement is not None:
                if self._is_busy(statement):
                    return "a half-read result open on it"
                statement = self._next_statement(database, statement)
            return "a transaction open on it that reads" if state == _TXN_READ else None
        finally:
            if mutex is not None:
                self._leave(mutex)


@functools.cache
def library() -> _Library | None:
    """Return libsqlite3, where its functions can be reached: not where it is hidden inside another library."""
    # The place of the pointer was looked up for these.
    if sys.implementation.name != "cpython" or sys.version_info >= (3, 15):
        return None
    path = getattr(sys.modules.get("_sqlite3"), "__file__", None)
    try:
        return _Library(path) if path else None
    except (ImportError, OSError, AttributeError):
        return None


def _activity(connection: Any) -> str | None:  # noqa: ANN401 - the driver is not imported here
    """Return what is under way on an inherited connection, or None; in doubt, it is under way."""
    found = library()
    if found is not None:
        return found.activity(connection)
    try:
        if connection.in_transaction:
            return "a transaction open on it"
    except Exception:  # noqa: BLE001 - closed, or made by another thread, which the driver may forbid us to look at
        return None if _is_closed(connection) else _ONE_THREAD
    return "a cursor open on it" if _cursors(connection) else None


def _is_closed(connection: Any) -> bool:  # noqa: ANN401 - see above
    try:
        connection.total_changes  # noqa: B018 - it raises
    except Exception as error:  # noqa: BLE001 - see above
        return "closed" in str(error)
    return False


def _close(connection: Any) -> None:  # noqa: ANN401 - see above
    """Close it as the driver does: a class of the application's may want to execute something first (``optimize``)."""
    driver: Any = sys.modules.get("sqlite3")
    if driver is not None and isinstance(connection, driver.Connection):
        driver.Connection.close(connection)
    else:  # of a driver that pidpool does not know
        connection.close()


def _cursors(connection: object | None = None) -> list[object]:
    """Return the cursors and blobs of a connection, or of all, as far as the garbage collector knows them."""
    driver = sys.modules.get("sqlite3")
    kinds = tuple(kind for name in ("Cursor", "Blob") if (kind := getattr(driver, name, None)) is not None)
    candidates = gc.get_objects() if connection is None else gc.get_referrers(connection)
    return [thing for thing in candidates if isinstance(thing, kinds)]


# -- one connection --------------------------------------------------------------------------------------------------


class Handle(Ownership):
    """A SQLite connection, and the process that it belongs to.

    Args:
        connection: the driver's connection, just opened.
        generation: the generation that opened it; by default, this process's.
        opener: whatever opened it (a pool), told apart by identity.

    """

    __slots__ = ("_is_foreign", "_references", "database", "files", "kind", "obstacle", "opener", "path", "thread")

    #: SQLite's own connection: the driver's, or what a thread of the driver's uses for it.
    database: Any
    #: What it is connected to, and the file's name for people.
    kind: Kind
    path: str
    #: The files that are open on it: its own, and what is attached.
    files: frozenset[Identity]
    #: The thread that has it checked out, 0 for none. Its owner keeps it right.
    thread: int
    #: Why no child may open its files, if that is known beforehand; judged anew at fork.
    obstacle: str | None
    #: Whether it comes from another build of SQLite than Python's own (pysqlite3, SQLCipher), with a table of its own.
    _is_foreign: bool
    #: How many references there are to the connection while nobody uses it; -1 before it was looked at.
    _references: int

    def __init__(
        self, connection: object, generation: _fork.Generation | None = None, opener: object | None = None
    ) -> None:
        of_drivers = drivers.of(connection).sqlite3
        self._is_foreign = of_drivers is None
        self.database = connection if of_drivers is None else of_drivers(connection)
        self.kind, self.path, self.files = "unknown", "", frozenset()
        self.thread = threading.get_ident()
        self.obstacle = _SETTING_UP
        self.opener = opener
        self._references = -1
        super().__init__(connection, generation)
        if self.state == "owned":
            # Before anybody could change the journal mode, by which one tells a database in memory from a temporary
            # one. Of a file, this reads nothing.
            self.obstacle = self._inspect(set_up=False)

    def look(self) -> bool:
        """Find out all about the connection, once it is set up (its PRAGMAs are executed, its files attached).

        Called by its owner, while nothing but the owner's records and one checkout refer to the connection.

        Returns:
            False if it has attached a file that an inherited connection is on. It is not safe then, and must be closed;
            a new one will be, after ``make_way``.

        Raises:
            InheritedFileError: it has attached a file that this process may not open.

        """
        if self._references < 0:
            self._references = sys.getrefcount(self.database) - 1  # without the checkout
            self.obstacle = self._inspect(set_up=True)
        inheritance = Inheritance.here()
        if inheritance.has_settled(self.files):
            return True
        # Beside this one, SQLite might keep the descriptors of what is closed.
        return not inheritance.on(self.files) and inheritance.settle(self.path, self.files)

    def make_way(self) -> None:
        """Prepare for another connection to the same files; this one is closed.

        Raises:
            InheritedFileError: this process may not open them.

        """
        Inheritance.here().settle(self.path, self.files)

    def _inspect(self, *, set_up: bool) -> str | None:
        """Note kind, path and files; return why no child may open them, if there is a reason that lasts."""
        obstacle = _FOREIGN if self._is_foreign else None if set_up else _SETTING_UP
        files = set()
        try:
            for _, schema, file in self._ask("database_list"):
                if schema == "temp":
                    continue
                kind, identity, vfs = self._identify(schema, file)
                if schema == "main":
                    self.kind = kind
                    self.path = file or ("in memory" if kind == "memory" else "in a temporary file")
                if kind == "temporary":
                    obstacle = _TEMPORARY
                if identity is None:
                    continue
                files.add(identity)
                if vfs == "unix-excl":
                    obstacle = "it open by the VFS unix-excl"
                elif set_up and self._is_exclusive(schema):
                    obstacle = _EXCLUSIVE
        except Exception as error:  # noqa: BLE001 - an authorizer that forbids it, or a class of the application's
            self.kind = "unknown"
            obstacle = _FOREIGN if self._is_foreign else _ONE_THREAD if "thread" in str(error) else None
        self.files = frozenset(files)
        if self.kind == "unknown":
            return obstacle or _RETICENT
        return obstacle

    def _identify(self, schema: str, file: str) -> tuple[Kind, Identity | None, str]:
        found = None if self._is_foreign else library()
        vfs = found.vfs(self.database, schema) if file and found is not None else ""
        if vfs == "memdb":
            return "memory", None, vfs
        if file:
            try:
                return "file", _files.named(file), vfs
            except OSError:  # deleted or renamed while it is open
                return "unknown", None, vfs
        if schema == "main" and self.kind != "unknown":  # found out when it was opened
            return self.kind, None, vfs
        journal = self._ask(f'"{schema}".journal_mode')[0][0]
        return ("memory" if journal in {"memory", "off"} else "temporary"), None, vfs

    def _is_exclusive(self, schema: str) -> bool:
        return bool(self._ask(f'"{schema}".locking_mode')[0][0] == "exclusive")

    def _ask(self, pragma: str) -> list[tuple[Any, ...]]:
        cursor = self.database.cursor()
        cursor.row_factory = None
        try:
            rows: list[tuple[Any, ...]] = cursor.execute(f"PRAGMA {pragma}").fetchall()
        finally:
            cursor.close()
        # A text_factory of the application's may make bytes of it.
        return [tuple(os.fsdecode(each) if isinstance(each, bytes) else each for each in row) for row in rows]

    def temporary_tables(self) -> str | None:
        """Return, where SQLite cannot be asked whether they lie in a file, that there are any; or None."""
        try:
            return _SPILLED if any(schema == "temp" for _, schema, _ in self._ask("database_list")) else None
        except Exception:  # noqa: BLE001 - only the thread that made it may use it
            return _ONE_THREAD

    @property
    def has_thread(self) -> bool:
        """Whether a thread of the driver's works for the connection, and nobody else is to use it."""
        return self.database is not self.connection

    def activity(self) -> str | None:
        """Return what is under way on it, or None. Does not wait."""
        if self.has_thread and self.thread and library() is None:
            return "a connection to it checked out by a task"  # its thread may be inside SQLite, and nothing would tell
        return _activity(self.database)

    def was_detached(self) -> None:
        """Note that the pool's record refers to the connection no longer: one reference less is the owner's."""
        self._references -= 1

    def will_close(self) -> None:
        """Note that its owner is about to close it."""
        self.thread = threading.get_ident()
        if self.has_thread:  # which Python takes for closed, while it is still inside SQLite
            self.obstacle = _CLOSING

    def close_if_idle(self) -> None:
        """Close it here and now, in its owner, where its driver is not to be awaited; unless it is in use.

        Otherwise its thread closes it at any time: perhaps when nobody knows of it any more, and the process forks.
        """
        if self.activity() is None:
            with contextlib.suppress(Exception):  # only the thread that made it may close it
                self.database.close()

    # -- in a child --------------------------------------------------------------------------------------------------

    def discard(self) -> None:
        """Keep the connection from ever being finalized here, and remember it. No function of SQLite is called."""
        if self._discarded:
            return
        if not self.generation.page[0]:  # and not a forced discard() in its owner
            Inheritance.here().receive(self)
        super().discard()

    after_fork = discard

    def judge(self, forked_by: int) -> None:
        """Note what can be said at fork: was it in use in another thread? And keep its cursors from being freed.

        Args:
            forked_by: the thread that forked.

        """
        idle = self.thread == 0
        if self.obstacle is None and not idle and self.thread != forked_by:
            self.obstacle = "a connection to it checked out in another thread"
        # The pool's cursors are guarded. This is for others, made by the driver's own connection: they refer to it.
        if self.has_thread:  # which has references of its own, now these, now those
            Inheritance.here().pin_cursors()
        elif self._references < 0 or sys.getrefcount(self.database) > self._references + (not idle):
            for cursor in _cursors(self.database):
                pin(cursor)

    def ask_again(self) -> str | None:
        """Return what has become of an idle connection since it was looked at, if no child may close it for that.

        Reads nothing of the file.
        """
        try:
            schemas = [schema for _, schema, file in self._ask("database_list") if schema != "temp" and file]
            return _EXCLUSIVE if any(self._is_exclusive(schema) for schema in schemas) else None
        except Exception as error:  # noqa: BLE001 - as in _inspect
            if _is_closed(self.database):
                return None
            return _ONE_THREAD if "thread" in str(error) else _RETICENT

    def close_inherited(self) -> bool:
        """Close an idle connection of an ancestor's; return whether that succeeded."""
        connection = self.database
        try:
            if hasattr(connection, "setconfig"):  # Python 3.12
                connection.setconfig(_NO_CHECKPOINT_ON_CLOSE, True)  # noqa: FBT003 - its signature
            _close(connection)
        except Exception:  # noqa: BLE001 - only the thread that made it may close it; or a class of the application's
            return _is_closed(connection)
        return True


# -- one process -----------------------------------------------------------------------------------------------------


class Inheritance(_files.Inheritance):
    """The SQLite connections that one process inherited, and what has become of them here.

    Args:
        previous: that of the process which forked this one; None in the first.

    """

    __slots__ = ("_has_pinned_cursors", "_is_stuck", "_lock", "_open_files", "_settled", "handles", "thread")

    #: Inherited and not yet settled, in the order in which they came, as the keys: adding and removing are atomic.
    handles: dict[Handle, None]
    #: The thread that forked.
    thread: int
    #: The files that were open at fork; None if that could not be found out.
    _open_files: list[tuple[int, Identity]] | None
    #: The files on which nothing inherited is left. Guarded by ``_lock``, as is the closing of handles: nobody may open
    #: a file while another thread still closes what was inherited on it.
    _settled: set[Identity]
    _lock: threading.Lock
    #: Whether any call of SQLite may wait for ever; None before somebody wants to know.
    _is_stuck: bool | None

    def __init__(self, previous: Inheritance | None) -> None:
        super().__init__(previous)
        self.thread = threading.get_ident()
        self.handles = {} if previous is None else dict(previous.handles)
        self._settled = set()
        self._lock = threading.Lock()
        self._is_stuck = None if previous is not None else False
        self._has_pinned_cursors = False
        # Without the driver nobody has a SQLite file open, and one descriptor less is opened at fork.
        self._open_files = open_files() if previous is not None and "_sqlite3" in sys.modules else []

    def receive(self, handle: Handle) -> None:
        """Take over a connection of the parent's."""
        handle.judge(self.thread)
        self.handles[handle] = None

    def pin_cursors(self) -> None:
        """Keep all cursors and blobs that there are from being freed here: once, at fork."""
        if not self._has_pinned_cursors:
            self._has_pinned_cursors = True
            for cursor in _cursors():
                pin(cursor)

    def of(self, opener: object) -> list[Handle]:
        """Return what ``opener`` had open."""
        return [handle for handle in list(self.handles) if handle.opener is opener]

    def on(self, files: frozenset[Identity]) -> list[Handle]:
        """Return what is open on these files."""
        return [handle for handle in list(self.handles) if handle.files & files]

    def refuse_if_stuck(self) -> None:
        """Raise InheritedFileError if another thread was inside SQLite at fork, where it held what everybody needs."""
        if self._is_stuck is None:
            with self._lock:
                found = library() if "_sqlite3" in sys.modules else None
                self._is_stuck = found is not None and found.is_stuck()
        if self._is_stuck:
            raise self.refusal("of any name", _BUSY)

    def has_settled(self, files: frozenset[Identity]) -> bool:
        """Tell whether these files may be opened here."""
        return self.generation.number == 0 or files <= self._settled

    def take(self, handle: Handle) -> Any:  # noqa: ANN401 - a DB-API connection
        """Return the connection to a database in memory, which is this process's own copy; None if it is taken.

        Of a driver that has a thread for each connection, it is another one, which is to be awaited.
        """
        self.refuse_if_stuck()
        with self._lock:
            if handle not in self.handles:
                return None
            if handle.obstacle == _FOREIGN:
                raise self.refusal(handle.path, _FOREIGN)
            connection: Any = handle.database
            found = library()
            if found is not None:  # a transaction does no harm, as long as nobody is inside
                obstacle = found.activity(connection)
                obstacle = obstacle if obstacle == _BUSY else None
                if obstacle is None and found.has_spilled(connection):
                    obstacle = _SPILLED
            else:
                obstacle = handle.obstacle or handle.temporary_tables()
            if obstacle is not None:
                raise self.refusal(handle.path, obstacle)
            try:
                connection.rollback()
            except Exception as error:
                raise self.refusal(handle.path, _ONE_THREAD) from error
            del self.handles[handle]
            return connection if handle.driver.revive is None else handle.driver.revive(handle.connection)

    def settle(self, path: str, files: frozenset[Identity]) -> bool:
        """See to it that these files may be opened: close what is idle, and look for what is left.

        Returns:
            Whether there was nothing to close.

        Raises:
            InheritedFileError: something was in use at fork, and nothing has been touched; or something is left.

        """
        self.refuse_if_stuck()
        with self._lock:
            inherited = self.on(files)
            for handle in inherited:
                obstacle = handle.obstacle or handle.activity()
                if obstacle is not None:
                    raise self.refusal(handle.path, obstacle, handle.generation.pid)
            for handle in inherited:  # none of them is in use, by a thread that is not here
                obstacle = handle.ask_again()
                if obstacle is not None:
                    raise self.refusal(handle.path, obstacle, handle.generation.pid)
            for handle in inherited:
                handle.obstacle = _CLOSING  # for a grandchild, forked just now
                if not handle.close_inherited():
                    raise self.refusal(handle.path, "a connection to it that cannot be closed here", self.owner)
                del self.handles[handle]
            unsettled = files - self._settled
            known = self._open_files if self._open_files is not None else open_files() or []
            left = [number for number, file in known if file in unsettled and behind(number) == file]
            if left:
                what = f"descriptor {left[0]} open on it, of which pidpool knows nothing"
                raise self.refusal(path, what, self.owner)
            self._settled |= files
            return not inherited

    def refusal(self, path: str, obstacle: str, owner: int | None = None) -> InheritedFileError:
        """Return the error that says why."""
        return InheritedFileError(
            self.owner if owner is None else owner, self.generation.pid, path or "of unknown name", obstacle
        )


Inheritance.begin()


def make_way(opener: object, *, certainly: bool = False) -> Any:  # noqa: ANN401 - a DB-API connection
    """Prepare for opening a connection: to be called before, in any process, for any driver.

    Args:
        opener: what was given to ``own``.
        certainly: it is known to open SQLite databases.

    Returns:
        A connection to use instead of opening one: the copy of a database in memory; to be awaited, if the driver is
        asyncio's. Otherwise None.

    Raises:
        InheritedFileError: what ``opener`` had open at fork must not be opened here.

    """
    inheritance = Inheritance.here()
    if certainly:
        inheritance.refuse_if_stuck()
    if not inheritance.handles:
        return None
    files: set[Identity] = set()
    path = ""
    for handle in inheritance.of(opener):
        if handle.kind == "memory" and handle.obstacle != _TEMPORARY:
            connection = inheritance.take(handle)
            if connection is not None:
                return connection
        elif handle.kind == "file":
            files |= handle.files
            path = path or handle.path
        else:
            raise inheritance.refusal(handle.path, handle.obstacle or _TEMPORARY, handle.generation.pid)
    if files:
        inheritance.settle(path, frozenset(files))
    return None


def own(connection: Any, generation: _fork.Generation | None = None, opener: object | None = None) -> Handle | None:  # noqa: ANN401 - any driver's
    """Return the handle of a connection of SQLite's that was just opened.

    Args:
        connection: the driver's connection.
        generation: the generation that opened it; by default, this process's.
        opener: whatever opened it, told apart by identity.

    Returns:
        Its handle. None if something inherited was in the way: the connection is closed again, the way is free now, and
        another is to be opened.

    Raises:
        InheritedFileError: this process may not open the file. The connection is closed again.

    """
    handle = Handle(connection, generation, opener)
    inheritance = Inheritance.here()
    if handle.state != "owned" or inheritance.has_settled(handle.files):
        return handle
    _fork.unregister(handle)
    # It has read nothing yet, and has no lock to lose. Not by its thread: that might be late.
    _close(handle.database)
    if handle.has_thread and handle.driver.abort is not None:
        handle.driver.abort(connection)
    inheritance.settle(handle.path, handle.files)
    return None
