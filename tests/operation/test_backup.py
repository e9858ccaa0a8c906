"""A copy of a stopped deployment's folder is a backup: put back, it serves what it served."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import quote

from tests.durability.test_kill import ciphertext, events_seen
from tests.interop.api import Api
from tests.operation.product import PASSWORD, Product


def test_a_copy_of_the_folder_serves_what_it_served(tmp_path: Path) -> None:
    product = Product(tmp_path)
    with product:
        alice, bob = product.user("alice", "tehran"), product.user("bob", "paris")
        room = alice.client("POST", "/createRoom", {"invite": ["@bob:domicile.test"]})["room_id"]
        bob.client("POST", f"/join/{quote(room)}", {})
        sent = alice.client("PUT", f"/rooms/{quote(room)}/send/m.room.encrypted/1", ciphertext())["event_id"]
        uri = alice.fetch("POST", "/_matrix/media/v3/upload", b"an attachment", "application/octet-stream")
        since = bob.client("GET", "/sync")["next_batch"]
    shutil.copytree(product.folder, tmp_path / "copy")
    shutil.rmtree(product.folder)
    shutil.copytree(tmp_path / "copy", product.folder)
    assert product.run("check").status == 0
    with product:
        assert sent in {event["event_id"] for event in events_seen(alice, room)}
        assert sent in {event["event_id"] for event in events_seen(bob, room)}
        assert alice.download(uri.decode().split('"')[3]) == b"an attachment"
        assert "next_batch" in bob.client("GET", f"/sync?since={since}")
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "bob"}, "password": PASSWORD}
        assert Api(product.base_url).client("POST", "/login", login)["user_id"] == "@bob:domicile.test"
