"""redis-py in a parent, with children that inherit its pools, pipelines and subscriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.family import WAYS, assert_quiet, script

if TYPE_CHECKING:
    from tests.conftest import RunScript

each_way = pytest.mark.parametrize("how", WAYS)
KINDS = ("pool", "blocking", "single", "unix")

PREPARED = script("""
import gc, os, signal, sys, threading
import redis
from pidpool import InheritedConnectionError, PerProcess, discard
from tests.family import child, fork
from tests.per_process.redis_scene import Scene

scene = Scene(sys.argv[1])
key, channel = scene.key, scene.channel
how = sys.argv[2] if len(sys.argv) > 2 else "fork"

def refused(action):
    try:
        action()
    except InheritedConnectionError as error:
        assert error.user == os.getpid()
    else:
        raise AssertionError("it was let through")
""")

# What a client lends: how it begins, how it goes on in the parent, what a child must not do, and what it may.
LENDING = """
class Pipeline:
    '''Watches a key.'''
    def __init__(self, client):
        client.set(key, "before")
        self.pipeline = client.pipeline()
        self.pipeline.watch(key)
    def uses(self):
        queued = self.pipeline
        return [lambda: self.pipeline.get(key), lambda: (queued.multi(), queued.set(key, "child"), queued.execute())]
    def closes(self):
        return [self.pipeline.reset, lambda: self.pipeline.__exit__(None, None, None)]
    def goes_on(self):
        scene.onlooker.set(key, "somebody else")
        self.pipeline.multi()
        self.pipeline.set(key, "parent")
        try:
            self.pipeline.execute()
        except redis.WatchError:
            assert scene.onlooker.get(key) == "somebody else"
        else:
            raise AssertionError("the key is not watched any more")

class Subscription:
    def __init__(self, client):
        self.pubsub = client.pubsub(ignore_subscribe_messages=True)
        self.pubsub.subscribe(channel)
        while scene.onlooker.pubsub_numsub(channel)[0][1] != 1:
            self.pubsub.get_message(timeout=0.01)
        self.pubsub.get_message(timeout=0.05)
    def uses(self):
        pubsub = self.pubsub
        return [lambda: pubsub.get_message(timeout=0.05), lambda: pubsub.subscribe("another"), pubsub.unsubscribe,
                lambda: next(iter(pubsub.listen()))]
    def closes(self):
        return [self.pubsub.close, lambda: self.pubsub.__exit__(None, None, None)]
    def goes_on(self):
        for number in range(5):
            assert scene.onlooker.publish(channel, number) == 1
            message = self.pubsub.get_message(timeout=5)
            assert message["data"] == str(number), message

class HalfRead:
    '''A connection whose answer is still on its way.'''
    def __init__(self, client):
        client.set(key, "parent")
        self.connection = scene.borrow(client)
        self.connection.send_command("GET", key)
    def uses(self):
        return [self.connection.read_response, lambda: self.connection.send_command("GET", key),
                self.connection.can_read]
    def closes(self):
        return [self.connection.disconnect]
    def goes_on(self):
        assert self.connection.read_response() == "parent"

class Nothing:
    '''The client itself, with its connections.'''
    def __init__(self, client):
        self.client, self.session = client, client.client_id()
    def uses(self):
        return []
    def closes(self):
        return [self.client.connection_pool.disconnect, lambda: self.client.__exit__(None, None, None)]
    def goes_on(self):
        assert self.client.client_id() == self.session
"""
LENT = ("Nothing", "Pipeline", "Subscription", "HalfRead")


@each_way
@pytest.mark.parametrize(
    ("kind", "lent"), [(kind, "Nothing") for kind in KINDS] + [("pool", each) for each in LENT[1:]]
)
def test_the_parent_goes_on_whatever_a_child_does(
    run_script: RunScript, redis_url: str, kind: str, lent: str, how: str
) -> None:
    source = """
clients = PerProcess(lambda: scene.client(sys.argv[3]))
client = clients.get()
lent = globals()[sys.argv[4]](client)
sessions = scene.sessions()
def own():
    mine = clients.get()
    assert mine is not client and mine.client_id() not in sessions
    mine.set(key + ":child", "child")
    clients.close()
