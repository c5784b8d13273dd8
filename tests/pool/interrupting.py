"""Interrupts whoever uses a pool, at every single step, and looks at what is left of the pool.

Runs in a fresh process (the fixture `play`): it traces, and threads that go wrong must not outlive it.
"""

from __future__ import annotations

import dis
import functools
import gc
import logging
import os
import random
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy.pool
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

import pidpool
from pidpool import PidPool
from pidpool.pool import _queue
from tests.pool.forking import pool_class
from tests.pool.nothing import Nothing, TroubleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

PATIENCE = float(os.environ.get("PATIENCE", "4"))
"""Seconds until a thread that should have been served counts as stuck."""

SIZE, OVERFLOW = 1, 1

Kind = Literal["KeyboardInterrupt", "Exception"]

#: Where steps are counted: the pools, ours and SQLAlchemy's.
_FOLDERS = tuple(os.path.join(os.path.dirname(package.__file__ or ""), "") for package in (pidpool, sqlalchemy.pool))  # noqa: PTH118, PTH120


class InjectedError(Exception):
    """What is raised where an interrupt is not."""


@functools.cache
def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(_FOLDERS)


#: What the compiler puts around handlers. It relies on these to raise nothing, and CPython raises nothing there: with
#: an exception between them the stack is a mess.
_MACHINERY = frozenset(
    {"PUSH_EXC_INFO", "POP_EXCEPT", "RERAISE", "COPY", "SWAP", "NOP", "CHECK_EXC_MATCH", "WITH_EXCEPT_START"}
)


@functools.cache
def _machinery(code: CodeType) -> frozenset[int]:
    return frozenset(one.offset for one in dis.get_instructions(code) if one.opname in _MACHINERY)


class Strike:
    """A trace function that raises an exception at one step of the pools' code: before the opcode with that number."""

    def __init__(self, step: int, kind: Kind) -> None:
        self.left = step
        self.kind = kind
        #: Where it struck; empty if the code was through before.
        self.place = ""

    def __call__(self, frame: FrameType, what: str, _: object) -> Strike | None:
        if not _is_ours(frame.f_code):
            return None
        if what == "opcode" and frame.f_lasti not in _machinery(frame.f_code):
            if self.left == 0:
                self.place = _describe(frame)
                raise KeyboardInterrupt if self.kind == "KeyboardInterrupt" else InjectedError
            self.left -= 1
        elif what == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        return self


def _describe(frame: FrameType) -> str:
    instructions = [one for one in dis.get_instructions(frame.f_code) if one.opname not in {"CACHE", "EXTENDED_ARG"}]
    at = max(number for number, one in enumerate(instructions) if one.offset <= frame.f_lasti)
    before = instructions[at - 1].opname if at else "entry"
    code = frame.f_code
    name = getattr(code, "co_qualname", code.co_name)
    return f"{os.path.basename(code.co_filename)}:{name}:{frame.f_lineno} {before} | {instructions[at].opname}"  # noqa: PTH119


@dataclass
class Scene:
    """A pool with room for two connections, and what goes on around it."""

    pool: Any
    nothing: Nothing
    kept: dict[str, Any] = field(default_factory=dict)
    #: Called when the interrupted code is through, whichever way.
    afterwards: list[Callable[[], object]] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self, work: Callable[[], object]) -> None:
        """Start a thread, which is bound to end."""
        thread = threading.Thread(target=work, daemon=True)
        self.threads.append(thread)
        thread.start()

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait for another thread."""
        pause = threading.Event()
        for _ in range(int(PATIENCE * 5000)):
            if condition():
                return
            pause.wait(0.0002)
        raise AssertionError("it never happened")

    def waiting(self) -> int:
        """How many threads wait in the pool's line."""
        if isinstance(self.pool, PidPool):
            return self.pool.stats().waiting
        return len(self.pool._pool.not_empty._waiters)


# What is interrupted. The first function prepares, and returns the one whose steps are counted.

SCENES: dict[str, Callable[[Scene], Callable[[], object]]] = {}


def scene(prepare: Callable[[Scene], Callable[[], object]]) -> Callable[[Scene], Callable[[], object]]:
    SCENES[prepare.__name__] = prepare
    return prepare


