"""``?plugin=pidpool``: for applications where only the database URL can be changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import CreateEnginePlugin
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, QueuePool

from pidpool.pool._async_pool import AsyncPidPool
from pidpool.pool._pid_pool import PidNullPool, PidPool

if TYPE_CHECKING:
    from sqlalchemy.engine import URL


class PidPoolPlugin(CreateEnginePlugin):
    """Puts the class of pidpool's that matches in the place of the pool class that the dialect would take.

    It leaves a ``poolclass`` or ``pool`` alone that the application passes to ``create_engine``, and a dialect's pool
    for which there is nothing to match, such as that of an in-memory SQLite database.

    Args:
        url: the URL that names the plugin.
        kwargs: what the application passed to ``create_engine``.

    """

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        if kwargs.get("poolclass") is not None or kwargs.get("pool") is not None:
            return
        # Some dialects have one name and two classes (psycopg): create_async_engine says which it wants.
        dialect: Any = url.get_dialect(_is_async=kwargs.get("_is_async", False))
        matching: dict[type[Any], type[Any]] = {
            QueuePool: PidPool,
            AsyncAdaptedQueuePool: AsyncPidPool,
            NullPool: PidNullPool,
        }
        found = matching.get(dialect.get_pool_class(url))
        if found is not None:
            kwargs["poolclass"] = found

    def update_url(self, url: URL) -> URL:
        """Leave the URL as it is: SQLAlchemy has taken the plugin's name out, and there is nothing else of ours."""
        return url
