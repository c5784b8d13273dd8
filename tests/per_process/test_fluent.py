"""fluent-logger: the parent's stream goes on, and no event is lost, sent twice or mixed up with another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.family import WAYS, assert_quiet, script

if TYPE_CHECKING:
    from tests.conftest import RunScript

each_way = pytest.mark.parametrize("how", WAYS)

PREPARED = script("""
import gc, logging, os, signal, socket, sys, threading
from fluent import asyncsender, handler, sender
from pidpool import InheritedConnectionError, PerProcess
from tests.family import child, fork
from tests.per_process.receiver import Receiver

how = sys.argv[1]

def make(port, kind=sender.FluentSender, **options):
    return kind("test", host="127.0.0.1", port=port, timeout=2.0, **options)

def emit(sender, n):
    return sender.emit(None, {"n": n})

def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
""")


@each_way
def test_the_parents_stream_goes_on_whatever_a_child_does(run_script: RunScript, how: str) -> None:
    source = """
receiver = Receiver()
senders = PerProcess(lambda: make(receiver.port))
mine = senders.get()
assert emit(mine, "parent 1")
def own():
    assert emit(senders.get(), "child")
    senders.close()
def use():
    try:
        emit(mine, "nobody")
    except InheritedConnectionError:
        pass
    else:
        raise AssertionError("it was let through")
def close():
    mine.close()
    senders.close()
    with mine:
        pass
def drop():
    global mine, senders
    del mine, senders
    gc.collect()
for deed in (own, use, close, drop):
    child(deed, how=how)
child(own, how=how, leave="sys.exit")
child(how=how, leave="sys.exit")
assert receiver.ended == 2, "those of the two children that had one"
assert emit(mine, "parent 2") and senders.get() is mine
receiver.wait_for("parent 1", "child", "child", "parent 2")
assert receiver.numbers()[0] == ["parent 1", "parent 2"] and receiver.garbage == 0
senders.close()
"""
    assert_quiet(run_script(PREPARED + source, how))


def test_without_it_a_close_in_a_child_ends_the_parents_stream(run_script: RunScript) -> None:
    source = """
receiver = Receiver()
mine = make(receiver.port)
emit(mine, "parent 1")
receiver.wait_for("parent 1")
child(mine.close)
while not receiver.ended:
    pass
"""
    assert_quiet(run_script(PREPARED + source, "fork"))


@each_way
def test_events_that_are_pending_at_fork_are_sent_once(run_script: RunScript, how: str) -> None:
    source = """
port = free_port()
senders = PerProcess(lambda: make(port))
mine = senders.get()
assert not emit(mine, "pending 1") and not emit(mine, "pending 2"), "nobody listens yet"
receiver = Receiver(port)
def own():
    assert emit(senders.get(), "child")
    senders.close()
def close():
    senders.get() if how == "hookless" else None
    mine.close()
child(own, how=how)
child(close, how=how)
child(mine.close, how=how)
assert emit(mine, "parent")
receiver.wait_for("pending 1", "pending 2", "child", "parent")
senders.close()
"""
    assert_quiet(run_script(PREPARED + source, how))


@pytest.mark.parametrize("deed", ["emit(mine, 'child')", "mine.close()"])
def test_without_it_events_that_are_pending_at_fork_are_sent_twice(run_script: RunScript, deed: str) -> None:
    source = """
port = free_port()
mine = make(port)
emit(mine, "pending")
receiver = Receiver(port)
child(lambda: eval(sys.argv[2]))
emit(mine, "parent")
came = ["pending", "pending", "parent"] + ["child"] * ("child" in sys.argv[2])
receiver.wait_for(*came)
mine.close()
"""
    assert_quiet(run_script(PREPARED + source, "fork", deed))


# Locks, and threads

HELD = """
def hold(lock):
    '''Have another thread hold a lock for as long as this process lives.'''
    is_held = threading.Event()
    def keep():
        with lock:
            is_held.set()
            threading.Event().wait()
    threading.Thread(target=keep, daemon=True).start()
    is_held.wait()
"""


@each_way
def test_a_thread_that_sends_at_fork_keeps_no_child_waiting(run_script: RunScript, how: str) -> None:
    source = """
receiver = Receiver()
senders = PerProcess(lambda: make(receiver.port))
mine = senders.get()
emit(mine, "parent")
hold(mine.lock)
def own():
    assert emit(senders.get(), "child")
    senders.close()
def close():
    senders.get() if how == "hookless" else None
    mine.close()
for deed in (own, close, mine.close):
    child(deed, how=how)
receiver.wait_for("parent", "child")
os._exit(0)
"""
    assert_quiet(run_script(PREPARED + HELD + source, how, timeout=20))


def test_without_it_a_thread_that_sends_at_fork_keeps_a_child_waiting(run_script: RunScript) -> None:
    source = """
receiver = Receiver()
mine = make(receiver.port)
emit(mine, "parent")
hold(mine.lock)
pid = fork()
if pid == 0:
    signal.alarm(1)
    emit(mine, "child")
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == -signal.SIGALRM
os._exit(0)
"""
    assert_quiet(run_script(PREPARED + HELD + source, "fork"))


HALF = """
packet = mine._make_packet(None, 5, {"n": "half"})
mine.socket.sendall(packet[:7])
"""


@each_way
def test_a_packet_that_is_half_sent_at_fork_arrives_whole(run_script: RunScript, how: str) -> None:
    before = """
receiver = Receiver()
senders = PerProcess(lambda: make(receiver.port))
mine = senders.get()
emit(mine, "parent 1")
"""
    source = """
def own():
    assert emit(senders.get(), "child")
    senders.close()
