"""What bridges with encryption need: messages to devices, whose keys changed, how many are left, and no password."""

from __future__ import annotations

from typing import Any

from tests.application_services.bridge import Bridge
from tests.application_services.stage import SetUp, Stage
from tests.e2ee.play import Device, Identity, message
from tests.support import aio

ENCRYPTED = {
    "de.sorunome.msc2409.push_ephemeral": True,
    "receive_ephemeral": True,
    "org.matrix.msc3202": True,
    "io.element.msc4190": True,
}
COUNTS = "org.matrix.msc3202.device_one_time_keys_count"
UNUSED = "org.matrix.msc3202.device_unused_fallback_key_types"
LISTS = "org.matrix.msc3202.device_lists"


async def bridged(set_up: SetUp, **more: Any) -> tuple[Stage, Device, Device]:
    """A stage with a user's device and one of a ghost, both of which have keys."""
    stage = await set_up(registration=ENCRYPTED, **more)
    ghost = Device(await stage.ghost("joe", "BRIDGE"))
    await ghost.publish(
        one_time_keys=ghost.one_time_keys("a", "b"), fallback_keys=ghost.one_time_keys("f", fallback=True)
    )
    alice = Device(await stage.play.user("alice"))
    await alice.publish()
    return stage, alice, ghost


def told(bridge: Bridge, name: str) -> list[Any]:
    """What transactions had under a name."""
    return [asked.body[name] for asked in bridge.transactions if asked.body.get(name)]


@aio
async def test_messages_to_its_devices_are_told_once_and_then_gone(set_up: SetUp) -> None:
    stage, alice, ghost = await bridged(set_up)
    content = message("the key of a room")
    await alice.send("1", {ghost.user_id: {"BRIDGE": content}, alice.user_id: {alice.device_id: message("mine")}})
    [letter] = await stage.bridge.until(stage.bridge.letters)
    assert letter == {
        "to_user_id": ghost.user_id,
        "to_device_id": "BRIDGE",
        "sender": alice.user_id,
        "type": "m.room.encrypted",
        "content": content,
    }
    room_id = await stage.room(alice.user, ghost.user)
    await stage.bridge.has(await stage.play.send(alice.user, room_id, "the next transaction"))
    synced = await ghost.sync()
    assert synced.get("to_device", {}).get("events", []) == []
    assert len((await alice.sync())["to_device"]["events"]) == 1


@aio
async def test_messages_wait_until_it_has_taken_them(set_up: SetUp) -> None:
    stage, alice, ghost = await bridged(set_up)
    await stage.bridge.close()
    for number in range(3):
        await alice.send(str(number), {ghost.user_id: {"*": message(f"number {number}")}})
    stage = await set_up(again=stage, registration=ENCRYPTED)
    stage.bridge.open()
    await stage.as_service("POST", "/_matrix/client/v1/appservice/bridge/ping", {})
    await stage.bridge.until(lambda: len(stage.bridge.letters()) == 3)
    assert [letter["content"] for letter in stage.bridge.letters()] == [message(f"number {n}") for n in range(3)]


@aio
async def test_without_asking_for_them_they_stay_in_the_mailbox(set_up: SetUp) -> None:
    stage = await set_up()
    ghost, alice = Device(await stage.ghost("joe", "BRIDGE")), Device(await stage.play.user("alice"))
    room_id = await stage.room(alice.user, ghost.user)
    await alice.send("1", {ghost.user_id: {"BRIDGE": message("for a sync")}})
    await stage.bridge.has(await stage.play.send(alice.user, room_id, "the last"))
    assert stage.bridge.letters() == []
    assert len((await ghost.sync())["to_device"]["events"]) == 1


@aio
async def test_it_is_told_how_many_keys_are_left_when_some_were_claimed(set_up: SetUp) -> None:
    stage, alice, ghost = await bridged(set_up)
    await alice.claim(ghost)
    [counts] = await stage.bridge.until(lambda: told(stage.bridge, COUNTS))
    assert counts == {ghost.user_id: {"BRIDGE": {"signed_curve25519": 1}}}
    assert told(stage.bridge, UNUSED) == [{ghost.user_id: {"BRIDGE": ["signed_curve25519"]}}]
    await alice.claim(ghost)
    await alice.claim(ghost)  # the fallback key
    await stage.bridge.until(lambda: told(stage.bridge, UNUSED)[-1] == {ghost.user_id: {"BRIDGE": []}})
    assert told(stage.bridge, COUNTS)[-1] == {ghost.user_id: {"BRIDGE": {"signed_curve25519": 0}}}


@aio
async def test_it_is_told_whose_keys_changed_in_its_rooms(set_up: SetUp) -> None:
    stage, alice, ghost = await bridged(set_up)
    carol = Device(await stage.play.user("carol"))
    await stage.room(alice.user, ghost.user)

    def changed() -> set[str]:
        return {user_id for lists in told(stage.bridge, LISTS) for user_id in lists["changed"]}

    await stage.bridge.until(lambda: alice.user_id in changed() or ghost.user_id in changed())
    await carol.publish()
    another = await alice.another()
    begun = len(stage.bridge.transactions)
    await another.publish()
    await stage.bridge.until(
        lambda: any(
            alice.user_id in asked.body.get(LISTS, {}).get("changed", ()) for asked in stage.bridge.transactions[begun:]
        )
    )
    assert carol.user_id not in changed()


@aio
async def test_it_is_told_who_left_its_rooms(set_up: SetUp) -> None:
    stage, alice, ghost = await bridged(set_up)
    room_id = await stage.room(ghost.user, alice.user)
    await stage.play.change(alice.user, room_id, "leave")
    left = await stage.bridge.until(lambda: [each for lists in told(stage.bridge, LISTS) for each in lists["left"]])
    assert left == [alice.user_id]


@aio
async def test_cross_signing_keys_are_put_and_replaced_without_a_password(set_up: SetUp) -> None:
    _, alice, ghost = await bridged(set_up)
    for _ in range(2):
        done = await ghost.asks("POST", "/keys/device_signing/upload", Identity(ghost.user_id).upload())
        assert done.status == 200, done
    for status in (200, 401):
        mine = await alice.asks("POST", "/keys/device_signing/upload", Identity(alice.user_id).upload())
        assert mine.status == status


@aio
async def test_what_another_node_sends_arrives_too(set_up: SetUp) -> None:
    stage, _, ghost = await bridged(set_up)
    bob = Device(await stage.play.user("bob", "paris"))
    await bob.send("1", {ghost.user_id: {"BRIDGE": message("over the border")}})
    [letter] = await stage.bridge.until(stage.bridge.letters)
    assert letter["sender"] == bob.user_id
