"""redis.asyncio in a parent that awaits, while its children tidy up what they inherited: loop, pool, subscription."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.family import WAYS, assert_quiet, script

if TYPE_CHECKING:
    from tests.conftest import RunScript

each_way = pytest.mark.parametrize("how", WAYS)

PREPARED = script("""
import asyncio, gc, os, signal, sys, threading, time, warnings
import redis
from pidpool import InheritedConnectionError, PerProcess
from tests.family import child, fork
from tests.per_process.redis_scene import Scene

scene = Scene(sys.argv[1])
key, channel = scene.key, scene.channel
how = sys.argv[2]

async def subscribe(client):
    pubsub = client.pubsub(ignore_subscribe_messages=True)
    await pubsub.subscribe(channel)
    while scene.onlooker.pubsub_numsub(channel)[0][1] != 1:
        await asyncio.sleep(0.01)
    await pubsub.get_message(timeout=0.05)
    return pubsub

def no_loop(action):
    '''As in a child, where Python takes no loop for running.'''
    def deed():
        asyncio._set_running_loop(None)
        return action()
    return deed

async def goes_on(client, pubsub):
    assert await asyncio.wait_for(client.get(key), 5) == "parent"
    for number in range(3):
        assert scene.onlooker.publish(channel, number) == 1
        message = await asyncio.wait_for(pubsub.get_message(timeout=5), 6)
        assert message["data"] == str(number), message
    began = time.monotonic()
    await asyncio.wait_for(asyncio.to_thread(time.sleep, 0.05), 10)
    assert time.monotonic() - began < 8, "it was the time limit that woke it"

class Deeds:
    '''What a child may do.'''
    def __init__(self, clients, client, pubsub, loop):
        self.clients, self.client, self.pubsub, self.loop = clients, client, pubsub, loop
    def own(self):
        async def main():
            mine = self.clients.get()
            assert mine is not self.client
            await mine.set(key + ":child", "child")
            await self.clients.aclose()
        asyncio.run(main())
    def use(self):
        async def main():
            for action in (self.client.ping, lambda: self.pubsub.get_message(timeout=0.05),
                           lambda: self.pubsub.subscribe("another"), self.pubsub.unsubscribe):
                try:
                    await asyncio.wait_for(action(), 2)
                except InheritedConnectionError:
                    pass
                else:
                    raise AssertionError("it was let through")
        asyncio.run(main())
    def close(self):
        async def main():
            await asyncio.wait_for(self.clients.aclose(), 2)
            await asyncio.wait_for(self.pubsub.aclose() if hasattr(self.pubsub, "aclose") else self.pubsub.close(), 2)
            await asyncio.wait_for(self.client.connection_pool.disconnect(), 2)
        asyncio.run(main())
    def abandon(self):
        self.clients.get() if how == "hookless" else None
        for connection in (self.pubsub.connection, scene_connection(self.client)):
            connection._writer.transport.abort()
            connection._writer.close()
    def close_the_loop(self):
        self.clients.get() if how == "hookless" else None
        self.loop._thread_id = None
        self.loop.close()
    def drop(self):
        self.clients.get() if how == "hookless" else None
        self.__dict__.clear()
        globals().pop("kept", None)
        gc.collect()

def scene_connection(client):
    return list(client.connection_pool._available_connections)[0]
""")
DEEDS = ("own", "use", "close", "abandon", "close_the_loop", "drop")


@each_way
@pytest.mark.parametrize("deed", DEEDS)
def test_the_parent_goes_on_awaiting_whatever_a_child_does(
    run_script: RunScript, redis_url: str, deed: str, how: str
) -> None:
    source = """
async def main():
    clients = PerProcess(scene.async_client)
    client = clients.get()
    pubsub = await subscribe(client)
    await client.set(key, "parent")
    deeds = Deeds(clients, client, pubsub, asyncio.get_running_loop())
    with scene.silence():
        child(no_loop(getattr(deeds, sys.argv[3])), how=how)
    await goes_on(client, pubsub)
    assert clients.get() is client
    await (pubsub.aclose() if hasattr(pubsub, "aclose") else pubsub.close())
    await clients.aclose()
