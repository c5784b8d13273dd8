"""A crowd of threads that does everything to one pool at once, while its process forks. Runs in a fresh process."""

from __future__ import annotations

import gc
import itertools
import logging
import random
import sys
import threading
import time
from collections import defaultdict, deque
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import sqlalchemy.exc
from sqlalchemy import create_engine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from pidpool import InheritedConnectionError, PidPool
from pidpool.pool import _queue
from pidpool.pool._queue import Queue
from tests.pool.forking import SESSION_ID, in_child
from tests.pool.nothing import Nothing, TroubleError

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE, OVERFLOW = 3, 2
LEAVES = ("os._exit", "sys.exit", "exception")


class _OwnTimeout:
    """Puts a timeout of each thread's own in the place of the pool's."""

    here = threading.local()

    def __get__(self, pool: object, _: type) -> Any:  # noqa: ANN401 - seconds, or this, asked of the class
        return self if pool is None else getattr(self.here, "timeout", 0)

    def __set__(self, _: object, timeout: float) -> None:
        """Pay no attention to what the constructor sets."""


class OurPool(PidPool):
    """PidPool, where each thread waits as long as it wants."""

    _timeout = _OwnTimeout()


class TheirPool(QueuePool):
    """QueuePool, likewise."""

    _timeout = _OwnTimeout()


POOLS: dict[str, Any] = {"PidPool": OurPool, "QueuePool": TheirPool}


# Who uses a connection


class NothingUse:
    """Uses connections to nowhere."""

    def __init__(self, pool_name: str, dice: random.Random, **options: Any) -> None:  # noqa: ANN401 - the pool's
        self.nothing = Nothing()
        self.failures = self.nothing.failures
        self.nothing.before_connect = self._fail_now_and_then
        self.dice = dice
        #: How often connecting and pinging fail, from 0 to 1.
        self.trouble = 0.0
        self.pool = POOLS[pool_name](
            self.nothing,
            pool_size=SIZE,
            max_overflow=OVERFLOW,
            pre_ping=True,
            dialect=_Dialect(self),
            **options,
        )

    def _fail_now_and_then(self) -> None:
        if self.dice.random() < self.trouble:
            raise TroubleError

    def begin(self, fairy: Any) -> Any:  # noqa: ANN401 - whatever end takes
        connection = fairy.dbapi_connection
        connection.begin_use()
        return connection

    def end(self, connection: Any) -> None:  # noqa: ANN401 - see begin
        connection.end_use()

    def spoil(self, fairy: Any) -> None:  # noqa: ANN401 - a fairy
        """Have the rollback fail."""
        fairy.dbapi_connection.trouble = TroubleError()

    def left_open(self) -> int:
        """How many connections of this process are open."""
        return len(self.nothing.alive)


class _Dialect(DefaultDialect):
    """Pings nothing, which does not answer now and then."""

    supports_statement_cache = True

    def __init__(self, use: NothingUse) -> None:
        super().__init__(dbapi=_Module)  # type: ignore[arg-type]
        self.use = use

    def do_ping(self, dbapi_connection: Any) -> bool:  # noqa: ANN401 - a driver's connection
        dbapi_connection.touch("ping")
        self.use._fail_now_and_then()
        return True

    def is_disconnect(self, *_: object) -> bool:
        return True


class _Module:
    """What SQLAlchemy wants of a DB-API module."""

    Error = TroubleError
    paramstyle = "qmark"


