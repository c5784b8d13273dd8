"""DuckDB databases across fork.

DuckDB keeps one *instance* for each file that a process has open: its data, its log, its threads, its lock on the file.
All connections to the file share it, and a table inside the library, by path, finds it. A child inherits instance and
table, but neither threads nor locks (measured with duckdb 1.5.6 and 2.0.1):

=============================== ======================================================================================
what the child does             what happens
=============================== ======================================================================================
closes or frees a connection    folds the log into the file, deletes it: what the parent commits from now on goes into
                                the deleted one. Or it waits for threads, or crashes
frees a half-read cursor        waits for threads, for ever
exits                           as closing
``duckdb.connect(same file)``   gets the inherited instance: old data, no lock. What it writes costs the parent its rows
opens another file, or memory   correct
=============================== ======================================================================================

Nothing that was inherited can be closed safely, idle or not. And pinning is not enough: it keeps the instance in the
table. Hence:

1. At fork every inherited connection is pinned, no function of DuckDB is called, and the descriptors of its files
   become dead ends: whatever the instance does after all, it does not reach the files.
2. A child is refused what was open at fork (``InheritedFileError``), for its whole life, even after the parent has
   closed it: before it connects, if the opener is known to have had it open; and in any case afterwards, if the new
   connection turns out to be one to an inherited instance. Closing it again is harmless, because the instance stays.
3. What was closed before the fork may be opened. A file by another name is DuckDB's own to judge, with a lock.
4. A database in memory stays with its owner: the inherited copy has no threads, and hangs or crashes sooner or later.
   ``:memory:`` is a new database with every connection anyway. ``:memory:name`` would be the inherited one: refused.

The module's own connection (``duckdb.sql``, ``duckdb.default_connection()``) is pinned, too: freed when a child exits,
it ends the child by a signal.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pidpool import _files, _fork, drivers
from pidpool._discard import Ownership, pin, put_dead_end
from pidpool.errors import InheritedFileError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pidpool._files import Identity

_OPEN: Final = "it open in DuckDB"
_LIBRARY: Final = "duckdb"  # what says that the driver has been imported
_LOG: Final = ".wal"
_SEVERAL: Final = 16


class Instance(Ownership):
    """A connection of DuckDB's, what its instance has open, and the process that it belongs to.

    Args:
        connection: the driver's connection, just opened.
        generation: the generation that opened it; by default, this process's.
        opener: whatever opened it (a pool), told apart by identity.

    """

    __slots__ = ("database", "files", "is_accepted", "opener")

    #: DuckDB's own connection.
    database: Any
    #: The files that were attached when it was opened, by DuckDB's name for them: its table goes by that. None as their
    #: identity if that could not be found out (a file on some server). Empty for a database in memory. None in place of
    #: it all before that is known, or if the connection does not tell.
    files: dict[str, Identity | None] | None
    #: Whether it was found to be no inherited instance's.
    is_accepted: bool

    def __init__(
        self, connection: object, generation: _fork.Generation | None = None, opener: object | None = None
    ) -> None:
        of_drivers = drivers.of(connection).duckdb
        self.database = connection if of_drivers is None else of_drivers(connection)
        self.opener = opener
        self.files = None
        self.is_accepted = False
        super().__init__(connection, generation)
        if self.state == "owned":
            with suppress(Exception):  # whatever forbids it: children are refused what is not known
                self.files = {path: _identity(path) for path in self._attached()}

    def _attached(self) -> list[str]:
        # By a cursor, which is a connection of its own: a result would stay with the connection.
        cursor = self.database.cursor()
        try:
            return [path for _, _, path in cursor.execute("PRAGMA database_list").fetchall() if path]
        finally:
            cursor.close()

    @property
    def path(self) -> str:
        """What people call it."""
        return next(iter(self.files or ()), "in memory" if self.files is not None else "of unknown name")

    def connections(self) -> int:
        """Return how many connections its instance has, cursors among them. Asks DuckDB: in its owner only."""
        cursor = self.database.cursor()
        try:
            ((count,),) = cursor.execute("SELECT * FROM duckdb_connection_count()").fetchall()
        except Exception:  # noqa: BLE001 - no such function in this version
            return 1
        finally:
            cursor.close()
        return int(count) - 1  # without the cursor

    def is_beside(self, other: Instance) -> bool:
        """Tell whether both have the same instance. Asks DuckDB: in their owner only."""
        # In memory all have one name, so the other opens connections, and this one counts: several, because other
        # threads open and close some, too.
        before = self.connections()
        cursors = []
        with suppress(Exception):  # another thread has closed it meanwhile
            cursors = [other.database.cursor() for _ in range(_SEVERAL)]
        more = self.connections() - before
        for cursor in cursors:
            cursor.close()
        return more > _SEVERAL // 2

    def discard(self) -> None:
        """Keep the connection from ever being finalized here, and remember its files. DuckDB is not called."""
        if self._discarded:
            return
        if not self.generation.page[0]:  # and not a forced discard() in its owner
            Inheritance.here().receive(self)
        super().discard()

    after_fork = discard

    def let_go_of(self, descriptors: Iterable[tuple[int, Identity]]) -> None:
        """Make dead ends of those descriptors that are its files', or its files' logs."""
        ours: set[Identity | None] = set()
        for path, identity in (self.files or {}).items():
            if identity is not None:
                ours.add(identity)
                ours.add(_identity(path + _LOG))
        for descriptor, identity in descriptors:
            if identity in ours and _files.behind(descriptor) == identity:
                put_dead_end(descriptor)


def _identity(path: str) -> Identity | None:
    try:
        return _files.named(path)
    except OSError:
        return None


class _Default:
    """The module's own connection, which lives as long as the process."""

    __slots__ = ("__weakref__", "connection", "generation")

    def __init__(self) -> None:
        self.generation = _fork.current()
        # It is made when it is first asked for. So it is asked for now: in a child it is not to be called.
        self.connection = None
        with suppress(Exception):  # before duckdb 1.1 there is no such function
            self.connection = sys.modules["duckdb"].default_connection()
        if self.generation.number:  # duckdb 1.5 aborts when a child exits that has had a file of its own open
            pin(self.connection)
        _fork.register(self)

    def after_fork(self) -> None:
        pin(self.connection)