@scene
def first_checkout(scene: Scene) -> Callable[[], object]:
    return scene.pool.connect  # type: ignore[no-any-return]


@scene
def checkout(scene: Scene) -> Callable[[], object]:
    scene.pool.connect().close()
    return scene.pool.connect  # type: ignore[no-any-return]


@scene
def checkin(scene: Scene) -> Callable[[], object]:
    return scene.pool.connect().close  # type: ignore[no-any-return]


@scene
def checkin_of_overflow(scene: Scene) -> Callable[[], object]:
    scene.kept["first"] = scene.pool.connect()
    second = scene.pool.connect()
    scene.kept.pop("first").close()
    return second.close  # type: ignore[no-any-return]


@scene
def with_block(scene: Scene) -> Callable[[], object]:
    def act() -> None:
        with scene.pool.connect() as connection:
            connection.cursor().execute("")

    return act


@scene
def checkin_when_the_rollback_fails(scene: Scene) -> Callable[[], object]:
    fairy = scene.pool.connect()
    fairy.dbapi_connection.trouble = TroubleError()
    return fairy.close  # type: ignore[no-any-return]


@scene
def connect_that_fails(scene: Scene) -> Callable[[], object]:
    def fail() -> None:
        raise TroubleError

    def act() -> None:
        with suppress(TroubleError):
            scene.pool.connect()

    scene.nothing.before_connect = fail
    scene.afterwards.append(lambda: setattr(scene.nothing, "before_connect", lambda: None))
    return act


@scene
def invalidate(scene: Scene) -> Callable[[], object]:
    fairy = scene.pool.connect()

    def act() -> None:
        fairy.invalidate()
        fairy.close()

    return act


@scene
def invalidate_softly_and_check_out_again(scene: Scene) -> Callable[[], object]:
    fairy = scene.pool.connect()

    def act() -> object:
        fairy.invalidate(soft=True)
        fairy.close()
        return scene.pool.connect()

    return act


@scene
def checkout_of_an_invalidated_record(scene: Scene) -> Callable[[], object]:
    scene.pool.connect().invalidate()
    return scene.pool.connect  # type: ignore[no-any-return]


@scene
def checkout_that_finds_the_connection_dead(scene: Scene) -> Callable[[], object]:
    scene.pool.connect().close()
    dead = [True]

    def listener(*_: object) -> None:
        if dead:
            dead.pop()
            raise DisconnectionError

    event.listen(scene.pool, "checkout", listener)
    return scene.pool.connect  # type: ignore[no-any-return]


@scene
def detach(scene: Scene) -> Callable[[], object]:
    fairy = scene.pool.connect()

    def act() -> None:
        fairy.detach()
        fairy.close()

    return act


@scene
def forgotten(scene: Scene) -> Callable[[], object]:
    scene.kept["connection"] = scene.pool.connect()
    return scene.kept.clear


@scene
def forgotten_in_a_cycle(scene: Scene) -> Callable[[], object]:
    cycle: list[Any] = [scene.pool.connect()]
    cycle.append(cycle)
    del cycle
    return gc.collect


@scene
def forgotten_after_its_connection_was_invalidated(scene: Scene) -> Callable[[], object]:
    fairy = scene.kept["connection"] = scene.pool.connect()
    fairy._connection_record.invalidate()
    del fairy
    return scene.kept.clear


@scene
def dispose(scene: Scene) -> Callable[[], object]:
    scene.pool.connect().close()
    return scene.pool.dispose  # type: ignore[no-any-return]


@scene
def time_is_up(scene: Scene) -> Callable[[], object]:
    scene.kept["all"] = [scene.pool.connect(), scene.pool.connect()]
    scene.pool._timeout = 0.001

    def act() -> None:
        with suppress(PoolTimeoutError):
            scene.pool.connect()

    return act


