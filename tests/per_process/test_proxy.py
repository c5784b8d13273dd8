"""An object that forwards everything to this process's instance, and what type checkers know of it."""

from __future__ import annotations

import asyncio
import pickle
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from typing_extensions import assert_type

from pidpool import PerProcess
from tests.family import WAYS, assert_quiet, script

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from tests.conftest import RunScript


class Client:
    """Has everything that a proxy could forget to forward."""

    def __init__(self) -> None:
        self.answer = 42
        self.entered = 0
        self.items = {"a": 1}

    def add(self, number: int, *, twice: bool = False) -> int:
        return self.answer + number * (1 + twice)

    @property
    def doubled(self) -> int:
        return self.answer * 2

    def __call__(self, name: str) -> str:
        return f"called {name}"

    def __len__(self) -> int:
        return len(self.items)

    def __bool__(self) -> bool:
        return self.answer == 42

    def __iter__(self) -> Any:  # noqa: ANN401 - as a dict's
        return iter(self.items)

    def __contains__(self, key: str) -> bool:
        return key in self.items

    def __getitem__(self, key: str) -> int:
        return self.items[key]

    def __setitem__(self, key: str, value: int) -> None:
        self.items[key] = value

    def __delitem__(self, key: str) -> None:
        del self.items[key]

    def __enter__(self) -> Self:
        self.entered += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.entered -= 1

    async def __aenter__(self) -> Self:
        self.entered += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.entered -= 1

    async def __aiter__(self) -> Any:  # noqa: ANN401 - an asynchronous generator
        for item in self.items:
            yield item


def forget(_client: object) -> None:
    """Stand for a user's `discard`."""


def pair() -> tuple[Client, Client]:
    """Return a client and a proxy of it."""
    clients = PerProcess(Client, discard=forget)
    return clients.get(), clients.proxy()


def test_attributes_are_the_instances() -> None:
    client, proxy = pair()
    assert proxy.answer == 42
    assert proxy.doubled == 84
    assert proxy.add(1, twice=True) == 44
    with pytest.raises(AttributeError, match="'Client' object has no attribute 'other'"):
        proxy.other  # type: ignore[attr-defined] # noqa: B018 - looking it up is the test
    assert "add" in dir(proxy)
    proxy.answer = 1
    assert client.answer == 1
    del proxy.answer
    assert not hasattr(client, "answer")


def test_special_methods_are_the_instances() -> None:
    client, proxy = pair()
    assert proxy("me") == "called me"
    assert (len(proxy), list(proxy), "a" in proxy, proxy["a"], bool(proxy)) == (1, ["a"], True, 1, True)
    proxy["b"] = 2
    del proxy["a"]
    assert client.items == {"b": 2}
    client.answer = 0
    assert not proxy
    with proxy as entered:
        assert entered is client
        assert client.entered == 1
    assert client.entered == 0
    assert next(PerProcess(lambda: iter([7]), discard=forget).proxy()) == 7


def test_asynchronous_special_methods_are_the_instances() -> None:
    async def main() -> None:
        client, proxy = pair()
        async with proxy as entered:
            assert entered is client
            assert client.entered == 1
        assert [item async for item in proxy] == ["a"]

    asyncio.run(main())


def test_a_special_method_that_the_instance_lacks_is_missing() -> None:
    proxy: Any = PerProcess(object, discard=forget).proxy()
    with pytest.raises(TypeError, match=r"object of type 'object' has no len\(\)"):
        len(proxy)
    with pytest.raises(TypeError, match="'object' object is not callable"):
        proxy()
    with pytest.raises(TypeError, match="'object' object is not iterable"):
        iter(proxy)