#: That of the process that has opened a connection last: this one, or an ancestor.
_default: _Default | None = None


class Inheritance(_files.Inheritance):
    """The DuckDB instances that one process inherited.

    Args:
        previous: that of the process which forked this one; None in the first.

    """

    __slots__ = ("_open", "instances")

    #: What was open at fork, and what an ancestor had inherited. Only ever grows.
    instances: list[Instance]
    #: The descriptors of files at fork; None if that could not be found out.
    _open: list[tuple[int, Identity]] | None

    def __init__(self, previous: Inheritance | None) -> None:
        super().__init__(previous)
        self.instances = [] if previous is None else list(previous.instances)
        # Without the driver nobody has a database open, and one descriptor less is opened at fork.
        self._open = _files.open_files() if previous is not None and _LIBRARY in sys.modules else []

    def receive(self, instance: Instance) -> None:
        """Take over a connection of the parent's, unless it was closed behind the pool's back."""
        files = instance.files
        if self._open is not None and files and None not in files.values():
            known = {identity for _, identity in self._open}
            if not known.intersection(files.values()):
                return
        self.instances.append(instance)
        instance.let_go_of(self._open or ())

    def refuse_opener(self, opener: object) -> None:
        """Raise InheritedFileError if ``opener`` had anything open that it must not open here."""
        for instance in self.instances:
            if instance.opener is opener and (instance.files is None or instance.files):
                raise self.refusal(instance.path, instance.generation.pid)

    def judge(self, instance: Instance) -> None:
        """Raise InheritedFileError if a connection that was just opened here is one to an inherited instance."""
        if not self.generation.number:
            return
        for path, identity in (instance.files or {}).items():
            for inherited in self.instances:
                if path in (inherited.files or ()):
                    raise self.refusal(path, inherited.generation.pid)
            for number, known in self._open or ():
                if known == identity and _files.behind(number) == identity:
                    what = f"descriptor {number} open on it, of which pidpool knows nothing"
                    raise self.refusal(path, self.owner, what)
        if instance.files == {}:
            self._judge_memory(instance)
        instance.is_accepted = True

    def _judge_memory(self, instance: Instance) -> None:
        """Tell a database of one's own from an inherited one of the same name, which has other connections already."""
        inherited = [each for each in self.instances if each.files == {}]
        if not inherited or instance.connections() == 1:
            return
        ours = (each for each in _fork.registered() if isinstance(each, Instance) and each.is_accepted)
        if not any(each.files == {} and instance.is_beside(each) for each in ours):
            raise self.refusal("in memory", inherited[0].generation.pid)

    def refusal(self, path: str, owner: int, obstacle: str = _OPEN) -> InheritedFileError:
        """Return the error that says why."""
        return InheritedFileError(owner, self.generation.pid, path, obstacle, "DuckDB")


Inheritance.begin()


def make_way(opener: object) -> None:
    """Do what must be done before a connection is opened, by any driver.

    Args:
        opener: what was given to ``own``.

    Raises:
        InheritedFileError: what ``opener`` had open at fork must not be opened here.

    """
    inheritance = Inheritance.here()
    if inheritance.instances:
        inheritance.refuse_opener(opener)


def own(connection: Any, generation: _fork.Generation | None = None, opener: object | None = None) -> Instance:  # noqa: ANN401 - any driver's
    """Return the ownership of a connection of DuckDB's that was just opened.

    Args:
        connection: the driver's connection.
        generation: the generation that opened it; by default, this process's.
        opener: whatever opened it, told apart by identity.

    Raises:
        InheritedFileError: this process may not open it. The connection is closed again.

    """
    global _default  # noqa: PLW0603 - the module's connection is global, too
    if _default is None or not _default.generation.is_current():
        _default = _Default()
    instance = Instance(connection, generation, opener)
    if instance.state == "owned":
        try:
            Inheritance.here().judge(instance)
        except InheritedFileError:
            _fork.unregister(instance)
            connection.close()
            raise
    return instance