def _wait_for(scene: Scene, let_go: Callable[[Any], object]) -> Callable[[], object]:
    through = threading.Event()
    scene.kept["first"] = scene.pool.connect()
    held = [scene.pool.connect()]

    def help_out() -> None:
        # Not stats(), which would disturb nobody either, but takes its time.
        scene.wait_until(lambda: scene.waiting() or through.is_set())
        let_go(held.pop())

    scene.afterwards.append(through.set)
    scene.start(help_out)
    return scene.pool.connect  # type: ignore[no-any-return]


@scene
def wait_for_a_connection(scene: Scene) -> Callable[[], object]:
    return _wait_for(scene, lambda fairy: fairy.close())


@scene
def wait_for_room(scene: Scene) -> Callable[[], object]:
    return _wait_for(scene, lambda fairy: fairy.detach())


def _hand_over(scene: Scene, let_go: Callable[[Any], object]) -> Callable[[], object]:
    held = [scene.pool.connect()]
    scene.kept["other"] = scene.pool.connect()
    served: list[bool] = []

    def wait() -> None:
        try:
            fairy = scene.pool.connect()
        except PoolTimeoutError:
            return
        fairy.dbapi_connection.begin_use()
        served.append(True)
        fairy.dbapi_connection.end_use()
        fairy.close()

    def expect() -> None:
        scene.threads[0].join(PATIENCE)
        if not served:
            scene.nothing.failures.append("the thread that waits was not served")

    scene.start(wait)
    scene.wait_until(scene.waiting)
    scene.afterwards.append(expect)
    return lambda: let_go(held.pop())


@scene
def checkin_while_another_waits(scene: Scene) -> Callable[[], object]:
    return _hand_over(scene, lambda fairy: fairy.close())


@scene
def detach_while_another_waits(scene: Scene) -> Callable[[], object]:
    return _hand_over(scene, lambda fairy: fairy.detach())


@scene
def forgotten_while_another_waits(scene: Scene) -> Callable[[], object]:
    return _hand_over(scene, lambda _: None)


# Playing


def _new_pool(name: str, nothing: Nothing, *, busy: bool) -> Any:  # noqa: ANN401 - a pool
    options: dict[str, Any] = {"pool_size": SIZE, "max_overflow": OVERFLOW, "timeout": PATIENCE}
    found: Any = pool_class(name)
    if busy:
        options["recycle"] = 3600
        if issubclass(found, PidPool):
            options |= {"max_idle": 3600.0, "leak_threshold": 3600.0, "max_waiting": 5}
    pool = found(nothing, **options)
    if busy:
        for heard in ("connect", "checkout", "checkin", "reset", "invalidate", "close", "detach", "close_detached"):
            event.listen(pool, heard, lambda *_: None)
    return pool


def _play(name: str, pool_name: str, step: int, kind: Kind, *, busy: bool) -> tuple[str, list[str]]:
    """Play one scene, with an interrupt before the given step. Return where that was, and what is wrong afterwards."""
    nothing = Nothing()
    scene = Scene(_new_pool(pool_name, nothing, busy=busy), nothing)
    act = SCENES[name](scene)
    strike = Strike(step, kind)
    kept: object = None
    try:
        sys.settrace(strike)
        kept = act()
    except (KeyboardInterrupt, InjectedError):
        pass
    finally:
        sys.settrace(None)
    del kept, act
    for do in scene.afterwards:
        do()
    scene.kept.clear()
    for thread in scene.threads:
        thread.join(PATIENCE)
        if thread.is_alive():
            nothing.failures.append("a thread is stuck")
    gc.collect()
    wrong = ["the pool hangs"]
    judge = threading.Thread(target=_judge, args=[scene, wrong], daemon=True)
    judge.start()
    judge.join(PATIENCE)
    return strike.place, [*nothing.failures, *wrong]


def _judge(scene: Scene, wrong: list[str]) -> None:
    wrong[:] = _what_is_wrong(scene)


