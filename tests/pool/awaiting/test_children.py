"""A forked child and its parent's asyncio connections, event loop and tasks."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from tests.pool.awaiting.scenes import Scene, in_loop
from tests.pool.forking import in_child

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from tests.pool.conftest import Play
    from tests.pool.forking import Leave


def _drop_at_once(held: list[Any]) -> None:
    held.clear()
    gc.collect()


async def _drop(held: list[Any]) -> None:
    _drop_at_once(held)


async def _dispose(scene: Scene, held: list[Any]) -> None:
    await held[0].dispose()
    await scene.use(held[0])


def children(scene: Scene, held: list[Any], how: str, *, unwinding: bool = True) -> dict[str, list[str]]:
    """Fork a child for each thing that one can do; return what they said on the parent's connections.

    Parameters:
        held: an engine, and a connection of its that is checked out.
        unwinding: one of them leaves by sys.exit, through the frames of the scenario.
    """
    deeds: list[tuple[str, Leave, Callable[[], object]]] = [
        ("ended", "os._exit", lambda: None),
        ("used the pool", "os._exit", lambda: in_loop(scene.use(held[0]))),
        ("awaited dispose()", "os._exit", lambda: in_loop(_dispose(scene, held))),
        ("dropped everything", "os._exit", lambda: in_loop(_drop(held))),
        ("dropped everything, without a loop", "os._exit", lambda: _drop_at_once(held)),
    ]
    if unwinding:
        deeds.append(("left by sys.exit", "sys.exit", lambda: None))
    found = {}
    for name, leave, deed in deeds:
        with scene.silence() as said:
            in_child(lambda: deed() and None, leave=leave, hookless=how == "hookless")  # noqa: B023 - called at once
        if said:
            found[name] = said
    return found


def parent_with_an_idle_loop(server: list[Any], pool: str, how: str) -> dict[str, list[str]]:
    scene = Scene(server, pool)
    engine = scene.engine()
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(scene.begin(engine))
    found = children(scene, [engine, connection], how)
    loop.run_until_complete(asyncio.wait_for(scene.finish(connection), 20))
    loop.run_until_complete(engine.dispose())
    loop.close()
    return found


def parent_inside_its_loop(server: list[Any], pool: str, how: str) -> dict[str, list[str]]:
    scene = Scene(server, pool)

    async def take_long(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            await connection.execute(text(scene.dialect.sleep(2)))

    async def live() -> dict[str, list[str]]:
        engine = scene.engine(pool_size=3)
        connection = await scene.begin(engine)
        under_way = asyncio.create_task(take_long(engine))
        await asyncio.sleep(0.2)  # until the server has the query
        # After a C-level fork nobody tells the child's copy of a *running* loop, and to unwind that is to run it.
        found = children(scene, [engine, connection], how, unwinding=how == "fork")
        await asyncio.wait_for(under_way, 20)
        await asyncio.wait_for(scene.finish(connection), 20)
        await engine.dispose()
        return found

    return asyncio.run(live())


@pytest.mark.parametrize("how", ["fork", "hookless"])
def test_children_are_silent_and_their_parent_goes_on_awaiting(how: str, server: list[object], play: Play) -> None:
    assert play(parent_with_an_idle_loop, server, "AsyncPidPool", how) == {}


@pytest.mark.parametrize("how", ["fork", "hookless"])
def test_a_query_survives_forks_inside_the_loop_that_awaits_it(
    how: str, plain_server: list[object], play: Play
) -> None:
    assert play(parent_inside_its_loop, plain_server, "AsyncPidPool", how) == {}


@pytest.mark.slow  # it waits for a parent that hangs
@pytest.mark.parametrize("scenario", [parent_with_an_idle_loop, parent_inside_its_loop])
def test_with_the_pool_of_sqlalchemys_they_do_not(
    scenario: Callable[..., dict[str, list[str]]], plain_server: list[object], play: Play
) -> None:
    with pytest.raises((AssertionError, subprocess.TimeoutExpired)):
        assert play(scenario, plain_server, "AsyncAdaptedQueuePool", "fork") == {}


def held_objects(server: list[Any], pool: str, how: str) -> dict[str, str]:
    scene = Scene(server, pool)
    engine = scene.engine()
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(scene.begin(engine))
    session = AsyncSession(engine)
    loop.run_until_complete(session.execute(text("SELECT 1")))

    async def errors() -> dict[str, str]:
        found: dict[str, str] = {}
        deeds: dict[str, Callable[[], Any]] = {
            "execute": lambda: connection.execute(text("SELECT 1")),
            "stream": lambda: connection.stream(text("SELECT 1")),
            "commit": connection.commit,
            "begin_nested": connection.begin_nested,
            "session.execute": lambda: session.execute(text("SELECT 1")),
            "session.commit": session.commit,
        }
        for name, deed in deeds.items():
            try:
                await deed()
            except Exception as error:  # noqa: BLE001 - its name is the answer
                found[name] = type(error).__qualname__
        await session.rollback()
        async with session:
            pass
        await connection.rollback()
        await connection.invalidate()
        async with _Entered(connection):
            pass
        return found

    with scene.silence() as said:
        found: dict[str, str] = in_child(lambda: in_loop(errors()), hookless=how == "hookless")
    assert said == []
    loop.run_until_complete(scene.finish(connection))
    loop.run_until_complete(session.close())
    loop.run_until_complete(engine.dispose())
    loop.close()
    return found


class _Entered:
    """An `async with` block that was entered in the parent, and is left in the child."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *error: object) -> None:
        await self._connection.__aexit__(*error)