class ServerUse:
    """Uses sessions of a real server."""

    def __init__(self, pool_name: str, url: str) -> None:
        self.engine = create_engine(url, poolclass=POOLS[pool_name], pool_size=SIZE, max_overflow=OVERFLOW)
        self.pool: Any = self.engine.pool
        self.failures: deque[str] = deque()
        self.trouble = 0.0
        self._numbers = itertools.count(1)
        self._users: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)

    def begin(self, fairy: Any) -> Any:  # noqa: ANN401 - whatever end takes
        number = next(self._numbers)
        session, answer = self._ask(fairy, f"({SESSION_ID[self.engine.dialect.name]}), {number}")
        if answer != number:
            self.failures.append(f"asked {number}, and was told {answer}")
        user = self._users[session]
        if not user.acquire(blocking=False):
            self.failures.append(f"session {session} has two users")
        return user

    def _ask(self, fairy: Any, what: str) -> tuple[int, ...]:  # noqa: ANN401 - a fairy
        cursor = fairy.cursor()
        cursor.execute(f"SELECT {what}")
        row = tuple(cursor.fetchone())
        cursor.close()
        return row

    def end(self, user: Any) -> None:  # noqa: ANN401 - see begin
        user.release()

    def spoil(self, fairy: Any) -> None:  # noqa: ANN401 - a fairy
        """Have the rollback fail: the driver's connection is closed behind the pool's back."""
        fairy.dbapi_connection.close()

    def left_open(self) -> int:
        """What the pool says: the server would tell only later."""
        return int(self.pool.checkedin())


# What a thread does with it


def close(fairy: Any, *_: object) -> None:  # noqa: ANN401 - a fairy, as everywhere below
    fairy.close()


def invalidate(fairy: Any, *_: object) -> None:  # noqa: ANN401
    fairy.invalidate()


def invalidate_softly(fairy: Any, *_: object) -> None:  # noqa: ANN401
    fairy.invalidate(soft=True)
    fairy.close()


def fail_to_roll_back(fairy: Any, use: Any) -> None:  # noqa: ANN401
    use.spoil(fairy)
    fairy.close()


def detach(fairy: Any, *_: object) -> None:  # noqa: ANN401
    fairy.detach()
    fairy.close()


def forget(*_: object) -> None:
    """Leave it to its reference count."""


def forget_in_a_cycle(fairy: Any, *_: object) -> None:  # noqa: ANN401
    cycle = [fairy]
    cycle.append(cycle)


def fail_in_a_block(fairy: Any, *_: object) -> None:  # noqa: ANN401
    with suppress(TroubleError), closing(fairy):
        raise TroubleError


ENDS: list[Callable[..., None]] = [
    *[close] * 20,
    invalidate,
    invalidate_softly,
    fail_to_roll_back,
    detach,
    forget,
    forget_in_a_cycle,
    fail_in_a_block,
]


class Crowd:
    """Threads at one pool, in episodes: at the end of each, everybody must have been served.

    Args:
        use: the pool, and how its connections are used.
        threads: how many.
        patience: seconds until a thread that nobody served counts as stuck.
        seed: of the dice.

    """

    def __init__(self, use: Any, *, threads: int, patience: float, seed: int) -> None:  # noqa: ANN401 - one of the above
        self.use = use
        self.pool = use.pool
        self.threads = threads
        self.patience = patience
        self.seed = seed
        self.served = [0] * threads
        self.timeouts = itertools.count()
        self.forks = 0

    def episode(self, number: int, rounds: int, *, fork: Callable[[], None]) -> bool:
        """Have each thread check out `rounds` times, with `fork` called meanwhile. Tell whether all got through."""
        crowd = [
            threading.Thread(target=self._work, args=[which, f"{self.seed} {number} {which}", rounds], daemon=True)
            for which in range(self.threads)
        ]
        over = threading.Event()

        def collect() -> None:  # when all are forgotten in cycles, and everybody waits, nobody else does
            while not over.wait(0.01):
                gc.collect()

        for thread in crowd:
            thread.start()
        collector = threading.Thread(target=collect, daemon=True)
        collector.start()
        fork()
        for thread in crowd:
            thread.join(self.patience * 2)
            if thread.is_alive():
                self.use.failures.append("a thread is stuck")
                break
        over.set()
        collector.join()
        return not self.use.failures

    def _work(self, which: int, seed: str, rounds: int) -> None:
        dice = random.Random(seed)  # noqa: S311 - to be repeated
        try:
            for _ in range(rounds):
                self._check_out(which, dice)
        except Exception as error:  # noqa: BLE001 - nothing may come through
            self.use.failures.append(f"{type(error).__name__}: {error}")

    def _check_out(self, which: int, dice: random.Random) -> None:
        while not self.use.failures:
            timeout = dice.choice([0, 0.0005, 0.003, self.patience, self.patience])
            _OwnTimeout.here.timeout = timeout
            try:
                fairy = self.pool.connect()
            except PoolTimeoutError:
                next(self.timeouts)
                if timeout == self.patience:
                    self.use.failures.append("nobody served a thread")
                continue
            except (TroubleError, sqlalchemy.exc.DBAPIError):  # connecting, or the ping, failed
                continue
            self._hold(fairy, dice)
            self.served[which] += 1
            return

    def _hold(self, fairy: Any, dice: random.Random) -> None:  # noqa: ANN401 - a fairy
        held = self.use.begin(fairy)
        if dice.random() < 0.2:
            time.sleep(dice.random() / 5000)
        self.use.end(held)
        dice.choice(ENDS)(fairy, self.use)
        if dice.random() < 0.002:
            self.pool.dispose()


