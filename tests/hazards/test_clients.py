"""Every hazard of a client: PerProcess keeps its promise, and the control shows that the hazard is real."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import redis

from pidpool.hazards import CATALOGUE, TargetError, UnknownSubject, check_target, client_subject, hazard, run, subject
from tests.hazards.test_catalogue import assert_safe
from tests.servers import Redis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pidpool.hazards import Target
    from tests.hazards.conftest import TargetOf
    from tests.servers import Address

_SECONDS = 45.0  # A machine with two cores runs several of these at a time.
_SECRET = "s3cr3t-w0rd"

every_hazard = pytest.mark.parametrize("name", [row.name for row in CATALOGUE.values() if row.needs == "client"])


@every_hazard
def test_per_process_is_safe(name: str, redis_target: Target) -> None:
    assert_safe(run(hazard(name), client_subject("pidpool"), redis_target, timeout=_SECONDS))


@every_hazard
def test_the_control_is_not_safe(name: str, redis_target: Target) -> None:
    if name == "client-other-thread" and int(redis.__version__.partition(".")[0]) < 6:
        pytest.skip("redis-py 5 does not free the pipeline in time to do harm")
    control = client_subject(hazard(name).control("redis-py"))
    verdict = run(hazard(name), control, redis_target, timeout=9)
    assert verdict.outcome in {"lost", "hang"}, verdict
    assert verdict.detail


@pytest.mark.parametrize("pool", ["redis-py+disconnect", pytest.param("redis-py+reset", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["client-gc", "client-lock-held", "client-parent-death"])
def test_the_usual_advice_is_not_safe(name: str, pool: str, redis_target: Target) -> None:
    verdict = run(hazard(name), client_subject(pool), redis_target, timeout=9)
    assert verdict.outcome in {"lost", "hang"}, verdict


@pytest.mark.parametrize("name", ["client-gc", "client-hookless"])
def test_the_verdict_is_the_servers_where_no_proxy_can_listen(name: str, server: Redis) -> None:
    assert server.address is not None
    with check_target(f"unix://{server.folder}/socket") as target:
        assert not target.proxied
        assert_safe(run(hazard(name), client_subject("pidpool"), target, timeout=_SECONDS))
        assert run(hazard(name), client_subject("redis-py"), target, timeout=9).outcome == "lost"


def test_a_database_has_no_such_client(target_of: TargetOf) -> None:
    verdict = run(hazard("client-gc"), subject("pidpool"), target_of("psycopg"), timeout=_SECONDS)
    assert verdict.outcome == "skipped"
    assert "only for a Redis server" in verdict.detail


@pytest.mark.parametrize("name", ["gc", "sqlite"])
def test_redis_has_no_sql_connections(name: str, redis_target: Target) -> None:
    verdict = run(hazard(name), client_subject("pidpool"), redis_target, timeout=_SECONDS)
    assert verdict.outcome == "skipped"
    assert "a Redis client has none" in verdict.detail


_MODULE = """
import redis
from pidpool import PerProcess

def careful(url):
    return PerProcess(lambda: redis.Redis.from_url(url)).proxy()

def careless(url):
    return redis.Redis.from_url(url)

def wrong(url):
    return url
"""


@pytest.fixture
def _users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a module of a user's, importable from the current directory."""
    (tmp_path / "clients_of_mine.py").write_text(_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "clients_of_mine", raising=False)


@pytest.mark.parametrize(("name", "outcome"), [("careful", "safe"), ("careless", "lost"), ("wrong", "error")])
@pytest.mark.usefixtures("_users_module")
def test_a_client_of_the_users_own_is_judged(name: str, outcome: str, redis_target: Target) -> None:
    verdict = run(hazard("client-held-use"), client_subject(f"clients_of_mine:{name}"), redis_target, timeout=_SECONDS)
    assert verdict.outcome == outcome, verdict


@pytest.mark.usefixtures("_users_module")
def test_a_users_own_client_is_not_asked_for_another_kind(redis_target: Target) -> None:
    verdict = run(hazard("client-async"), client_subject("clients_of_mine:careful"), redis_target, timeout=_SECONDS)
    assert (verdict.outcome, "asyncio" in verdict.detail) == ("skipped", True)