def use():
    for action in lent.uses():
        refused(action)
    refused(client.ping)
def close():
    for action in lent.closes():
        action()
    client.close()
    clients.close()
def drop():
    global lent, client, clients
    del lent, client, clients
    gc.collect()
for deed in (own, use, close, drop, lambda: (own(), use(), close(), drop())):
    with scene.silence():
        child(deed, how=how)
with scene.silence():
    child(own, how=how, leave="sys.exit")
    child(drop, how=how, leave="sys.exit")
    child(how=how, leave="sys.exit")
lent.goes_on()
assert clients.get() is client and client.ping()
"""
    assert_quiet(run_script(PREPARED + LENDING + source, redis_url, how, kind, lent))


@each_way
def test_a_block_that_was_open_at_fork_is_left_quietly(run_script: RunScript, redis_url: str, how: str) -> None:
    source = """
clients = PerProcess(scene.client)
client = clients.get()
client.set(key, "before")
with client.pipeline() as pipeline, client.pubsub() as pubsub:
    pipeline.watch(key)
    pubsub.subscribe(channel)
    with scene.silence():
        child(how=how, leave="sys.exit")
        child(lambda: refused(lambda: pipeline.get(key)), how=how, leave="sys.exit")
    scene.onlooker.set(key, "somebody else")
    pipeline.multi()
    pipeline.set(key, "parent")
    try:
        pipeline.execute()
    except redis.WatchError:
        pass
    else:
        raise AssertionError("the key is not watched any more")
"""
    assert_quiet(run_script(PREPARED + source, redis_url, how))


def test_a_pool_that_many_clients_are_made_on_is_guarded_once(run_script: RunScript, redis_url: str) -> None:
    source = """
pool = redis.ConnectionPool.from_url(sys.argv[1])
clients = PerProcess(lambda: redis.Redis(connection_pool=pool))
for _ in range(3):
    with clients:
        assert clients.get().ping()
guards = [each for each in pool.connection_class.__mro__ if "_pidpool_check" in vars(each)]
assert len(guards) == 1, "each command is checked once more for each client that there was"
"""
    assert_quiet(run_script(PREPARED + source, redis_url))


# Without pidpool


def test_without_it_a_child_that_resets_a_pipeline_has_the_parent_overwrite(
    run_script: RunScript, redis_url: str
) -> None:
    source = """
client = scene.client()
lent = Pipeline(client)
child(lent.pipeline.reset)
try:
    lent.goes_on()
except AssertionError as error:
    assert "not watched any more" in str(error)
else:
    raise AssertionError("this proves nothing")
assert scene.onlooker.get(key) == "parent", "what somebody else wrote is lost"
"""
    assert_quiet(run_script(PREPARED + LENDING + source, redis_url))


def test_without_it_a_child_takes_the_messages_of_the_parents_subscription(
    run_script: RunScript, redis_url: str
) -> None:
    source = """
client = scene.client()
lent = Subscription(client)
for number in range(20):
    scene.onlooker.publish(channel, number)
def steal():
    assert [lent.pubsub.get_message(timeout=5)["data"] for _ in range(20)] == [str(number) for number in range(20)]
child(steal)
assert lent.pubsub.get_message(timeout=0.1) is None
child(lent.pubsub.unsubscribe)
assert scene.onlooker.publish(channel, "anybody?") == 0
"""
    assert_quiet(run_script(PREPARED + LENDING + source, redis_url))


def test_without_it_a_child_gets_the_parents_answer(run_script: RunScript, redis_url: str) -> None:
    source = """
client = scene.client("single")
client.set(key, "parent")
client.connection.send_command("GET", key)
def ask():
    assert client.get(key + ":child") == "parent"
child(ask)
"""
    assert_quiet(run_script(PREPARED + source, redis_url))


# Locks

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

def lock_of(client, name):
    if name == "mutex":  # of a blocking pool's queue
        return client.connection_pool.pool.mutex
    lock = getattr(client.connection_pool, name, None)
    if lock is None:
        sys.exit()  # this version has no such lock
    return lock
"""


