"""One instance per process: made once, kept, closed politely. No fork here; see test_forks for those."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import pickle
import re
import socket
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from pidpool import PerProcess
from tests.family import assert_quiet, script

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import RunScript


class Client:
    """Knows how often it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class AsyncClient(Client):
    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed += 1


def forget(_client: object) -> None:
    """Stand for a user's `discard`, so that nobody warns of a client that pidpool does not know."""


each_client_quietly = functools.partial(PerProcess[Client], discard=forget)


def test_the_instance_is_made_on_first_use_and_kept() -> None:
    made = []

    def make() -> Client:
        made.append(Client())
        return made[-1]

    clients = PerProcess(make, discard=forget)
    assert made == []
    assert clients.get() is clients() is clients.get()
    assert made == [clients.get()]


def test_of_threads_that_race_one_makes_it_and_all_get_it() -> None:
    many = 16
    made = []
    start = threading.Barrier(many)

    def make() -> Client:
        time.sleep(0.02)  # so that the others come while it is being made
        made.append(Client())
        return made[-1]

    clients = PerProcess(make, discard=forget)
    got: list[Client] = []

    def ask() -> None:
        start.wait()
        got.append(clients.get())

    threads = [threading.Thread(target=ask) for _ in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert got == made * many


def test_a_factory_that_raises_leaves_it_unmade() -> None:
    failures = [OSError("refused"), OSError("refused again")]

    def make() -> Client:
        if failures:
            raise failures.pop(0)
        return Client()

    clients = PerProcess(make, discard=forget)
    for message in ("refused", "refused again"):
        with pytest.raises(OSError, match=f"^{message}$"):
            clients.get()
        assert "not made yet" in repr(clients)
    assert clients.get() is clients.get()


def test_a_thread_that_waited_for_a_factory_that_raises_calls_it_itself() -> None:
    is_in, may_raise = threading.Event(), threading.Event()
    callers: list[int] = []

    def make() -> Client:
        callers.append(threading.get_ident())
        if len(callers) == 1:
            is_in.set()
            may_raise.wait(20)
            raise OSError("refused")
        return Client()

    clients = PerProcess(make, discard=forget)

    def fail() -> None:
        with pytest.raises(OSError, match="refused"):
            clients.get()

    first = threading.Thread(target=fail)
    second = threading.Thread(target=clients.get)
    first.start()
    is_in.wait(20)
    second.start()
    may_raise.set()
    first.join()
    second.join()
    assert len(set(callers)) == len(callers) == 2


def test_a_factory_that_asks_for_what_it_makes_is_told_so() -> None:
    def make() -> Client:
        return clients.get()

    clients: PerProcess[Client] = PerProcess(make, discard=forget, name="carousel")
    with pytest.raises(RuntimeError, match="the factory of carousel asks for the instance"):
        clients.get()
    assert "not made yet" in repr(clients)


def test_a_factory_that_returns_none_is_told_so() -> None:
    with pytest.raises(TypeError, match="the factory of forgetful returned None instead of a client"):
        PerProcess(lambda: None, name="forgetful").get()


def test_a_factory_that_returns_a_coroutine_is_told_so_and_the_coroutine_does_not_complain() -> None:
    async def connect() -> Client:
        await asyncio.sleep(0)
        return Client()

    with pytest.raises(TypeError, match=r"connect.* returned a coroutine, which can be awaited once only"):
        PerProcess(connect).get()  # type: ignore[unused-coroutine]
    gc.collect()  # pytest makes an error of "never awaited"


def test_an_instance_instead_of_a_factory_is_refused() -> None:
    with pytest.raises(TypeError, match=r"takes a function that makes the client, not 'Client': PerProcess\(lambda"):
        PerProcess(Client())  # type: ignore[arg-type]


def test_a_discard_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="discard must be a function of the client, or None, not 'str'"):
        PerProcess(Client, discard="pin")  # type: ignore[arg-type]


def test_repr_says_where_it_stands_and_makes_nothing() -> None:
    clients = PerProcess(Client, discard=forget)
    here = rf"pid {os.getpid()} gen \d+"
    assert re.fullmatch(rf"<PerProcess Client {here} \| not made yet \| 0 discarded>", repr(clients))
    clients.get()
    assert re.fullmatch(rf"<PerProcess Client {here} \| owned: Client \| 0 discarded>", repr(clients))
    clients.close()
    assert "not made yet" in repr(clients)


def test_it_is_called_what_one_likes_or_what_the_factory_is_called() -> None:
    assert PerProcess(Client, name="cache").name == "cache"
    assert PerProcess(Client).name == "Client"
    assert PerProcess(functools.partial(Client)).name == "partial"


# Closing


def test_close_is_polite_and_the_next_use_makes_another() -> None:
    clients = each_client_quietly(Client)
    first = clients.get()
    clients.close()
    clients.close()
    assert first.closed == 1
    assert clients.get() is not first


def test_close_makes_nothing_in_order_to_close_it() -> None:
    def make() -> Client:
        raise AssertionError("made")

    clients = each_client_quietly(make)
    clients.close()
    with clients:
        pass


def test_leaving_a_block_closes() -> None:
    with each_client_quietly(Client) as clients:
        client = clients.get()
        assert client.closed == 0
    assert client.closed == 1


