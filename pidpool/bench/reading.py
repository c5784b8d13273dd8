"""Takes values out of a JSON file that anybody may have edited, and says which of them is wrong."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pidpool.bench.errors import ResultsError

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOO_MUCH = 1e12
"""No figure of ours is as large, and what is computed with smaller ones stays finite."""


@dataclass(frozen=True)
class Value:
    """A value of which nobody knows yet what it is.

    Whoever takes it says what it must be; if it is something else, `ResultsError` names the place and the value.
    """

    content: object
    path: str = ""
    """Where it stands, such as ``rounds[3].seconds``; empty for the whole file."""

    def __getitem__(self, name: str) -> Value:
        """Return the field `name` of an object, which must have it."""
        fields = self.fields()
        if name not in fields:
            raise ResultsError(f"it is damaged: {self.path or 'it'} has no {name!r}")
        return fields[name]

    def fields(self) -> dict[str, Value]:
        """Return the fields of an object, whichever it has."""
        if not isinstance(self.content, dict):
            raise self._not("an object")
        return {name: Value(each, f"{self.path}.{name}".lstrip(".")) for name, each in self.content.items()}

    def items(self) -> list[Value]:
        """Return the items of a list."""
        if not isinstance(self.content, list):
            raise self._not("a list")
        return [Value(each, f"{self.path}[{place}]") for place, each in enumerate(self.content)]

    def or_none(self) -> Value | None:
        """Return None for null."""
        return None if self.content is None else self

    def text(self) -> str:
        """Return a text, whatever is in it."""
        if not isinstance(self.content, str):
            raise self._not("a text")
        return self.content

    def label(self) -> str:
        """Return a text of one line that a terminal can show: one without escape sequences."""
        if not self.text().isprintable():
            raise self._not("printable")
        return self.text()

    def labels(self) -> tuple[str, ...]:
        """Return the labels in a list, of which there is one at least."""
        if not (items := self.items()):
            raise self._not("a list of one text at least")
        return tuple(each.label() for each in items)

    def one_of(self, known: Sequence[str]) -> str:
        """Return a text that is among `known`."""
        if (text := self.text()) not in known:
            raise self._not(f"one of {', '.join(known)}")
        return text

    def flag(self) -> bool:
        """Return true or false."""
        if not isinstance(self.content, bool):
            raise self._not("true or false")
        return self.content

    def count(self, least: int = 0) -> int:
        """Return a whole number that is not less than `least`."""
        if not isinstance(self.content, int) or isinstance(self.content, bool) or not least <= self.content < _TOO_MUCH:
            raise self._not(f"a whole number, {least} or more")
        return self.content

    def number(self) -> float:
        """Return a number that is 0 or more; neither "NaN" nor "Infinity", which JSON knows in Python alone."""
        if not isinstance(self.content, (int, float)) or isinstance(self.content, bool):
            raise self._not("a number")
        if not 0 <= self.content < _TOO_MUCH:
            raise self._not("a number, 0 or more")
        return self.content

    def positive(self) -> float:
        """Return a number above 0."""
        if not self.number():
            raise self._not("a number above 0")
        return self.number()

    def _not(self, expected: str) -> ResultsError:
        return ResultsError(f"it is damaged: {self.path} is {reprlib.repr(self.content)}, and not {expected}")
