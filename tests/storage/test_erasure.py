"""What has been deleted is gone from the file, and not only from the answers."""

from __future__ import annotations

from pathlib import Path

from homeserver.storage.engine import Transaction
from tests.storage.test_unavailable import SCHEMA, add
from tests.support import Databases, aio

SECRET = "of nobody's business"


@aio
async def test_deleted_rows_leave_no_bytes_in_the_file(tmp_path: Path) -> None:
    engines = Databases("sqlite", tmp_path)
    engine = await engines.open(migrations=[SCHEMA])
    file = tmp_path / "tehran" / "node.db"

    async def delete(tx: Transaction) -> None:
        await tx.run("DELETE FROM notes WHERE text LIKE ?", f"{SECRET}%")

    for number in range(300):  # pages that become free, and a rest in pages that stay
        await engine.write(add, f"{SECRET} {number}" * (20 if number % 2 else 1))
        await engine.write(add, f"kept {number}")
    await engine.close()
    assert SECRET.encode() in file.read_bytes()
    await engine.open()
    await engine.write(delete)
    await engine.close()  # takes the write-ahead log away
    assert [path.name for path in file.parent.iterdir()] == ["node.db"]
    assert SECRET.encode() not in file.read_bytes()
    assert b"kept 299" in file.read_bytes()
    await engines.close()
