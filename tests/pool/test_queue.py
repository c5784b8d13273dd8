"""The queue alone: idle items, free slots, and the line of those who wait."""

from __future__ import annotations

import gc
import random
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from pidpool.pool import _queue
from pidpool.pool._queue import Queue, Slot, ThreadWaiter

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 20.0
"""Seconds until a thread that should have been served counts as stuck."""


class Item:
    """A stand-in for a connection: whoever has it holds a slot."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.user: int | None = None


def new_item(queue: Queue[Item]) -> Item:
    slot = queue.take(0)
    assert isinstance(slot, Slot)
    return Item(slot)


def wait_until_waiting(queue: Queue[Item], count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while queue.waiting != count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Waiter(threading.Thread):
    """A thread that takes one thing, with what it got."""

    def __init__(self, queue: Queue[Item], timeout: float | None = PATIENCE) -> None:
        super().__init__(daemon=True)
        self.queue = queue
        self.timeout = timeout
        self.got: Item | Slot | None = None
        self.start()

    def run(self) -> None:
        self.got = self.queue.take(self.timeout)

    def result(self) -> Item | Slot | None:
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.got


@contextmanager
def waiters(queue: Queue[Item], count: int) -> Iterator[list[Waiter]]:
    line = []
    for number in range(count):
        line.append(Waiter(queue))
        wait_until_waiting(queue, number + 1)
    yield line


# What is handed out


@pytest.mark.parametrize(("use_lifo", "expected"), [(False, [0, 1, 2]), (True, [2, 1, 0])])
def test_idle_items_come_out_first_in_first_out_or_last_in_first_out(use_lifo: bool, expected: list[int]) -> None:  # noqa: FBT001
    queue: Queue[Item] = Queue(3, 3, use_lifo=use_lifo)
    items = [new_item(queue) for _ in range(3)]
    for item in items:
        assert queue.give(item) is None
    taken = [queue.take(0) for _ in range(3)]
    assert taken == [items[number] for number in expected]


def test_an_idle_item_is_preferred_to_a_free_slot() -> None:
    queue: Queue[Item] = Queue(5, 5)
    item = new_item(queue)
    queue.give(item)
    assert queue.take(0) is item
    assert isinstance(queue.take(0), Slot)


def test_no_more_slots_than_the_capacity_are_handed_out() -> None:
    queue: Queue[Item] = Queue(1, 3)
    slots = [queue.take(0) for _ in range(3)]
    assert all(isinstance(slot, Slot) for slot in slots)
    assert queue.take(0) is None
    assert queue.open == 3


def test_without_a_capacity_there_is_always_another_slot() -> None:
    queue: Queue[Item] = Queue(1, None)
    slots = [queue.take(0) for _ in range(100)]
    assert all(isinstance(slot, Slot) for slot in slots)
    assert queue.open == 100


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_what_is_more_than_to_be_kept_comes_back_to_the_giver(keep: int) -> None:
    queue: Queue[Item] = Queue(keep, 3)
    items = [new_item(queue) for _ in range(3)]
    surplus = [item for item in items if queue.give(item) is not None]
    assert (len(queue.idle), len(surplus)) == (keep, 3 - keep)


def test_keep_none_keeps_everything() -> None:
    queue: Queue[Item] = Queue(None, None)
    assert [queue.give(new_item(queue)) for _ in range(1)] == [None]
    assert len(queue.idle) == 1


# Slots


def test_a_slot_is_given_back_once_however_often_it_is_said() -> None:
    queue: Queue[Item] = Queue(1, 1)
    slot = queue.take(0)
    assert isinstance(slot, Slot)
    slot.give_back()
    slot.give_back()
    assert queue.open == 0
    again = queue.take(0)
    assert isinstance(again, Slot)
    assert queue.take(0) is None


def test_a_dropped_slot_is_not_lost() -> None:
    queue: Queue[Item] = Queue(1, 1)
    for _ in range(3):
        assert isinstance(queue.take(0), Slot)  # and nobody keeps it
        gc.collect()
    assert queue.open == 0


def test_a_slot_dropped_in_a_cycle_is_not_lost() -> None:
    queue: Queue[Item] = Queue(1, 1)
    slot = queue.take(0)
    cycle: list[object] = [slot]
    cycle.append(cycle)
    del slot, cycle
    assert queue.take(0) is None
    gc.collect()
    assert isinstance(queue.take(0), Slot)


# The line


def test_who_waits_longest_is_served_first() -> None:
    queue: Queue[Item] = Queue(5, 1)
    item = new_item(queue)
    order: list[int] = []
    with waiters(queue, 4) as line:
        for waiter in line:
            queue.give(item)
            assert waiter.result() is item
            order.append(line.index(waiter))
    assert order == [0, 1, 2, 3]
    assert queue.waiting == 0


def test_an_item_that_is_given_goes_to_the_line_and_not_among_the_idle() -> None:
    queue: Queue[Item] = Queue(5, 1)
    item = new_item(queue)
    with waiters(queue, 1) as [waiter]:
        assert queue.give(item) is None
        assert not queue.idle
        assert waiter.result() is item


def test_a_freed_slot_goes_to_the_one_who_waits() -> None:
    queue: Queue[Item] = Queue(5, 1)
    slot = queue.take(0)
    assert isinstance(slot, Slot)
    with waiters(queue, 1) as [waiter]:
        slot.give_back()
        assert isinstance(waiter.result(), Slot)
    assert queue.open == 1


def test_a_dropped_slot_goes_to_the_one_who_waits() -> None:
    queue: Queue[Item] = Queue(5, 1)
    item = new_item(queue)
    with waiters(queue, 1) as [waiter]:
        del item
        gc.collect()
        assert isinstance(waiter.result(), Slot)


def test_one_who_waits_in_vain_gets_nothing_after_the_timeout_and_leaves_the_line() -> None:
    queue: Queue[Item] = Queue(1, 1)
    item = new_item(queue)
    started = time.monotonic()
    assert queue.take(0.2) is None
    assert 0.2 <= time.monotonic() - started < PATIENCE
    assert queue.waiting == 0
    queue.give(item)
    assert queue.take(0) is item


@pytest.mark.parametrize("timeout", [0, 0.0, -1])
def test_without_time_to_wait_the_answer_comes_at_once(timeout: float) -> None:
    queue: Queue[Item] = Queue(1, 1)
    item = new_item(queue)
    assert queue.take(timeout) is None
    queue.give(item)
    assert queue.take(timeout) is item


def test_with_no_timeout_one_waits_until_served() -> None:
    queue: Queue[Item] = Queue(1, 1)
    item = new_item(queue)
    waiter = Waiter(queue, timeout=None)
    wait_until_waiting(queue, 1)
    queue.give(item)
    assert waiter.result() is item


def test_a_timeout_longer_than_the_platform_can_wait_is_no_error() -> None:
    queue: Queue[Item] = Queue(1, 1)
    item = new_item(queue)
    waiter = Waiter(queue, timeout=threading.TIMEOUT_MAX * 4)
    wait_until_waiting(queue, 1)
    queue.give(item)
    assert waiter.result() is item


def test_one_who_gave_up_does_not_take_what_comes_for_the_next() -> None:
    queue: Queue[Item] = Queue(1, 1)
    item = new_item(queue)
    impatient = Waiter(queue, timeout=0.05)
    wait_until_waiting(queue, 1)
    patient = Waiter(queue)
    assert impatient.result() is None
    wait_until_waiting(queue, 1)
    queue.give(item)
    assert patient.result() is item


# Many threads


class Crowd:
    """Threads that take, use and return as fast as they can, and notice when two of them have the same item."""

    def __init__(self, queue: Queue[Item], *, seconds: float, trouble: float = 0.0) -> None:
        self.queue = queue
        self.until = time.monotonic() + seconds
        self.trouble = trouble
        self.failures: list[str] = []
        self.rounds = 0

    def run(self, threads: int) -> None:
        crowd = [threading.Thread(target=self._work, args=[number], daemon=True) for number in range(threads)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join(PATIENCE * 2)
            assert not thread.is_alive(), f"stuck: {self.queue.waiting} waiting, {self.queue.open} open"

    def _work(self, number: int) -> None:
        dice = random.Random(number)  # noqa: S311 - a repeatable test, not a secret
        while time.monotonic() < self.until and not self.failures:
            with suppress(ConnectionError):
                self._round(number, dice)
            self.rounds += 1

    def _round(self, number: int, dice: random.Random) -> None:
        found = self._take(number, dice)
        if found is None:
            return
        if self.queue.capacity is not None and self.queue.open > self.queue.capacity:
            self.failures.append(f"{self.queue.open} open")
        if dice.random() < 0.5:
            time.sleep(dice.random() / 2000)
        if found.user != number:
            self.failures.append(f"threads {found.user} and {number} have the same item")
        found.user = None
        if dice.random() < self.trouble:
            raise ConnectionError  # drops item and slot
        surplus = self.queue.give(found)
        if surplus is not None:
            surplus.slot.give_back()

    def _take(self, number: int, dice: random.Random) -> Item | None:
        timeout = dice.choice([0, 0.0005, 0.002, PATIENCE])
        found = self.queue.take(timeout)
        if found is None:
            if timeout == PATIENCE:
                self.failures.append("nobody served this thread")
            return None
        if isinstance(found, Slot):
            if dice.random() < self.trouble:
                raise ConnectionError  # drops the slot with the frame
            found = Item(found)
        if found.user is not None:
            self.failures.append(f"threads {found.user} and {number} have the same item")
        found.user = number
        return found


@pytest.mark.parametrize("trouble", [0.0, 0.1], ids=["in peace", "with exceptions"])
@pytest.mark.parametrize("use_lifo", [False, True], ids=["fifo", "lifo"])
def test_a_crowd_loses_no_slot_and_shares_no_item(use_lifo: bool, trouble: float) -> None:  # noqa: FBT001
    queue: Queue[Item] = Queue(3, 5, use_lifo=use_lifo)
    crowd = Crowd(queue, seconds=1.5, trouble=trouble)
    crowd.run(threads=16)
    assert crowd.failures == []
    assert crowd.rounds > 16
    gc.collect()
    assert queue.waiting == 0
    assert queue.open == len(queue.idle)  # nobody has one out
    assert len(queue.idle) <= 3
    everything = [queue.take(0) for _ in range(5)]
    assert None not in everything
    assert queue.take(0) is None


# Who serves, who leaves, and when the line is served


class Noted(ThreadWaiter[Item]):
    """One in line, of whom nobody is behind: it notes how it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


