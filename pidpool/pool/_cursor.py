"""A cursor that reads from the server row by row, guarded like the connection that it came from.

A driver's cursor knows nothing of forks. One that has fetched all its rows is harmless in a child. But one that streams
(server-side, unbuffered) speaks when it is closed or freed: it says CLOSE, or reads on until the result ends, and these
are the parent's rows. It is freed in places where no hook can be faster: CPython clears the thread-locals of the
parent's other threads inside ``os.fork()``, before it runs any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pidpool import _fork
from pidpool._discard import pin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

_OWN: Final = ("_cursor", "_page", "_refuse")


class GuardedCursor:
    """Stands for a driver's streaming cursor; everything but ``close`` raises in a process that did not open it.

    Args:
        cursor: the driver's.
        page: the page of the generation that opened it.
        refuse: raises InheritedConnectionError.

    """

    __slots__ = ("__weakref__", *_OWN)

    def __init__(self, cursor: Any, page: _fork.Page, refuse: Callable[[], None]) -> None:  # noqa: ANN401 - any driver's
        object.__setattr__(self, "_cursor", cursor)
        object.__setattr__(self, "_page", page)
        object.__setattr__(self, "_refuse", refuse)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the driver has
        if not self._page[0]:
            self._refuse()
        return getattr(self._cursor, name)

    def __setattr__(self, name: str, value: object) -> None:
        if not self._page[0]:
            self._refuse()
        setattr(self._cursor, name, value)

    def __iter__(self) -> Iterator[Any]:
        rows = iter(self._cursor)
        while True:
            if not self._page[0]:
                self._refuse()
            try:
                row = next(rows)
            except StopIteration:
                return
            yield row

    def __next__(self) -> Any:  # noqa: ANN401 - a row
        if not self._page[0]:
            self._refuse()
        return next(self._cursor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the cursor; nothing in a process that did not open it."""
        if self._page[0]:
            self._cursor.close()
        else:
            _fork.current()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {type(self._cursor).__module__}.{type(self._cursor).__qualname__}>"

    def __del__(self) -> None:
        if not self._page[0]:
            pin(self._cursor)
            _fork.current()
