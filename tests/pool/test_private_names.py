"""The names that pidpool uses of SQLAlchemy, though SQLAlchemy does not promise them.

If one of these tests fails after an upgrade of SQLAlchemy, the message says which name has changed.
`pidpool/pool/_sqlalchemy.py` is where they are taken from.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from sqlalchemy import event
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.event import attr as event_attr
from sqlalchemy.pool import NullPool, QueuePool
from sqlalchemy.pool import base as pool_base

from pidpool import PidNullPool, PidPool
from pidpool.pool import _sqlalchemy
from pidpool.pool._record import Fairy, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.pool import Pool

    from tests.pool.conftest import Opener


def owner_of(class_name: str) -> Any:  # noqa: ANN401 - whatever is there
    return getattr(pool_base, class_name, None) or getattr(event_attr, class_name, None)


def names_of(owner: Any, pool: Pool, connection: Any) -> set[str]:  # noqa: ANN401 - SQLAlchemy's own classes
    """Return the attributes that the class has, and those of an instance of it."""
    instances = [pool, connection, connection._connection_record, pool.dispatch.connect]
    found = set(dir(owner))
    for instance in instances:
        if isinstance(instance, owner):
            found.update(dir(instance))
    return found


def missing(private: dict[str, tuple[str, ...]], pool: Pool, connection: object) -> list[str]:
    found = []
    for class_name, names in private.items():
        owner = owner_of(class_name)
        if owner is None:
            found.append(f"SQLAlchemy {sqlalchemy.__version__} has no class {class_name}")
            continue
        known = names_of(owner, pool, connection)
        found += [
            f"{class_name}.{name}, which pidpool relies on, is missing from SQLAlchemy {sqlalchemy.__version__}"
            for name in names
            if name not in known
        ]
    return found


def listened_to(opener: Opener) -> QueuePool:
    """Return SQLAlchemy's own pool, with a listener: until then its events are of another class."""
    pool = QueuePool(opener)
    event.listen(pool, "connect", lambda *_: None)
    return pool


def test_every_private_name_exists(opener: Opener) -> None:
    pool = listened_to(opener)
    with pool.connect() as connection:
        assert missing(dict(_sqlalchemy.PRIVATE_ATTRIBUTES), pool, connection) == []


def test_a_missing_name_would_be_named(opener: Opener) -> None:
    pool = listened_to(opener)
    with pool.connect() as connection:
        found = missing({"Pool": ("_no_such_name",), "_NoSuchClass": ()}, pool, connection)
    assert found == [
        f"Pool._no_such_name, which pidpool relies on, is missing from SQLAlchemy {sqlalchemy.__version__}",
        f"SQLAlchemy {sqlalchemy.__version__} has no class _NoSuchClass",
    ]


