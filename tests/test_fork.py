"""Which generation of which process is this? Every scenario forks, so each is a script of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.family import WAYS, assert_quiet, script

if TYPE_CHECKING:
    from tests.conftest import RunScript

#: The kernel's page, and the makeshift where no kernel wipes one: pidpool takes this Linux for another system then.
PAGES = {"kernel": "", "makeshift": "sys.platform = 'darwin'"}

#: A registered object that remembers how often it was told of a fork.
HEIR = """
class Heir:
    told = 0
    def after_fork(self):
        self.told += 1
"""

each_way = pytest.mark.parametrize("how", WAYS)
each_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)


def prepared(source: str, page: str = "") -> str:
    return f"{script(page)}\nimport gc, os\nfrom pidpool import _fork\nfrom tests.family import child\n{HEIR}{source}"


# Pages and generations


@each_page
@each_way
def test_every_ancestors_page_reads_0_in_a_child_and_1_at_home(run_script: RunScript, how: str, page: str) -> None:
    source = """
import sys
how = sys.argv[1]
def descend(ancestors):
    here = _fork.current()
    assert here.is_current() and here.page[0] == 1
    assert [ancestor.page[0] for ancestor in ancestors] == [0] * len(ancestors)
    assert not any(ancestor.is_current() for ancestor in ancestors)
    assert (here.number, here.pid) == (len(ancestors), os.getpid())
    if len(ancestors) < 3:
        child(lambda: descend([*ancestors, here]), how=how)
    assert here.is_current() and here.page[0] == 1 and _fork.current() is here
descend([])
"""
    assert_quiet(run_script(prepared(source, page), how))


@each_page
@each_way
def test_a_page_is_wiped_before_anybody_looks_in_the_processes_between(
    run_script: RunScript, how: str, page: str
) -> None:
    source = """
import sys
from tests.family import fork
mine = _fork.current()
def between():
    child(lookup, how=sys.argv[1])  # touches nothing itself
def lookup():
    assert mine.page[0] == 0
    assert _fork.current().pid == os.getpid()
child(between, how=sys.argv[1])
"""
    assert_quiet(run_script(prepared(source, page), how))


def test_a_page_tells_a_fork_from_its_parent_where_both_report_the_same_pid(run_script: RunScript) -> None:
    source = """
os.getpid = lambda: 4711
mine = _fork.current()
def look():
    assert mine.page[0] == 0 and mine.pid == _fork.current().pid == 4711
    assert _fork.current() is not mine
for how in ("fork", "hookless"):
    child(look, how=how)
assert _fork.current() is mine
"""
    assert_quiet(run_script(prepared(source)))


def test_without_the_kernels_page_the_hook_tells_a_fork_with_the_same_pid(run_script: RunScript) -> None:
    source = """
assert not _fork.KERNEL_WIPES
os.getpid = lambda: 4711
mine = _fork.current()
def look():
    assert mine.page[0] == 0
    assert _fork.current() is not mine
child(look)
assert mine.page[0] == 1
"""
    assert_quiet(run_script(prepared(source, PAGES["makeshift"])))


def test_number_1_of_a_pid_namespace_and_its_child_number_1_of_another_are_told_apart(run_script: RunScript) -> None:
    source = """
import ctypes
unshare = ctypes.CDLL(None).unshare
def enter_namespace():
    if unshare(0x20000000) and unshare(0x10000000 | 0x20000000):  # CLONE_NEWPID, by way of CLONE_NEWUSER
        print("forbidden")
        sys.stdout.flush()
        os._exit(0)
def be_first():
    mine = _fork.current()
    assert mine.pid == 1
    def be_first_too():
        assert os.getpid() == 1 and mine.page[0] == 0
        assert _fork.current() is not mine
    enter_namespace()
    child(be_first_too, how="hookless")
