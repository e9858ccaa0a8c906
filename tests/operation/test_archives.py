"""`domicile backup` and `restore` as an operator meets them: what comes back, and what those find who saw what came
later."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.durability.test_kill import ciphertext, events_seen
from tests.interop.api import Api
from tests.interop.client import ROOT
from tests.operation.product import COMMAND, Product


def archived(product: Product, file: Path, *more: str) -> dict[str, Any]:
    done = product.run("backup", "--node", "tehran", "--to", str(file), "--json", *more)
    assert done.status == 0, done.err
    answer: dict[str, Any] = json.loads(done.out)
    return answer


def restored(product: Product, file: Path, *more: str) -> dict[str, Any]:
    done = product.run("restore", "--node", "tehran", "--from", str(file), "--keep-sessions", "--json", *more)
    assert done.status == 0, done.err
    answer: dict[str, Any] = json.loads(done.out)
    return answer


def send(api: Api, room: str, txn: str) -> str:
    event_id: str = api.client("PUT", f"/rooms/{quote(room)}/send/m.room.encrypted/{txn}", ciphertext())["event_id"]
    return event_id


def upload_keys(api: Api, *ids: str) -> None:
    keys = {f"signed_curve25519:{each}": {"key": each * 8, "signatures": {}} for each in ids}
    api.client("POST", "/keys/upload", {"one_time_keys": keys})


def claim(api: Api, user_id: str, device_id: str) -> dict[str, Any]:
    answer = api.client("POST", "/keys/claim", {"one_time_keys": {user_id: {device_id: "signed_curve25519"}}})
    found: dict[str, Any] = answer["one_time_keys"].get(user_id, {})
    return found


def letter(sender: Api, user_id: str, txn: str) -> None:
    content = {"algorithm": "m.olm.v1.curve25519-aes-sha2", "ciphertext": {txn: {"body": "x", "type": 0}}}
    sender.client("PUT", f"/sendToDevice/m.room.encrypted/{txn}", {"messages": {user_id: {"*": content}}})


def letters(answer: dict[str, Any]) -> list[str]:
    return [next(iter(each["content"]["ciphertext"])) for each in answer.get("to_device", {}).get("events", [])]


def timeline(answer: dict[str, Any], room: str) -> list[str]:
    return [each["event_id"] for each in answer["rooms"]["join"][room]["timeline"]["events"]]


def lose(product: Product) -> None:
    shutil.rmtree(product.node_folder("tehran"))


def test_what_comes_back_from_a_backup_of_a_running_server(tmp_path: Path) -> None:
    product, file = Product(tmp_path / "house"), tmp_path / "tehran.tar"
    with product:
        alice, bob = product.user("alice", "tehran"), product.user("bob", "tehran")
        me = alice.client("GET", "/account/whoami")
        room = alice.client("POST", "/createRoom", {"invite": ["@bob:domicile.test"]})["room_id"]
        bob.client("POST", f"/join/{quote(room)}", {})
        before = send(alice, room, "1")
        uri = alice.fetch("POST", "/_matrix/media/v3/upload", b"an attachment", "application/octet-stream")
        upload_keys(alice, "AAAA", "BBBB")
        letter(bob, me["user_id"], "one")
        first = alice.client("GET", "/sync")
        assert letters(first) == ["one"]
        letter(bob, me["user_id"], "two")
        answer = archived(product, file)
        assert answer["files"] == 1
        assert answer["files_gone"] == 0
        assert not list(tmp_path.glob("*.part"))
        lost = send(alice, room, "2")
        assert claim(bob, me["user_id"], me["device_id"])
        later = alice.client("GET", f"/sync?since={first['next_batch']}")
        assert letters(later) == ["two"]
    lose(product)
    assert restored(product, file)["files_restored"] == 1
    assert product.run("check").status == 0
    with product:
        seen = {event["event_id"] for event in events_seen(alice, room)}
        assert before in seen
        assert lost not in seen
        assert alice.download(uri.decode().split('"')[3]) == b"an attachment"
        assert claim(bob, me["user_id"], me["device_id"]) == {}, "a key may have been given out already"
        from_before = alice.client("GET", f"/sync?since={first['next_batch']}")
        assert letters(from_before) == ["two"], "who has not seen a letter is told it, and only it"
        again = alice.client("GET", f"/sync?since={later['next_batch']}")
        assert letters(again) == [], "who has seen it is not told it again"
        assert again["rooms"]["join"][room]["timeline"]["limited"] is True
        assert before in timeline(again, room)
        fresh = send(bob, room, "3")
        last = alice.client("GET", f"/sync?since={again['next_batch']}")
        assert timeline(last, room) == [fresh]
        assert last["next_batch"] != again["next_batch"]


def test_a_stopped_deployment_can_be_backed_up_and_a_sealed_archive_needs_its_key(tmp_path: Path) -> None:
    product, file, key = Product(tmp_path / "house"), tmp_path / "tehran.sealed", tmp_path / "key"
    with product:
        alice = product.user("alice", "tehran")
        room = alice.client("POST", "/createRoom", {})["room_id"]
        sent = send(alice, room, "1")
    made = json.loads(product.run("backup", "--make-key", str(key), "--json").out)
    assert key.stat().st_mode & 0o077 == 0
    archived(product, file, "--to-key", made["public_key"])
    assert b"alice" not in file.read_bytes()
    assert "is there already" in product.run("backup", "--node", "tehran", "--to", str(file)).complaint
    lose(product)
    refused = product.run("restore", "--node", "tehran", "--from", str(file))
    assert refused.status == 1
    assert "--key-file" in refused.complaint
    restored(product, file, "--key-file", str(key))
    directory = tmp_path / "directory.tar"
    assert product.run("backup", "--directory", "--to", str(directory)).status == 0
    (product.node_folder("tehran").parent / "directory.db").unlink()
    assert product.run("restore", "--directory", "--from", str(directory)).status == 0
    with product:
        assert sent in {event["event_id"] for event in events_seen(alice, room)}


def test_what_is_damaged_or_cut_off_restores_nothing(tmp_path: Path) -> None:
    product, file = Product(tmp_path / "house"), tmp_path / "tehran.tar"
    with product:
        alice = product.user("alice", "tehran")
        send(alice, alice.client("POST", "/createRoom", {})["room_id"], "1")
        alice.fetch("POST", "/_matrix/media/v3/upload", bytes(range(256)) * 200, "application/octet-stream")
    archived(product, file)
    lose(product)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    done = product.run("restore", "--node", "tehran", "--from", str(file))
    assert "nothing was restored" in done.complaint
    assert not product.node_folder("tehran").exists()


def test_an_archive_is_of_one_node_and_goes_where_nothing_is(tmp_path: Path) -> None:
    product, file = Product(tmp_path / "house"), tmp_path / "tehran.tar"
    with product:
        product.user("alice", "tehran")
        archived(product, file)
        assert "stop it first" in product.run("restore", "--node", "tehran", "--from", str(file)).complaint
    assert "not empty" in product.run("restore", "--node", "tehran", "--from", str(file)).complaint
    shutil.rmtree(product.node_folder("paris"))
    assert "of the node tehran" in product.run("restore", "--node", "paris", "--from", str(file)).complaint
    assert not product.node_folder("paris").exists()
    assert "There is no node" in product.run("backup", "--node", "rome", "--to", str(tmp_path / "x")).complaint


def test_who_has_moved_away_since_is_left_out(tmp_path: Path) -> None:
    product, file = Product(tmp_path / "house"), tmp_path / "tehran.tar"
    with product:
        product.user("alice", "tehran")
        bob = product.user("bob", "tehran")
        archived(product, file)
        assert product.run("residency", "move", "bob", "--to", "paris").status == 0
    lose(product)
    assert restored(product, file)["erased"] == 1
    audit = json.loads(product.run("residency", "audit", "--json").out)
    assert [each for each in audit["findings"] if each["violation"]] == []
    with product:
        assert bob.client("GET", "/account/whoami")["user_id"] == "@bob:domicile.test"


def test_a_restore_that_is_killed_is_begun_again(tmp_path: Path) -> None:
    product, file = Product(tmp_path / "house"), tmp_path / "tehran.tar"
    with product:
        alice = product.user("alice", "tehran")
        for number in range(60):
            alice.fetch("POST", "/_matrix/media/v3/upload", b"%d" % number * 1000, "application/octet-stream")
    archived(product, file)
    lose(product)
    command = [*COMMAND, "restore", "--node", "tehran", "--from", str(file), "--config", str(product.settings)]
    media = product.node_folder("tehran") / "media"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list(media.glob("??/*"))) < 10:
            pass
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    assert restored(product, file)["files_restored"] == 60
    with product:
        assert alice.client("GET", "/account/whoami")["user_id"] == "@alice:domicile.test"