# Forks


def child_life(use: Any, depth: int) -> list[str]:  # noqa: ANN401 - a use
    """What a child does: it has the full capacity, and everything is its own. Return what it found wrong."""
    use.failures.clear()
    use.trouble = 0.0
    _OwnTimeout.here.timeout = 0
    pool = use.pool
    for _ in range(2):
        found = [pool.connect() for _ in range(SIZE + OVERFLOW)]
        held = [use.begin(fairy) for fairy in found]
        with suppress(PoolTimeoutError):
            pool.connect()
            use.failures.append("one too many")
        for fairy, one in zip(found, held, strict=True):
            use.end(one)
            fairy.close()
    if depth:
        use.failures.extend(in_child(lambda: child_life(use, depth - 1)))
    return list(use.failures)


def fork_by(use: Any, leave: Any, depth: int, held: Any = None) -> None:  # noqa: ANN401 - a fairy that is held, or none
    """Fork; the child does what children do, and cannot use what its parent held."""

    def act() -> list[str]:
        wrong = child_life(use, depth)
        if held is not None:
            try:
                held.cursor()
            except InheritedConnectionError:
                pass
            else:
                wrong.append("used what its parent holds")
        return wrong

    use.failures.extend(in_child(act, leave=leave))


# Queues that are broken, to see that it would be noticed

_count = itertools.count(1)
_lost: list[Any] = []  # kept, for a slot that is dropped comes back


class LosesAHandOver(Queue[Any]):
    """Forgets a waiter now and then, instead of serving it."""

    __slots__ = ()

    def _serve(self) -> None:
        if next(_count) % 50 == 0:
            with suppress(IndexError):
                self.waiters.popleft()
        super()._serve()


class LosesASlot(Queue[Any]):
    """Forgets a slot now and then that was given back."""

    __slots__ = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Queue's
        super().__init__(*args, **kwargs)
        put = self.put_free
        self.put_free = lambda slot: put(slot) if next(_count) % 5 else _lost.append(slot)


class HandsOutTwice(Queue[Any]):
    """Has an item among the idle now and then that it has also handed over."""

    __slots__ = ()

    def settle(self) -> Any:  # noqa: ANN401 - an item
        if self.idle and next(_count) % 50 == 0:
            with suppress(IndexError):
                self.idle.append(self.idle[0])
        return super().settle()


class GrantsOneTooMany(Queue[Any]):
    """Finds another slot now and then where there is none."""

    __slots__ = ()

    def _take_slot(self) -> Any:  # noqa: ANN401 - a slot
        slot = super()._take_slot()
        if slot is None and next(_count) % 50 == 0:
            return self._new_slot().take()
        return slot


