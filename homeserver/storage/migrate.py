"""Numbered migrations: what brings a database to the schema of this program, one whole file at a time.

A migration is a file ``0001_name.sql``; numbers begin at 1 and have no gaps. The table ``migrations``
remembers number, name and digest of each; number 0 carries the name of the node to which the database
belongs, so that no node opens another's files by a slip in the configuration. This module decides;
the engines execute.

One text serves both engines; a statement for one of them stands under the line ``-- only: sqlite`` or
``-- only: postgres``. Write the SQL of SQLite; postgres/dialect.py says what it rewrites.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path

LEDGER = "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL)"
READ = "SELECT number, name, digest FROM migrations ORDER BY number"
RECORD = "INSERT INTO migrations (number, name, digest) VALUES (?, ?, ?)"

_FILE = re.compile(r"(\d{4})_(\w+)\.sql")


class SchemaMismatch(Exception):
    """The database is not one that this program can serve; the text says what to do."""


class NotCreated(SchemaMismatch):
    """The database is empty though nobody asked to create one; it may come back when its files do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text, in hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load(directory: Traversable | Path) -> tuple[Migration, ...]:
    """The migrations in a directory, in order, e.g. ``load(files("homeserver.storage") / "schema" / "node")``.

    Raises ValueError for a file that is no migration, and for a gap in the numbers.
    """
    found = []
    for file in directory.iterdir():
        if not file.name.endswith(".sql"):
            continue
        match = _FILE.fullmatch(file.name)
        if match is None:
            raise ValueError(f"{file.name} is not named like 0001_name.sql")
        found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"the migrations in {directory} have a gap or a number twice")
    return tuple(found)


def pending(
    node: str, known: Sequence[Migration], applied: Iterable[tuple[int, str, str]], *, create: bool
) -> list[Migration]:
    """What is to be applied to a database whose ledger says ``applied``: rows of (number, name, digest).

    Number 0, the owner's mark, comes first for a new database. Raises `SchemaMismatch` when the
    database is another node's, is newer than this program, or had a different text applied, and
    `NotCreated` when it is empty although nobody asked to ``create`` it.
    """
    ledger = {number: (name, digest) for number, name, digest in applied}
    mark = Migration(0, node, "")
    if not ledger and not create:
        raise NotCreated(f"the database of {node} is empty: were its files lost? Restore them from a backup")
    if ledger and ledger.get(0, ("", ""))[0] != node:
        owner = ledger.get(0, ("nobody", ""))[0]
        raise SchemaMismatch(f"the database configured for {node} belongs to {owner}: correct its address")
    for number, (name, digest) in ledger.items():
        if number >= len(known) + 1:
            raise SchemaMismatch(
                f"the database of {node} has migration {number:04} ({name}), which this program does not know: "
                "run the newer version that wrote it"
            )
        if number and known[number - 1].digest != digest:
            raise SchemaMismatch(
                f"migration {number:04} ({name}) was applied to the database of {node} with another text: "
                "run the version that wrote it"
            )
    return [migration for migration in (mark, *known) if migration.number not in ledger]


def failed(node: str, migration: Migration, fault: BaseException) -> SchemaMismatch:
    """What to raise when a statement of a migration is refused; nothing of the migration has been applied."""
    return SchemaMismatch(
        f"migration {migration.number:04} ({migration.name}) failed on the database of {node}: {fault}"
    )


def statements(sql: str, engine: str) -> Iterator[str]:
    """The statements of a migration that are meant for ``engine`` (``sqlite`` or ``postgres``), without ``;``."""
    for statement in split(sql):
        only = _ONLY.search(statement)
        if only is None or only[1] == engine:
            yield statement


_ONLY = re.compile(r"^\s*--\s*only:\s*(\w+)\s*$", re.MULTILINE)

_PIECE = re.compile(
    r"""
      (?P<quoted> '(?:[^']|'')*' | "(?:[^"]|"")*" | \$(?P<tag>\w*)\$ .*? \$(?P=tag)\$ | --[^\n]* | /\*.*?\*/ )
    | (?P<word> [A-Za-z_]\w* )
    | (?P<end> ; )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)


def pieces(sql: str) -> Iterator[tuple[str, str]]:
    """Cut SQL into (kind, text); kinds are ``quoted`` (strings, quoted names, comments), ``word``, ``end``, ``other``.

    The texts joined are the SQL again. Raises ValueError for a quote that is never closed.
    """
    for match in _PIECE.finditer(sql):
        kind = match.lastgroup or "other"
        kind = "quoted" if kind == "tag" else kind
        if kind == "other" and match[0] in "'\"":
            raise ValueError(f"unclosed quote: {sql[match.start() : match.start() + 40]!r}")
        yield kind, match[0]


def split(sql: str) -> Iterator[str]:
    """Cut a script into statements, without the ``;`` that ends them.

    A ``;`` inside a string, a quoted name, a comment, a dollar-quoted body or the body of a trigger
    does not end a statement.
    """
    parts: list[str] = []
    words: list[str] = []
    depth = 0  # of BEGIN … END and CASE … END in the body of a trigger
    for kind, text in pieces(sql):
        if kind == "end" and depth == 0:
            if words:
                yield "".join(parts).strip()
            parts, words = [], []
            continue
        parts.append(text)
        if kind == "word":
            word = text.upper()
            words.append(word)
            if words[0] == "CREATE" and "TRIGGER" in words[:4]:
                depth += (word in {"BEGIN", "CASE"}) - (word == "END")
    if words:
        yield "".join(parts).strip()
