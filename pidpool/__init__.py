"""A multiprocess-aware database connection pool.

A process that forks copies its connection objects, but both copies share one socket. pidpool notices the fork and
**discards** what was inherited: not a byte is sent on it, so that the parent's session stays intact.

The names below load on first use (PEP 562): ``import pidpool`` by itself imports no third-party package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Not lazily: a process is known as the parent only if this was loaded before it forked.
from pidpool import _fork as _fork

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from pidpool._discard import discard as discard
    from pidpool.errors import InheritedConnectionError as InheritedConnectionError
    from pidpool.per_process import PerProcess as PerProcess
    from pidpool.pool import AsyncPidPool as AsyncPidPool
    from pidpool.pool import PidNullPool as PidNullPool
    from pidpool.pool import PidPool as PidPool

# ``discard`` comes by way of the pool room, which teaches it what an SQLAlchemy connection is.
_ROOMS = {
    "AsyncPidPool": "pidpool.pool",
    "InheritedConnectionError": "pidpool.errors",
    "PerProcess": "pidpool.per_process",
    "PidNullPool": "pidpool.pool",
    "PidPool": "pidpool.pool",
    "discard": "pidpool.pool",
}

__all__ = [
    "AsyncPidPool",
    "InheritedConnectionError",
    "PerProcess",
    "PidNullPool",
    "PidPool",
    "__version__",
    "discard",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type of a lazily loaded name is in the TYPE_CHECKING block
    room = _ROOMS.get(name)
    if room is None:
        message = f"module 'pidpool' has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(importlib.import_module(room), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