def crowded(queue: Queue[Item], looked: float, served: float) -> Noted:
    """Put somebody in line; the line was looked at, and served, so many seconds ago. None can be in the future."""
    noted = Noted()
    queue.waiters.append(noted)
    now = time.monotonic()
    queue._looked, queue._served = now - looked, now - served
    return noted


def test_what_comes_back_is_handed_to_the_first_in_line() -> None:
    queue: Queue[Item] = Queue(keep=1, capacity=1)
    item = new_item(queue)
    first, second = crowded(queue, 60, 60), crowded(queue, 60, 60)
    assert queue.give(item) is None
    assert (first.given, second.given) == (item, None)
    assert (first.woken, second.woken) == (1, 0)
    assert list(queue.idle) == []


def test_faster_than_threads_can_be_switched_things_stay_idle_and_the_first_in_line_is_woken_to_look() -> None:
    queue: Queue[Item] = Queue(keep=2, capacity=2)
    item = new_item(queue)
    first = crowded(queue, -60, -60)  # whatever the machine's speed, these are less than any limit
    assert queue.give(item) is None
    assert (first.given, first.woken) == (None, 1)
    assert list(queue.idle) == [item]
    assert queue.waiting == 1


def test_but_once_a_millisecond_somebody_is_served() -> None:
    queue: Queue[Item] = Queue(keep=2, capacity=2)
    item = new_item(queue)
    first = crowded(queue, -60, 0.002)
    queue.give(item)
    assert first.given is item


