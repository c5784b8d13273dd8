"""A cluster's client has a client for each node, and they a pool each."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
import redis

from tests.family import WAYS, assert_quiet, script
from tests.servers import Redis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import RunScript


@pytest.fixture(scope="module")
def cluster_port(run_folder: Path) -> Iterator[str]:
    """The port of a cluster of one node."""
    server = Redis(run_folder, "--cluster-enabled", "yes")
    try:
        address = server.start()
        with redis.Redis(host=address.host, port=address.port, decode_responses=True) as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            deadline = time.monotonic() + 20
            while not re.search(r"cluster_state\W+ok", str(client.execute_command("CLUSTER INFO"))):
                assert time.monotonic() < deadline, "the cluster did not come up"
                time.sleep(0.05)
        yield str(address.port)
    finally:
        server.remove()


@pytest.mark.parametrize("how", WAYS)
def test_the_nodes_of_a_cluster_hear_nothing_of_a_child(run_script: RunScript, cluster_port: str, how: str) -> None:
    source = """
import gc, sys
import redis
from redis.cluster import RedisCluster
from pidpool import InheritedConnectionError, PerProcess
from tests.family import child

port, how = int(sys.argv[1]), sys.argv[2]
onlooker = redis.Redis(port=port, decode_responses=True)
clients = PerProcess(lambda: RedisCluster(host="127.0.0.1", port=port))
client = clients.get()
client.set("key", "parent")
pubsub = client.pubsub(ignore_subscribe_messages=True)
pubsub.subscribe("channel")
pubsub.get_message(timeout=0.2)

def sessions():
    return {each["id"] for each in onlooker.client_list()}
before = sessions()
def own():
    assert clients.get().get("key") == b"parent"
    clients.close()
def use():
    for action in (lambda: client.get("key"), lambda: pubsub.get_message(timeout=0.1), pubsub.unsubscribe):
        try:
            action()
        except InheritedConnectionError:
            pass
        else:
            raise AssertionError("it was let through")
def close():
    pubsub.close()
    client.close()
    clients.close()
def drop():
    global clients, client, pubsub
    del clients, client, pubsub
    gc.collect()
for deed in (own, use, close, drop):
    child(deed, how=how)
child(how=how, leave="sys.exit")
assert before <= sessions()
assert onlooker.publish("channel", "parent") == 1
assert pubsub.get_message(timeout=5)["data"] == b"parent" and client.get("key") == b"parent"
pubsub.close()
clients.close()
"""
    assert_quiet(run_script(script(source), cluster_port, how))
