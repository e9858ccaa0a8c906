"""Large JSON objects of other servers, read while they come: the lists in them in slices, all else whole.

So a list of a hundred thousand events is never there as one text, nor as one tree of values, and to read a slice of it
takes less than a millisecond.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol import canonical
from homeserver.protocol.errors import NotJson

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

STEP: Final = 64 * 1024
"""Bytes that are waited for before anything is read: what comes byte by byte is not looked through again at each."""
LONGEST: Final = 512 * 1024
"""Bytes of a single value, such as an element of a list: an event may have 64 KiB, and something beside it."""
MOST_NAMES: Final = 50
"""Properties of the object."""

_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{},"]', re.DOTALL)
_OPENING: Final = frozenset(b"[{")
_CLOSING: Final = frozenset(b"]}")
_COMMA, _QUOTE, _OPEN, _END, _END_OF_LIST = b',"{}]'


class Malformed(Exception):
    """What comes is not the JSON object that it should be; the reason is for the log."""


class _More(Exception):
    """What is here breaks off in the middle of a value."""


class Slices:
    """Reads one object. ``lists``: the properties that are lists, and given slice by slice."""

    def __init__(self, lists: Collection[str]) -> None:
        self._lists = frozenset(lists)
        self._buffer = bytearray()
        self._at = 0
        self._looked_at = 0
        self._names: set[str] = set()
        self._list: str | None = None
        self._begun = False  # the object has
        self._done = False  # and ended
        self._follows = False  # a property, or an element, has been read, so that a comma has to come before the next

    def feed(self, piece: bytes) -> Iterator[tuple[str, Any]]:
        """Take what has come, and give what can be read: a property and its value, or some elements of a list.

        A list is given at least once, if only empty. Raises Malformed.
        """
        self._buffer += piece
        if len(self._buffer) - self._looked_at >= STEP:
            yield from self._read()

    def end(self) -> Iterator[tuple[str, Any]]:
        """Give the rest: nothing more comes. Raises Malformed."""
        yield from self._read()
        if not self._done:
            raise Malformed("it breaks off")

    def _read(self) -> Iterator[tuple[str, Any]]:
        try:
            while not self._done or self._at < len(self._buffer):
                yield from self._next()
        except _More:
            if len(self._buffer) - self._at > LONGEST:
                raise Malformed(f"a value has more than {LONGEST} bytes") from None
        except NotJson as error:
            raise Malformed(error.message) from None
        del self._buffer[: self._at]
        self._at, self._looked_at = 0, len(self._buffer)

    def _next(self) -> Iterator[tuple[str, Any]]:
        """Read on, as far as one value or a slice of a list. Raises _More, before which nothing is passed over."""
        if self._list is not None:
            yield from self._elements(self._list)
            return
        if not self._begun:
            self._expect(_OPEN)
            self._begun = True
            return
        if self._done:
            self._skip()
            if self._at < len(self._buffer):
                raise Malformed("something comes after it")
            return
        start = self._at
        try:
            yield from self._property()
        except _More:
            self._at = start
            raise

    def _property(self) -> Iterator[tuple[str, Any]]:
        if self._peek() == _END:
            self._at += 1
            self._done = True
            return
        if self._follows:
            self._expect(_COMMA)
        self._peek()
        found = _STRING.match(self._buffer, self._at)
        if found is None:
            raise _More if self._buffer[self._at] == _QUOTE else Malformed("a property has no name")
        name = canonical.parse(bytes(found[0]))
        self._at = found.end()
        self._expect(ord(":"))
        is_list = name in self._lists and self._peek() == ord("[")
        if not is_list:
            value = self._value()
        if name in self._names or len(self._names) == MOST_NAMES:
            raise Malformed("it names a property twice, or very many")
        self._names.add(name)
        if is_list:
            self._at += 1
            self._list, self._follows = name, False
            yield name, []
        else:
            self._follows = True
            yield name, value

    def _value(self) -> Any:
        """The value that begins here, and that something follows. Raises _More."""
        start, end = self._at, self._boundary(self._at)[0]
        if end is None:
            raise _More
        self._at = end
        return _parsed(bytes(self._buffer[start:end]))

    # lists ----------------------------------------------------------------------------------------

    def _elements(self, name: str) -> Iterator[tuple[str, Any]]:
        if self._peek() == _END_OF_LIST:
            self._at += 1
            self._list, self._follows = None, True
            return
        start = self._at
        if self._follows:
            self._expect(_COMMA)
            self._peek(start)
        yield name, self._slice(start)
        self._follows = True

    def _slice(self, start: int) -> list[Any]:
        """As many elements as are here. Raises _More, back at ``start``, when there is not even one."""
        # What stands before "},{" is a number of whole elements if it can be read as such; it cannot if these bytes are
        # in a string, within an element, or in another list.
        end = self._buffer.rfind(b"},{", self._at, self._at + 2 * STEP) + 1
        if end > self._at:
            try:
                found: list[Any] = _parsed(b"[%b]" % bytes(self._buffer[self._at : end]))
            except NotJson:
                pass
            else:
                self._at = end
                return found
        first, last = self._boundary(self._at)
        if first is None or last is None:
            self._at = start
            raise _More
        found = _parsed(b"[%b]" % bytes(self._buffer[self._at : last]))
        if not found:
            raise Malformed("an element is lacking")
        self._at = last
        return found

    def _boundary(self, start: int) -> tuple[int | None, int | None]:
        """Where the value that begins here ends, and the last of those behind it that do, up to the end of what they
        are in. None: that has not come."""
        depth = 0
        first: int | None = None
        last: int | None = None
        for token in _TOKEN.finditer(self._buffer, start, start + LONGEST):
            byte = token[0][0]
            if byte == _QUOTE:
                if token.end() - token.start() == 1:
                    break  # a string that is not whole
            elif byte in _OPENING:
                depth += 1
            elif depth and byte in _CLOSING:
                depth -= 1
            elif not depth:
                last = token.start()
                first = last if first is None else first
                if byte != _COMMA or self._list is None:
                    break
        return first, last

    # bytes ----------------------------------------------------------------------------------------

    def _skip(self) -> None:
        found = _SPACE.match(self._buffer, self._at)
        assert found is not None
        self._at = found.end()

    def _peek(self, back: int | None = None) -> int:
        """The next byte that is no white space. Raises _More, back at a place that is given."""
        self._skip()
        if self._at == len(self._buffer):
            self._at = self._at if back is None else back
            raise _More
        return self._buffer[self._at]

    def _expect(self, byte: int) -> None:
        """Pass over a byte that has to be there. Raises Malformed, _More."""
        if self._peek() != byte:
            raise Malformed(f"there is no {chr(byte)} where one has to be")
        self._at += 1


def _parsed(text: bytes) -> Any:
    """JSON that may hold events of old rooms, in which any number is legal. Raises NotJson."""
    return canonical.parse(text, strict=False)
