"""People in the namespace of an application service: it does not act as them, and what is theirs is not told to it.

Whoever runs a server can register a service, and name in its namespace whomever they want to read along with.
"""

from __future__ import annotations

from typing import Any

from homeserver.accounts import administration
from homeserver.residency.moves import examining
from homeserver.storage import key_log
from homeserver.transparency import names
from tests.application_services.stage import SetUp, Stage, path_of
from tests.application_services.test_encryption import ENCRYPTED, told
from tests.deployment import FLOWING, Answer
from tests.e2ee.play import Device, Identity, message
from tests.rooms.play import CLIENT
from tests.support import ON_SQLITE, aio

EVERYBODY = {"users": [{"exclusive": False, "regex": "@.*"}]}
ALICE = {"users": [{"exclusive": True, "regex": "@(alice|_bridge_.*):.*"}]}


async def among_people(set_up: SetUp, namespaces: dict[str, Any], **more: Any) -> tuple[Stage, Device, Identity]:
    """A stage, and somebody in the namespace who has a device and cross-signing keys."""
    stage = await set_up(registration={**ENCRYPTED, "namespaces": EVERYBODY}, **more)
    alice = Device(await stage.play.user("alice"))
    await alice.publish(one_time_keys=alice.one_time_keys("a"))
    mine = Identity(alice.user_id)
    await alice.gets("POST", "/keys/device_signing/upload", mine.upload())
    if namespaces is not EVERYBODY:
        stage = await set_up(again=stage, registration={**ENCRYPTED, "namespaces": namespaces}, **more)
        alice.user.deployment = stage.play.deployment
    return stage, alice, mine


def is_refused(answer: Answer) -> bool:
    return (answer.status, answer.json.get("org.domicile.reason")) == (403, "not_made_by_service")


@aio
async def test_it_gives_people_no_device_and_no_keys(set_up: SetUp) -> None:
    stage, alice, mine = await among_people(set_up, EVERYBODY)
    tehran = stage.play.node("tehran")
    before = await tehran.read(key_log.ends, names.tag(stage.server, alice.user_id))
    as_her = Device(stage.ghost_of("alice"))
    on_hers = Device(stage.ghost_of("alice", alice.device_id))
    ghost = Device(stage.ghost_of("alice", "GHOST"))
    other = Identity(alice.user_id).upload()
    for device, method, path, body in (
        (as_her, "GET", "/account/whoami", None),
        (as_her, "GET", "/sync", None),
        (as_her, "PUT", "/devices/GHOST", {"display_name": "Alice's phone"}),
        (as_her, "DELETE", f"/devices/{alice.device_id}", None),
        (as_her, "POST", "/keys/device_signing/upload", other),
        (as_her, "POST", "/room_keys/version", {"algorithm": "m.megolm_backup.v1", "auth_data": {}}),
        (ghost, "POST", "/keys/upload", {"device_keys": ghost.device_keys()}),
        (on_hers, "POST", "/keys/upload", {"device_keys": on_hers.device_keys()}),
        (on_hers, "POST", "/keys/device_signing/upload", other),
        (on_hers, "GET", "/sync", None),
    ):
        answer = await device.asks(method, path, body)
        assert is_refused(answer), (method, path, answer)
    body = {"type": "m.login.application_service", "identifier": {"type": "m.id.user", "user": "alice"}}
    assert is_refused(await stage.as_service("POST", f"{CLIENT}/login", body))
    again = await stage.register("alice")
    assert (again.status, again.errcode) == (400, "M_USER_IN_USE")
    shown = await alice.query(alice)
    assert set(shown["device_keys"][alice.user_id]) == {alice.device_id}
    assert shown["master_keys"][alice.user_id]["keys"] == mine.master_key()["keys"]
    assert [each["device_id"] for each in (await alice.gets("GET", "/devices"))["devices"]] == [alice.device_id]
    assert await tehran.read(key_log.ends, names.tag(stage.server, alice.user_id)) == before


@ON_SQLITE
@aio
async def test_a_service_whose_own_user_is_a_person_is_nobody(set_up: SetUp) -> None:
    stage, *_ = await among_people(set_up, EVERYBODY)
    registration = {**ENCRYPTED, "sender_localpart": "alice"}
    stage = await set_up(again=stage, registration=registration, sending=False)
    assert is_refused(await stage.as_service("GET", f"{CLIENT}/account/whoami"))
    assert is_refused(await stage.as_service("PUT", f"{CLIENT}/devices/GHOST", {}))


@aio
async def test_what_is_for_the_devices_of_people_stays_in_their_mailboxes(set_up: SetUp) -> None:
    stage, alice, _ = await among_people(set_up, EVERYBODY)
    joe = Device(await stage.ghost("joe", "BRIDGE"))
    bob = Device(await stage.play.user("bob"))
    room_id = await stage.room(alice.user, joe.user, bob.user)
    said = await stage.play.send(bob.user, room_id, "read this")
    receipt = CLIENT + path_of(room_id, "receipt", "m.read.private", said)
    for reader in (alice.user, joe.user):
        assert (await reader.asks("POST", receipt, {})).status == 200
    since = (await alice.sync())["next_batch"]
    content = message("the key of a room")
    await bob.send("1", {alice.user_id: {"*": content}, joe.user_id: {"BRIDGE": content}})
    [letter] = await stage.bridge.until(stage.bridge.letters)
    assert letter["to_user_id"] == joe.user_id
    await stage.bridge.has(await stage.play.send(bob.user, room_id, "the last"))
    assert [letter["to_user_id"] for letter in stage.bridge.letters()] == [joe.user_id]
    assert [event["content"] for event in (await alice.sync(since))["to_device"]["events"]] == [content]
    receipts = [event for event in told(stage.bridge, "ephemeral") for event in event if event["type"] == "m.receipt"]
    private = [each for event in receipts for each in event["content"][said].get("m.read.private", {})]
    assert set(private) == {joe.user_id}


@ON_SQLITE
@aio
async def test_whoever_has_got_a_password_is_a_person(set_up: SetUp) -> None:
    stage = await set_up()
    ghost = await stage.ghost("joe", "BRIDGE")
    assert (await ghost.asks("GET", f"{CLIENT}/account/whoami")).status == 200  # and is remembered
    await administration.reset_password(stage.server, ghost.user_id, "correct horse battery", log_out=False)
    assert is_refused(await ghost.asks("GET", f"{CLIENT}/account/whoami"))
    body = {"type": "m.login.application_service", "identifier": {"type": "m.id.user", "user": ghost.user_id}}
    assert is_refused(await stage.as_service("POST", f"{CLIENT}/login", body))


ASKING = FLOWING.replace("consent = false", "consent = true")


@ON_SQLITE
@aio
async def test_people_in_a_namespace_are_asked_and_can_move_like_all(set_up: SetUp) -> None:
    stage, alice, _ = await among_people(set_up, ALICE, policy=ASKING)
    joe = await stage.ghost("joe")
    bob = await stage.play.user("bob", "paris")
    room = {"invite": [bob.user_id]}
    asked = await alice.asks("POST", "/createRoom", room)
    assert (asked.status, asked.json.get("org.domicile.reason")) == (403, "consent_needed")
    assert (await joe.asks("POST", f"{CLIENT}/createRoom", room)).status == 200
    paris = stage.play.node("paris")
    assert (await examining.examine(stage.server, alice.user_id, paris)).obstacles == []
    assert len((await examining.examine(stage.server, joe.user_id, paris)).obstacles) == 1
