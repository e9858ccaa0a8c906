"""What a user leaves behind on the node that they left: nothing, down to the bytes of its files."""

from __future__ import annotations

import base64
from hashlib import sha256
from pathlib import Path

from homeserver.media.download import Known
from homeserver.media.shelves import path_of
from homeserver.storage import rooms as stored_rooms
from homeserver.storage.engine import Transaction
from tests.deployment import PASSWORD, POLICY, User
from tests.e2ee.play import Device, message
from tests.moves.play import Stage, Staging
from tests.rooms.play import ciphertext
from tests.support import Databases, aio

PHONE = "989123456789"


async def someone(play: Stage) -> Device:
    """Somebody with a phone number."""
    await play.command("user-add", localpart="nasrin", password=PASSWORD, node="tehran", phone=f"+{PHONE}")
    identifier = {"type": "m.id.user", "user": "nasrin"}
    asked = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
    answer = await play.deployment.asked("POST", "/_matrix/client/v3/login", asked)
    login = answer.json
    device = Device(User(play.deployment, login["user_id"], login["device_id"], login["access_token"]))
    await device.publish(one_time_keys=device.one_time_keys("AAAAAA"))
    return device


async def upload(play: Stage, user: User, content: bytes) -> str:
    """Upload a file; its media id."""
    answer = await user.asks("POST", "/_matrix/media/v3/upload", content)
    assert answer.status == 200
    return str(answer.json["content_uri"]).rpartition("/")[2]


def files_with(folder: Path, needle: bytes) -> list[str]:
    """The files below a folder in which some bytes stand, or that are called so."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if needle in path.name.encode() or (path.is_file() and needle in path.read_bytes())
    ]


async def rows_with(tx: Transaction, table: str, column: str, text: str) -> int:
    row = await tx.one(f"SELECT COUNT(*) FROM {table} WHERE {column} = ?", text)
    return 0 if row is None else int(row[0])


@aio
async def test_no_byte_stays(stage: Staging, engines: Databases) -> None:
    play = await stage(policy=POLICY)
    nasrin = await someone(play)
    room = await play.create(nasrin.user, room_alias_name="nasrins")
    content = ciphertext("what only she has")
    await play.ask(nasrin.user, "PUT", f"/rooms/{room}/send/m.room.encrypted/1", content)
    await nasrin.send("t", {nasrin.user_id: {"*": message("to herself")}})
    media_id = await upload(play, nasrin.user, b"\x00her picture\x00" * 1000)
    needles = {
        "user id": nasrin.user_id.encode(),
        "phone": PHONE.encode(),
        "device": nasrin.device_id.encode(),
        "event": content["ciphertext"].encode(),
        "letter": message("to herself")["ciphertext"].encode(),
        "key": nasrin.curve.encode(),
        "file": media_id.encode(),
        "picture": b"\x00her picture\x00",
    }
    folder = engines.directory / "tehran"
    if engines.kind == "sqlite":
        assert [name for name, needle in needles.items() if not files_with(folder, needle)] == []
    await play.move(nasrin)
    found = {name: files_with(folder, needle) for name, needle in needles.items() if files_with(folder, needle)}
    assert found == {}
    tehran = play.node("tehran")
    assert await tehran.read(rows_with, "users", "user_id", nasrin.user_id) == 0
    assert await tehran.read(stored_rooms.find, room) is None
    fetched = await play.deployment.site.call(
        "GET",
        f"/_matrix/client/v1/media/download/example.org/{media_id}",
        headers={"Authorization": f"Bearer {nasrin.user.token}"},
    )
    assert fetched.status == 200
    named = await play.ask(nasrin.user, "GET", "/directory/room/%23nasrins%3Aexample.org")
    assert named["room_id"] == room


@aio
async def test_what_others_own_stays(stage: Staging) -> None:
    play = await stage()
    alice, bob, carol = await play.device("alice"), await play.device("bob"), await play.device("carol", "paris")
    shared = await play.room_of(alice.user, bob.user)
    gone = await play.room_of(alice.user, carol.user)
    for room in (shared, gone):
        await play.send(alice.user, room, "hello")
    await play.move(alice)
    assert await play.texts(bob.user, shared) == ["hello"]
    tehran = play.node("tehran")
    assert await tehran.read(stored_rooms.find, shared) is not None
    assert await tehran.read(stored_rooms.find, gone) is None
    home = await play.server.nodes.of_room(gone)
    assert home is not None
    assert home.name == "paris"
    await play.send(carol.user, gone, "still")
    assert await play.texts(alice.user, gone) == ["hello", "still"]
    await play.send(bob.user, shared, "there")
    await play.settle()
    assert (await play.texts(alice.user, shared))[-1] == "there"
    assert (await bob.query(alice))["device_keys"][alice.user_id].keys() == {alice.device_id}
    audit = await play.command("residency-audit")
    assert audit["findings"] == []


@aio
async def test_a_room_that_was_left_can_be_read_as_before(stage: Staging) -> None:
    play = await stage()
    alice, bob = await play.user("alice"), await play.user("bob")
    room = await play.room_of(alice, bob)
    for number in range(40):
        await play.send(bob, room, f"m{number}")
    await play.change(alice, room, "leave")
    await play.send(bob, room, "not for her")
    before = await play.texts(alice, room)
    await play.move(alice)
    assert await play.texts(alice, room) == before == [f"m{number}" for number in range(40)]


@aio
async def test_somebody_who_comes_back(stage: Staging) -> None:
    """What was erased is planted anew."""
    play = await stage()
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    room = await play.room_of(alice.user, bob.user)
    own = await play.create(alice.user)
    for number, target in enumerate(("paris", "tehran", "paris", "tehran")):
        for each in (room, own):
            await play.send(alice.user, each, f"m{number}")
        await play.move(alice, target)
        for each in (room, own):
            assert await play.texts(alice.user, each) == [f"m{past}" for past in range(number + 1)]
        audit = await play.command("residency-audit")
        assert audit["findings"] == []


def test_the_needle_is_found_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"xx" + base64.b64encode(b"needle"))
    assert files_with(tmp_path, base64.b64encode(b"needle")) == ["a"]
    assert files_with(tmp_path, b"hay") == []


@aio
async def test_files_with_digests_from_before_are_carried(stage: Staging) -> None:
    """By SHA-256, which 32 bytes say; one that is damaged keeps its owner, whatever its digest is."""
    play = await stage()
    alice = await play.user("alice")
    content = b"her picture" * 100
    old, new = [await upload(play, alice, content) for _ in range(2)]
    await digest_by_sha256(play, "tehran", old, content)
    await play.move(alice)
    files: list[Path] = []
    for media_id, begins in ((old, sha256(content).hexdigest()[:16]), (new, "1e")):
        files += (play.node("paris").media / media_id[:2]).glob(f"{media_id}-{begins}*")
    assert [path.read_bytes() for path in files] == [content, content]
    files[0].write_bytes(content[::-1])
    await play.command("residency-move", user=alice.user_id, to="tehran")
    assert f"medium {old} is damaged" in (await play.ended(alice))["reason"]


async def digest_by_sha256(play: Stage, name: str, media_id: str, content: bytes) -> None:
    """Have a medium rest as it would if it had been uploaded when digests were SHA-256."""
    node = play.node(name)
    digest = sha256(content).digest()

    async def put(tx: Transaction) -> None:
        await tx.run("UPDATE media SET digest = ? WHERE media_id = ?", digest, media_id)

    await node.write(put)
    node.memory(Known).forget(media_id)
    (path,) = (node.media / media_id[:2]).glob(f"{media_id}-*")
    path.rename(path_of(node.media, media_id, digest))