enter_namespace()
child(be_first)
"""
    done = run_script(prepared(source))
    if done.stdout == "forbidden\n":
        pytest.skip("this system lets nobody make a PID namespace")
    assert_quiet(done)


@each_page
def test_a_changed_getpid_counts_as_a_fork_and_is_looked_up_at_call_time(run_script: RunScript, page: str) -> None:
    source = """
heir = Heir()
_fork.register(heir)
mine = _fork.current()
os.getpid = lambda: 4711
other = _fork.current()
assert (other.number, other.pid, heir.told) == (1, 4711, 1)
assert mine.page[0] == 0 and not mine.is_current()
assert _fork.current() is other
"""
    assert_quiet(run_script(prepared(source, page)))


@pytest.mark.parametrize(
    "madvise",
    [
        pytest.param("def madvise(self, *arguments): raise OSError(22, 'Invalid argument')", id="too old"),
        pytest.param("def madvise(self, *arguments): pass", id="nods at any advice, as user-mode QEMU does"),
    ],
)
def test_a_kernel_that_cannot_wipe_pages_is_found_out(run_script: RunScript, madvise: str) -> None:
    source = f"""
        import mmap, sys
        class Kernel(mmap.mmap):
            {madvise}
        mmap.mmap = Kernel
        from pidpool import _fork
        assert not _fork.KERNEL_WIPES
        from tests.family import child
        mine = _fork.current()
        def look():
            assert mine.page[0] == 0 and _fork.current().number == 1
        for how in ("fork", "hookless"):
            child(look, how=how)
    """
    assert_quiet(run_script(script(source)))


def test_a_generation_says_who_it_is_and_whether_it_has_ended(run_script: RunScript) -> None:
    source = """
mine = _fork.current()
pid = os.getpid()
assert repr(mine) == f"<pid {pid} gen 0>"
def look():
    assert repr(mine) == f"<pid {pid} gen 0, ended by fork>"
    assert repr(_fork.current()) == f"<pid {os.getpid()} gen 1>"
child(look)
"""
    assert_quiet(run_script(prepared(source)))


# The registry


@each_page
@each_way
def test_what_is_registered_is_told_once_in_the_child_and_never_in_the_parent(
    run_script: RunScript, how: str, page: str
) -> None:
    source = """
heirs = [Heir() for _ in range(3)]
for heir in heirs:
    _fork.register(heir)
def look():
    _fork.current()
    _fork.current()
    assert [heir.told for heir in heirs] == [1, 1, 1] and _fork.registered() == []
    child(lambda: look_again(), how=sys.argv[1])
def look_again():
    _fork.current()
    assert [heir.told for heir in heirs] == [1, 1, 1]
child(look, how=sys.argv[1])
_fork.current()
assert [heir.told for heir in heirs] == [0, 0, 0] and len(_fork.registered()) == 3
"""
    assert_quiet(run_script(prepared(source, page), how))


def test_an_ordinary_fork_tells_before_os_fork_returns(run_script: RunScript) -> None:
    source = """
heir = Heir()
_fork.register(heir)
def look():
    assert heir.told == 1
child(look)
"""
    assert_quiet(run_script(prepared(source)))


def test_a_child_that_registers_again_has_its_own_children_told(run_script: RunScript) -> None:
    source = """
heir = Heir()
_fork.register(heir)
def register_again():
    _fork.register(heir)
    child(look)
    assert heir.told == 1
def look():
    assert heir.told == 2
child(register_again)
"""
    assert_quiet(run_script(prepared(source)))


def test_the_registry_keeps_nothing_alive(run_script: RunScript) -> None:
    source = """
heir, other = Heir(), Heir()
_fork.register(heir)
_fork.register(other)
del heir
assert _fork.registered() == [other]
del other
assert _fork.registered() == [] and not _fork._registry
"""
    assert_quiet(run_script(prepared(source)))


def test_what_is_unregistered_is_not_told(run_script: RunScript) -> None:
    source = """
