"""What a scenario with clients gets: clients, children, and witnesses of what the parent lost."""

from __future__ import annotations

import asyncio
import gc
import inspect
import time
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.engine import make_url

from . import redis
from .errors import Lost, Skip
from .family import Family

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from .redis import Observer
    from .sharing import ClientSubject
    from .target import Target

T = TypeVar("T")

MESSAGES = 5
"""How many are published at a time."""

_PATIENCE = 1.0  # seconds for what the server has sent, or is about to


class ClientStage(Family):
    """The place in which one scenario with clients plays.

    Args:
        subject: the way to share a client that is under test.
        target: the server.
        seconds: see `Family` for this and the next.
        report: as there.
    """

    def __init__(
        self,
        subject: ClientSubject,
        target: Target,
        seconds: float,
        report: Callable[[str | None, float | None], None],
    ) -> None:
        super().__init__(target, redis.address(target.url) if target.proxied else None, seconds, report)
        self.subject = subject
        self.name = f"pidpool_{self.token()}"
        """What every client of this scenario calls itself; the server tells its sessions by it."""
        # In the URL, because a user's own function takes nothing else.
        self.url = (
            make_url(self.url).update_query_dict({"client_name": self.name}).render_as_string(hide_password=False)
        )
        self.clients: list[Any] = []
        self._key = self.key()  # for `use`: parent and child do so one after the other

    def client(self, **options: object) -> Any:  # noqa: ANN401 - redis-py's types promise awaitables, too
        """Return a new client, shared in the way under test; `options` are those of `redis.Redis`."""
        from redis import Redis  # noqa: PLC0415 - nobody needs it who audits a database

        if options and not self.subject.adjustable:
            raise Skip(f"{self.subject.name} takes no options")
        url = self.url
        client = self.subject.share(url, lambda: Redis.from_url(url, decode_responses=True, **options))
        self.clients.append(client)
        return client

    def asyncio_client(self) -> Any:  # noqa: ANN401 - as above
        """Return a new asyncio client, shared in the way under test."""
        from redis.asyncio import Redis  # noqa: PLC0415 - as above

        if not self.subject.adjustable:
            raise Skip(f"{self.subject.name} is not asked for an asyncio client")
        url = self.url
        client = self.subject.share(url, lambda: Redis.from_url(url, decode_responses=True))
        self.clients.append(client)
        return client

    def observer(self) -> AbstractContextManager[Observer]:
        """Open a session of its own to the server, past clients and proxy; never while a child forks."""
        return redis.observer(self.target.url, self.target.namespace)

    def key(self) -> str:
        """Return a new key, or channel, that the audit removes in the end."""
        with self.observer() as observer:
            return observer.key(self.token())

    def sessions(self) -> set[int]:
        """Return the ids of all sessions that clients of this scenario have."""
        with self.observer() as observer:
            return observer.sessions(self.name)

    def holder(self) -> Holder:
        """Return a parent that has much to lose, and can tell whether it still has it."""
        with self.within("setting up connections in the parent"):
            return Holder(self, self.client())

    def use(self, client: Any) -> int:  # noqa: ANN401 - see `client`
        """Store something, read it again, and return the id of the session."""
        token = self.token()
        client.set(self._key, token)
        answer = client.get(self._key)
        # A function of the user's may return bytes.
        if answer not in {token, token.encode()}:
            raise Lost(f"a command got another one's answer ({answer!r} instead of {token!r})")
        return int(client.client_id())

    def follow_recipe(self) -> None:
        """Do what the recipe under test tells children to do first."""
        if self.subject.in_child is not None:
            for client in self.clients:
                done = self.subject.in_child(client)
                if inspect.isawaitable(done):
                    in_new_loop(done)

    def drop(self) -> None:
        """Forget every client and collect garbage: what a process does that has no use for them."""
        self.clients.clear()
        gc.collect()


