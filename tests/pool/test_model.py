"""PidPool against a simple model of it, driven by Hypothesis: one thread, and nobody waits."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from pidpool import PidPool
from tests.pool.nothing import Nothing, TroubleError

# Connections to nowhere have no descriptor, and pidpool says so.
pytestmark = pytest.mark.filterwarnings("ignore::pidpool.errors.UnknownDriverWarning")

# The model: a record is a list of one, the number of the connection it holds, or None.
ModelRecord = list["int | None"]


class PoolMachine(RuleBasedStateMachine):
    """Does what an application does, to the pool and to the model, and compares."""

    pool_class = PidPool
    #: By the pools before this one.
    opened_before = 0

    def __init__(self) -> None:
        super().__init__()
        self.nothing = Nothing()
        self.idle: list[ModelRecord] = []
        #: Who is out: the fairy, and its record in the model.
        self.out: list[tuple[Any, ModelRecord]] = []
        self.detached: list[Any] = []
        self.open_numbers: set[int] = set()
        #: Softly invalidated: replaced at the next checkout.
        self.stale: set[int] = set()
        self.opened = self.checkouts = self.timeouts = self.connect_errors = self.invalidations = 0

    @initialize(
        size=st.integers(0, 3),
        overflow=st.integers(-1, 3),
        use_lifo=st.booleans(),
        reset=st.sampled_from(["rollback", None]),
        max_waiting=st.sampled_from([None, 0]),
    )
    def start(self, size: int, overflow: int, use_lifo: bool, reset: str | None, max_waiting: int | None) -> None:  # noqa: FBT001
        if size == 0:
            overflow = -1
        self.size, self.max_overflow, self.use_lifo, self.reset = size, overflow, use_lifo, reset
        self.pool = self.pool_class(
            self.nothing,
            size,
            overflow,
            timeout=0,
            use_lifo=use_lifo,
            max_waiting=max_waiting,
            reset_on_return=reset,
        )

    @property
    def total(self) -> int:
        return len(self.idle) + len(self.out)

    def _new_number(self) -> int:
        number = self.opened
        self.opened += 1
        self.open_numbers.add(number)
        return number

    def _give(self, record: ModelRecord) -> None:
        self.idle.append(record)
        if self.size and len(self.idle) > self.size:
            surplus = self.idle.pop()[0]
            if surplus is not None:
                self.open_numbers.discard(surplus)

    def _close_number(self, number: int | None) -> None:
        if number is not None:
            self.open_numbers.discard(number)

    # -- what an application does

    @rule()
    def check_out_without_trouble(self) -> None:
        self.check_out(fails=False)

    @rule(fails=st.booleans())
    def check_out(self, fails: bool) -> None:  # noqa: FBT001
        def fail() -> None:
            raise TroubleError

        self.nothing.before_connect = fail if fails else lambda: None
        full = not self.idle and self.max_overflow != -1 and self.total >= self.size + self.max_overflow
        record = (self.idle.pop() if self.use_lifo else self.idle.pop(0)) if self.idle else None
        if full:
            with pytest.raises(PoolTimeoutError):
                self.pool.connect()
            self.timeouts += 1
            return
        connects = record is None or record[0] is None or record[0] in self.stale
        if connects and record is not None:
            self._close_number(record[0])
            record[0] = None
        if connects and fails:
            with pytest.raises(TroubleError):
                self.pool.connect()
            self.connect_errors += 1
            if record is not None:
                self._give(record)  # it stays a place in the pool, without a connection
            return
        if record is None:
            record = [None]
        if connects:
            record[0] = self._new_number()
        fairy = self.pool.connect()
        assert fairy.dbapi_connection.number == record[0]  # type: ignore[union-attr]  # in the order that the model says
        fairy.dbapi_connection.begin_use()  # type: ignore[union-attr]
        self.out.append((fairy, record))
        self.checkouts += 1

    def _take_out(self, which: int) -> tuple[Any, ModelRecord]:
        fairy, record = self.out.pop(which % len(self.out))
        fairy.dbapi_connection.end_use()
        return fairy, record

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 10), twice=st.booleans())
    def close(self, which: int, twice: bool) -> None:  # noqa: FBT001
        fairy, record = self._take_out(which)
        fairy.close()
        self._give(record)
        if twice:
            fairy.close()

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 10))
    def close_when_the_rollback_fails(self, which: int) -> None:
        fairy, record = self._take_out(which)
        fairy.dbapi_connection.trouble = TroubleError()
        fairy.close()
        if self.reset:
            self._close_number(record[0])
            record[0] = None
            self.invalidations += 1
        self._give(record)

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 10))
    def invalidate(self, which: int) -> None:
        fairy, record = self._take_out(which)
        fairy.invalidate()
        self._close_number(record[0])
        record[0] = None
        self.invalidations += 1
        self._give(record)

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 10))
    def invalidate_softly(self, which: int) -> None:
        fairy, record = self.out[which % len(self.out)]
        fairy.invalidate(soft=True)  # it stays out, and usable
        assert record[0] is not None
        self.stale.add(record[0])
        self.invalidations += 1

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 10))
    def detach(self, which: int) -> None:
        fairy, record = self._take_out(which)
        fairy.detach()
        self.detached.append((fairy, record[0]))
        record[0] = None
        self._give(record)

    @precondition(lambda self: self.detached)
    @rule()
    def close_detached(self) -> None:
        fairy, number = self.detached.pop()
        fairy.close()
        self._close_number(number)

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 10), in_a_cycle=st.booleans())
    def forget(self, which: int, in_a_cycle: bool) -> None:  # noqa: FBT001
        fairy, record = self._take_out(which)
        if in_a_cycle:
            cycle = [fairy]
            cycle.append(cycle)
            del cycle
        del fairy
        gc.collect()
        self._give(record)

    @rule()
    def dispose(self) -> None:
        self.pool.dispose()
        for record in self.idle:
            self._close_number(record[0])
        self.idle.clear()

    @precondition(lambda self: not self.out and not self.detached)
    @rule()
    def recreate(self) -> None:
        self.pool.dispose()
        for record in self.idle:
            self._close_number(record[0])
        self.idle.clear()
        self.pool = self.pool.recreate()
        self.opened_before = self.opened
        self.checkouts = self.timeouts = self.connect_errors = self.invalidations = 0

    # -- what must be so after each step

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "pool"):
            return
        pool, stats = self.pool, self.pool.stats()
        assert (pool.size(), pool.checkedin(), pool.checkedout()) == (self.size, len(self.idle), len(self.out))
        assert pool.overflow() == (self.total - self.size if self.size else 0)
        assert (stats.size, stats.max_overflow) == (self.size, self.max_overflow)
        assert (stats.idle, stats.out, stats.waiting) == (len(self.idle), len(self.out), 0)
        assert stats.overflow == (max(0, self.total - self.size) if self.size else 0)
        assert (stats.checkouts, stats.timeouts) == (self.checkouts, self.timeouts)
        assert (stats.connects, stats.connect_errors) == (self.opened - self.opened_before, self.connect_errors)
        assert stats.invalidations == self.invalidations

    @invariant()
    def what_is_closed_is_closed(self) -> None:
        assert {connection.number for connection in self.nothing.alive} == self.open_numbers
        assert list(self.nothing.failures) == []

    def teardown(self) -> None:
        self.out.clear()


QUICKLY = settings(max_examples=60, stateful_step_count=30)
PoolMachine.TestCase.settings = QUICKLY
test_the_pool_does_what_the_model_does = PoolMachine.TestCase


# That the machine can fail


class KeepsOneMore(PidPool):
    """A pool that leaves one more idle than it should keep."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - PidPool's
        super().__init__(*args, **options)
        life: Any = self._life
        life.queue.most += 1
        life.most += 1


class WrongOrder(PidPool):
    """A pool that hands out the wrong one of those that are idle."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - PidPool's
        super().__init__(*args, **options)
        life: Any = self._life
        idle = life.queue.idle
        life.pop_idle = life.queue.pop_idle = idle.popleft if life.queue.use_lifo else idle.pop


@pytest.mark.parametrize("broken", [KeepsOneMore, WrongOrder])
def test_a_pool_that_is_broken_is_noticed(broken: type[PidPool]) -> None:
    class Machine(PoolMachine):
        pool_class = broken

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Machine, settings=settings(QUICKLY, phases=[Phase.generate]))