@pytest.mark.parametrize(
    "name", ["queuepool", "nonsense", "no_such_module:client", "os:sep", "clients_of_mine:nothing"]
)
@pytest.mark.usefixtures("_users_module")
def test_what_shares_no_client_is_named(name: str) -> None:
    with pytest.raises(UnknownSubject, match=name):
        client_subject(name)


# The target


@pytest.fixture
def server(run_folder: Path) -> Iterator[Redis]:
    """A Redis server that the test may change."""
    made = Redis(run_folder)
    made.start()
    yield made
    made.remove()


@pytest.fixture
def address(server: Redis) -> Address:
    assert server.address is not None
    return server.address


def test_what_is_created_is_removed(address: Address) -> None:
    with redis.Redis(port=address.port) as client:
        client.set("kept", "1")
        with check_target(address.url("redis")) as target:
            assert (target.backend, target.driver, target.kind) == ("redis", "redis-py", "client")
            assert target.server_version.split()[0] in {"Redis", "Valkey"}
            assert target.proxied
            assert_safe(run(hazard("client-async"), client_subject("pidpool"), target, timeout=_SECONDS))
            keys = client.keys()
            assert len(keys) > 2
            assert all(key.startswith(b"pidpool_audit_") or key == b"kept" for key in keys)
        assert client.keys() == [b"kept"]


def test_a_password_is_used_and_not_shown(address: Address) -> None:
    with redis.Redis(port=address.port) as client:
        client.config_set("requirepass", _SECRET)
    url = f"127.0.0.1:{address.port}/3"
    with check_target(f"redis://:{_SECRET}@{url}") as target:
        assert target.safe_url == f"redis://:***@{url}"
        assert _SECRET not in repr(target)
        assert target.conceal(f"a driver says {_SECRET}") == "a driver says ***"
        assert_safe(run(hazard("client-gc"), client_subject("pidpool"), target, timeout=_SECONDS))
    with check_target(f"redis://{url}?password={_SECRET}") as target:
        assert target.safe_url == f"redis://{url}?password=***"
    for wrong in (f"redis://{url}", f"redis://:{_SECRET}2@{url}", f"redis://{_SECRET}@{url}"):
        with pytest.raises(TargetError, match=r"cannot audit redis://.*Authentication") as refusal:
            check_target(wrong)
        assert _SECRET not in str(refusal.value)


def test_a_user_who_may_not_do_what_the_audit_does_is_refused(address: Address) -> None:
    with redis.Redis(port=address.port) as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", f">{_SECRET}", "~*", "&*", "+@all", "-client")
    with pytest.raises(
        TargetError, match=r"NoPermissionError.*The audit needs a user who may call CLIENT LIST"
    ) as refusal:
        check_target(f"redis://reader:{_SECRET}@127.0.0.1:{address.port}/0")
    assert _SECRET not in str(refusal.value)


def test_a_cluster_is_refused(run_folder: Path) -> None:
    server = Redis(run_folder, "--cluster-enabled", "yes")
    try:
        with pytest.raises(TargetError, match="a node of a Redis Cluster"):
            check_target(server.start().url("redis"))
    finally:
        server.remove()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (
            f"redis://:{_SECRET}@127.0.0.1:1/0",
            r"cannot audit redis://:\*\*\*@127.0.0.1:1/0: cannot connect: .*Is the server",
        ),
        (f"redis://{_SECRET}@127.0.0.1:1/0", r"cannot audit redis://:\*\*\*@127.0.0.1:1/0: "),
        (f"redis://:{_SECRET}@127.0.0.1:port/0", "not the URL of a Redis server"),
        (f"redis://127.0.0.1:1/0?{_SECRET}", "cannot audit redis://127.0.0.1:1/0"),
        (f"redis://127.0.0.1:1/0?socket_timeout=s&password={_SECRET}", "cannot connect: ValueError"),
        (f"rediss://:{_SECRET}@127.0.0.1:1/0", "cannot connect"),
        (f"unix://:{_SECRET}@/no/such/socket", "cannot connect"),
    ],
)
def test_an_unusable_url_is_refused_without_its_password(url: str, says: str) -> None:
    with pytest.raises(TargetError, match=says) as refusal:
        check_target(url)
    assert _SECRET not in str(refusal.value)
