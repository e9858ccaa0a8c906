"""What lies on a disk: every byte of a folder, and every value of the SQLite databases in it.

A search is made in both. The bytes show what is left in free pages and write-ahead logs; the values show what a page
border cuts in two. A needle is looked for in the clear and as base64, hexadecimal and UTF-16.
"""

import base64
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

SQLITE = b"SQLite format 3\x00"


def forms(needle: bytes) -> set[bytes]:
    """The needle as it may be written. Base64 depends on where in its text the needle begins: all three are given."""
    found = {needle, needle.hex().encode(), needle.hex().upper().encode()}
    if needle.isascii():
        found.add(needle.decode().encode("utf-16-le"))
    for offset in range(3):
        whole = (offset + len(needle)) // 3 * 3  # the characters that depend on the needle alone
        coded = base64.b64encode((b"\0" * offset + needle)[:whole])[(offset * 8 + 5) // 6 :]
        found |= {coded, coded.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def _values(database: Path) -> Iterator[tuple[str, bytes]]:
    """Every value in a database, with the table and column that it stands in. The file itself is not touched."""
    with tempfile.TemporaryDirectory() as folder:
        for path in database.parent.glob(f"{database.name}*"):
            if path.is_file() and not path.name.endswith("-shm"):  # the index of the log is made anew
                shutil.copy(path, folder)
        with closing(sqlite3.connect(Path(folder) / database.name)) as copy:
            copy.text_factory = bytes
            tables = [name.decode() for (name,) in copy.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            for table in tables:
                rows = copy.execute(f'SELECT * FROM "{table}"')
                columns = [column for column, *_ in rows.description]
                for row in rows:
                    for column, value in zip(columns, row, strict=True):
                        if value is not None:
                            yield f"{table}.{column}", value if isinstance(value, bytes) else str(value).encode()


class Remains:
    """A picture of some files, taken now."""

    def __init__(self, *paths: Path) -> None:
        self._pieces: dict[str, bytes] = {}
        files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
        for file in filter(Path.is_file, files):
            content = file.read_bytes()
            self._pieces[f"{file.parent.name}/{file.name}"] = content
            if content.startswith(SQLITE):
                self._read_values(file)

    def _read_values(self, database: Path) -> None:
        columns: dict[str, list[bytes]] = {}
        for place, value in _values(database):
            columns.setdefault(place, []).append(value)
        for place, values in columns.items():
            self._pieces[f"{database.parent.name}/{database.name}:{place}"] = b"\0\0".join(values)

    @property
    def size(self) -> int:
        """How many bytes there are to search."""
        return sum(map(len, self._pieces.values()))

    def places(self, needle: str | bytes) -> set[str]:
        """Where the needle was found: files, and columns of tables. Needles are at least 8 bytes long."""
        wanted = needle.encode() if isinstance(needle, str) else needle
        assert len(wanted) >= 8, "a short needle is found by chance"
        looks = forms(wanted)
        return {place for place, content in self._pieces.items() if any(look in content for look in looks)}