heir, stranger = Heir(), Heir()
_fork.register(heir)
_fork.unregister(heir)
_fork.unregister(heir)
_fork.unregister(stranger)
def look():
    assert heir.told == 0
child(look)
"""
    assert_quiet(run_script(prepared(source)))


@each_way
def test_an_exception_of_one_object_does_not_keep_the_others_from_hearing(run_script: RunScript, how: str) -> None:
    source = """
class Broken(Heir):
    def after_fork(self):
        raise RuntimeError("broken")
heirs = [Heir(), Broken(), Heir()]
for heir in heirs:
    _fork.register(heir)
def look():
    assert _fork.current().number == 1
    assert [heir.told for heir in heirs] == [1, 0, 1]
child(look, how=sys.argv[1])
"""
    assert_quiet(run_script(prepared(source), how))


def test_objects_may_vanish_and_register_others_while_they_are_told(run_script: RunScript) -> None:
    source = """
class Lively(Heir):
    def after_fork(self):
        super().after_fork()
        heirs.clear()
        late.append(Heir())
        _fork.register(late[-1])
late = []
heirs = [Lively() for _ in range(100)]
for heir in heirs:
    _fork.register(heir)
heir = None
def look():
    assert _fork.current().number == 1
    assert _fork.registered() == late and len(late) == 100
child(look)
"""
    assert_quiet(run_script(prepared(source)))


# Odd moments


def test_threads_that_race_to_notice_a_hookless_fork_agree_on_one_generation(run_script: RunScript) -> None:
    source = """
import sys, threading
heirs = [Heir() for _ in range(20)]
for heir in heirs:
    _fork.register(heir)