@each_way
@pytest.mark.parametrize(("kind", "lock"), [("pool", "_lock"), ("pool", "_fork_lock"), ("blocking", "mutex")])
def test_a_lock_that_another_thread_holds_at_fork_keeps_no_child_waiting(
    run_script: RunScript, redis_url: str, kind: str, lock: str, how: str
) -> None:
    source = """
clients = PerProcess(lambda: scene.client(sys.argv[3]))
client = clients.get()
pubsub, pipeline = client.pubsub(), client.pipeline()
pubsub.subscribe(channel)
pipeline.watch(key)
sessions = scene.sessions()
hold(lock_of(client, sys.argv[4]))
def own():
    assert clients.get().ping()
def drop_what_was_lent():
    global pubsub, pipeline
    if how == "hookless":
        clients.get()
    del pubsub, pipeline
    gc.collect()
def drop():
    global client, clients
    drop_what_was_lent()
    del client, clients
    gc.collect()
def close():
    clients.close()
    pubsub.close()
    pipeline.reset()
    client.close()
def use():
    refused(lambda: pubsub.subscribe("another"))
for deed in (own, drop_what_was_lent, drop, close, use):
    with scene.silence():
        child(deed, how=how)
with scene.silence():
    child(how=how, leave="sys.exit")
os._exit(0)  # the thread holds the lock for good
"""
    assert_quiet(run_script(PREPARED + HELD + source, redis_url, how, kind, lock, timeout=20))


@pytest.mark.parametrize("deed", ["client.ping()", "drop()"])
def test_without_it_a_child_waits_for_a_lock_that_nobody_will_release(
    run_script: RunScript, redis_url: str, deed: str
) -> None:
    source = """
client = scene.client()
client.ping()
hold(lock_of(client, "_lock"))
def drop():
    global client
    del client
    gc.collect()
pid = fork()
if pid == 0:
    signal.alarm(1)
    eval(sys.argv[2])
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == -signal.SIGALRM
os._exit(0)
"""
    if not _pools_have_locks():
        pytest.skip("redis-py before 6 has no such lock")
    assert_quiet(run_script(PREPARED + HELD + source, redis_url, deed))


def _pools_have_locks() -> bool:
    import redis  # noqa: PLC0415 - only here

    return int(redis.__version__.split(".")[0]) >= 6


# Thread-locals, which CPython frees inside os.fork(), before any hook

THREAD = """
begun, go_on, outcome = threading.Event(), threading.Event(), []
def transact():
    local = threading.local()
    local.pipeline = client.pipeline()
    local.pipeline.watch(key)
    begun.set()
    go_on.wait()
    local.pipeline.multi()
    local.pipeline.set(key, "parent")
    try:
        local.pipeline.execute()
        outcome.append("overwritten")
    except redis.WatchError:
        outcome.append("noticed")
def run():
    client.set(key, "before")
    thread = threading.Thread(target=transact)
    thread.start()
    begun.wait()
    child(how=how)
    child(gc.collect, how=how)
    scene.onlooker.set(key, "somebody else")
    go_on.set()
    thread.join()
    return outcome
"""


@each_way
def test_a_pipeline_in_another_threads_local_still_watches(run_script: RunScript, redis_url: str, how: str) -> None:
    source = """
clients = PerProcess(scene.client)
client = clients.get()
assert run() == ["noticed"]
"""
    assert_quiet(run_script(PREPARED + THREAD + source, redis_url, how))


def test_without_it_a_fork_alone_ends_the_watch_of_another_thread(run_script: RunScript, redis_url: str) -> None:
    source = """
client = scene.client()
assert run() == ["overwritten"]
"""
    assert_quiet(run_script(PREPARED + THREAD + source, redis_url))


# The parent's death