def test_one_who_is_woken_to_look_finds_what_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_queue, "_LOOK_AGAIN", 3600)
    queue: Queue[Item] = Queue(keep=1, capacity=1)
    item = new_item(queue)
    waiter = Waiter(queue)
    wait_until_waiting(queue, 1)
    queue._looked = queue._served = time.monotonic() + 60
    queue.give(item)
    assert waiter.result() is item


def test_who_has_left_is_handed_nothing_and_the_next_is_served() -> None:
    queue: Queue[Item] = Queue(keep=2, capacity=2)
    item = new_item(queue)
    gone, here = crowded(queue, 60, 60), crowded(queue, 60, 60)
    assert gone.leave()
    assert not gone.hand_over(item)
    queue.give(item)
    assert (gone.given, here.given) == (None, item)


def test_who_is_just_being_served_does_not_leave() -> None:
    served = Noted()
    assert served.hand_over(Item(Queue(keep=1, capacity=1).take(0)))  # type: ignore[arg-type]
    assert not served.leave()


@pytest.mark.parametrize("timeout", [0.3, PATIENCE])
def test_one_whose_server_pauses_gets_the_connection_or_leaves_it_to_others(
    timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_queue, "_LOOK_AGAIN", 0.05)
    queue: Queue[Item] = Queue(keep=1, capacity=1)
    item = new_item(queue)
    waiter = Waiter(queue, timeout)
    wait_until_waiting(queue, 1)
    taken_out = queue.waiters.popleft()  # and now the thread that does this is not scheduled for a while
    wait_until_waiting(queue, 1)  # it lines up again
    if timeout < 1:
        assert waiter.result() is None
        assert not taken_out.hand_over(item)
    else:
        assert taken_out.hand_over(item)
        assert waiter.result() is item
    assert queue.waiting == 0