def _what_is_wrong(scene: Scene) -> list[str]:
    pool, nothing = scene.pool, scene.nothing
    wrong = []
    if scene.waiting():
        wrong.append(f"{scene.waiting()} in line")
    if pool.checkedout():
        wrong.append(f"{pool.checkedout()} out")
    pool._timeout = 0
    fairies = []
    for _ in range(SIZE + OVERFLOW):
        try:
            fairies.append(pool.connect())
        except PoolTimeoutError:
            wrong.append("lost slot")
    try:
        fairies.append(pool.connect())
        wrong.append("one slot too many")
    except PoolTimeoutError:
        pass
    for fairy in fairies:
        fairy.dbapi_connection.begin_use()
    for fairy in fairies:
        fairy.dbapi_connection.end_use()
        fairy.close()
    del fairies, fairy
    if pool.checkedin() != min(SIZE, SIZE + OVERFLOW - wrong.count("lost slot")):
        wrong.append(f"{pool.checkedin()} idle")
    pool.dispose()
    gc.collect()
    if nothing.alive:
        wrong.append(f"open for ever: {nothing.alive}")
    return wrong


def interrupt_at_every_step(
    name: str, pool_name: str, kind: Kind, *, busy: bool = False, enough: int = 5
) -> dict[str, Any]:
    """Play a scene again and again, interrupted one step later each time, until it comes to its end.

    Or until so many steps as are `enough` have done damage, other than in a finalizer.
    """
    logging.disable()
    # After an interrupt; here there are many.
    _queue._LOOK_AGAIN = 0.02  # type: ignore[misc]
    _queue._HAND_OVER = 0.02  # type: ignore[misc]
    swallowed: list[object] = []
    sys.unraisablehook = lambda found: swallowed.append(type(found.exc_value))
    _play(name, pool_name, sys.maxsize, kind, busy=busy)  # whatever happens once only
    gc.freeze()
    losses: list[list[str]] = []
    # What else may be raised, and where more is under way, takes the same steps and some between: a fifth must do.
    stride = 1 if kind == "KeyboardInterrupt" and not busy else 5
    for step in range(0, 5_000_000, stride):
        place, wrong = _play(name, pool_name, step, kind, busy=busy)
        if wrong:
            losses.append([place, *wrong])
            if sum("__del__" not in loss[0] for loss in losses) == enough:
                break
        if not place or "the pool hangs" in wrong:
            break
    return {"steps": step, "losses": losses, "swallowed": len(swallowed)}


# Real signals


def interrupt_by_signals(  # noqa: C901 - three threads and a signal handler in one place
    pool_name: str, signals: int, seed: int
) -> dict[str, Any]:
    """Interrupt the main thread by SIGINT at random moments, while it and two others use a pool for two."""
    logging.disable()
    sys.setswitchinterval(1e-5)
    sys.unraisablehook = lambda _: None
    nothing = Nothing()
    scene = Scene(_new_pool(pool_name, nothing, busy=False), nothing)
    armed, through = [False], threading.Event()
    hits: list[str] = []

    def strike(_: int, frame: FrameType | None) -> None:
        if armed[0]:
            armed[0] = False
            hits.append("in the pool" if frame is not None and _is_ours(frame.f_code) else "elsewhere")
            raise KeyboardInterrupt

    def send() -> None:
        dice = random.Random(seed)  # noqa: S311 - to be repeated
        for number in range(signals):
            while len(hits) == number and not through.wait(dice.random() / 500):
                os.kill(os.getpid(), signal.SIGINT)
        through.set()

    def use() -> None:
        fairy = scene.pool.connect()
        fairy.dbapi_connection.begin_use()
        pause.wait(0.0001)
        fairy.dbapi_connection.end_use()
        fairy.close()

    def crowd() -> None:
        while not through.is_set():
            use()

    pause = threading.Event()
    before = signal.signal(signal.SIGINT, strike)
    for work in (crowd, crowd, send):
        scene.start(work)
    while not through.is_set():
        with suppress(KeyboardInterrupt):
            armed[0] = True
            while not through.is_set():
                fairy = scene.pool.connect()
                fairy.close()
                del fairy
    armed[0] = False
    signal.signal(signal.SIGINT, before)
    for thread in scene.threads:
        thread.join(PATIENCE * 2)
        if thread.is_alive():
            nothing.failures.append("a thread is stuck")
    gc.collect()
    return {
        "wrong": [*nothing.failures, *_what_is_wrong(scene)],
        "hits": len(hits),
        "in the pool": hits.count("in the pool"),
    }