def parameters(function: Callable[..., object]) -> list[tuple[str, object, object]]:
    """Return names, kinds and defaults."""
    return [
        (parameter.name, parameter.kind, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
    ]


def overrides() -> list[Any]:
    """Return every method of ours that stands in the place of one of SQLAlchemy's."""
    found = []
    pairs = [(PidPool, QueuePool), (PidNullPool, NullPool), (Record, pool_base._ConnectionRecord)]
    for ours, theirs in [*pairs, (Fairy, pool_base._ConnectionFairy)]:
        for name in sorted(set(dir(ours)) & set(dir(theirs))):
            mine, other = (inspect.getattr_static(cls, name) for cls in (ours, theirs))
            # Constructors are told apart by the test of settings, and __getattr__ needs no agreement.
            if inspect.isfunction(mine) and inspect.isfunction(other) and mine is not other and name != "__init__":
                found.append(pytest.param(mine, other, id=f"{ours.__name__}.{name}"))
    return found


# What these take differs on purpose.
LOOSER = {
    "cursor",  # SQLAlchemy declares it for type checkers alone, where it stands in for the driver's
    "_do_return_conn",  # called by position
    "_return_conn",
    "_should_wrap_creator",
    "_dialect",
}


@pytest.mark.parametrize(("ours", "theirs"), overrides())
def test_an_overridden_method_takes_what_sqlalchemys_takes(
    ours: Callable[..., object], theirs: Callable[..., object]
) -> None:
    mine, other = parameters(ours), parameters(theirs)
    if theirs.__name__ in LOOSER:
        assert len(mine) == len(other)
    elif theirs.__name__ == "close":  # ours is _close_special as well
        assert mine[: len(other)] == other
    else:
        assert mine == other


@pytest.mark.parametrize(("ours", "theirs"), [(PidPool, QueuePool), (PidNullPool, NullPool)])
def test_a_pools_constructor_takes_what_sqlalchemys_takes(ours: type[Pool], theirs: type[Pool]) -> None:
    by_position = [name for name, kind, _ in parameters(theirs) if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    mine = [name for name, kind, _ in parameters(ours) if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    if theirs is QueuePool:
        assert mine[: len(by_position)] == by_position  # ours come after: create_engine sees no keyword-only ones
    assert mine[0] == by_position[0] == "creator"


def test_whatever_has_a_method_of_sqlalchemys_is_looked_at() -> None:
    names = {str(parameter.id) for parameter in overrides()}
    expected = {"PidPool.connect", "PidPool.dispose", "Record.checkin", "Record.invalidate", "Fairy.invalidate"}
    assert expected <= names


# What the names mean


def test_a_checkout_makes_a_fairy_and_a_record_by_way_of_do_get(opener: Opener) -> None:
    calls: list[str] = []

    class Watching(QueuePool):
        def _do_get(self) -> Any:  # noqa: ANN401 - SQLAlchemy's signature
            calls.append("_do_get")
            return super()._do_get()

        def _create_connection(self) -> Any:  # noqa: ANN401 - SQLAlchemy's signature
            calls.append("_create_connection")
            return super()._create_connection()

        def _return_conn(self, record: Any) -> None:  # noqa: ANN401 - SQLAlchemy's signature
            calls.append("_return_conn")
            super()._return_conn(record)

        def _do_return_conn(self, record: Any) -> None:  # noqa: ANN401 - SQLAlchemy's signature
            calls.append("_do_return_conn")
            super()._do_return_conn(record)

    Watching(opener).connect().close()
    assert calls == ["_do_get", "_create_connection", "_return_conn", "_do_return_conn"]


def test_reset_on_return_is_one_of_three_states(opener: Opener) -> None:
    states = [QueuePool(opener, reset_on_return=reset)._reset_on_return for reset in ("rollback", "commit", None)]
    assert states[:2] == [_sqlalchemy.reset_rollback, _sqlalchemy.reset_commit]
    assert states[2] not in states[:2]


def test_time_limits_are_off_by_default(opener: Opener) -> None:
    pool = QueuePool(opener)
    assert (pool._recycle, pool._pre_ping, pool._invalidate_time) == (-1, False, 0)


def test_a_record_keeps_its_time_and_its_callbacks(opener: Opener) -> None:
    with QueuePool(opener).connect() as connection:
        record: Any = connection._connection_record
        assert record.starttime > 0
        assert record._soft_invalidate_time == 0
        assert not record.finalize_callback
        assert connection._pool is not None
        assert connection._counter == 1


def test_an_event_without_listeners_is_false_and_has_two_empty_lists(opener: Opener) -> None:
    pool = listened_to(opener)
    assert not pool.dispatch.checkout
    for name in ("checkout", "connect"):
        found = getattr(pool.dispatch, name)
        assert list(found.parent_listeners) == []
    assert len(list(pool.dispatch.connect.listeners)) == 1


def test_the_first_connect_runs_under_the_mutex_that_a_child_replaces(opener: Opener) -> None:
    held: list[bool] = []
    pool = QueuePool(opener)

    def listen(*_: object) -> None:
        mutex = pool.dispatch.connect._exec_once_mutex
        held.append(not mutex.acquire(blocking=False))

    event.listen(pool, "connect", listen)
    with pool.connect(), pool.connect():
        pass
    assert held[0]


def test_the_stock_dialect_begins_with_nothing_and_rolls_back_by_the_driver(opener: Opener) -> None:
    dialect: Any = DefaultDialect()
    connection = opener()
    connection.execute("SELECT 1")
    dialect.do_begin(connection)
    dialect.do_rollback(connection)
    assert connection.info.transaction_status.name == "IDLE"


def test_a_plain_pool_has_a_stand_in_for_a_dialect(opener: Opener) -> None:
    stand_in: Any = QueuePool(opener)._dialect
    assert type(stand_in) is _sqlalchemy._ConnDialect
    connection: Any = "driver"
    assert stand_in.get_driver_connection(connection) is connection
