"""The search in files finds what is there however it is written: else "not found" would mean nothing."""

import base64
import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.interop.remains import Remains

NEEDLE = "needle-4f81d0c2a9"


@pytest.mark.parametrize(
    "written",
    [
        NEEDLE.encode(),
        NEEDLE.encode().hex().encode(),
        NEEDLE.encode("utf-16-le"),
        *(base64.b64encode(b"x" * before + NEEDLE.encode() + b"?>" * after) for before in range(6) for after in (0, 5)),
        *(base64.urlsafe_b64encode(b"?" * before + NEEDLE.encode() + b"??>") for before in range(3)),
    ],
)
def test_a_file_is_searched_in_every_form(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "file").write_bytes(secrets.token_bytes(5000) + written + secrets.token_bytes(5000))
    remains = Remains(tmp_path)
    assert remains.places(NEEDLE) == {"media/file"}
    assert remains.places("needle-that-is-not-there") == set()


@pytest.mark.parametrize("code", [base64.b64encode, base64.urlsafe_b64encode])
def test_bytes_are_found_in_either_base64(tmp_path: Path, code: Callable[[bytes], bytes]) -> None:
    needle = bytes([0xFB, 0xEF, 0xBE, 0xFF, 0xFE, 0x3E, 0x3F, 0xFF, 0xFA])
    (tmp_path / "file").write_bytes(code(b"..." + needle + b"."))
    assert Remains(tmp_path).places(needle) == {f"{tmp_path.name}/file"}


def test_a_database_is_searched_in_its_log_and_over_page_borders(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "node.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA wal_autocheckpoint = 0")
        database.execute("CREATE TABLE letters (body TEXT, blob BLOB)")
        database.execute("INSERT INTO letters VALUES (?, ?)", (NEEDLE, b"\0" + NEEDLE.encode()))
        places = Remains(tmp_path).places(NEEDLE)
        name = tmp_path.name
        assert places == {f"{name}/node.db-wal", f"{name}/node.db:letters.body", f"{name}/node.db:letters.blob"}
        database.execute("UPDATE letters SET body = ?, blob = NULL", ("long" * 30_000,))
        cut = ["".join(secrets.choice("abcdef") for _ in range(3000)) for _ in range(20)]
        database.execute("UPDATE letters SET body = ?", ("".join(cut),))
        remains = Remains(tmp_path)
        assert all(any("letters.body" in place for place in remains.places(piece)) for piece in cut)
        assert any(f"{name}/node.db-wal" not in remains.places(piece) for piece in cut)


def test_what_was_deleted_is_found_while_its_bytes_are_there(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "node.db", isolation_level=None)) as database:
        database.execute("PRAGMA secure_delete = OFF")
        database.execute("CREATE TABLE letters (body TEXT)")
        database.execute("INSERT INTO letters VALUES (?)", (NEEDLE,))
        database.execute("DELETE FROM letters")
    assert Remains(tmp_path).places(NEEDLE) == {f"{tmp_path.name}/node.db"}


def test_a_search_does_not_touch_what_it_searches(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "node.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE letters (body TEXT)")
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        Remains(tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_short_needles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        Remains(tmp_path).places("short")
