"""Many processes and one SQLite file: is it whole afterwards, and is every row there that was committed?

    python -m tests.sqlite.stress --runs 20 --journal wal

A parent with two threads writes through a pool, forks children that do the same and fork again, while two foreign
processes write, too, and open and close the file all the time. Everybody disposes of the pool now and then. A process
notes each row in a file of its own once COMMIT has returned. In the end SQLite checks the database, and the notes are
compared with the rows. ``--control`` lets the children do what pidpool must not: pin what they inherited, and open the
file beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, event, exc

from pidpool import InheritedConnectionError, PidPool, _sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

_REPOSITORY = Path(__file__).parents[2]
CHILDREN = 8
FOREIGNERS = 2
LIMIT = 120  # Seconds for one run: far more than it takes.

_FOREIGNER = """
import os, random, sqlite3, sys, time
path, notes, seed = sys.argv[1:]
random.seed(seed)
note = os.open(f"{notes}/{os.getpid()}", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
number = 0
while not os.path.exists(notes + "/stop"):
    connection = sqlite3.connect(path, timeout=60)
    connection.execute("PRAGMA synchronous = OFF")
    for _ in range(random.randrange(1, 6)):
        number += 1
        try:
            connection.execute("INSERT INTO ledger VALUES (?, ?, randomblob(300))", (os.getpid(), number))
            connection.commit()
        except sqlite3.OperationalError:  # busy: two readers both wanted to write
            connection.rollback()
            continue
        os.write(note, b"%d %d\\n" % (os.getpid(), number))
    connection.close()
    time.sleep(random.random() / 10)  # the last one out deletes the log: this one is not to be in all the time
"""


def pin_but_never_close() -> None:
    """Be the control."""
    _sqlite.Inheritance.of = lambda *_: []  # type: ignore[method-assign]
    _sqlite.Inheritance.has_settled = lambda *_: True  # type: ignore[method-assign]


class Run:
    """One run, in a process of its own.

    Args:
        folder: an empty one.
        journal: the journal mode.
        seed: what decides who does what.

    """

    def __init__(self, folder: Path, journal: str, seed: str) -> None:
        self.path = folder / "database"
        self.notes = folder / "notes"
        self.notes.mkdir()
        self.seed = seed
        self.random = random.Random(seed)  # noqa: S311 - to play, not to hide
        self.stop = threading.Event()
        self.failed = 0
        #: Held by a thread of the parent's while it is at work; who holds it finds every connection idle.
        self.quiet = [threading.Lock(), threading.Lock()]
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal}")
            connection.execute("CREATE TABLE ledger (writer INTEGER, number INTEGER, ballast BLOB)")
        self.engine = create_engine(
            f"sqlite:///{self.path}", poolclass=PidPool, pool_size=3, connect_args={"timeout": 60}
        )
        event.listen(self.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))

    def play(self) -> None:
        """Let everybody write, until the children have come and gone."""
        foreigners = [
            subprocess.Popen([sys.executable, "-c", _FOREIGNER, self.path, self.notes, f"{self.seed} {number}"])
            for number in range(FOREIGNERS)
        ]
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        children = [self._child(number, generations=2) for number in range(CHILDREN)]
        failed = [child for child in children if os.waitpid(child, 0)[1] != 0]
        self.stop.set()
        for thread in threads:
            thread.join()
        (self.notes / "stop").touch()
        failed += [process.pid for process in foreigners if process.wait() != 0]
        self.engine.dispose()
        self.failed = len(failed)

    def check(self) -> str:
        """Return what there is to say about the file, which is whole.

        Raises:
            AssertionError: it is not, or a row is missing.
            sqlite3.DatabaseError: it cannot even be read.

        """
        noted = {
            tuple(map(int, line.split()))
            for notes in self.notes.iterdir()
            if notes.name.isdigit()
            for line in notes.read_text().splitlines()
        }
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            verdict = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            rows = connection.execute("SELECT writer, number FROM ledger").fetchall()
        assert verdict == ["ok"], f"integrity_check: {verdict[0]}"
        missing = noted - set(rows)
        assert not missing, f"{len(missing)} of {len(noted)} committed rows are missing"
        assert len(rows) == len(noted), f"{len(rows)} rows instead of {len(noted)}"
        worked, refused = (len(list(self.notes.glob(f"*.{word}"))) for word in ("worked", "refused"))
        assert not self.failed, f"{self.failed} processes failed"
        assert worked, "every child was refused: nothing was tested"
        return f"{len(rows)} rows; {worked} children worked, {refused} were refused"

    # -- the parent --------------------------------------------------------------------------------------------------

    def _work(self, number: int) -> None:
        """Be one of the parent's threads."""
        note = self._note()
        row = number * 1_000_000
        chance = random.Random(f"{self.seed} thread {number}")  # noqa: S311 - as above
        while not self.stop.is_set():
            with self.quiet[number]:
                for row in range(row + 1, row + 1 + chance.randrange(1, 6)):  # noqa: B020 - goes on from there
                    self._store(self.engine, row, note)
                if chance.random() < 0.6:
                    self.engine.dispose()
            time.sleep(chance.random() / 30)
        os.close(note)

    @contextlib.contextmanager
    def _moment(self) -> Iterator[None]:
        """Choose a moment to fork: one in three finds the threads in the middle of something."""
        time.sleep(self.random.random() / 20)
        if self.random.random() < 1 / 3:
            yield
            return
        with self.quiet[0], self.quiet[1]:
            with self.engine.connect() as connection:  # so that there is an idle one to inherit
                connection.exec_driver_sql("SELECT count(*) FROM ledger")
            process = os.getpid()
            yield
            if os.getpid() == process and self.random.random() < 0.5:
                self.engine.dispose()

    # -- children ----------------------------------------------------------------------------------------------------

    def _child(self, number: int, generations: int) -> int:
        with self._moment():
            pid = os.fork()
        if pid:
            return pid
        try:
            signal.alarm(LIMIT)
            self.quiet = [threading.Lock(), threading.Lock()]
            self.random = random.Random(f"{self.seed} child {number} {generations}")  # noqa: S311 - as above
            code = self._live(number, generations)
        except SystemExit:
            raise  # a child of this child, on its way out
        except BaseException:  # noqa: BLE001 - whatever it was, it is this child's end
            traceback.print_exc()
            os._exit(1)
        if code or self.random.random() < 0.5:
            os._exit(code)
        sys.exit(0)  # unwinds what it inherited, and finalizes the rest

    def _live(self, number: int, generations: int) -> int:
        chance = self.random
        note = self._note()
        engine = self.engine
        if chance.random() < 0.3:
            engine.dispose()
        grandchildren = []
        try:
            for row in range(1, 60):
                self._store(engine, row, note)
                if chance.random() < 0.05:
                    engine.dispose()
                if generations > 1 and row in {20, 40}:
                    if chance.random() < 0.3:  # in the middle of a transaction
                        with engine.connect() as connection:
                            connection.exec_driver_sql("BEGIN")  # the driver begins none for a SELECT
                            connection.exec_driver_sql("SELECT count(*) FROM ledger").fetchall()
                            grandchildren.append(self._child(number * 100 + row, generations - 1))
                    else:
                        grandchildren.append(self._child(number * 100 + row, generations - 1))
                time.sleep(chance.random() / 200)
        except InheritedConnectionError:
            word = "refused"
        else:
            word = "worked"
        (self.notes / f"{os.getpid()}.{word}").touch()
        failed = [child for child in grandchildren if os.waitpid(child, 0)[1] != 0]
        if chance.random() < 0.3:
            engine.dispose()
        return 1 if failed else 0

    # -- everybody ---------------------------------------------------------------------------------------------------

    def _note(self) -> int:
        return os.open(self.notes / str(os.getpid()), os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    @staticmethod
    def _store(engine: Engine, number: int, note: int) -> None:
        while True:
            try:
                with engine.begin() as connection:
                    connection.exec_driver_sql(
                        "INSERT INTO ledger VALUES (?, ?, randomblob(300))", (os.getpid(), number)
                    )
            except exc.OperationalError as error:
                if "locked" not in str(error):  # two readers both wanted to write
                    raise
                time.sleep(0.001)
            else:
                os.write(note, b"%d %d\n" % (os.getpid(), number))
                return


def once(journal: str, seed: str, *, control: bool) -> str:
    """Play one run in a fresh process; return what it says.

    Raises:
        AssertionError: the file is damaged or a row is missing; or somebody failed or hung.

    """
    command = [sys.executable, "-m", "tests.sqlite.stress", "--journal", journal, "--seed", seed]
    with (
        tempfile.TemporaryDirectory() as folder,  # here, because children leave by sys.exit
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            [*command, "--folder", folder, *(["--control"] if control else [])],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=_REPOSITORY,
            start_new_session=True,
        ) as process,
    ):
        try:
            process.wait(LIMIT + 10)
        except subprocess.TimeoutExpired:
            raise AssertionError("hung") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with all that is left of its children
        output.seek(0)
        lines = output.read().strip().splitlines() or ["said nothing"]
    if process.returncode != 0:
        raise AssertionError(lines[-1])
    return lines[-1]


def main() -> int:
    """Run as the command line says; return 1 if a run failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--journal", choices=("delete", "wal"), default="wal")
    parser.add_argument("--seed", default="pidpool", help="what decides who does what")
    parser.add_argument("--control", action="store_true", help="pin, but never close: fails with WAL")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # play one run there
    options = parser.parse_args()
    if options.folder:
        if options.control:
            pin_but_never_close()
        run = Run(options.folder, options.journal, options.seed)
        run.play()
        print(run.check())  # noqa: T201 - a command
        return 0
    failed = 0
    python, sqlite = sys.version.split()[0], sqlite3.sqlite_version
    for number in range(1, options.runs + 1):
        try:
            said = "ok: " + once(options.journal, f"{options.seed} {number}", control=options.control)
        except AssertionError as error:
            failed += 1
            said = f"FAILED: {error}"
        print(f"Python {python}, SQLite {sqlite}, {options.journal}, run {number}: {said}", flush=True)  # noqa: T201
    print(f"{options.runs - failed} of {options.runs} runs are clean")  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