asyncio.run(main())
"""
    assert_quiet(run_script(PREPARED + source, redis_url, how, deed))


@pytest.mark.parametrize("deed", ["abandon", "close_the_loop"])
def test_without_it_the_parent_is_left_waiting(run_script: RunScript, redis_url: str, deed: str) -> None:
    source = """
warnings.simplefilter("ignore")
async def main():
    client = scene.async_client()
    pubsub = await subscribe(client)
    await client.set(key, "parent")
    class Clients:
        get = aclose = staticmethod(lambda: client)
    deeds = Deeds(Clients, client, pubsub, asyncio.get_running_loop())
    child(no_loop(getattr(deeds, sys.argv[3])))
    outcome = []
    for what in (lambda: client.get(key), lambda: asyncio.to_thread(time.sleep, 0.05)):
        began = time.monotonic()
        try:
            await asyncio.wait_for(what(), 1)
        except asyncio.TimeoutError:
            pass
        outcome.append("left waiting" if time.monotonic() - began > 0.9 else "awake")
    if outcome[["abandon", "close_the_loop"].index(sys.argv[3])] != "left waiting":
        print(outcome)
    sys.stdout.flush()
    os._exit(0)
asyncio.run(main())
"""
    assert_quiet(run_script(PREPARED + source, redis_url, "fork", deed))


MID_PIPELINE = """
async def main():
    client = client_of()
    await client.set(key, "old")
    pipeline = client.pipeline()
    await pipeline.watch(key)
    await pipeline.get(key)
    pipeline.multi()
    pipeline.set(key, "mine")
    def execute():
        async def use():
            try:
                await asyncio.wait_for(pipeline.execute(), 2)
            except InheritedConnectionError:
                pass
            await asyncio.wait_for(pipeline.reset(), 2)
        asyncio.run(use())
    def reset():
        async def use():
            await asyncio.wait_for(pipeline.reset(), 2)
        asyncio.run(use())
    def deed():
        try:
            {"execute": execute, "reset": reset}[sys.argv[3]]()
        except Exception:  # of redis-py, in another loop: what became of the parent is the question
            if not is_control:
                raise
    child(no_loop(deed), how=how)
    scene.onlooker.set(key, "somebody else's")
    try:
        await asyncio.wait_for(pipeline.execute(), 5)
    except redis.WatchError:
        pass
    else:
        raise AssertionError("an update is lost")
    assert await asyncio.wait_for(client.get(key), 5) == "somebody else's"
"""


@each_way
@pytest.mark.parametrize("deed", ["execute", "reset"])
def test_a_pipeline_that_watches_keys_goes_on_watching(
    run_script: RunScript, redis_url: str, deed: str, how: str
) -> None:
    source = """
clients = PerProcess(scene.async_client)
client_of, is_control = clients.get, False
asyncio.run(main())
"""
    assert_quiet(run_script(PREPARED + MID_PIPELINE + source, redis_url, how, deed))


def test_without_it_the_parents_pipeline_stops_watching(run_script: RunScript, redis_url: str) -> None:
    source = """
client_of, is_control = scene.async_client, True
try:
    asyncio.run(main())
except (AssertionError, asyncio.TimeoutError) as error:
    print(str(error) or "the parent waits for ever")
    sys.stdout.flush()
os._exit(0)
"""
    done = run_script(PREPARED + MID_PIPELINE + source, redis_url, "fork", "reset")
    assert done.stdout in {"an update is lost\n", "the parent waits for ever\n"}, done.stderr


@each_way
def test_the_server_notices_at_once_when_an_asyncio_parent_is_killed(
    run_script: RunScript, redis_url: str, how: str
) -> None:
    source = """
reading, writing = os.pipe()
parent = fork()
if parent == 0:
    async def main():
        clients = PerProcess(lambda: scene.async_client(direct=True))
        client = clients.get()
        pubsub = await subscribe(client)
        await client.set(key, "parent")
        if fork(how) == 0:
            if how == "hookless":
                clients.get()
            os.write(writing, str(os.getpid()).encode())
            signal.pause()
        signal.pause()
    asyncio.run(main())
survivor = int(os.read(reading, 20))
before = len(scene.sessions())
os.kill(parent, signal.SIGKILL)
os.waitpid(parent, 0)
scene.wait_until(0)
os.kill(survivor, signal.SIGKILL)
assert before == 2
"""
    assert_quiet(run_script(PREPARED + source, redis_url, how))