class Watch:
    """A pipeline that watches a key, and can tell whether it still does."""

    def __init__(self, stage: ClientStage, pipeline: Any) -> None:  # noqa: ANN401 - redis-py's
        self.stage = stage
        self.pipeline = pipeline
        self._key = stage.key()
        pipeline.watch(self._key)

    def check(self, deed: str) -> None:
        """Have somebody else change the key: the next transaction must be refused, and the one after that succeed.

        Raises:
            Lost: it overwrote what it should not have, or stored nothing.
        """
        theirs, ours = self.stage.token(), self.stage.token()
        with self.stage.observer() as observer:
            observer.put(self._key, theirs)
        with self.stage.within(f"the parent's EXEC ({deed})"):
            if not self._is_refused(ours):
                raise Lost(
                    "the parent's EXEC succeeded, though somebody else had changed the key that it watches: "
                    f"an update is lost ({deed})"
                )
            self.pipeline.watch(self._key)
            if self._is_refused(ours):
                raise Lost(f"the parent's EXEC is refused, though nobody has changed the key that it watches ({deed})")
        with self.stage.observer() as observer:
            if observer.value(self._key) != ours:
                raise Lost(f"the parent's EXEC succeeded and stored nothing ({deed})")
        self.pipeline.watch(self._key)

    def drop(self) -> None:
        """Forget the pipeline and collect garbage: for a child."""
        self.pipeline = None
        gc.collect()

    def _is_refused(self, value: str) -> bool:
        from redis import WatchError  # noqa: PLC0415 - as in `ClientStage.client`

        self.pipeline.multi()
        self.pipeline.set(self._key, value)
        try:
            self.pipeline.execute()
        except WatchError:
            return True
        return False


class Holder:
    """What one process keeps while its children do their worst. Made by `ClientStage.holder`.

    A pipeline that watches a key, a subscription, and an idle connection: redis-py minds the PID itself where it takes
    a connection from its pool, and the first two do not ask for it again.

    Attributes:
        client: the client, as the application has it.
        watch: the pipeline.
        subscription: the subscription.
        channel: what it is subscribed to.
        sessions: the ids of the sessions of all three.
    """

    def __init__(self, stage: ClientStage, client: Any) -> None:  # noqa: ANN401 - as in `ClientStage.client`
        self.stage = stage
        self.client = client
        self.watch = Watch(stage, client.pipeline())
        self.channel = stage.key()
        self.subscription = client.pubsub(ignore_subscribe_messages=True)
        self.subscription.subscribe(self.channel)
        self.subscription.get_message(timeout=_PATIENCE)  # that it is subscribed
        stage.use(client)
        self.sessions = stage.sessions()

    def messages(self, count: int, *, patience: float = _PATIENCE) -> list[str]:
        """Read as many messages from the subscription, or those that come before `patience` seconds are over."""
        found: list[str] = []
        deadline = time.monotonic() + patience
        while len(found) < count and (remaining := deadline - time.monotonic()) > 0:
            message = self.subscription.get_message(timeout=remaining)
            if message is not None:
                found.append(_text(message["data"]))
        return found

    def publish(self) -> list[str]:
        """Publish some messages and return them."""
        messages = [self.stage.token() for _ in range(MESSAGES)]
        with self.stage.observer() as observer:
            for message in messages:
                observer.client.publish(self.channel, message)
        return messages

    def check(self, deed: str) -> None:
        """See that everything is still there.

        Raises:
            Lost: something is gone.
        """
        with self.stage.observer() as observer:
            ended = self.sessions - observer.sessions(self.stage.name)
            subscribers = observer.subscribers(self.channel)
        if ended:
            raise Lost(f"the server closed {len(ended)} of the parent's {len(self.sessions)} sessions ({deed})")
        if subscribers != 1:
            raise Lost(f"the parent's subscription is gone ({deed})")
        self.hear(self.publish(), deed)
        self.watch.check(deed)
        with self.stage.within(f"the parent's command ({deed})"):
            if self.stage.use(self.client) not in self.sessions:
                raise Lost(f"the parent's idle connection is gone ({deed})")
        if self.stage.noise:
            raise Lost(f"{self.stage.noise} ({deed})")

    def hear(self, messages: list[str], deed: str) -> None:
        """See that these messages arrive, in this order.

        Raises:
            Lost: they do not.
        """
        with self.stage.within(f"the parent's subscription ({deed})"):
            found = self.messages(len(messages))
        if found != messages:
            raise Lost(f"the parent got {len(found)} of {len(messages)} messages of its subscription ({deed})")

    def drop(self) -> None:
        """Forget all of it, the client included, and collect garbage: for a child."""
        self.client = self.subscription = None
        self.watch.drop()
        self.stage.drop()


def in_new_loop(awaitable: Awaitable[T]) -> T:
    """Await something in an event loop of this process's own: for a child that was forked inside one."""

    async def await_it() -> T:
        return await awaitable

    # Python tells a child that no loop is running in it; but not the child of a C-level fork, since 3.12.
    asyncio._set_running_loop(None)
    try:
        return asyncio.run(await_it())
    except RuntimeError:  # it names tasks and files, and means this:
        raise Lost("the client belongs to the parent's event loop: in another one it raises RuntimeError") from None


def _text(data: Any) -> str:  # noqa: ANN401 - bytes, if a function of the user's leaves them so
    return data.decode() if isinstance(data, bytes) else str(data)