BROKEN = {broken.__name__: broken for broken in (LosesAHandOver, LosesASlot, HandsOutTwice, GrantsOneTooMany)}


# The scenarios


def _afterwards(use: Any) -> list[str]:  # noqa: ANN401 - a use
    """Tell what is wrong with the pool now that nobody uses it."""
    gc.collect()
    pool, wrong = use.pool, list(use.failures)
    stats = pool.stats()
    if (stats.out, stats.waiting) != (0, 0) or stats.idle > SIZE:
        wrong.append(f"afterwards {stats}")
    if use.left_open() > stats.idle:  # less, where a record is idle that was invalidated
        wrong.append(f"{use.left_open()} open, {stats.idle} idle")
    use.trouble = 0.0
    use.failures.clear()
    try:
        wrong += child_life(use, 0)  # the full capacity, here too
    except PoolTimeoutError as error:
        wrong.append(f"lost slot: {error}")
    pool.dispose()
    if use.left_open():
        wrong.append(f"{use.left_open()} open for ever")
    return wrong


def _begin(switch_interval: float) -> None:
    logging.disable()
    gc.freeze()  # collections are frequent here
    # That waiters look again by themselves would hide a wake-up that is lost; it is there for interrupts.
    _queue._LOOK_AGAIN = 3600.0  # type: ignore[misc]
    sys.setswitchinterval(switch_interval)


def stress(seed: int, checkouts: int, *, patience: float, broken: str = "", use_lifo: bool = False) -> dict[str, Any]:
    """Let 24 threads loose on a pool of connections to nowhere, and fork in every second episode."""
    _begin(1e-6)
    if broken:
        PidPool._queue_of_ours = BROKEN[broken]
    dice = random.Random(seed)  # noqa: S311 - to be repeated
    use = NothingUse("PidPool", dice, use_lifo=use_lifo)
    crowd = Crowd(use, threads=24, patience=patience, seed=seed)
    rounds = 40
    for number in range(-(-checkouts // (24 * rounds))):
        use.trouble = 0.02

        def fork(number: int = number) -> None:
            if number % 2 or broken:
                return
            _OwnTimeout.here.timeout = patience
            held = None
            with suppress(TroubleError, sqlalchemy.exc.DBAPIError):
                held = use.pool.connect() if number % 4 else None
            fork_by(use, LEAVES[number // 2 % 3], number % 3, held)
            crowd.forks += 1

        if not crowd.episode(number, rounds, fork=fork):
            break
    if any("stuck" in one or "nobody" in one for one in use.failures):
        return {"wrong": list(use.failures)[:20]}
    checked_out = use.pool.stats().checkouts
    return {
        "wrong": _afterwards(use)[:20],
        "served": sum(crowd.served),
        "checkouts": checked_out,
        "timeouts": next(crowd.timeouts),
        "forks": crowd.forks,
        "opened": use.nothing.opened,
    }


def stress_server(url: str, seed: int, checkouts: int, *, patience: float) -> dict[str, Any]:
    """Let threads loose on a server's sessions, and fork in every episode."""
    _begin(1e-5)
    use = ServerUse("PidPool", url)
    # A child hangs when another thread was about to import something, whatever the pool does. So here, once:
    assert child_life(use, 0) == []
    crowd = Crowd(use, threads=8, patience=patience, seed=seed)
    for number in range(-(-checkouts // (8 * 25))):
        if not crowd.episode(number, 25, fork=lambda number=number: fork_by(use, LEAVES[number % 3], number % 2)):  # type: ignore[misc]
            break
    return {"wrong": _afterwards(use)[:20], "served": sum(crowd.served)}


def fork_part(pool_name: str) -> list[str]:
    """Fork from a pool with an idle connection, and nothing else."""
    use = NothingUse(pool_name, random.Random(1))  # noqa: S311 - to be repeated
    use.pool.connect().close()
    return list(in_child(lambda: child_life(use, 1)))