DEATH = """
reading, writing = os.pipe()
parent = fork()
if parent == 0:
    open_everything()
    if fork(how) == 0:
        if how == "hookless" and clients is not None:
            clients.get()
        os.write(writing, str(os.getpid()).encode())
        signal.pause()
    signal.pause()
survivor = int(os.read(reading, 20))
"""
OPEN = """
def open_everything():
    global lent
    client = make()
    lent = [client, client.pubsub(), client.pipeline()]
    client.ping()
    lent[1].subscribe(channel)
    lent[2].watch(key)
    lent.append(scene.borrow(client))
    lent[3].send_command("BLPOP", key + ":queue", 0)
"""


@each_way
@pytest.mark.parametrize("kind", ["pool", "blocking"])
def test_the_server_notices_at_once_when_the_parent_is_killed(
    run_script: RunScript, redis_url: str, kind: str, how: str
) -> None:
    prepare = """
clients = PerProcess(lambda: scene.client(sys.argv[3], direct=True))
make = clients.get
"""
    source = """
assert len(scene.sessions()) == 3
os.kill(parent, signal.SIGKILL)
os.waitpid(parent, 0)
scene.wait_until(0)
assert scene.onlooker.publish(channel, "anybody?") == 0
scene.onlooker.rpush(key + ":queue", "job")
assert scene.onlooker.llen(key + ":queue") == 1, "nobody waits for it any more"
os.kill(survivor, signal.SIGKILL)
scene.onlooker.delete(key + ":queue")
"""
    assert_quiet(run_script(PREPARED + prepare + OPEN + DEATH + source, redis_url, how, kind))


def test_without_it_the_dead_parents_session_takes_a_job_from_the_queue(run_script: RunScript, redis_url: str) -> None:
    prepare = """
clients = None
make = lambda: scene.client(direct=True)
"""
    source = """
sessions = scene.sessions()
os.kill(parent, signal.SIGKILL)
os.waitpid(parent, 0)
assert scene.sessions() == sessions
assert scene.onlooker.publish(channel, "anybody?") == 1
scene.onlooker.rpush(key + ":queue", "job")
assert scene.onlooker.llen(key + ":queue") == 0, "the job went to nobody"
os.kill(survivor, signal.SIGKILL)
scene.wait_until(0)
"""
    assert_quiet(run_script(PREPARED + prepare + OPEN + DEATH + source, redis_url))


# A client that one manages oneself


@each_way
def test_a_client_of_ones_own_can_be_discarded(run_script: RunScript, redis_url: str, how: str) -> None:
    source = """
from pidpool.errors import DiscardRefusedError
client = scene.client()
lent = Pipeline(client)
try:
    discard(client)
except DiscardRefusedError:
    pass
else:
    raise AssertionError("its owner may not")
def forget():
    discard(client)
    discard(client)
    lent.pipeline.reset()
    client.close()
    assert scene.client().ping()
with scene.silence():
    child(forget, how=how)
lent.goes_on()
"""
    assert_quiet(run_script(PREPARED + LENDING + source, redis_url, how))


# Use from several threads while the process forks. Not by a C-level fork: with threads at work it leaves CPython's own
# locks held.


def test_threads_that_use_the_client_meanwhile_hear_only_their_own_answers(
    run_script: RunScript, redis_url: str
) -> None:
    source = """
clients = PerProcess(scene.client)
wrong, stop = [], threading.Event()
connected = threading.Barrier(4)  # what is imported at the first connect is locked meanwhile, by Python itself
def ask(name):
    client = clients.get()
    client.set(key + name, name)
    connected.wait()
    while not stop.is_set():
        found = client.get(key + name)
        if found != name:
            wrong.append(found)
threads = [threading.Thread(target=ask, args=(f"thread {number}",)) for number in range(3)]
for thread in threads:
    thread.start()
connected.wait()
def look():
    client = clients.get()
    name = f"child {os.getpid()}"
    client.set(key + name, name)
    assert [client.get(key + name) for _ in range(20)] == [name] * 20
for _ in range(10):
    child(look, how=how)
stop.set()
for thread in threads:
    thread.join()
assert wrong == []
"""
    assert_quiet(run_script(PREPARED + source, redis_url))