@pytest.mark.parametrize("how", ["fork", "hookless"])
def test_held_objects_fail_loudly_and_unwind_quietly(how: str, server: list[object], play: Play) -> None:
    names = ("execute", "stream", "commit", "begin_nested", "session.execute", "session.commit")
    assert play(held_objects, server, "AsyncPidPool", how) == dict.fromkeys(names, "InheritedConnectionError")


def held_stream(server: list[Any], pool: str, how: str) -> list[object]:
    scene = Scene(server, pool)
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(scene.engine().connect())
    result = loop.run_until_complete(connection.stream(text(scene.dialect.numbers(3000))))
    loop.run_until_complete(result.fetchone())

    async def read_and_close() -> str:
        try:
            await result.fetchmany(3000)
        except Exception as error:  # noqa: BLE001 - its name is the answer
            name = type(error).__qualname__
        else:
            name = "it read the parent's rows"
        await result.close()
        return name

    with scene.silence() as said:
        found: str = in_child(lambda: in_loop(read_and_close()), hookless=how == "hookless")
    rest = loop.run_until_complete(asyncio.wait_for(result.fetchall(), 5))
    loop.run_until_complete(connection.close())
    return [found, said, len(rest)]


@pytest.mark.parametrize("how", ["fork", "hookless"])
def test_a_half_read_stream_is_the_parents_to_read(how: str, plain_server: list[object], play: Play) -> None:
    assert play(held_stream, plain_server, "AsyncPidPool", how) == ["InheritedConnectionError", [], 2999]


def test_the_null_pool_is_as_careful(plain_server: list[object], play: Play) -> None:
    assert play(parent_with_an_idle_loop, plain_server, "PidNullPool", "fork") == {}
    assert len(play(held_objects, plain_server, "PidNullPool", "fork")) == 6


def child_that_closes_its_parents_loop(server: list[Any], pool: str) -> str:
    scene = Scene(server, pool)
    engine = scene.engine()
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(scene.begin(engine))
    in_child(loop.close)
    try:
        loop.run_until_complete(asyncio.wait_for(scene.finish(connection), 5))
    except asyncio.TimeoutError:
        return "the parent never heard of its thread"
    return "the parent goes on"


def test_a_child_may_close_the_loop_that_it_inherited(plain_server: list[object], play: Play) -> None:
    assert play(child_that_closes_its_parents_loop, plain_server, "AsyncPidPool") == "the parent goes on"
    # The negative control: nobody touches a connection, and still the parent hangs.
    assert "never heard" in play(child_that_closes_its_parents_loop, plain_server, "AsyncAdaptedQueuePool")


def child_of_a_parent_without_connections(server: list[Any], pool: str, how: str) -> str:
    scene = Scene(server, pool)

    async def live() -> float:
        engine = scene.engine(**({"close_before_fork": True} if how == "close_before_fork" else {}))
        await scene.use(engine)
        if how == "dispose":
            await engine.dispose()
        gc.collect()
        in_child(lambda: None, leave="sys.exit")  # and thereby closes the loop
        loop.call_later(3, lambda: None)  # or else it would never end
        before = time.monotonic()
        await loop.run_in_executor(None, time.sleep, 0.05)
        return time.monotonic() - before

    loop = asyncio.new_event_loop()
    with closing(loop):
        return "the parent goes on" if loop.run_until_complete(live()) < 2 else "the parent never heard of its thread"


@pytest.mark.parametrize("how", ["dispose", "close_before_fork"])
def test_a_loop_without_connections_is_separated_as_well(how: str, any_server: list[object], play: Play) -> None:
    assert play(child_of_a_parent_without_connections, any_server, "AsyncPidPool", how) == "the parent goes on"


def test_with_the_pool_of_sqlalchemys_it_is_not(any_server: list[object], play: Play) -> None:
    assert "never heard" in play(child_of_a_parent_without_connections, any_server, "AsyncAdaptedQueuePool", "dispose")


def child_that_goes_on_with_its_parents_loop(server: list[Any]) -> list[int]:
    scene = Scene(server)
    engine = scene.engine()
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(scene.begin(engine))

    async def live() -> int:
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.05)
        return await scene.use(engine)

    own: int = in_child(lambda: loop.run_until_complete(live()))
    return [own, loop.run_until_complete(scene.session(connection)), loop.run_until_complete(live())]


def test_a_child_may_run_its_copy_of_the_loop(any_server: list[object], play: Play) -> None:
    own, held, idle = play(child_that_goes_on_with_its_parents_loop, any_server)
    assert len({own, held, idle}) == 3