def test_one_whose_server_was_interrupted_with_the_seat_in_its_hand_is_served_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_queue, "_LOOK_AGAIN", 0.05)
    monkeypatch.setattr(_queue, "_HAND_OVER", 0.05)
    queue: Queue[Item] = Queue(keep=1, capacity=1)
    item = new_item(queue)
    waiter = Waiter(queue)
    wait_until_waiting(queue, 1)
    assert queue.waiters.popleft().leave()
    queue.idle.append(item)
    assert waiter.result() is item


def test_one_who_is_interrupted_leaves_what_it_was_woken_for_to_the_next() -> None:
    next_one = Noted()

    class Interrupted(ThreadWaiter[Item]):
        def wait(self, seconds: float) -> bool:  # noqa: ARG002 - as its base
            queue.waiters.append(next_one)
            queue.idle.append(item)  # whoever did this has woken us, and nobody else
            raise KeyboardInterrupt

    class Interrupting(Queue[Item]):
        def _waiter(self) -> Interrupted:
            return Interrupted()

    queue = Interrupting(keep=1, capacity=1)
    item = new_item(queue)
    with pytest.raises(KeyboardInterrupt):
        queue.take(None)
    assert next_one.given is item
    assert queue.waiting == 0


def test_what_comes_back_while_the_first_is_out_of_the_line_is_not_missed() -> None:
    queue: Queue[Item] = Queue(keep=1, capacity=1)
    item = new_item(queue)
    first = crowded(queue, 60, 60)

    def comes_back_too_late() -> Item:
        queue.pop_idle = queue.idle.popleft
        queue.idle.append(item)  # by a thread that saw nobody in line
        raise IndexError

    queue.pop_idle = comes_back_too_late
    queue._serve()
    assert first.given is item


def test_one_that_is_not_old_is_no_surplus_though_it_was_behind_one_that_is() -> None:
    queue: Queue[Item] = Queue(keep=2, capacity=2)
    old, young = new_item(queue), new_item(queue)
    queue.idle.extend([old, young])

    def is_old(item: Item) -> bool:
        if item is old:
            queue.idle.popleft()  # by another thread
        return item is old

    assert queue.take_surplus(is_old, 0) is None
    assert list(queue.idle) == [young]