child(own, how=how)
mine.socket.sendall(packet[7:])
emit(mine, "parent 2")
receiver.wait_for("parent 1", "half", "child", "parent 2")
assert receiver.garbage == 0
senders.close()
"""
    assert_quiet(run_script(PREPARED + before + HALF + source, how))


def test_without_it_a_packet_that_is_half_sent_at_fork_is_garbage(run_script: RunScript) -> None:
    before = """
receiver = Receiver()
mine = make(receiver.port)
emit(mine, "parent 1")
"""
    source = """
child(lambda: emit(mine, "child"))
mine.socket.sendall(packet[7:])
emit(mine, "parent 2")
mine.close()
while not receiver.ended:
    pass
assert receiver.garbage
"""
    assert_quiet(run_script(PREPARED + before + HALF + source, "fork"))


def test_a_sender_with_a_thread_has_one_in_each_process(run_script: RunScript) -> None:
    source = """
receiver = Receiver()
senders = PerProcess(lambda: make(receiver.port, asyncsender.FluentSender))
mine = senders.get()
emit(mine, "parent 1")
receiver.wait_for("parent 1")
def own():
    for number in range(3):
        assert emit(senders.get(), f"child {number}")
    senders.close()
child(own)
child(mine.close)
# No thread is started in that one: CPython's own locks may be held there.
child(mine.close, how="hookless")
child(leave="sys.exit")
emit(mine, "parent 2")
senders.close()
receiver.wait_for("parent 1", "child 0", "child 1", "child 2", "parent 2")
assert receiver.numbers()[0] == ["parent 1", "parent 2"]
"""
    assert_quiet(run_script(PREPARED + source, "fork"))


def test_without_it_the_events_of_a_child_wait_for_a_thread_that_is_not_there(run_script: RunScript) -> None:
    source = """
receiver = Receiver()
mine = make(receiver.port, asyncsender.FluentSender)
emit(mine, "parent 1")
receiver.wait_for("parent 1")
def send():
    for number in range(3):
        assert emit(mine, number), "so it says"
    mine.close()
child(send)
emit(mine, "parent 2")
mine.close()
while not receiver.ended:
    pass
receiver.wait_for("parent 1", "parent 2")
"""
    assert_quiet(run_script(PREPARED + source, "fork"))


# Handlers of the logging module

LOGGING = """
def logger_of(logging_handler):
    logging_handler.setFormatter(handler.FluentRecordFormatter({"n": "%(message)s"}))
    logger = logging.Logger("test")
    logger.addHandler(logging_handler)
    return logger
"""


@each_way
def test_a_handler_whose_sender_is_per_process_logs_from_each(run_script: RunScript, how: str) -> None:
    source = """
class PerProcessFluentHandler(handler.FluentHandler):
    def getSenderInstance(self, **options):
        make = super().getSenderInstance
        return PerProcess(lambda: make(**options)).proxy()

receiver = Receiver()
logging_handler = make(receiver.port, PerProcessFluentHandler)
logger = logger_of(logging_handler)
logger.error("parent 1")
def log():
    logger.error("child 1")
    logger.error("child 2")
    logging.shutdown()
child(log, how=how)
child(logging.shutdown, how=how)
child(lambda: logger.error("child 3"), how=how, leave="sys.exit")
child(how=how, leave="sys.exit")
logger.error("parent 2")
receiver.wait_for("parent 1", "child 1", "child 2", "child 3", "parent 2")
assert receiver.numbers()[0] == ["parent 1", "parent 2"] and receiver.garbage == 0
"""
    assert_quiet(run_script(PREPARED + LOGGING + source, how))


@each_way
def test_a_handler_may_be_per_process_itself(run_script: RunScript, how: str) -> None:
    source = """
receiver = Receiver()
def make_handler():
    made = make(receiver.port, handler.FluentHandler)
    made.setFormatter(handler.FluentRecordFormatter({"n": "%(message)s"}))
    return made
handlers = PerProcess(make_handler)
logger = logging.Logger("test")
logger.addHandler(handlers.proxy())
logger.error("parent 1")
mine = handlers.get()
def log():
    logger.error("child")
    logging.shutdown()
def close():
    mine.close()
    logging.shutdown()
child(log, how=how)
child(close, how=how)
child(how=how, leave="sys.exit")
logger.error("parent 2")
receiver.wait_for("parent 1", "child", "parent 2")
assert receiver.numbers()[0] == ["parent 1", "parent 2"]
handlers.close()
"""
    assert_quiet(run_script(PREPARED + LOGGING + source, how))


def test_without_it_the_end_of_a_child_ends_the_parents_stream(run_script: RunScript) -> None:
    source = """
receiver = Receiver()
logger = logger_of(make(receiver.port, handler.FluentHandler))
logger.error("parent 1")
receiver.wait_for("parent 1")
pid = fork()
if pid == 0:
    sys.exit()  # logging.shutdown() runs at exit
os.waitpid(pid, 0)
while not receiver.ended:
    pass
"""
    assert_quiet(run_script(PREPARED + LOGGING + source, "fork"))


@each_way
def test_the_receiver_notices_at_once_when_the_parent_is_killed(run_script: RunScript, how: str) -> None:
    source = """
receiver = Receiver()
reading, writing = os.pipe()
parent = fork()
if parent == 0:
    senders = PerProcess(lambda: make(receiver.port))
    emit(senders.get(), "parent")
    if fork(how) == 0 and how == "hookless":
        senders.get()
    os.write(writing, str(os.getpid()).encode().ljust(20))
    signal.pause()
first, second = (int(os.read(reading, 20)) for _ in range(2))
os.kill(parent, signal.SIGKILL)
os.waitpid(parent, 0)
while not receiver.ended:
    pass
os.kill(first if second == parent else second, signal.SIGKILL)
"""
    assert_quiet(run_script(PREPARED + source, how, timeout=20))