def race():
    sys.setswitchinterval(1e-6)
    barrier = threading.Barrier(8)
    seen = []
    def notice():
        barrier.wait()
        seen.append(_fork.current())
    threads = [threading.Thread(target=notice) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8 and set(seen) == {_fork.current()}
    assert {heir.told for heir in heirs} == {1}
for _ in range(30):
    child(race, how="hookless")
"""
    assert_quiet(run_script(prepared(source)))


@pytest.mark.parametrize("moment", range(1, 6))
def test_a_fork_in_the_middle_of_noticing_a_fork_still_starts_a_generation_of_its_own(
    run_script: RunScript, moment: int
) -> None:
    # The C-level fork comes at that call of os.getpid which is given: before, between and after the steps.
    source = """
import sys
from tests.family import fork
getpid, calls, grandchild = os.getpid, 0, None
def forking_getpid():
    global calls, grandchild
    calls += 1
    if calls == int(sys.argv[1]):
        grandchild = fork("hookless")
    return getpid()
def notice():
    os.getpid = forking_getpid
    _fork.current()
    for _ in range(6):  # whatever the moment, it has come now
        noticed = _fork.current()
    assert noticed.is_current() and noticed.pid == getpid() and noticed.page[0] == 1
    if grandchild == 0:
        os._exit(0)
    assert os.waitpid(grandchild, 0)[1] == 0
child(notice, how="hookless")
"""
    assert_quiet(run_script(prepared(source), str(moment)))


def test_a_fork_while_another_thread_is_noticing_one_does_not_take_over_what_that_thread_made(
    run_script: RunScript,
) -> None:
    source = """
import threading
getpid, inside, go_on = os.getpid, threading.Event(), threading.Event()
calls = 0
def stopping_getpid():
    global calls
    if threading.current_thread() is threading.main_thread():
        return getpid()
    calls += 1
    if calls == 2:  # the new generation has been made, and is not yet in its place
        inside.set()
        go_on.wait()
    return getpid()
def notice():
    os.getpid = stopping_getpid
    thread = threading.Thread(target=_fork.current)
    thread.start()
    inside.wait()
    child(look, how="hookless")
    go_on.set()
    thread.join()
def look():
    here = _fork.current()
    assert here.page[0] == 1 and here.pid == getpid()
child(notice, how="hookless")
"""
    assert_quiet(run_script(prepared(source)))


@each_page
def test_a_thread_local_that_dies_inside_os_fork_notices_before_the_hook(run_script: RunScript, page: str) -> None:
    # CPython frees the other threads' thread-locals in the child before it runs at-fork hooks.
    source = """
import threading
events = []
class Local:
    def __del__(self):
        events.append((mine.page[0], _fork.current().number, heir.told))
    def __init__(self):
        self.heir = heir
heir = Heir()
_fork.register(heir)
mine = _fork.current()
kept, ready, done = threading.local(), threading.Event(), threading.Event()
def keep():
    kept.value = Local()
    ready.set()
    done.wait()
thread = threading.Thread(target=keep)
thread.start()
ready.wait()
os.register_at_fork(after_in_child=lambda: events.append("hooks"))
def look():
    assert events == [(0, 1, 1), "hooks"], events
    assert heir.told == 1
    # Without the kernel's page the hook cannot know that it comes second: it begins once more.
    assert _fork.current().number == (1 if _fork.KERNEL_WIPES else 2)
    assert _fork.current().is_current()
child(look)
done.set()
thread.join()
"""
    assert_quiet(run_script(prepared(source, page)))


def test_a_hookless_child_that_touched_nothing_notices_when_it_exits(run_script: RunScript) -> None:
    source = """
import sys
class Loud(Heir):
    def after_fork(self):
        os.write(1, b"told ")
heir = Loud()
_fork.register(heir)
child(how="hookless", leave=sys.argv[1])
"""
    assert run_script(prepared(source), "sys.exit").stdout == "told "
    assert run_script(prepared(source), "os._exit").stdout == "", "nothing is finalized, so nobody needs to know"


def test_a_subprocess_with_a_preexec_function_starts_and_leaves_the_parent_alone(run_script: RunScript) -> None:
    source = """
import subprocess, sys
heir = Heir()
_fork.register(heir)
mine = _fork.current()
subprocess.run([sys.executable, "-c", ""], check=True, preexec_fn=lambda: None)
assert _fork.current() is mine and heir.told == 0
"""
    assert_quiet(run_script(prepared(source)))


def test_the_hook_costs_less_than_a_millisecond(run_script: RunScript) -> None:
    source = """
import statistics, time
def seconds(number):
    os.getpid = lambda: number
    started = time.perf_counter()
    _fork._after_fork_in_child()
    assert _fork.current().pid == number
    return time.perf_counter() - started
median = statistics.median(seconds(number) for number in range(-101, 0))
assert median < 0.001, median
"""
    assert_quiet(run_script(prepared(source)))


def test_a_new_generation_opens_no_descriptor(run_script: RunScript) -> None:
    source = """
before = os.listdir("/proc/self/fd")
for number in range(-100, 0):
    os.getpid = lambda: number
    assert _fork.current().pid == number
assert os.listdir("/proc/self/fd") == before
"""
    assert_quiet(run_script(prepared(source)))


@pytest.mark.parametrize("error", ["RecursionError", "KeyboardInterrupt"])
def test_what_could_not_be_finished_is_finished_by_whoever_looks_next(run_script: RunScript, error: str) -> None:
    # A fork deep down in a recursion, or a Ctrl-C inside the hook.
    source = f"""
told = []
class Thing:
    def after_fork(self):
        if not told:
            told.append(None)
            raise {error}
        told.append(self)
        _fork.unregister(self)
things = [Thing() for _ in range(4)]
for thing in things:
    _fork.register(thing)
def look():
    try:
        _fork.current()
    except {error}:
        pass
    here = _fork.current()
    assert here.is_current() and set(things) <= set(told)
    assert _fork.current() is here
child(look, how="hookless")
"""
    assert_quiet(run_script(prepared(source)))
