"""What the errors of SQLite mean to a caller, and which broken reference was one to ``residents``."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterable, Sequence

from homeserver.protocol.errors import InvalidParam
from homeserver.storage.engine import ConstraintViolation, DatabaseFault, Param, UniqueViolation
from homeserver.storage.setbacks import InDoubt, Lost, Pressed

_LOST = {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
"""Primary result codes after which the connections are made anew."""
_PRESSED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM}
"""Primary result codes that pass: the connection stays."""
_IN_DOUBT = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM}
"""Primary result codes of a COMMIT whose last page may stand in the log, and be found there by the next to open it."""
_TAKEN = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    sqlite3.SQLITE_CONSTRAINT_ROWID,
}


def code(fault: BaseException) -> int:
    """The extended result code of SQLite, or -1 when it is no error of SQLite."""
    found = getattr(fault, "sqlite_errorcode", None)
    return found if isinstance(found, int) else -1


def meaning(fault: BaseException) -> BaseException:
    """What a failure in the thread means to the caller."""
    extended = code(fault)
    if extended & 0xFF in _LOST and extended != -1:
        return Lost(str(fault))
    if extended & 0xFF in _PRESSED and extended != -1:
        return Pressed(str(fault))
    if extended in _TAKEN:
        return UniqueViolation(str(fault))
    if isinstance(fault, sqlite3.IntegrityError):
        return ConstraintViolation(str(fault))
    if isinstance(fault, UnicodeEncodeError):
        return InvalidParam("Text must be valid Unicode")
    if isinstance(fault, OverflowError):
        return InvalidParam("Integers must have at most 64 bits")
    if isinstance(fault, sqlite3.ProgrammingError) and "closed database" in str(fault):
        return Lost(str(fault))
    if isinstance(fault, sqlite3.Error | sqlite3.Warning):
        return DatabaseFault(str(fault))
    return fault


def meaning_of_commit(fault: BaseException) -> BaseException:
    """What it means when COMMIT fails."""
    extended = code(fault)
    return InDoubt(str(fault)) if extended & 0xFF in _IN_DOUBT and extended != -1 else meaning(fault)


def refuse_nul(params: Sequence[Param]) -> None:
    """SQLite would store a NUL character in text; PostgreSQL does not, so neither engine takes it."""
    for param in params:
        if type(param) is str and "\0" in param:
            raise InvalidParam("Text must not contain NUL characters")


_TABLE = re.compile(r"(?:INTO|UPDATE(?:\s+OR\s+\w+)?)\s+\"?(\w+)", re.IGNORECASE)


def is_foreign(raw: sqlite3.Connection, sql: str, rows: Sequence[Sequence[Param]]) -> bool:
    """Was it the reference to ``residents`` that a statement broke? SQLite does not say which it was.

    The statement is repeated with the check put off, so that the rows can be looked at; the caller
    rolls back. Only for the tables that refer to something else as well are rows looked at.
    """
    if sql == "COMMIT":  # a check that was put off: the rows are there, in any table
        names = raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return any(_has_strays(raw, name, _owners(raw, name)[0]) for (name,) in names)
    match = _TABLE.search(sql)
    if match is None:
        return False
    owners, others = _owners(raw, match[1])
    if not owners or not others:
        return bool(owners)
    raw.execute("PRAGMA defer_foreign_keys = ON")
    for row in rows:
        with contextlib.suppress(sqlite3.IntegrityError):  # a row before the refused one: it is there already
            raw.execute(sql, row).fetchall()
    return _has_strays(raw, match[1], owners)


def _owners(raw: sqlite3.Connection, table: str) -> tuple[list[str], bool]:
    """The columns of a table that refer to ``residents``, and whether others refer to something else."""
    references = raw.execute(f'PRAGMA foreign_key_list("{table}")').fetchall()
    owners = [column for _, _, target, column, *_ in references if target == "residents"]
    return owners, len(owners) < len(references)


def _has_strays(raw: sqlite3.Connection, table: str, owners: Iterable[str]) -> bool:
    strays = 'SELECT 1 FROM "{}" WHERE "{}" NOT IN (SELECT user_nid FROM residents) LIMIT 1'
    return any(raw.execute(strays.format(table, owner)).fetchone() for owner in owners)