def test_what_stands_in_for_a_special_method_that_the_instance_lacks_does_so_here() -> None:
    class Items:
        def __getitem__(self, number: int) -> int:
            return [1, 2][number]

    proxy: Any = PerProcess(Items, discard=forget).proxy()
    assert list(proxy) == [1, 2]
    assert 2 in proxy


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("leave", ["sys.exit", "RuntimeError"])
def test_a_block_that_was_entered_before_a_fork_is_left_quietly(run_script: RunScript, leave: str, how: str) -> None:
    source = """
    import asyncio, os, sys
    from pidpool import PerProcess
    from tests.family import fork
    class Client:
        def __init__(self):
            self.pid, self.entered = os.getpid(), 0
        def __enter__(self):
            self.entered += 1
        def __exit__(self, *error):
            self.entered -= 1
            assert self.entered == 0, "it was never entered here"
        async def __aenter__(self):
            self.__enter__()
        async def __aexit__(self, *error):
            self.__exit__(*error)
    clients = PerProcess(Client, discard=lambda client: None)
    proxy = clients.proxy()
    def go_on():
        if fork(sys.argv[1]) == 0:
            if sys.argv[2] == "sys.exit":
                sys.exit(7)
            raise RuntimeError
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
    def block():
        with proxy:
            go_on()
    async def asynchronous_block():
        async with proxy:
            go_on()
    for deed in (block, lambda: asyncio.run(asynchronous_block())):
        try:
            deed()
        except RuntimeError:
            assert "not made yet" in repr(clients), "one was made in order to leave it"
            os._exit(7)
        assert proxy.entered == 0
    """
    assert_quiet(run_script(script(source), how, leave))


def test_isinstance_answers_as_the_instance_would() -> None:
    _, proxy = pair()
    assert isinstance(proxy, Client)
    anything: Any = proxy
    assert not isinstance(anything, deque)


def test_repr_makes_nothing() -> None:
    clients = PerProcess(Client, discard=forget)
    proxy = clients.proxy()
    assert repr(proxy) == f"<proxy of {clients!r}>"
    assert "not made yet" in repr(clients)


def test_proxies_of_one_client_are_equal_and_equal_to_it() -> None:
    clients = PerProcess(Client, discard=forget)
    proxy = clients.proxy()
    client = clients.get()
    assert proxy == clients.proxy()
    assert proxy == client
    assert client == proxy
    assert proxy != PerProcess(Client, discard=forget).proxy()
    anything: Any = 5
    assert proxy != anything
    assert hash(proxy) == hash(clients.proxy())
    assert {proxy: 1}[clients.proxy()] == 1


def test_it_may_be_referred_to_weakly() -> None:
    _, proxy = pair()
    assert weakref.ref(proxy)() is proxy


def test_it_pickles_as_a_proxy() -> None:
    clients = PerProcess(Client, discard=forget)
    copy = pickle.loads(pickle.dumps(clients.proxy()))  # noqa: S301 - our own
    assert isinstance(copy, Client)
    assert copy != clients.get()


@pytest.mark.parametrize("how", WAYS)
def test_in_a_child_it_speaks_to_the_childs_own_and_keeps_its_hash(run_script: RunScript, how: str) -> None:
    source = """
    import os, sys
    from pidpool import PerProcess
    from tests.family import child
    class Client:
        def __init__(self):
            self.pid = os.getpid()
        def whose(self):
            return self.pid
    proxy = PerProcess(Client, discard=lambda client: None).proxy()
    assert proxy.whose() == os.getpid()
    parent, number, places = os.getpid(), hash(proxy), {proxy: "found"}
    bound = proxy.whose
    def look():
        assert hash(proxy) == number and places[proxy] == "found" and proxy == proxy
        assert proxy.whose() == proxy.pid == os.getpid()
        assert bound() == parent, "a bound method belongs to who took it"
    child(look, how=sys.argv[1])
    assert proxy.whose() == os.getpid()
    """
    assert_quiet(run_script(script(source), how))


# What type checkers know: mypy reads this file, and would fail here


def make() -> Client:
    return Client()


def test_type_checkers_know_what_comes_out() -> None:
    clients = PerProcess(make, discard=forget)
    assert_type(clients, PerProcess[Client])
    assert_type(clients.get(), Client)
    assert_type(clients(), Client)
    assert_type(clients.proxy(), Client)
    assert_type(clients.proxy().add(1), int)
    with clients as entered:
        assert_type(entered, PerProcess[Client])
    assert_type(PerProcess(Client, discard=Client.__len__, name="cache"), PerProcess[Client])
    PerProcess(make, discard=deque.clear)  # type: ignore[misc] # a discard of something else
