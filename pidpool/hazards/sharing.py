"""The ways to share a client that are under test: functions from a factory to what the application calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pidpool.per_process import PerProcess

#: Makes a client.
Factory = Callable[[], Any]
#: Called with a URL and a factory for it; returns the client, as the application has it.
Share = Callable[[str, Factory], Any]


@dataclass(frozen=True)
class ClientSubject:
    """A way to share a client, or a recipe around one, that runs through the catalogue's rows for clients.

    Attributes:
        name: what `subject()` and the command line call it.
        title: what it is, in a few words.
        share: see `Share`.
        in_child: what the recipe tells people to do with the client first thing in a forked child, if anything;
            awaited, if it can be.
        refuses: it promises that a child which uses what the parent holds gets an error.
        adjustable: `share` heeds the factory (a user's own function takes nothing but the URL).
    """

    name: str
    title: str
    share: Share
    in_child: Callable[[Any], Any] | None = None
    refuses: bool = False
    adjustable: bool = True


def _per_process(_url: str, make: Factory) -> Any:  # noqa: ANN401 - what the factory makes, by its looks
    return PerProcess(make, name="the client").proxy()


def _as_people_do(_url: str, make: Factory) -> Any:  # noqa: ANN401 - what the factory makes
    return make()


def _disconnect(client: Any) -> Any:  # noqa: ANN401 - redis-py's, sync or asyncio
    return client.connection_pool.disconnect()


def _reset(client: Any) -> Any:  # noqa: ANN401 - as above
    return client.connection_pool.reset()


def users_own(name: str, function: Callable[[str], Any]) -> ClientSubject:
    """Return what a user's own function makes."""
    title = f"the client that {name.partition(':')[2]} returns"
    return ClientSubject(name, title, lambda url, _: function(url), adjustable=False)


CLIENTS: dict[str, ClientSubject] = {
    each.name: each
    for each in (
        ClientSubject("pidpool", "pidpool.PerProcess around a redis.Redis", _per_process, refuses=True),
        ClientSubject("redis-py", "one redis.Redis that everybody shares", _as_people_do),
        ClientSubject(
            "redis-py+disconnect", "the same, connection_pool.disconnect() in the child", _as_people_do, _disconnect
        ),
        ClientSubject("redis-py+reset", "the same, connection_pool.reset() in the child", _as_people_do, _reset),
    )
}
"""The ways that have a name, in the order in which they are listed."""
