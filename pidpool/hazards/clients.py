"""Clients that are no SQL connections: what a Redis client holds at fork, and how a child loses it for its parent."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from .catalogue import enters
from .client_stage import MESSAGES, Watch, in_new_loop
from .errors import Hang, Lost, Skip
from .family import LEFT_TO_FINALIZATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .client_stage import ClientStage, Holder
    from .family import How, Leave

_WAYS: tuple[How, ...] = ("fork", "hookless")
_ENDS_WITHIN = 2.0  # "At once", with some patience for a busy machine.
_CHILD_LISTENS = 0.2  # seconds; what it should not hear has been sent before


@enters(
    "client-gc",
    needs="client",
    title="lets go of a client, a pipeline or a subscription",
    promise="keep its WATCH and its subscription",
    advice=(
        "Nothing needs doing with PerProcess. Without it, a child must not let go of an inherited pipeline, not even "
        "by leaving a function, until it ends by os._exit."
    ),
)
def client_gc(stage: ClientStage) -> None:
    """A pipeline that watches a key says UNWATCH when it is freed.

    redis-py compares the PID before it takes a connection from its pool. A pipeline that watches a key already has
    one, and gives the watch up when it is freed: in a child too, on the socket that it shares with the parent. The
    parent's transaction is no longer refused when the key has changed, and overwrites what somebody else has written.
    """
    holder = stage.holder()
    stage.child(holder.watch.drop)
    holder.check("the child dropped the pipeline it inherited")
    stage.child(holder.drop)
    holder.check("the child dropped the client it inherited")


@enters(
    "client-exit",
    needs="client",
    title="leaves by sys.exit, an uncaught exception, os._exit, or a multiprocessing return, inside a pipeline's block",
    promise="keep its WATCH and its subscription",
    advice="Nothing needs doing with PerProcess. Without it, end children by os._exit.",
)
def client_exit(stage: ClientStage) -> None:
    """A block that was entered once is left twice.

    The fork happens inside `with client.pipeline()`. The child ends, and on its way out the block resets the pipeline:
    UNWATCH, on the parent's session.
    """
    holder = stage.holder()
    ways: list[tuple[str, How, Leave]] = [
        ("os._exit", "fork", "os._exit"),
        ("a multiprocessing return", "multiprocessing", "os._exit"),
        ("sys.exit", "fork", "sys.exit"),
        ("an uncaught exception", "fork", "exception"),
    ]
    for way, how, leave in ways:
        with holder.client.pipeline() as pipeline:
            watch = Watch(stage, pipeline)
            stage.child(lambda: None, how=how, leave=leave)
            watch.check(f"the child left the block by {way}")
        stage.child(lambda: LEFT_TO_FINALIZATION.append(holder), how=how, leave=leave)
        holder.check(f"the child left by {way}, the client in a global")


@enters(
    "client-close",
    needs="client",
    title="closes, resets and unsubscribes what it inherited",
    promise="keep its sessions, its WATCH and its subscription",
    advice=(
        "With PerProcess these calls do nothing in a child, or raise InheritedConnectionError. Without it, leave "
        "inherited pipelines and subscriptions alone."
    ),
)
def client_close(stage: ClientStage) -> None:
    """Clean-up code does its duty on somebody else's client.

    Clean-up code runs in the child: a `finally` closes the client, resets a pipeline, unsubscribes. redis-py minds the
    PID where it closes a connection, and not where it says UNWATCH or UNSUBSCRIBE: the parent's subscription ends, and
    it waits for messages that nobody sends any more.
    """
    holder = stage.holder()
    pool = holder.client.connection_pool
    deeds: dict[str, Callable[[], object]] = {
        "reset the pipeline": holder.watch.pipeline.reset,
        "unsubscribed": holder.subscription.unsubscribe,
        "closed the subscription": holder.subscription.close,
        "closed the client": holder.client.close,
        "disconnected the pool": pool.disconnect,
    }
    for deed, action in deeds.items():
        stage.child(partial(stage.is_refused, action))
        holder.check(f"the child {deed}")


@enters(
    "client-held-use",
    needs="client",
    title="reads from an inherited subscription, or an answer that is on its way",
    promise="get its messages and its answer; with PerProcess the child gets InheritedConnectionError, or its own",
    advice="Subscribe anew in the child. PerProcess raises InheritedConnectionError where you forgot.",
)
def client_held_use(stage: ClientStage) -> None:
    """What is sent to both is read by one.

    A subscription holds a connection for itself, and so does a client with a single connection. A child that reads from
    it takes messages out of the parent's stream, or the answer to what the parent has asked; each of them then gets
    what was meant for the other, or nothing.
    """
    if stage.subject.adjustable:
        _ask_and_fork(stage)
    holder = stage.holder()
    messages = holder.publish()
    taken = stage.child(lambda: _listen(holder))
    if taken == "refused":
        taken = []
    elif stage.subject.refuses:
        raise Lost("the child read from the parent's subscription, and got no error")
    if taken:
        raise Lost(f"the child took {len(taken)} of the parent's {MESSAGES} messages")
    holder.hear(messages, "the child read from its subscription")
    holder.check("the child read from its subscription")


def _listen(holder: Holder) -> list[str] | str:
    try:
        return holder.messages(MESSAGES, patience=_CHILD_LISTENS)
    except Exception:  # noqa: BLE001 - any error at all is a refusal, the driver's own included
        return "refused"


def _ask_and_fork(stage: ClientStage) -> None:
    client = stage.client(single_connection_client=True)
    key, token = stage.key(), stage.token()
    client.set(key, token)
    client.connection.send_command("GET", key)
    stage.child(lambda: stage.use(client))
    with stage.within("the parent's answer, which was on its way when it forked,"):
        answer = client.connection.read_response()
    if answer != token:
        raise Lost(f"the parent got another one's answer ({answer!r} instead of {token!r})")
    if stage.noise:
        raise Lost(f"{stage.noise} (the child used a client with a single connection)")


@enters(
    "mid-pipeline",
    needs="client",
    title="executes, extends or resets a pipeline that was under way",
    promise="have its transaction refused if the watched key has changed, and stored once if not",
    advice=(
        "Begin a new pipeline in the child. With PerProcess an inherited one that watches keys raises "
        "InheritedConnectionError there."
    ),
)
def mid_pipeline(stage: ClientStage) -> None:
    """WATCH, fork, EXEC, EXEC.

    The fork happens between WATCH and EXEC, often deep down in a library. Both processes hold the pipeline and its
    socket. Whichever executes first, or merely gives up, ends the watch for both: the other's EXEC succeeds over a key
    that has changed.
    """
    holder = stage.holder()
    deeds: dict[str, Callable[[Any], object]] = {
        "executed the pipeline": lambda pipeline: (pipeline.multi(), pipeline.get("pidpool"), pipeline.execute()),
        "read through the pipeline": lambda pipeline: pipeline.get("pidpool"),
        "gave the pipeline up": lambda pipeline: pipeline.unwatch(),
        "reset the pipeline": lambda pipeline: pipeline.reset(),
    }
    for how in _WAYS:
        for deed, action in deeds.items():
            refused = stage.child(partial(stage.is_refused, partial(action, holder.watch.pipeline)), how=how)
            holder.check(f"the child {deed}")
            if stage.subject.refuses and not refused and deed != "reset the pipeline":
                raise Lost(f"the child {deed}, and got no error")


@enters(
    "client-other-thread",
    needs="client",
    title="is forked while another thread keeps a pipeline in a thread-local",
    promise="keep its WATCH",
    advice=(
        "Nothing needs doing with PerProcess. Without it there is nothing one could do in the child: it has happened "
        "before its first line runs."
    ),
)
def client_other_thread(stage: ClientStage) -> None:
    """A thread-local of another thread is destroyed inside the fork.

    A worker thread keeps a pipeline in a `threading.local`. The main thread forks a child that does nothing whatever
    and ends by `os._exit`. Even so the thread's watch is lost: Python destroys other threads' thread-locals inside
    `os.fork()`, before any at-fork hook, and the pipeline says UNWATCH.
    """
    client = stage.client()
    local = threading.local()

    def watch() -> None:
        local.watch = Watch(stage, client.pipeline())

    with ThreadPoolExecutor(1) as thread:
        thread.submit(watch).result()
        stage.child(lambda: None)
        thread.submit(lambda: local.watch.check("the child did nothing")).result()
    if stage.noise:
        raise Lost(f"{stage.noise} (the child did nothing)")


@enters(
    "client-lock-held",
    needs="client",
    title="is forked while another thread holds the lock of the client's pool",
    promise="go on; the child must answer",
    advice=(
        "Nothing needs doing with PerProcess: no lock that another thread may have held is taken in a child. Without "
        "it, make the client in the child, and never touch or free the one that it inherited."
    ),
)
def client_lock_held(stage: ClientStage) -> None:
    """A lock that another thread holds at fork stays locked in the child for ever.

    redis-py guards its pool with a lock. A fork copies the lock in the state in which it is, but not the thread that
    would release it. redis-py notices the fork, means to make its pool anew, and waits for that lock: the child's first
    command hangs.
    """
    client = stage.client()
    session = stage.use(client)
    pool = client.connection_pool
    kind = pool.connection_class
    inside, leave = threading.Event(), threading.Event()

    # A pool makes its connections under its lock.
    class Slow(kind):  # type: ignore[misc,valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - redis-py's signature
            inside.set()
            leave.wait(stage.seconds)
            super().__init__(*args, **kwargs)

    watch = Watch(stage, client.pipeline())  # so that the next command needs another connection
    pool.connection_class = Slow
    with ThreadPoolExecutor(1) as thread:
        command = thread.submit(client.ping)
        try:
            if not inside.wait(stage.seconds):
                raise Skip("this client's pool makes connections in a way that cannot be held up")
            own = stage.child(lambda: stage.use(client))
            stage.child(client.close)
        finally:
            leave.set()
        with stage.within("the command in the parent's thread"):
            command.result()
    if own == session:
        raise Lost("the child was given a session of the parent's")
    watch.check("a child was forked while a thread was making a connection")


@enters(
    "client-hookless",
    needs="client",
    title="comes from a C-level fork (uWSGI, an extension), of which Python learns nothing",
    promise="keep its sessions, its WATCH and its subscription",
    advice="Nothing needs doing with PerProcess. Recipes that rely on os.register_at_fork miss such forks.",
)
def client_hookless(stage: ClientStage) -> None:
    """Not every fork is os.fork.

    uWSGI forks its workers in C. None of Python's at-fork hooks runs, so nobody can let go of what the child inherited
    before the child itself touches it.
    """
    holder = stage.holder()
    for deed, action, leave in _hookless_deeds(stage, holder):
        stage.child(action, how="hookless", leave=leave)
        holder.check(f"the child of a C-level fork {deed}")


def _hookless_deeds(stage: ClientStage, holder: Holder) -> Iterator[tuple[str, Callable[[], object], Leave]]:
    yield "ended", lambda: None, "os._exit"
    yield "used the client", lambda: _be_another(stage, holder), "os._exit"
    yield "closed the client", holder.client.close, "os._exit"
    yield "read from the subscription", lambda: _listen(holder), "os._exit"
    yield "unsubscribed", lambda: stage.is_refused(holder.subscription.unsubscribe), "os._exit"
    yield "reset the pipeline", holder.watch.pipeline.reset, "os._exit"
    yield "dropped the pipeline", holder.watch.drop, "os._exit"
    yield "dropped the client", holder.drop, "os._exit"
    yield "left by sys.exit, all in a global", lambda: LEFT_TO_FINALIZATION.append(holder), "sys.exit"


def _be_another(stage: ClientStage, holder: Holder) -> None:
    if stage.use(holder.client) in holder.sessions:
        raise Lost("the child was given a session of the parent's")


@enters(
    "client-parent-death",
    needs="client",
    title="lives on after the parent was killed",
    promise="end: the server must end its sessions, and give no job to a dead process",
    advice=(
        "Nothing needs doing with PerProcess after an ordinary fork: the child does not keep the parent's sockets. "
        "Without it, have children ended when their parent dies."
    ),
)
def client_parent_death(stage: ClientStage) -> None:
    """A dead process keeps its session as long as a child keeps its socket.

    The parent is killed (out of memory, say) while it waits for a job with BLPOP. Its child lives on, and with it its
    copy of the socket: to the server nothing has happened. It hands the next job to the dead, and the job is gone.
    """
    queue = stage.key()

    def live_and_die() -> list[int]:
        holder = stage.holder()
        thread = threading.Thread(target=lambda: holder.client.blpop([queue], timeout=0), daemon=True)
        thread.start()
        with stage.observer() as observer:
            while not observer.has_waiting(stage.name):
                time.sleep(0.01)
        sessions = stage.sessions()
        stage.start(lambda: time.sleep(stage.seconds))  # Its end is the scenario's: the group is killed.
        return list(sessions)

    sessions = stage.start(live_and_die, leave="SIGKILL").wait()
    with stage.observer() as observer:
        left = observer.sessions(stage.name, among=sessions, patience=_ENDS_WITHIN)
        observer.client.rpush(queue, "job")
        waiting = observer.client.llen(queue)
    if waiting != 1:
        raise Lost("a job that was queued after the parent was killed was handed to the dead parent, and is gone")
    if left:
        raise Lost(
            f"{_ENDS_WITHIN:g} s after the parent was killed the server still had {len(left)} of its "
            f"{len(sessions)} sessions"
        )


@enters(
    "client-async",
    needs="client",
    title="runs an event loop of its own, or frees an asyncio client that it inherited",
    promise="go on awaiting, not hang",
    advice=(
        "With PerProcess, take the client by get() in the event loop that uses it. Without it, end children by "
        "os._exit, and let none of them free, close or use the client."
    ),
    makes_loops=True,
)
def client_async(stage: ClientStage) -> None:
    """An event loop's list of sockets is shared, too.

    The child of a process with an asyncio client frees or closes it. That takes its socket out of the epoll that parent
    and child share: the server's answer arrives, and nobody wakes the parent that awaits it.
    """
    asyncio.run(_serve(stage))


async def _serve(stage: ClientStage) -> None:
    from redis.exceptions import TimeoutError as RedisTimeoutError  # noqa: PLC0415 - nobody needs it for a database

    held = [stage.asyncio_client()]
    key, childs, token = stage.key(), stage.key(), stage.token()
    await held[0].set(key, token)
    session = await held[0].client_id()

    async def use() -> int:
        own = stage.token()
        await held[0].set(childs, own)
        if await held[0].get(childs) != own:
            raise Lost("a command got another one's answer")
        return int(await held[0].client_id())

    def free() -> None:
        held.clear()
        stage.drop()

    deeds: dict[str, Callable[[], object]] = {
        "freed the client": free,
        "used the client in a loop of its own": lambda: in_new_loop(use()),
    }
    for deed, action in deeds.items():
        found = stage.child(action)
        if found == session:
            raise Lost("the child was given the parent's session")
        try:
            answer = await asyncio.wait_for(held[0].get(key), stage.seconds / 2)
        except (asyncio.TimeoutError, RedisTimeoutError):  # since 8.1 redis-py itself gives up after 5 s
            raise Hang(f"the parent awaited its answer for ever (the child {deed})") from None
        if answer != token or await held[0].client_id() != session:
            raise Lost(f"the parent's session is gone (the child {deed})")
        if stage.noise:
            raise Lost(f"{stage.noise} (the child {deed})")
    with suppress(AttributeError):  # of redis-py before 5.0.1
        await held[0].aclose()