def test_a_client_without_close_is_forgotten() -> None:
    clients = PerProcess(lambda: [1], discard=forget)
    first = clients.get()
    clients.close()
    assert clients.get() is not first


def test_of_threads_that_close_at_once_one_does() -> None:
    clients = each_client_quietly(Client)
    client = clients.get()
    threads = [threading.Thread(target=clients.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.closed == 1


def test_get_while_another_thread_closes_returns_a_client() -> None:
    clients = PerProcess(AsyncClient, discard=forget)  # get() does most where it is asyncio's
    stop = threading.Event()

    def keep_closing() -> None:
        while not stop.is_set():
            asyncio.run(clients.aclose())

    patience = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=keep_closing)
    thread.start()
    try:
        ends = time.monotonic() + 1
        while time.monotonic() < ends:
            assert clients.get() is not None
    finally:
        sys.setswitchinterval(patience)
        stop.set()
        thread.join()


def test_an_asyncio_client_is_closed_by_awaiting() -> None:
    async def main() -> None:
        clients = PerProcess(AsyncClient, discard=forget)
        client = clients.get()
        with pytest.raises(TypeError, match=r"AsyncClient is an asyncio client: use `await PerProcess.aclose\(\)`"):
            clients.close()
        assert client.closed == 0
        assert clients.get() is client
        await clients.aclose()
        await clients.aclose()
        assert client.closed == 1
        async with clients:
            another = clients.get()
            assert another is not client
        assert another.closed == 1

    asyncio.run(main())


def test_an_asyncio_client_whose_close_is_a_coroutine_counts_as_one() -> None:
    class Old:
        closed = False

        async def close(self) -> None:
            await asyncio.sleep(0)
            self.closed = True

    async def main() -> None:
        clients = PerProcess(Old, discard=forget)
        client = clients.get()
        with pytest.raises(TypeError, match="asyncio client"):
            clients.close()
        await clients.aclose()
        assert client.closed

    asyncio.run(main())


def test_aclose_closes_any_other_client_too() -> None:
    async def main() -> None:
        clients = each_client_quietly(Client)
        client = clients.get()
        await clients.aclose()
        assert client.closed == 1

    asyncio.run(main())


# Memory


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def a_client_of(kind: str, listener: socket.socket) -> Any:  # noqa: ANN401 - each is another
    """Make a client that pidpool knows, without a word to a server where it can be."""
    host, port = listener.getsockname()
    if kind == "http":
        import http.client  # noqa: PLC0415 - each client on its own

        client = http.client.HTTPConnection(host, port)
        client.connect()
        return client
    if kind == "socket":
        return socket.create_connection((host, port))
    if kind == "fluent":
        from fluent.sender import FluentSender  # noqa: PLC0415

        sender = FluentSender("test", host=host, port=port)
        sender.emit("a", {})
        return sender
    if kind == "fluent-handler":
        from fluent.handler import FluentHandler  # noqa: PLC0415

        return FluentHandler("test", host=host, port=port)
    if kind == "redis":
        import redis  # noqa: PLC0415

        return redis.Redis(host=host, port=port)
    return Client()


@pytest.mark.parametrize("kind", ["unknown", "socket", "http", "redis", "fluent", "fluent-handler"])
def test_an_instance_is_freed_at_once_where_its_owner_drops_it(kind: str, listener: socket.socket) -> None:
    gc.collect()
    gc.disable()  # counting references must do
    try:
        clients = PerProcess(lambda: a_client_of(kind, listener), discard=forget if kind == "unknown" else None)
        client = clients.get()
        freed = weakref.ref(client)
        if kind in {"socket", "http", "fluent"}:
            accepted, _ = listener.accept()
            accepted.settimeout(5)
            getattr(client, "sock", getattr(client, "socket", client)).shutdown(socket.SHUT_WR)
            client.close()
            with accepted:
                while accepted.recv(4096):
                    pass
        del client
        assert freed() is not None
        del clients
        assert freed() is None
    finally:
        gc.enable()


# Other processes, which inherit nothing


def test_it_pickles_as_its_factory() -> None:
    clients = PerProcess(Client, discard=forget, name="cache")
    client = clients.get()
    copy = pickle.loads(pickle.dumps(clients))  # noqa: S301 - our own
    assert (copy.name, copy.get().__class__) == ("cache", Client)
    assert copy.get() is not client


def test_a_lambda_cannot_be_pickled_and_says_so_itself() -> None:
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(PerProcess(lambda: Client()))  # noqa: PLW0108 - a lambda it must be


def test_a_spawned_process_makes_its_own(run_script: RunScript) -> None:
    source = """
    import multiprocessing, os
    from pidpool import PerProcess
    class Client:
        def __init__(self):
            self.pid = os.getpid()
    def forget(client):
        raise AssertionError("nothing is inherited by spawn")
    def look(clients, proxy, results):
        results.put((clients.get().pid == os.getpid(), proxy.pid == os.getpid(), isinstance(proxy, Client)))
    if __name__ == "__main__":
        context = multiprocessing.get_context("spawn")
        clients = PerProcess(Client, discard=forget)
        clients.get()
        results = context.SimpleQueue()
        process = context.Process(target=look, args=(clients, clients.proxy(), results))
        process.start()
        assert results.get() == (True, True, True)
        process.join()
    """
    assert_quiet(run_script(script(source)))
