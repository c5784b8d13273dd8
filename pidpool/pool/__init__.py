"""The pools. SQLAlchemy begins here; the rooms below know nothing of it."""

from __future__ import annotations

from pidpool._discard import discard
from pidpool.pool import _wrapped  # noqa: F401 - teaches discard() what an SQLAlchemy connection is
from pidpool.pool._async_pool import AsyncPidPool
from pidpool.pool._pid_pool import PidNullPool, PidPool

__all__ = ["AsyncPidPool", "PidNullPool", "PidPool", "discard"]
